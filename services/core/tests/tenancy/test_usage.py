"""Usage: exact whatever becomes of an append, and never beyond a quota, however many append at once."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from allsource_core.changes import Changes
from allsource_core.engine import DAY_US, EventStore, NewEvent, Raw, VersionConflictError
from allsource_core.engine import usage as engine_usage
from allsource_core.engine.memtable import Memtable
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.metering import Metering
from allsource_core.tenancy.reservations import SMALL_BYTES_MAX, Account, Reservation
from allsource_core.tenancy.usage import HOUR_US, UsageLedger
from allsource_shared.wire.tenants import Quotas

TENANT = "acme"
UNLIMITED = Quotas()
EVENT = NewEvent("t", "e", Raw(b"1"))
SIZE = 3


class Clock:
    """Stands still until it is turned. It begins at a midnight."""

    def __init__(self) -> None:
        self.now = 20_000 * DAY_US

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[EventStore]:
    with EventStore.in_memory(clock=clock) as store:
        yield store


@pytest.fixture
def ledger(store: EventStore, clock: Clock) -> UsageLedger:
    return UsageLedger(store, None, clock)


def append(store: EventStore, ledger: UsageLedger, quotas: Quotas, count: int = 1, tenant: str = TENANT) -> None:
    reservation = ledger.reserve(tenant, quotas, count, count * SIZE)
    reservation.commit(store.append(tenant, [EVENT] * count).recorded_at, count * SIZE)


def refused(ledger: UsageLedger, quotas: Quotas, count: int = 1) -> QuotaExceededError:
    with pytest.raises(QuotaExceededError) as caught:
        ledger.reserve(TENANT, quotas, count, count * SIZE)
    return caught.value


# --- events a day ---


def test_a_day_ends_at_midnight_utc(store: EventStore, ledger: UsageLedger, clock: Clock) -> None:
    quotas = Quotas(max_events_per_day=3)
    append(store, ledger, quotas, 2)
    midnight = clock.now + DAY_US
    clock.now = midnight - 1
    error = refused(ledger, quotas, 2)
    assert (error.quota, error.limit, error.used, error.resets_at) == ("max_events_per_day", 3, 2, midnight)
    append(store, ledger, quotas, 1)
    usage = ledger.usage(TENANT)
    assert (usage.events_today, usage.day_resets_at, usage.hour_resets_at) == (3, midnight, midnight)
    clock.now = midnight
    assert ledger.usage(TENANT).events_today == 0
    append(store, ledger, quotas, 3)
    assert refused(ledger, quotas).resets_at == midnight + DAY_US


def test_what_is_recorded_behind_midnight_counts_on_the_next_day(
    store: EventStore, ledger: UsageLedger, clock: Clock
) -> None:
    quotas = Quotas(max_events_per_day=3)
    clock.now += DAY_US - 1
    reservation = ledger.reserve(TENANT, quotas, 3, 9)
    clock.now += 1
    # Whichever day it will be: together they would be more than one day allows.
    assert refused(ledger, quotas).used == 3
    reservation.commit(store.append(TENANT, [EVENT] * 3).recorded_at, 9)
    assert ledger.usage(TENANT).events_today == 3
    refused(ledger, quotas)


def test_what_was_recorded_before_midnight_leaves_the_next_day_whole(
    store: EventStore, ledger: UsageLedger, clock: Clock
) -> None:
    quotas = Quotas(max_events_per_day=3)
    clock.now += DAY_US - 1
    reservation = ledger.reserve(TENANT, quotas, 3, 9)
    recorded_at = store.append(TENANT, [EVENT] * 3).recorded_at
    clock.now += 1
    reservation.commit(recorded_at, 9)
    assert ledger.usage(TENANT).events_today == 0
    append(store, ledger, quotas, 3)


def test_a_clock_that_jumps_back_over_midnight_gives_nothing_twice(
    store: EventStore, ledger: UsageLedger, clock: Clock
) -> None:
    quotas = Quotas(max_events_per_day=3)
    append(store, ledger, quotas, 3)
    clock.now += DAY_US
    assert ledger.usage(TENANT).events_today == 0
    clock.now -= DAY_US
    refused(ledger, quotas)
    clock.now += DAY_US
    append(store, ledger, quotas, 2)
    # The engine's time does not go back: what is appended now is of the later day.
    clock.now -= DAY_US
    append(store, ledger, quotas, 1)
    assert refused(ledger, quotas).used == 3


# --- what becomes of a reservation ---


def test_what_was_not_stored_is_given_back(store: EventStore, ledger: UsageLedger) -> None:
    quotas = Quotas(max_events_per_day=1, max_storage_bytes=SIZE)
    for _ in range(3):
        reservation = ledger.reserve(TENANT, quotas, 1, SIZE)
        with pytest.raises(VersionConflictError):
            store.append(TENANT, [EVENT], expected_versions={"e": 7})
        reservation.release()
    append(store, ledger, quotas)
    refused(ledger, quotas)


def test_a_reservation_is_settled_once(ledger: UsageLedger, clock: Clock) -> None:
    reservation = ledger.reserve(TENANT, UNLIMITED, 2, 6)
    reservation.commit(clock.now, 6)
    reservation.commit(clock.now, 6)
    reservation.release()
    reservation.keep()
    assert ledger.usage(TENANT).events_today == 2
    assert ledger.outstanding(TENANT) == 0


def test_bytes_that_are_stored_may_be_fewer(store: EventStore, ledger: UsageLedger) -> None:
    quotas = Quotas(max_storage_bytes=100)
    payload = b"[\n" + b" " * 80 + b"1]"
    reservation = ledger.reserve(TENANT, quotas, 1, 2 + len(payload))
    appended = store.append(TENANT, [NewEvent("t", "e", Raw(payload))])
    reservation.commit(appended.recorded_at, appended.content_bytes)
    assert appended.content_bytes < len(payload)
    ledger.reserve(TENANT, quotas, 1, 100 - appended.content_bytes)


@pytest.mark.asyncio
async def test_an_uncertain_append_counts_until_the_store_was_asked(store: EventStore, ledger: UsageLedger) -> None:
    quotas = Quotas(max_events_per_day=3, max_storage_bytes=3 * SIZE)
    append(store, ledger, quotas, 1)
    ledger.reserve(TENANT, quotas, 2, 2 * SIZE).keep()
    assert ledger.outstanding(TENANT) == 0
    assert refused(ledger, quotas).used == 3
    assert ledger.usage(TENANT).events_today == 1
    other = ledger.reserve(TENANT, UNLIMITED, 1, SIZE)
    await ledger.save()
    # While another append is under way nobody can tell which of the two the store has.
    assert refused(ledger, quotas).used == 4
    other.release()
    await ledger.save()
    append(store, ledger, quotas, 2)
    assert refused(ledger, quotas).used == 3


@pytest.mark.asyncio
async def test_an_uncertain_append_that_the_store_has_counts_as_stored(store: EventStore, ledger: UsageLedger) -> None:
    quotas = Quotas(max_events_per_day=3)
    reservation = ledger.reserve(TENANT, quotas, 2, 2 * SIZE)
    store.append(TENANT, [EVENT] * 2)
    reservation.keep()
    await ledger.save()
    assert ledger.usage(TENANT).events_today == 2
    assert refused(ledger, quotas, 2).used == 2


class NeverWalked(dict[str, Account]):
    """Accounts that may be looked up, but not gone through: there may be a million."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    keys = values = items = __iter__  # type: ignore[assignment]


