"""What is known of one tenant's usage, and room in its quotas for appends that are under way."""

from __future__ import annotations

import asyncio

import msgspec

from allsource_core.engine import DAY_US

__all__ = ["Account", "Reservation"]


class Account:
    """What is known of a tenant's usage.

    Attributes:
        tenant_id: whose.
        last_day: the last day since the epoch, UTC, that had an event; 0 for none. The engine's time does not go back,
            so no event comes before it.
        on_last_day: the events recorded on it.
        day_before, on_day_before: the same of the last day before it that had any.
        size: bytes kept; None while nobody has asked. Never less than there are.
        sized_at: when they were last counted.
        asked_at: when somebody last wanted to know them exactly.
        hour, queries: the last hour since the epoch that had a query, and how many in it.
        reservations: that are not settled.
        events, bytes: that are reserved, or may have been stored by an append of which nothing more is known.
        uncertain: the accounts of a ledger that had such an append.
        waiting: who waits for `reservations` to be 0.
    """

    __slots__ = (
        *("tenant_id", "last_day", "on_last_day", "day_before", "on_day_before", "size", "sized_at", "asked_at"),
        *("hour", "queries", "reservations", "events", "bytes", "uncertain", "waiting"),
    )

    def __init__(self, tenant_id: str, uncertain: set[Account]) -> None:
        self.tenant_id = tenant_id
        self.last_day = 0
        self.on_last_day = 0
        self.day_before = 0
        self.on_day_before = 0
        self.size: int | None = None
        self.sized_at = 0
        self.asked_at = 0
        self.hour = 0
        self.queries = 0
        self.reservations = 0
        self.events = 0
        self.bytes = 0
        self.uncertain = uncertain
        self.waiting: list[asyncio.Future[None]] = []

    def add(self, day: int, events: int) -> None:
        """Count events that are stored."""
        if day > self.last_day:
            self.day_before, self.on_day_before = self.last_day, self.on_last_day
            self.last_day, self.on_last_day = day, events
        elif day == self.last_day:
            self.on_last_day += events
        elif day == self.day_before:
            self.on_day_before += events

    def on(self, day: int) -> int:
        """How many events were recorded on a day that is not before the last two."""
        if day == self.last_day:
            return self.on_last_day
        return self.on_day_before if day == self.day_before else 0

    def let_go(self, events: int, bytes: int) -> None:
        """A reservation is settled."""
        self.reservations -= 1
        self.events -= events
        self.bytes -= bytes
        if self.waiting:
            self.wake()

    def wake(self) -> None:
        """Tell those who wait, if nothing is reserved any more."""
        if not self.reservations:
            for waiter in self.waiting:
                if not waiter.done():
                    waiter.set_result(None)
            self.waiting.clear()


class Reservation(msgspec.Struct, gc=False):
    """Room for an append that is under way. To be settled once, in one of three ways; whatever comes after the first
    does nothing, so `release` may stand in a ``finally``.

    Whoever is cancelled while it appends does not know what becomes of the events, and settles when the append ends.

    Attributes:
        account: of the tenant; None once it is settled.
        events, bytes: that are reserved.
        limits_bytes: the tenant has a quota of them, so `commit` is to be told how many there are.
    """

    account: Account | None
    events: int
    bytes: int
    limits_bytes: bool

    def commit(self, appended_recorded_at: int, appended_bytes: int | None = None) -> None:
        """The events are stored.

        Args:
            appended_recorded_at: `recorded_at` of the events.
            appended_bytes: that they have (`Appended.content_bytes`), if these are not as many as were reserved: the
                engine takes line breaks out of payloads.
        """
        account, self.account = self.account, None
        if account is not None:
            events, day = self.events, appended_recorded_at // DAY_US
            if day == account.last_day:
                account.on_last_day += events
            else:
                account.add(day, events)
            if account.size is not None:
                account.size += self.bytes if appended_bytes is None else appended_bytes
            # `let_go`, without a call: every append comes by here.
            account.reservations -= 1
            account.events -= events
            account.bytes -= self.bytes
            if account.waiting:
                account.wake()

    def release(self) -> None:
        """Nothing was stored: the append was refused, or it is a repetition or a dry run."""
        account, self.account = self.account, None
        if account is not None:
            account.let_go(self.events, self.bytes)

    def keep(self) -> None:
        """It is unknown whether the events are stored, as whoever appends them was cancelled: they count as used, on
        whatever day, until the ledger has asked the store. An append of uncertain outcome is to be released: the store
        has forgotten it, or has it again after a restart, when all is counted anew.
        """
        account, self.account = self.account, None
        if account is not None:
            account.uncertain.add(account)
            account.events += self.events
            account.bytes += self.bytes
            account.let_go(self.events, self.bytes)
