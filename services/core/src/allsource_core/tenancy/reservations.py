"""What is known of one tenant's usage, and room in its quotas for appends that are under way."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec

from allsource_core.engine import DAY_US
from allsource_shared.wire.tenants import Quotas

__all__ = ["EXACT_BYTES", "SMALL_BYTES_MAX", "Account", "BookedReservation", "Reservation"]

SMALL_BYTES_MAX: Final = 4096
"""Of a small append, which is one event."""

_SMALL_APPENDS_MAX: Final = 1_000_000
"""For so many at most there is found to be room at once."""

EXACT_BYTES: Final = 256 * 1024 * 1024
"""Where there is less room than that in the quota of a tenant, bytes are counted to the byte. It is more than a tenant
can append in a second."""


class Reservation(Protocol):
    """Room for an append that is under way. To be settled once, in one of three ways.

    Whoever is cancelled while it appends does not know what becomes of the events, and settles when the append ends.
    """

    @property
    def is_exact(self) -> bool:
        """Whether `commit` is to be told to the byte what was stored; else it may be told more."""

    def commit(self, recorded_at: int, nbytes: int) -> None:
        """The events are stored.

        Args:
            recorded_at: of the events.
            nbytes: that they have (`Appended.content_bytes`); of a reservation that is not exact, perhaps more.
        """

    def release(self) -> None:
        """Nothing was stored: the append was refused, or it is a repetition or a dry run."""

    def keep(self) -> None:
        """It is unknown whether the events are stored, as whoever appends them was cancelled: they count as used, on
        whatever day, until the ledger has asked the store. An append of uncertain outcome is to be released: the store
        has forgotten it, or has it again after a restart, when all is counted anew.
        """


class Account:
    """What is known of a tenant's usage; also the reservation of each of its small appends, which come by the thousand.

    Attributes:
        tenant_id: whose.
        last_day: the last day since the epoch, UTC, that had an event; 0 for none. The engine's time does not go back,
            so no event comes before it.
        last_day_at, next_day_at: when it began and ends, microseconds since the epoch.
        on_last_day: the events recorded on it.
        day_before, on_day_before: the same of the last day before it that had any.
        size: bytes kept; None while nobody has asked. Never less than there are.
        is_exact: what is appended is counted into `size` to the byte; else it may be a little more than there is.
        is_twice: some that was under way when the store was last asked for `size` may be in it twice.
        sized_at: when the store was last asked because somebody wanted to know it.
        asked_at: when somebody last wanted to know it, or was near the quota.
        hour, queries: the last hour since the epoch that had a query, and how many in it.
        booked: reservations that are not settled, small appends aside.
        events, bytes: that are reserved by them, or may have been stored by an append of which nothing more is known.
        small: small appends that are not settled.
        small_left: small appends for which room was found, and may be taken without a look.
        uncertain: the accounts of a ledger that had an append of which nothing more is known.
        waiting: who waits for all reservations to be settled.
    """

    __slots__ = (
        *("tenant_id", "last_day", "last_day_at", "next_day_at", "on_last_day", "day_before", "on_day_before"),
        *("size", "is_exact", "is_twice", "sized_at", "asked_at", "hour", "queries"),
        *("booked", "events", "bytes", "small", "small_left", "uncertain", "waiting"),
    )

    def __init__(self, tenant_id: str, uncertain: set[Account]) -> None:
        self.tenant_id = tenant_id
        self.forget_days()
        self.size: int | None = None
        self.is_exact = False
        self.is_twice = False
        self.sized_at = 0
        self.asked_at = 0
        self.hour = 0
        self.queries = 0
        self.booked = 0
        self.events = 0
        self.bytes = 0
        self.small = 0
        self.small_left = 0
        self.uncertain = uncertain
        self.waiting: list[asyncio.Future[None]] = []

    def forget_days(self) -> None:
        """Know of no event."""
        self.last_day = self.last_day_at = self.next_day_at = self.on_last_day = 0
        self.day_before = self.on_day_before = 0

    @property
    def under_way(self) -> int:
        """Reservations that are not settled."""
        return self.booked + self.small

    @property
    def events_reserved(self) -> int:
        """Events of appends that are under way, or of which nothing more is known."""
        return self.events + self.small

    @property
    def bytes_reserved(self) -> int:
        """At most so many bytes they have."""
        return self.bytes + self.small * SMALL_BYTES_MAX

    def let_small(self, quotas: Quotas) -> None:
        """Find out for how many small appends there is room, all of them under way at once, whatever becomes of others.

        Where bytes are few, they are reserved one by one.
        """
        left = _SMALL_APPENDS_MAX
        if quotas.max_events_per_day:
            left = min(left, quotas.max_events_per_day - self.on_last_day - self.events_reserved)
        if quotas.max_storage_bytes:
            room = quotas.max_storage_bytes - EXACT_BYTES - (self.size or 0) - self.bytes_reserved
            # Not beyond the place where the ledger begins to count ahead.
            room -= EXACT_BYTES if room > EXACT_BYTES else 0
            left = min(left, room // SMALL_BYTES_MAX)
        self.small_left = max(0, left)

    def add(self, day: int, events: int) -> None:
        """Count events that are stored."""
        if day > self.last_day:
            self.day_before, self.on_day_before = self.last_day, self.on_last_day
            self.last_day, self.on_last_day = day, events
            self.last_day_at, self.next_day_at = day * DAY_US, (day + 1) * DAY_US
        elif day == self.last_day:
            self.on_last_day += events
        elif day == self.day_before:
            self.on_day_before += events

    def on(self, day: int) -> int:
        """How many events were recorded on a day that is not before the last two."""
        if day == self.last_day:
            return self.on_last_day
        return self.on_day_before if day == self.day_before else 0

    def wake(self) -> None:
        """Tell those who wait, if nothing is reserved any more."""
        if not self.under_way:
            for waiter in self.waiting:
                if not waiter.done():
                    waiter.set_result(None)
            self.waiting.clear()

    # --- a small append ---

    def commit(self, recorded_at: int, nbytes: int) -> None:
        """As `Reservation`. About 0.2 µs, which nearly every append of one event takes."""
        # Two comparisons are a quarter of a division.
        if self.last_day_at <= recorded_at < self.next_day_at:
            self.on_last_day += 1
        else:
            self.add(recorded_at // DAY_US, 1)
        if self.size is not None:
            self.size += nbytes
        self.small -= 1
        if self.waiting:
            self.wake()

    def release(self) -> None:
        """As `Reservation`."""
        self.small -= 1
        if self.waiting:
            self.wake()

    def keep(self) -> None:
        """As `Reservation`."""
        self.uncertain.add(self)
        self.events += 1
        self.bytes += SMALL_BYTES_MAX
        self.release()


class BookedReservation(msgspec.Struct, gc=False):
    """A `Reservation` that is told from all others. What comes after it was settled does nothing, so `release` may
    stand in a ``finally``.

    Attributes:
        account: of the tenant; None once it is settled.
        events, bytes: that are reserved.
    """

    account: Account | None
    events: int
    bytes: int

    @property
    def is_exact(self) -> bool:
        """As `Reservation`."""
        return self.account is not None and self.account.is_exact

    def commit(self, recorded_at: int, nbytes: int) -> None:
        """As `Reservation`."""
        account = self._settle()
        if account is not None:
            account.add(recorded_at // DAY_US, self.events)
            if account.size is not None:
                account.size += nbytes

    def release(self) -> None:
        """As `Reservation`."""
        self._settle()

    def keep(self) -> None:
        """As `Reservation`."""
        account = self._settle()
        if account is not None:
            account.uncertain.add(account)
            account.events += self.events
            account.bytes += self.bytes

    def _settle(self) -> Account | None:
        """Let go of what is reserved; the account, if that was not done before."""
        account, self.account = self.account, None
        if account is not None:
            account.booked -= 1
            account.events -= self.events
            account.bytes -= self.bytes
            if account.waiting:
                account.wake()
        return account