@pytest.mark.asyncio
async def test_settling_looks_at_uncertain_accounts_alone(store: EventStore, ledger: UsageLedger) -> None:
    ledger._accounts = NeverWalked()
    quotas = Quotas(max_events_per_day=1)
    for number in range(20):
        append(store, ledger, quotas, tenant=f"tenant-{number}")
    ledger.reserve(TENANT, quotas, 1, SIZE).keep()
    ledger.reserve("globex", quotas, 1, SIZE).keep()
    late = ledger.reserve("globex", UNLIMITED, 1, SIZE)
    ledger.forget("globex")
    late.keep()
    refused(ledger, quotas)
    await ledger.save()
    assert ledger._failure == ""
    assert ledger._uncertain == set()
    append(store, ledger, quotas)
    append(store, ledger, quotas, tenant="globex")
    refused(ledger, quotas)


# --- bytes kept ---


def test_bytes_are_those_of_the_store(store: EventStore, ledger: UsageLedger, clock: Clock) -> None:
    store.append(TENANT, [EVENT] * 2)
    quotas = Quotas(max_storage_bytes=4 * SIZE)
    append(store, ledger, quotas, 1)
    error = refused(ledger, quotas, 2)
    assert (error.quota, error.limit, error.used, error.resets_at) == ("max_storage_bytes", 12, 9, None)
    assert ledger.usage(TENANT).storage_bytes == 9
    append(store, ledger, quotas, 1)
    store.removals.tenant(TENANT)
    # Not before a second has passed is the store asked again.
    refused(ledger, quotas)
    clock.now += 1_000_000
    append(store, ledger, quotas, 1)
    assert ledger.usage(TENANT).storage_bytes == 3


