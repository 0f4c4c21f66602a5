"""Single events, for which room is found by the thousand: never more of them than there is room for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from allsource_core.changes import Changes
from allsource_core.engine import DAY_US, EventStore, NewEvent, Raw
from allsource_core.engine import usage as engine_usage
from allsource_core.engine.memtable import Memtable
from allsource_core.tenancy.errors import QuotaExceededError, UnknownTenantError
from allsource_core.tenancy.metering import Metering
from allsource_core.tenancy.reservations import EXACT_BYTES, SMALL_BYTES_MAX, Account, Reservation
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.wire.tenants import Quotas

TENANT = "acme"
EVENT = NewEvent("t", "e", Raw(b"1"))
SIZE = 3
BODY = 100
"""Bytes of a request with such an event."""


class World:
    """A tenant, and a clock that stands still until it is turned."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.now = 20_000 * DAY_US
        self.ledger = UsageLedger(store, None, lambda: self.now)
        self.changes = Changes()
        tenants: Any = SimpleNamespace(find_open=self._find_open)
        self.metering = Metering(self.ledger, tenants, self.changes)
        self.allow(Quotas())

    def _find_open(self, _tenant_id: str) -> Any:
        if self._quotas is None:
            raise UnknownTenantError("it is being deleted")
        return SimpleNamespace(quotas=self._quotas)

    def allow(self, quotas: Quotas | None) -> None:
        """Set the quotas of the tenant; None while it is being deleted."""
        self._quotas = quotas
        self.changes.publish("tenant", TENANT)

    def begin(self, events: int = 1, nbytes: int = BODY) -> Reservation:
        return self.metering.append(TENANT, [EVENT] * events, nbytes)

    def end(self, reservation: Reservation, events: int = 1, nbytes: int = BODY) -> None:
        appended = self.store.append(TENANT, [EVENT] * events)
        reservation.commit(appended.recorded_at, appended.content_bytes if reservation.is_exact else nbytes)

    def fill(self) -> int:
        """Begin as many as there is room for."""
        for count in range(1000):
            try:
                self.begin()
            except QuotaExceededError:
                return count
        raise AssertionError("there is no end of it")


@pytest.fixture
def world() -> Iterator[World]:
    with EventStore.in_memory() as store:
        yield World(store)


def test_the_first_one_is_looked_at_and_the_others_are_not(world: World):
    reservations = [world.begin() for _ in range(3)]
    assert [isinstance(one, Account) for one in reservations] == [False, True, True]
    assert world.ledger.outstanding(TENANT) == 3
    for one in reservations:
        world.end(one)
    assert world.ledger.outstanding(TENANT) == 0
    assert world.ledger.usage(TENANT).storage_bytes == 3 * SIZE


@pytest.mark.parametrize(("events", "nbytes"), [(2, BODY), (1, SMALL_BYTES_MAX + 1)])
def test_larger_appends_are_looked_at_each(world: World, events: int, nbytes: int):
    for _ in range(3):
        assert not isinstance(world.begin(events, nbytes), Account)
        assert isinstance(world.begin(), Account)


def test_no_more_are_let_in_at_once_than_there_may_be_events(world: World):
    world.allow(Quotas(max_events_per_day=50))
    assert world.fill() == 50


def test_batches_and_small_ones_share_the_events(world: World):
    world.allow(Quotas(max_events_per_day=50))
    world.begin()
    batch = world.begin(events=30)
    assert world.fill() == 19
    batch.release()
    assert world.fill() == 30


def test_what_is_given_back_or_lost_is_room_again_or_not(world: World):
    world.allow(Quotas(max_events_per_day=3))
    given, lost, stored = (world.begin() for _ in range(3))
    given.release()
    lost.keep()
    world.end(stored)
    assert world.ledger.outstanding(TENANT) == 0
    assert world.fill() == 1


@pytest.mark.asyncio
async def test_what_was_lost_is_asked_of_the_store(world: World):
    world.allow(Quotas(max_events_per_day=3))
    world.begin().release()
    small = world.begin()
    assert isinstance(small, Account)
    small.keep()
    await world.ledger.save()
    assert world.fill() == 3


def test_other_quotas_hold_from_the_next_one_on(world: World):
    world.begin()
    world.allow(Quotas(max_events_per_day=2))
    assert world.fill() == 1
    world.allow(Quotas(max_events_per_day=4))
    assert world.fill() == 2


def test_none_is_let_into_a_tenant_that_is_being_deleted(world: World):
    small = [world.begin(), world.begin()][1]
    world.allow(None)
    with pytest.raises(UnknownTenantError):
        world.begin()
    assert world.ledger.outstanding(TENANT) == 2
    small.release()
    assert world.ledger.outstanding(TENANT) == 1


@pytest.mark.asyncio
async def test_work_on_a_tenant_gives_no_room(world: World):
    world.allow(Quotas(max_events_per_day=1))
    world.begin()
    await world.metering.work(TENANT, lambda: None)
    assert world.fill() == 0


@pytest.mark.asyncio
async def test_a_tenant_is_drained_when_the_last_of_them_has_ended(world: World):
    first, second = world.begin(), world.begin()
    draining = asyncio.create_task(world.ledger.drained(TENANT, 100))
    await asyncio.sleep(0)
    first.release()
    await asyncio.sleep(0)
    assert not draining.done()
    world.end(second)
    assert await draining


