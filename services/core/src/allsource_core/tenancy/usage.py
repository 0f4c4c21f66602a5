"""What tenants use, and that none uses more than its quotas allow: events a day, bytes kept, queries an hour.

Windows are fixed, in UTC. An event counts on the day of its `recorded_at`, and its bytes for as long as they are kept.
Whoever appends reserves first: what is reserved counts as used until it is known what became of the append, so that
appends that are under way at once never pass a quota together. A repetition and a dry run give back what they reserved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec
import structlog

from allsource_core.engine import DAY_US, CorruptionError, EventStore
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.reservations import EXACT_BYTES, Account, BookedReservation
from allsource_core.tenancy.usage_file import UsageFile
from allsource_shared.wire.tenants import Quotas

__all__ = ["QuotaName", "Usage", "UsageLedger"]

HOUR_US: Final = 3600 * 1_000_000
_SAVE_SECONDS: Final = 1.0
_RECOUNT_US: Final = 1_000_000
"""The bytes that a tenant keeps are counted anew at most this often: removals give room back."""

_EXACT_US: Final = 60 * 1_000_000
"""So long after somebody asked for the bytes of a tenant, what it appends is counted to the byte."""

QuotaName = Literal["max_events_per_day", "max_storage_bytes", "max_queries_per_hour"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has used. Reservations don't count.

    Attributes:
        events_today: that were recorded today.
        storage_bytes: of events that are kept.
        queries_this_hour: reads that were let through.
        day_resets_at, hour_resets_at: when day and hour end; microseconds since the epoch.
    """

    events_today: int
    storage_bytes: int
    queries_this_hour: int
    day_resets_at: int
    hour_resets_at: int