def test_room_comes_back_also_while_others_append(store: EventStore, ledger: UsageLedger, clock: Clock) -> None:
    quotas = Quotas(max_storage_bytes=4 * SIZE)
    append(store, ledger, quotas, 3)
    under_way = ledger.reserve(TENANT, quotas, 1, SIZE)
    store.removals.tenant(TENANT)
    recorded_at = store.append(TENANT, [EVENT]).recorded_at
    clock.now += 1_000_000
    # The one that is under way counts twice for as long as it is.
    reservation = ledger.reserve(TENANT, quotas, 2, 2 * SIZE)
    refused(ledger, quotas)
    reservation.release()
    under_way.commit(recorded_at, SIZE)
    clock.now += 1_000_000
    assert ledger.usage(TENANT).storage_bytes == SIZE


@pytest.mark.asyncio
async def test_bytes_are_counted_in_a_thread_and_exact_whatever_comes_meanwhile(
    store: EventStore, ledger: UsageLedger, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[bool, int]] = []
    of_memory = engine_usage._usage_in_memory

    def count(table: Memtable, tenant: int, up_to: int) -> tuple[int, int]:
        index = table.find_tenant(tenant)
        known = 0 if index is None else index.counted[0]
        found = of_memory(table, tenant, up_to)
        counted.append((threading.current_thread() is threading.main_thread(), found[0] - known))
        return found

    monkeypatch.setattr(engine_usage, "_usage_in_memory", count)
    append(store, ledger, UNLIMITED, 500)
    await ledger.count(TENANT)
    under_way = ledger.reserve(TENANT, Quotas(max_storage_bytes=600 * SIZE), 1, SIZE)
    assert counted == [(False, 500), (True, 0), (True, 0)]
    assert ledger.usage(TENANT).storage_bytes == 500 * SIZE
    for _ in range(3):
        clock.now += 1_000_000
        counting = asyncio.create_task(ledger.count(TENANT))
        await asyncio.sleep(0)
        append(store, ledger, UNLIMITED, 10)
        await counting
        append(store, ledger, UNLIMITED, 10)
        assert ledger.usage(TENANT).storage_bytes == store.tenant_usage(TENANT).bytes
    assert all(events <= 20 for is_on_loop, events in counted if is_on_loop)
    under_way.release()
    del counted[:]
    await ledger.count(TENANT)
    assert counted == []


# --- queries an hour ---


def test_queries_count_by_the_hour(ledger: UsageLedger, clock: Clock) -> None:
    quotas = Quotas(max_queries_per_hour=2)
    clock.now += 30 * 60 * 1_000_000
    ledger.count_query(TENANT, quotas)
    ledger.count_query(TENANT, quotas)
    for _ in range(3):
        with pytest.raises(QuotaExceededError) as caught:
            ledger.count_query(TENANT, quotas)
        assert (caught.value.quota, caught.value.used) == ("max_queries_per_hour", 2)
        assert caught.value.resets_at == 20_000 * DAY_US + HOUR_US
    ledger.count_query("globex", quotas)
    ledger.count_query(TENANT, UNLIMITED)
    assert ledger.usage(TENANT).queries_this_hour == 3
    clock.now = 20_000 * DAY_US + HOUR_US
    assert ledger.usage(TENANT).queries_this_hour == 0
    ledger.count_query(TENANT, quotas)
    # A clock that jumps back gives nothing twice.
    clock.now -= 1
    ledger.count_query(TENANT, quotas)
    with pytest.raises(QuotaExceededError):
        ledger.count_query(TENANT, quotas)


