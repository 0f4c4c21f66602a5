"""What tenants use, held against what they may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from allsource_core.changes import Changes
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.reservations import SMALL_BYTES_MAX, Account, Reservation
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.wire.events import NewEvent
from allsource_shared.wire.tenants import Quotas

__all__ = ["Metering", "accepted_bytes"]

ResultT = TypeVar("ResultT")

_UNLIMITED: Final = Quotas()


class Metering:
    """Counts what tenants do against their quotas as they are now.

    Args:
        ledger: of what is used.
        tenants: that have quotas.
        changes: of these, among others.
    """

    def __init__(self, ledger: UsageLedger, tenants: TenantDirectory, changes: Changes) -> None:
        self._ledger = ledger
        self._tenants = tenants
        # Of tenants that are open, with room under the quotas that they have: until anything changes.
        self._roomy: dict[str, Account] = {}
        changes.listen(self._roomy.clear)

    def append(self, tenant_id: str, events: Sequence[NewEvent], body_bytes: int) -> Reservation:
        """Reserve what an append takes. The caller says of the reservation how it ended.

        Args:
            tenant_id: who appends.
            events: that are appended.
            body_bytes: of the request that they came in; what is counted of them is never more.

        Raises:
            UnknownTenantError: the tenant is being deleted, or is not there any more.
            QuotaExceededError: events a day, or storage.
        """
        account = self._roomy.get(tenant_id)
        if account is not None and account.small_left and body_bytes <= SMALL_BYTES_MAX and len(events) == 1:
            # Nearly all appends of one event. About 0.2 µs.
            account.small_left -= 1
            account.small += 1
            return account
        quotas = self._tenants.find_open(tenant_id).quotas
        try:
            reservation = self._ledger.reserve(tenant_id, quotas, len(events), body_bytes)
        except QuotaExceededError:
            if not quotas.max_storage_bytes:
                raise
            # It costs as much as everything else here to know it exactly.
            reservation = self._ledger.reserve(tenant_id, quotas, len(events), accepted_bytes(events))
        if reservation.account is not None:
            reservation.account.let_small(quotas)
            self._roomy[tenant_id] = reservation.account
        return reservation

    async def work(self, tenant_id: str, work: Callable[[], ResultT]) -> ResultT:
        """Do something to a tenant in a thread, whatever its quotas. Nobody deletes the tenant before it is done, even
        where the caller is cancelled meanwhile.

        Raises:
            UnknownTenantError: as `append`; nothing is done. And what `work` raises.
        """
        self._tenants.find_open(tenant_id)
        reservation = self._ledger.reserve(tenant_id, _UNLIMITED, 0, 0)
        doing = asyncio.ensure_future(asyncio.to_thread(work))
        doing.add_done_callback(lambda _doing: reservation.release())
        try:
            return await asyncio.shield(doing)
        finally:
            # The task has the error whose frames have the task: whatever they hold would stay until a collection.
            del doing

    def query(self, tenant_id: str) -> None:
        """Count a query.

        Raises:
            UnknownTenantError: as `append`.
            QuotaExceededError: queries an hour.
        """
        self._ledger.count_query(tenant_id, self._tenants.find_open(tenant_id).quotas)


def accepted_bytes(events: Sequence[NewEvent]) -> int:
    """What is counted of events: UTF-8 bytes of entity id, event type and tags, bytes of payload and metadata.

    At most: the engine takes line breaks out of payloads, and stores `null` of metadata not at all.
    """
    texts = [text for event in events for text in (event.entity_id, event.event_type, *(event.tags or ()))]
    size = len("".join(texts).encode("utf-8", "surrogatepass"))
    for event in events:
        size += memoryview(event.payload).nbytes
        if event.metadata is not None:
            size += memoryview(event.metadata).nbytes
    return size