class UsageLedger:
    """The usage of all tenants. Used from one event loop; only files are read and written in a thread of its own.

    Counts of events are exact; those of bytes are when somebody asks for them, or little is left, and else never too
    small. Those of queries may lose the last second of a process that is killed. An event that was appended past the
    ledger counts after the next start.

    Args:
        store: whose events are counted.
        path: of the file that spares a start counting, ``derived/usage.sqlite``; None for none.
        clock: microseconds since the epoch, that of the store. Where it jumps back over midnight, events that are being
            appended at that moment may count on the day before without having been held against it.
        save_seconds: how often the file is written.
    """

    def __init__(
        self,
        store: EventStore,
        path: Path | None,
        clock: Callable[[], int],
        *,
        save_seconds: float = _SAVE_SECONDS,
    ) -> None:
        self._store = store
        self._clock = clock
        self._save_seconds = save_seconds
        self._accounts: dict[str, Account] = {}
        # Of those alone that had an append of which nothing more is known; and whose bytes in memory are counted
        # every second, in the thread.
        self._uncertain: set[Account] = set()
        self._counted_ahead: set[Account] = set()
        self._file = UsageFile(path, store, clock)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="allsource-usage")
        self._saving = asyncio.Lock()
        self._saver: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._failure = ""
        # Since the file was last written.
        self._asked: set[str] = set()
        self._forgotten: set[str] = set()

    async def start(self) -> None:
        """Count what the store has. Before anything is reserved.

        What is damaged can't be counted, which is logged and no reason not to serve what is not.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        except CorruptionError as error:
            self._failure = str(error)
            structlog.get_logger().warning("usage_not_counted", error=self._failure)
        for (tenant_id, day), events in sorted(self._file.events.items()):
            self._account(tenant_id).add(day, events)
        for tenant_id, (hour, queries) in self._file.queries.items():
            account = self._account(tenant_id)
            account.hour, account.queries = hour, queries
        self._saver = asyncio.create_task(self._save_again_and_again())

    def _load(self) -> None:
        self._file.load()
        self._file.save()
        # When somebody needs them, the indexes of segments are read and the bytes of what is in memory counted.
        for tenant_id in {"", *(tenant_id for tenant_id, _ in self._file.events)}:
            self._store.tenant_usage(tenant_id)

    async def close(self) -> None:
        """Write the file a last time. The store is still open. What is reserved is settled afterwards for nothing."""
        self._closing.set()
        if self._saver is not None:
            await self._saver
        await asyncio.get_running_loop().run_in_executor(self._thread, self._file.close)
        self._thread.shutdown()

    # --- quotas ---

    def reserve(self, tenant_id: str, quotas: Quotas, events: int, bytes: int) -> BookedReservation:
        """Reserve room for an append.

        Args:
            tenant_id: who appends.
            quotas: that hold for the tenant now.
            events: how many.
            bytes: that they have, or a few more; see `Event.content_bytes`.

        Raises:
            QuotaExceededError: there is not so much room. Of two quotas that of events is named first.
            CorruptionError, OSError: the store can't say what is kept.
        """
        account = self._accounts.get(tenant_id) or self._account(tenant_id)
        # No day has more than the last one that had any: what fits into that needs no look at the clock.
        limit = quotas.max_events_per_day
        if limit and account.on_last_day + account.events_reserved + events > limit:
            self._check_events(account, limit, events)
        limit = quotas.max_storage_bytes
        if limit:
            size = account.size
            if size is None or size + account.bytes_reserved + bytes + 2 * EXACT_BYTES > limit:
                self._check_bytes(tenant_id, account, limit, bytes)
        account.booked += 1
        account.events += events
        account.bytes += bytes
        # What there was room for before, this one may have taken.
        account.small_left = 0
        return BookedReservation(account, events, bytes)

    def _check_events(self, account: Account, limit: int, events: int) -> None:
        day = max(self._clock() // DAY_US, account.last_day)
        # What is under way may be recorded today or tomorrow: it is held against whichever day it is.
        used = account.on(day) + account.events_reserved
        if used + events > limit:
            raise QuotaExceededError("max_events_per_day", limit, used, (day + 1) * DAY_US)

    def _check_bytes(self, tenant_id: str, account: Account, limit: int, size: int) -> None:
        if account.size is None:
            account.size = self._store.tenant_usage(tenant_id).bytes
        used = account.size + account.bytes_reserved
        if used + size + 2 * EXACT_BYTES <= limit:
            return
        # Before they come to where it matters, all of its bytes in memory will have been counted elsewhere.
        account.asked_at = now = self._clock()
        self._counted_ahead.add(account)
        if used + size + EXACT_BYTES <= limit:
            return
        if not account.is_exact or used + size > limit:
            used = self._counted(tenant_id, account, now) + account.bytes_reserved
        if used + size > limit:
            raise QuotaExceededError("max_storage_bytes", limit, used, None)

    def _counted(self, tenant_id: str, account: Account, now: int) -> int:
        """The bytes that a tenant keeps, which are counted to the byte from now on. The store is asked for them if it
        was not just now, or if what was under way then may have been counted twice.
        """
        size = account.size
        was_twice = account.is_twice and not account.under_way
        if size is None or not account.is_exact or was_twice or self._is_recount_due(account, now):
            account.sized_at = now
            kept = self._store.tenant_usage(tenant_id).bytes
            # The store may have some of what is under way: that counts twice until nothing is.
            account.is_twice = account.under_way > 0
            size = account.size = min(size, kept) if size is not None and account.is_twice else kept
            account.is_exact = True
            account.small_left = 0
            self._counted_ahead.add(account)
        return size

    @staticmethod
    def _is_recount_due(account: Account, now: int) -> bool:
        return abs(now - account.sized_at) >= _RECOUNT_US

    def count_query(self, tenant_id: str, quotas: Quotas) -> None:
        """Count a read that is let through.

        Raises:
            QuotaExceededError: there were as many in this hour as are allowed.
        """
        account = self._accounts.get(tenant_id) or self._account(tenant_id)
        hour = self._clock() // HOUR_US
        if not hour <= account.hour <= hour + 1:
            # Another hour, or the clock was far ahead. Where it was set back a little, nothing is given twice.
            account.hour = hour
            account.queries = 0
        limit = quotas.max_queries_per_hour
        if limit and account.queries >= limit:
            raise QuotaExceededError("max_queries_per_hour", limit, account.queries, (account.hour + 1) * HOUR_US)
        account.queries += 1
        self._asked.add(tenant_id)

    # --- tenants ---

    async def count(self, tenant_id: str) -> None:
        """Have `usage` find the bytes of a tenant counted: those of what is in memory take up to a tenth of a second.

        Raises:
            CorruptionError, OSError: the store can't say what is kept.
        """
        account = self._accounts.get(tenant_id)
        if account is None or not account.is_exact or self._is_recount_due(account, self._clock()):
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store.tenant_usage, tenant_id)

    def usage(self, tenant_id: str) -> Usage:
        """What a tenant has used up to now. Cheap after `count`."""
        account = self._account(tenant_id)
        now = self._clock()
        storage_bytes = self._counted(tenant_id, account, now)
        account.asked_at = now
        day, hour = max(now // DAY_US, account.last_day), now // HOUR_US
        if account.hour == hour + 1:
            hour = account.hour
        return Usage(
            events_today=account.on(day),
            storage_bytes=storage_bytes,
            queries_this_hour=account.queries if hour == account.hour else 0,
            day_resets_at=(day + 1) * DAY_US,
            hour_resets_at=(hour + 1) * HOUR_US,
        )

    def outstanding(self, tenant_id: str) -> int:
        """How many reservations of a tenant are not settled."""
        account = self._accounts.get(tenant_id)
        return 0 if account is None else account.under_way

    async def drained(self, tenant_id: str, timeout: float) -> bool:  # noqa: ASYNC109 - an answer, not an exception
        """Wait until no reservation of a tenant is left; False if some are after so many seconds.

        New ones are not kept out: whoever waits sees to it that none is made any more.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        account = self._accounts.get(tenant_id)
        while account is not None and account.under_way:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            account.waiting.append(waiter)
            try:
                await asyncio.wait_for(waiter, deadline - asyncio.get_running_loop().time())
            except TimeoutError:
                return not account.under_way
        return True

    def forget(self, tenant_id: str) -> None:
        """A tenant was removed, and its removal is durable: whoever gets its id begins with nothing.

        Not so where the process is killed within a second: then what the tenant appended counts until the day is over.
        """
        account = self._accounts.pop(tenant_id, None)
        if account is not None:
            self._uncertain.discard(account)
            self._counted_ahead.discard(account)
        self._asked.discard(tenant_id)
        self._forgotten.add(tenant_id)

    def _account(self, tenant_id: str) -> Account:
        return self._accounts.setdefault(tenant_id, Account(tenant_id, self._uncertain))

    # --- the file ---

    async def save(self) -> None:
        """Write to the file what was counted, and settle what is uncertain. The ledger does it by itself.

        What is wrong is logged; the next time does what this one did not.
        """
        async with self._saving:
            queries = {one: (self._accounts[one].hour, self._accounts[one].queries) for one in self._asked}
            forgotten = self._forgotten
            self._asked, self._forgotten = set(), set()
            try:
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._thread, self._advance, queries, forgotten)
                self._settle_uncertain()
            except Exception as error:  # whatever it is, the next second may be better
                if str(error) != self._failure:
                    structlog.get_logger().warning("usage_not_counted", error=str(error))
                self._failure = str(error)
                self._asked |= self._accounts.keys() & queries.keys()
                self._forgotten |= forgotten
            else:
                self._failure = ""
            self._stop_counting_ahead()

    def _advance(self, queries: dict[str, tuple[int, int]], forgotten: set[str]) -> None:
        appended = self._file.advance(forgotten)
        self._file.note_queries(queries)
        self._file.save()
        # Where bytes matter, whoever asks next finds those of what is in memory counted. Elsewhere that would be a
        # second count of every event, next to that of its append: segments come with theirs.
        for tenant_id in appended:
            if self._accounts.get(tenant_id) in self._counted_ahead:
                self._store.tenant_usage(tenant_id)

    def _stop_counting_ahead(self) -> None:
        """Spare those the price of it for whom nobody has asked lately."""
        now = self._clock()
        for account in [one for one in self._counted_ahead if not 0 <= now - one.asked_at < _EXACT_US]:
            account.is_exact = False
            self._counted_ahead.discard(account)

    def _settle_uncertain(self) -> None:
        """Let go of what uncertain appends hold, where nothing else is under way: the store says what it has."""
        # Of a tenant that was removed meanwhile nothing is held.
        self._uncertain &= {one for one in self._uncertain if self._accounts.get(one.tenant_id) is one}
        uncertain = {account.tenant_id: account for account in self._uncertain if not account.under_way}
        if not uncertain:
            return
        days: dict[str, dict[int, int]] = {tenant_id: {} for tenant_id in uncertain}
        for (tenant_id, day), events in self._file.events.items():
            if tenant_id in days:
                days[tenant_id][day] = events
        # A second's worth at most, and in memory.
        for appends in self._store.appended_since(self._file.position):
            if appends.tenant_id in days:
                found = days[appends.tenant_id]
                found[appends.day] = found.get(appends.day, 0) + appends.events
        for tenant_id, account in uncertain.items():
            account.forget_days()
            for day in sorted(days[tenant_id]):
                account.add(day, days[tenant_id][day])
            account.size = None if account.size is None else self._store.tenant_usage(tenant_id).bytes
            account.events = account.bytes = account.small_left = 0
            self._uncertain.discard(account)

    async def _save_again_and_again(self) -> None:
        is_last = False
        while not is_last:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), self._save_seconds)
            is_last = self._closing.is_set()
            await self.save()