def test_a_clock_that_was_far_ahead_keeps_nobody_from_asking(ledger: UsageLedger, clock: Clock) -> None:
    quotas = Quotas(max_queries_per_hour=1)
    clock.now += 100 * DAY_US
    ledger.count_query(TENANT, quotas)
    clock.now -= 100 * DAY_US
    usage = ledger.usage(TENANT)
    assert (usage.queries_this_hour, usage.hour_resets_at) == (0, clock.now + HOUR_US)
    for _ in range(2):
        ledger.count_query(TENANT, quotas)
        with pytest.raises(QuotaExceededError) as caught:
            ledger.count_query(TENANT, quotas)
        assert caught.value.resets_at == clock.now + HOUR_US
        clock.now += HOUR_US


# --- tenants that go ---


@pytest.mark.asyncio
async def test_a_tenant_is_drained_when_nothing_of_it_is_under_way(ledger: UsageLedger, clock: Clock) -> None:
    assert await ledger.drained(TENANT, 0)
    first, second = (ledger.reserve(TENANT, UNLIMITED, 1, SIZE) for _ in range(2))
    other = ledger.reserve("globex", UNLIMITED, 1, SIZE)
    assert ledger.outstanding(TENANT) == 2
    assert not await ledger.drained(TENANT, 0.01)
    waiting = [asyncio.create_task(ledger.drained(TENANT, 100)) for _ in range(2)]
    await asyncio.sleep(0)
    first.release()
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    second.commit(clock.now, SIZE)
    assert await asyncio.gather(*waiting) == [True, True]
    third = ledger.reserve(TENANT, UNLIMITED, 1, SIZE)
    waiting = [asyncio.create_task(ledger.drained(TENANT, 100))]
    await asyncio.sleep(0)
    third.keep()
    assert await waiting[0]
    assert ledger.outstanding("globex") == 1
    other.release()


def test_who_gets_the_id_of_a_forgotten_tenant_begins_with_nothing(store: EventStore, ledger: UsageLedger) -> None:
    quotas = Quotas(max_events_per_day=2, max_storage_bytes=2 * SIZE, max_queries_per_hour=1)
    append(store, ledger, quotas, 2)
    ledger.count_query(TENANT, quotas)
    store.removals.tenant(TENANT)
    ledger.forget(TENANT)
    append(store, ledger, quotas, 2)
    ledger.count_query(TENANT, quotas)
    refused(ledger, quotas)


# --- at once ---


@pytest.mark.asyncio
@pytest.mark.parametrize("quota", ["max_events_per_day", "max_storage_bytes"])
async def test_sixteen_clients_at_once_get_what_is_allowed_and_no_more(
    store: EventStore, ledger: UsageLedger, quota: str
) -> None:
    limit = 500
    quotas = Quotas(**{quota: limit if quota == "max_events_per_day" else limit * SIZE})
    chance = random.Random(7)
    outcomes: Counter[str] = Counter()

    async def client(number: int) -> None:
        for _ in range(60):
            count = chance.choice([1, 1, 3])
            try:
                reservation = ledger.reserve(TENANT, quotas, count, count * SIZE)
            except QuotaExceededError:
                outcomes["refused"] += 1
                await asyncio.sleep(0)
                continue
            try:
                kind = chance.choice(["stored", "stored", "stored", "conflict", "dry"])
                expected = {f"e-{number}": 10**6} if kind == "conflict" else None
                event = NewEvent("t", "e", Raw(b"1"))
                appended = await store.append_async(
                    TENANT, [event] * count, expected_versions=expected, dry_run=kind == "dry"
                )
                if kind == "stored":
                    reservation.commit(appended.recorded_at, appended.content_bytes)
                outcomes[kind] += 1
            except VersionConflictError:
                outcomes["conflict"] += 1
            finally:
                reservation.release()

    while outcomes["refused"] < 100:
        await asyncio.gather(*(client(number) for number in range(16)))
        assert store.tenant_usage(TENANT).events <= limit
    assert min(outcomes[kind] for kind in ("stored", "conflict", "dry")) > 10
    assert store.tenant_usage(TENANT).events == ledger.usage(TENANT).events_today == limit


# --- against a model ---