def test_they_count_on_the_day_on_which_they_are_recorded():
    clock = SimpleNamespace(now=20_000 * DAY_US + 1)
    with EventStore.in_memory(clock=lambda: clock.now) as store:
        world = World(store)
        world.now = clock.now
        world.allow(Quotas(max_events_per_day=2))
        world.begin().release()
        before, behind = world.begin(), world.begin()
        recorded_at = store.append(TENANT, [EVENT]).recorded_at
        world.now = clock.now = 20_001 * DAY_US
        world.end(behind)
        before.commit(recorded_at, BODY)
        assert world.ledger.usage(TENANT).events_today == 1
        assert world.fill() == 1


# --- bytes ---


def test_with_few_bytes_left_each_is_reserved_to_the_byte(world: World):
    world.allow(Quotas(max_storage_bytes=10 * SIZE))
    for _ in range(9):
        reservation = world.begin()
        assert not isinstance(reservation, Account)
        assert reservation.is_exact
        world.end(reservation)
    assert world.fill() == 1


def test_with_many_left_no_more_are_let_in_at_once_than_all_have_room_however_large(world: World):
    world.allow(Quotas(max_storage_bytes=EXACT_BYTES + 10 * SMALL_BYTES_MAX + BODY))
    small = [isinstance(world.begin(), Account) for _ in range(12)]
    assert small == [False, *[True] * 10, False]


def test_with_very_many_left_they_are_looked_at_where_fewer_are(world: World):
    world.allow(Quotas(max_storage_bytes=2 * EXACT_BYTES + 10 * SMALL_BYTES_MAX + BODY))
    small = [isinstance(world.begin(), Account) for _ in range(13)]
    assert small == [False, *[True] * 10, False, True]


def test_bytes_are_a_little_too_many_until_somebody_asks_and_then_exact(world: World):
    quotas = Quotas(max_storage_bytes=2 * EXACT_BYTES)
    world.allow(quotas)
    for _ in range(5):
        reservation = world.begin()
        assert not reservation.is_exact
        world.end(reservation)
    account = world.ledger._accounts[TENANT]
    assert account.size == 5 * BODY
    assert world.ledger.usage(TENANT).storage_bytes == 5 * SIZE
    reservation = world.begin()
    assert reservation.is_exact
    world.end(reservation)
    assert account.size == world.ledger.usage(TENANT).storage_bytes == 6 * SIZE


@pytest.mark.asyncio
async def test_they_are_exact_for_a_minute_and_again_whenever_somebody_asks(world: World):
    world.begin().release()
    for minute in range(3):
        usage = world.ledger.usage(TENANT)
        assert usage.storage_bytes == 2 * minute * SIZE
        world.now += 59_999_999
        await world.ledger.save()
        reservation = world.begin()
        assert reservation.is_exact
        world.end(reservation)
        world.now += 1
        await world.ledger.save()
        reservation = world.begin()
        assert not reservation.is_exact
        world.end(reservation)


def test_what_is_stored_and_not_settled_when_somebody_asks_counts_once_when_it_is_settled(world: World):
    world.end(world.begin())
    small, batch = world.begin(), world.begin(events=2)
    appended = [world.store.append(TENANT, [EVENT] * count) for count in (1, 2)]
    assert world.ledger.usage(TENANT).storage_bytes == 4 * SIZE
    for reservation, each in zip((small, batch), appended, strict=True):
        assert reservation.is_exact
        reservation.commit(each.recorded_at, each.content_bytes)
    assert world.ledger.usage(TENANT).storage_bytes == 4 * SIZE


@pytest.mark.asyncio
async def test_near_the_quota_bytes_in_memory_are_counted_in_the_thread(world: World, monkeypatch: pytest.MonkeyPatch):
    on_loop: list[int] = []
    of_memory = engine_usage._usage_in_memory

    def count(table: Memtable, tenant: int, up_to: int) -> tuple[int, int]:
        index = table.find_tenant(tenant)
        known = 0 if index is None else index.counted[0]
        found = of_memory(table, tenant, up_to)
        if threading.current_thread() is threading.main_thread():
            on_loop.append(found[0] - known)
        return found

    world.allow(Quotas(max_storage_bytes=3 * EXACT_BYTES))
    world.end(world.begin())
    monkeypatch.setattr(engine_usage, "_usage_in_memory", count)
    # Bodies that are nearly all spaces, until twice as much is left as is counted to the byte.
    world.end(world.begin(events=500, nbytes=EXACT_BYTES - 1000), events=500, nbytes=EXACT_BYTES - 1000)
    world.begin(events=2, nbytes=2000).release()
    await world.ledger.save()
    world.end(world.begin(events=3, nbytes=EXACT_BYTES - 5000), events=3, nbytes=EXACT_BYTES - 5000)
    assert on_loop == []
    world.begin(events=2, nbytes=10_000).release()
    assert on_loop == [3]


@pytest.mark.asyncio
async def test_where_nothing_can_be_saved_counting_ends_too(world: World, monkeypatch: pytest.MonkeyPatch):
    def fail(*_arguments: Any) -> None:
        raise OSError("no such disk")

    monkeypatch.setattr(world.ledger, "_advance", fail)
    for number in range(3):
        world.ledger.usage(f"tenant-{number}")
    world.now += 60_000_000
    await world.ledger.save()
    assert world.ledger._counted_ahead == set()


def test_bytes_that_were_too_many_are_counted_before_anybody_is_refused(world: World):
    world.allow(Quotas(max_storage_bytes=EXACT_BYTES + 3 * BODY))
    for _ in range(4):
        world.end(world.begin(events=2), events=2)
    account = world.ledger._accounts[TENANT]
    assert account.is_exact
    assert account.size == 8 * SIZE
