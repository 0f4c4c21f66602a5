"""Who may enter where events become durable: everybody while there is room, and those who make room a little longer."""

from __future__ import annotations

from typing import Final

from allsource_core.engine.committer import Committer
from allsource_core.engine.errors import OverloadedError
from allsource_core.engine.memory import Memory
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.turnstile import Turnstile
from allsource_core.engine.writability import Writability

__all__ = ["Admission"]

_FROZEN_HEADROOM: Final = 2
"""So many more complete memtables may wait for sealing before reserved tenants and removals wait too: one whole one at
least is theirs alone."""
_PENDING_HEADROOM: Final = 2
"""Likewise, how many times the bytes of others may wait for the disk."""


class Admission:
    """Two bounds of what is not sealed and what is not durable.

    Beyond the first, appends of tenants wait at a turnstile. Reserved tenants, whose names begin with ``_``, and
    control records pass up to the second: an operator can sign in, revoke and delete where sealing is behind.

    Args:
        memory: of the store.
        committer: of the log; None for a store that is in memory alone, which has room always.
        writability: whoever would be refused anyway need not wait.
        options: of the store.

    Attributes:
        everybody: where tenants wait; while it is open any append may go straight on.
    """

    def __init__(
        self, memory: Memory, committer: Committer | None, writability: Writability, options: StoreOptions
    ) -> None:
        self._memory = memory
        self._committer = committer
        self._writability = writability
        self._frozen_max = options.frozen_max
        self._pending_bytes_max = options.pending_bytes_max
        self.everybody = Turnstile(self._has_room, seconds_max=options.wait_seconds_max)
        self._reserved = Turnstile(self._has_headroom, seconds_max=options.wait_seconds_max)

    def _has_room(self) -> bool:
        committer = self._committer
        return committer is None or (
            len(self._memory.frozen) < self._frozen_max and committer.pending_bytes <= self._pending_bytes_max
        )

    def _has_headroom(self) -> bool:
        committer = self._committer
        return committer is None or (
            len(self._memory.frozen) < self._frozen_max + _FROZEN_HEADROOM
            and committer.pending_bytes <= self._pending_bytes_max * _PENDING_HEADROOM
        )

    def _turnstile(self, tenant_id: str) -> Turnstile | None:
        """Where a tenant has to wait, if it has to. Raises StoreClosedError, StoreReadOnlyError."""
        self._writability.check(tenant_id)
        if not tenant_id.startswith("_"):
            return self.everybody
        return None if self._reserved.is_open else self._reserved

    def enter(self, tenant_id: str) -> None:
        """Block until an append of a tenant may go on.

        Raises:
            OverloadedError: there was no room in time.
            StoreClosedError, StoreReadOnlyError: it would be refused.
        """
        turnstile = self._turnstile(tenant_id)
        try:
            if turnstile is not None:
                turnstile.enter(tenant_id)
        except OverloadedError:
            # There may be a better reason by now.
            self._writability.check(tenant_id)
            raise

    async def enter_async(self, tenant_id: str) -> None:
        """The same for a caller on an event loop."""
        turnstile = self._turnstile(tenant_id)
        try:
            if turnstile is not None:
                await turnstile.enter_async(tenant_id)
        except OverloadedError:
            self._writability.check(tenant_id)
            raise

    def check_control(self) -> None:
        """Refuse a control record for which there is no room.

        Raises:
            OverloadedError: at once: the thread that makes room appends some as well.
        """
        if not self._has_headroom():
            raise OverloadedError("there is no room for a removal: the disk or sealing is behind")

    def let_in(self) -> None:
        """Let some of those in who wait: called whenever room was made."""
        self._reserved.let_in()
        self.everybody.let_in()

    def close(self) -> None:
        """Refuse everybody who waits."""
        self._reserved.close()
        self.everybody.close()