QUOTAS = st.builds(
    Quotas,
    max_events_per_day=st.one_of(st.just(0), st.integers(1, 12)),
    max_storage_bytes=st.one_of(st.just(0), st.integers(1, 20).map(lambda events: events * SIZE)),
    max_queries_per_hour=st.integers(1, 5),
)


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside a plain record of what was stored and when; days and hours pass, and quotas change meanwhile."""

    @initialize(quotas=QUOTAS)
    def begin(self, quotas: Quotas) -> None:
        self.clock = Clock()
        self.store = EventStore.in_memory(clock=self.clock)
        self.ledger = UsageLedger(self.store, None, self.clock)
        self.changes = Changes()
        tenants: Any = SimpleNamespace(find_open=lambda _tenant_id: SimpleNamespace(quotas=self.quotas))
        self.metering = Metering(self.ledger, tenants, self.changes)
        self.quotas = quotas
        self.days: Counter[int] = Counter()
        self.hours: Counter[int] = Counter()
        self.kept = 0
        self.uncertain = self.uncertain_bytes = 0
        self.under_way: list[tuple[Reservation, int, int]] = []

    @property
    def reserved(self) -> int:
        return self.uncertain + sum(count for _, count, _ in self.under_way)

    @property
    def reserved_bytes(self) -> int:
        return self.uncertain_bytes + sum(size for _, _, size in self.under_way)

    @rule(count=st.integers(1, 6))
    def reserve(self, count: int) -> None:
        used = self.days[self.clock.now // DAY_US] + self.reserved
        expected = None
        if 0 < self.quotas.max_events_per_day < used + count:
            expected = "max_events_per_day"
        elif 0 < self.quotas.max_storage_bytes < (self.kept + count) * SIZE + self.reserved_bytes:
            expected = "max_storage_bytes"
        if expected is not None:
            with pytest.raises(QuotaExceededError) as caught:
                self.metering.append(TENANT, [EVENT] * count, count * SIZE)
            assert caught.value.quota == expected
            return
        reservation = self.metering.append(TENANT, [EVENT] * count, count * SIZE)
        # Where bytes were not limited, they are known in the rough until the append ends.
        size = SMALL_BYTES_MAX if isinstance(reservation, Account) else count * SIZE
        self.under_way.append((reservation, count, size))

    @rule(quotas=QUOTAS)
    def change_quotas(self, quotas: Quotas) -> None:
        self.quotas = quotas
        self.changes.publish("tenant", TENANT)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), end=st.sampled_from(["stored", "stored", "stored", "refused", "lost"]))
    def settle(self, data: st.DataObject, end: str) -> None:
        reservation, count, size = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        if end == "stored":
            recorded_at = self.store.append(TENANT, [EVENT] * count).recorded_at
            self.days[recorded_at // DAY_US] += count
            self.kept += count
            reservation.commit(recorded_at, count * SIZE)
        elif end == "refused":
            reservation.release()
        else:
            self.uncertain += count
            self.uncertain_bytes += size
            reservation.keep()

    @rule()
    def ask(self) -> None:
        hour = self.clock.now // HOUR_US
        if self.hours[hour] < self.quotas.max_queries_per_hour:
            self.ledger.count_query(TENANT, self.quotas)
            self.hours[hour] += 1
        else:
            with pytest.raises(QuotaExceededError):
                self.ledger.count_query(TENANT, self.quotas)

    @rule(step=st.sampled_from([1, HOUR_US // 2, HOUR_US, DAY_US - 1, DAY_US, 3 * DAY_US]))
    def wait(self, step: int) -> None:
        self.clock.now += step

    @rule()
    def save(self) -> None:
        asyncio.run(self.ledger.save())
        if not self.under_way:
            self.uncertain = self.uncertain_bytes = 0

    @rule()
    def remove(self) -> None:
        if self.kept and not self.under_way and not self.uncertain:
            self.store.removals.tenant(TENANT)
            self.changes.publish("tenant", TENANT)
            self.ledger.forget(TENANT)
            self.days.clear()
            self.hours.clear()
            self.kept = 0

    @invariant()
    def usage_is_what_is_stored(self) -> None:
        if not hasattr(self, "store"):
            return
        usage = self.ledger.usage(TENANT)
        assert usage.events_today == self.days[self.clock.now // DAY_US]
        assert usage.queries_this_hour == self.hours[self.clock.now // HOUR_US]
        assert usage.storage_bytes == self.store.tenant_usage(TENANT).bytes == self.kept * SIZE
        assert self.ledger.outstanding(TENANT) == len(self.under_way)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40)
