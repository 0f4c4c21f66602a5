"""Quotas while appends are stored and not settled yet, and told of more bytes than they store: never exceeded."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from allsource_core.changes import Changes
from allsource_core.engine import DAY_US, Appended, EventStore, NewEvent, Raw
from allsource_core.tenancy import metering, reservations, usage
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.metering import Metering, accepted_bytes
from allsource_core.tenancy.reservations import Reservation
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.wire.tenants import Quotas

TENANT = "acme"
FEW_BYTES = 400
SMALL_BYTES = 60
QUOTAS = st.builds(
    Quotas,
    max_events_per_day=st.one_of(st.just(0), st.integers(1, 40)),
    max_storage_bytes=st.one_of(st.just(0), st.integers(1, 2000)),
)


class _Append:
    """An append that is under way."""

    def __init__(self, reservation: Reservation, events: list[NewEvent], body_bytes: int) -> None:
        self.reservation = reservation
        self.events = events
        self.body_bytes = body_bytes
        self.nbytes = accepted_bytes(events)
        self.appended: Appended | None = None


class UnderWayMachine(RuleBasedStateMachine):
    """A tenant with many bytes left, and few, beside a plain record. What is many is little here."""

    @initialize(quotas=QUOTAS)
    def begin(self, quotas: Quotas) -> None:
        self.patches = pytest.MonkeyPatch()
        for module in (reservations, usage):
            self.patches.setattr(module, "EXACT_BYTES", FEW_BYTES)
        for module in (reservations, metering):
            self.patches.setattr(module, "SMALL_BYTES_MAX", SMALL_BYTES)
        self.now = 20_000 * DAY_US
        self.store = EventStore.in_memory(clock=lambda: self.now)
        self.ledger = UsageLedger(self.store, None, lambda: self.now)
        self.changes = Changes()
        tenants: Any = SimpleNamespace(find_open=lambda _tenant_id: SimpleNamespace(quotas=self.quotas))
        self.metering = Metering(self.ledger, tenants, self.changes)
        self.quotas = quotas
        self.days: Counter[int] = Counter()
        self.kept = 0
        self.under_way: list[_Append] = []
        self.lost: list[_Append] = []

    @rule(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=3), spaces=st.integers(0, 30))
    def reserve(self, sizes: list[int], spaces: int) -> None:
        events = [NewEvent("t", "e", Raw(b'"%b"' % (b"x" * size))) for size in sizes]
        body_bytes = accepted_bytes(events) + spaces
        try:
            reservation = self.metering.append(TENANT, events, body_bytes)
        except QuotaExceededError as error:
            refusal = error
        else:
            self._begun(_Append(reservation, events, body_bytes))
            return
        # What is exact is refused nothing for which there is room.
        size = len(events) if refusal.quota == "max_events_per_day" else accepted_bytes(events)
        assert refusal.used + size > refusal.limit
        if not self.under_way and not self.lost:
            assert refusal.used == (self.days[self.now // DAY_US] if "events" in refusal.quota else self.kept)

    def _begun(self, append: _Append) -> None:
        self.under_way.append(append)
        # Whatever becomes of all that is under way.
        open_ = [each for each in (*self.under_way, *self.lost) if each.appended is None]
        today = self.days[self.now // DAY_US] + sum(len(each.events) for each in open_)
        assert not 0 < self.quotas.max_events_per_day < today
        assert not 0 < self.quotas.max_storage_bytes < self.kept + sum(each.nbytes for each in open_)

    @precondition(lambda self: any(each.appended is None for each in self.under_way))
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from([each for each in self.under_way if each.appended is None]))
        each.appended = self.store.append(TENANT, each.events)
        self.days[each.appended.recorded_at // DAY_US] += len(each.events)
        self.kept += each.nbytes

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), is_cancelled=st.sampled_from([False, False, False, True]))
    def settle(self, data: st.DataObject, is_cancelled: bool) -> None:
        each = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        reservation = each.reservation
        if is_cancelled:
            reservation.keep()
            self.lost.append(each)
        elif each.appended is None:
            reservation.release()
        else:
            nbytes = each.appended.content_bytes if reservation.is_exact else each.body_bytes
            reservation.commit(each.appended.recorded_at, nbytes)

    @rule(quotas=QUOTAS)
    def change_quotas(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.changes.publish("tenant", TENANT)

    @rule(step=st.sampled_from([1, 500_000, 1_000_000, 61_000_000, DAY_US // 2, DAY_US]))
    def wait(self, step: int) -> None:
        self.now += step

    @rule()
    def save(self) -> None:
        asyncio.run(self.ledger.save())
        assert self.ledger._failure == ""
        if not self.under_way:
            self.lost.clear()

    @rule()
    def ask(self) -> None:
        told = self.ledger.usage(TENANT)
        if not self.under_way and not self.lost:
            assert (told.events_today, told.storage_bytes) == (self.days[self.now // DAY_US], self.kept)

    @invariant()
    def all_that_is_under_way_is_known(self) -> None:
        if hasattr(self, "ledger"):
            assert self.ledger.outstanding(TENANT) == len(self.under_way)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.patches.undo()


TestUnderWay = UnderWayMachine.TestCase
TestUnderWay.settings = settings(max_examples=100, stateful_step_count=50)
