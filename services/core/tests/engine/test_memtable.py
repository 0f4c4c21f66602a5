"""Events in memory: scans find what a look at every event would find, and what is rolled back was never there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.engine import Event, EventQuery, EventStore, StoreOptions, memtable, reading
from allsource_core.engine.event_columns import EventColumns, StoredEvents
from allsource_core.engine.memory import Memory
from allsource_core.engine.memtable import Memtable

from .stores import TENANT, new_event

FIRST = 101


class Batch:
    """An append as a test draws it: (entity, type, tag or none, client id or none) an event."""

    def __init__(self, tenant: int, rows: Sequence[tuple[str, str, str | None, int | None]]) -> None:
        self.tenant = tenant
        self.rows = rows

    def stored(self, position: int, versions: dict[tuple[int, str], int]) -> StoredEvents:
        """With its places; `versions` go on."""
        given: list[int] = []
        for entity_id, *_ in self.rows:
            key = self.tenant, entity_id
            versions[key] = versions.get(key, 0) + 1
            given.append(versions[key])
        entities, types, tags, ids = (list(column) for column in zip(*self.rows, strict=True))
        columns = EventColumns(
            types[0] if len(set(types)) == 1 else types,
            entities,
            [b"%d" % (position + index) for index in range(len(entities))],
            tags=[(tag, tag) if tag else () for tag in tags] if any(tags) else None,
            timestamps=[position * 10 + index for index in range(len(entities))],
            client_ids=[i and (position * 100 + i).to_bytes(16, "big") for i in ids] if any(ids) else None,
        )
        return StoredEvents(self.tenant, f"tenant-{self.tenant}", position, 1_000_000 + position, given, columns)


ROWS = st.tuples(
    st.sampled_from("xyz"), st.sampled_from(["placed", "paid"]), st.sampled_from(["red", None]), st.none() | st.just(7)
)
BATCHES = st.builds(Batch, st.integers(1, 2), st.lists(ROWS, min_size=1, max_size=5))
STEPS = st.lists(BATCHES | st.none(), max_size=12)
"""Appends, and records that hold no events."""
QUERIES = st.builds(
    EventQuery,
    entity_id=st.none() | st.sampled_from("xyzw"),
    event_type=st.none() | st.sampled_from(["placed", "paid", "lost"]),
    tags=st.sampled_from([(), ("red",), ("red", "blue")]),
    since=st.none() | st.integers(1000, 1500),
    until=st.none() | st.integers(1000, 1500),
    after_position=st.integers(FIRST - 2, FIRST + 30),
    before_position=st.none() | st.integers(FIRST - 2, FIRST + 30),
    from_version=st.integers(1, 3),
    to_version=st.none() | st.integers(1, 4),
    descending=st.booleans(),
)


def fill(table: Memtable, steps: Sequence[Batch | None]) -> list[StoredEvents | None]:
    """Add records; returns them."""
    versions: dict[tuple[int, str], int] = {}
    added: list[StoredEvents | None] = []
    for step in steps:
        if step is None:
            table.add_control(1_000_000 + table.next_position)
            added.append(None)
        else:
            stored = step.stored(table.next_position, versions)
            table.add_recovered(stored)
            added.append(stored)
    return added


def events_of(added: Sequence[StoredEvents | None], tenant: int) -> list[Event]:
    return [event for stored in added if stored is not None and stored.tenant == tenant for event in stored.events()]


def expected_of(added: Sequence[StoredEvents | None], tenant: int, query: EventQuery, up_to: int) -> list[Event]:
    """What a look at every event finds."""
    expected = [
        event
        for event in events_of(added, tenant)
        if query.selects(event)
        and query.after_position < event.position <= up_to
        and (query.before_position is None or event.position < query.before_position)
    ]
    if query.descending:
        expected.reverse()
    return expected


def scanned(table: Memtable, tenant: int, query: EventQuery, up_to: int, floor: int = 0) -> list[Event]:
    return [event for events in table.scan(tenant, query, up_to, floor=floor) for event in events]


@given(STEPS, QUERIES, st.integers(FIRST - 2, FIRST + 40), st.integers(0, 3))
def test_a_scan_finds_what_a_look_at_every_event_finds(
    steps: list[Batch | None], query: EventQuery, up_to: int, floor: int
) -> None:
    table = Memtable(FIRST)
    added = fill(table, steps)
    for tenant in (1, 2, 3):
        expected = expected_of(added, tenant, query, up_to)
        found = scanned(table, tenant, query, up_to, floor)
        if query.entity_id is None:
            assert found == expected
        else:
            # The floor only spares a look: those above it are all there, and nothing that is not asked for.
            assert [event for event in found if event.version > floor] == [
                event for event in expected if event.version > floor
            ]
            assert all(event in expected for event in found)


@pytest.mark.parametrize("seed", range(20))
def test_scans_find_the_same_again_and_what_came_since(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is kept of one scan for the next one, also when records are rolled back in between."""
    monkeypatch.setattr(memtable, "_KEPT_MIN", 2)
    rng = random.Random(seed)
    table = Memtable(FIRST)
    versions: dict[tuple[int, str], int] = {}
    added: list[StoredEvents] = []
    for _ in range(200):
        match rng.randrange(20):
            case 0:
                added = added[: rng.randint(0, len(added))]
                table.roll_back(added[-1].first_position + len(added[-1]) if added else FIRST)
                versions = {
                    (stored.tenant, entity_id): version
                    for stored in added
                    for entity_id, version in zip(stored.columns.entity_ids, stored.versions, strict=True)
                }
            case 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8:
                rows = [(rng.choice("xyz"), rng.choice(["placed", "paid"]), rng.choice(["red", None]), None)] * 2
                stored = Batch(rng.randint(1, 2), [*rows, ("w", "lost", None, None)]).stored(
                    table.next_position, versions
                )
                table.add_recovered(stored)
                added.append(stored)
            case _:
                query = EventQuery(
                    entity_id=rng.choice(["x", "y", None]),
                    event_type=rng.choice(["paid", None]),
                    tags=rng.choice([("red",), ()]),
                    after_position=rng.choice([0, rng.randint(FIRST, table.next_position)]),
                    before_position=rng.choice([None, rng.randint(FIRST, table.next_position)]),
                    descending=rng.random() < 0.5,
                )
                for tenant in (1, 2):
                    assert scanned(table, tenant, query, 2**53) == expected_of(added, tenant, query, 2**53)


@given(STEPS, st.integers(0, 12), st.sets(st.integers(FIRST, FIRST + 40)))
def test_rolling_back_is_as_if_the_records_had_never_come(
    steps: list[Batch | None], keep: int, read_before: set[int]
) -> None:
    """Also where some of their events, or of those that stay, were read before."""
    table, fresh = Memtable(FIRST), Memtable(FIRST)
    fill(table, steps)
    kept = fill(fresh, steps[:keep])
    for position in read_before:
        if position < table.next_position:
            table.at(position)
    memory = Memory(FIRST, 0)
    memory.active = table
    memory.roll_back(fresh.next_position)
    assert (table.next_position, memory.next_position) == (fresh.next_position, fresh.next_position)
    for position in range(FIRST, fresh.next_position):
        assert table.at(position) == fresh.at(position)
    for tenant in (1, 2):
        for query in (EventQuery(), EventQuery(event_type="paid"), EventQuery(tags=("red",))):
            assert scanned(table, tenant, query, 2**53) == scanned(fresh, tenant, query, 2**53)
        for entity_id in "xyz":
            assert memory.last_version(tenant, entity_id) == fresh.last_version(tenant, entity_id)
            query = EventQuery(entity_id=entity_id)
            assert scanned(table, tenant, query, 2**53) == scanned(fresh, tenant, query, 2**53)
        for position in range(FIRST, FIRST + 60):
            client_id = (position * 100 + 7).to_bytes(16, "big")
            index = fresh.find_tenant(tenant)
            assert memory.position_of(tenant, client_id) == (index and index.by_client_id.get(client_id))
    for event in events_of(kept, 1):
        assert memory.at(event.position) == event
    assert memory.at(fresh.next_position) is None


def test_what_is_rolled_back_over_several_memtables_is_gone_from_all() -> None:
    memory = Memory(1, 0)
    versions: dict[tuple[int, str], int] = {}
    for _ in range(3):
        for _ in range(2):
            memory.active.add_recovered(Batch(1, [("x", "placed", None, 7)] * 2).stored(memory.next_position, versions))
        memory.freeze()
    memory.roll_back(7)
    assert [(table.first_position, table.next_position) for table in memory.tables] == [(1, 5), (5, 7), (7, 7)]
    assert memory.last_version(1, "x") == (6, 6)
    assert (memory.next_position, memory.at(6) is None, memory.at(7)) == (7, False, None)
    memory.roll_back(1)
    assert [(table.first_position, table.next_position) for table in memory.tables] == [(1, 1)]
    assert memory.last_version(1, "x") is None


def test_memtables_that_became_segments_are_let_go_of_from_the_oldest() -> None:
    memory = Memory(1, 0)
    versions: dict[tuple[int, str], int] = {}
    for _ in range(3):
        memory.active.add_recovered(Batch(1, [("x", "placed", None, None)] * 2).stored(memory.next_position, versions))
        memory.freeze()
    memory.drop_sealed(4)
    assert memory.sealed_through == 4
    assert [table.first_position for table in memory.since(0) if len(table)] == [5]
    assert list(memory.since(6)) == []
    assert (memory.at(4), memory.at(5) is None) == (None, False)


# --- through a store ---


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    """5,000 events of 7 entities, every third one tagged; the first 2,000 of them in other memtables."""
    # The third append may have to wait until one of those memtables is sealed.
    options = StoreOptions(maintenance="thread", reserve_bytes=0, wait_seconds_max=600)
    with EventStore.open(tmp_path_factory.mktemp("scan") / "s", options=options) as opened:
        for begin in range(0, 5000, 1000):
            opened.append(
                TENANT,
                [
                    new_event(f"e-{number % 7}", tags=["third"] if number % 3 == 0 else [])
                    for number in range(begin, begin + 1000)
                ],
            )
            if begin < 2000:
                opened._parts.path.freeze()
        yield opened


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 1023, 1024, 1025, 4999, 6000])
@pytest.mark.parametrize(("after", "before"), [(0, None), (17, 4801), (1024, 2049), (4999, None), (5000, None)])
def test_a_scan_gives_every_event_once_in_order(
    store: EventStore, descending: bool, limit: int | None, after: int, before: int | None
) -> None:
    query = EventQuery(after_position=after, before_position=before, descending=descending, limit=limit)
    expected = list(range(after + 1, before or 5001))
    if descending:
        expected.reverse()
    assert [event.position for event in store.read(TENANT, query)] == expected[:limit]


def test_a_scan_on_an_event_loop_gives_the_same_and_lets_others_run(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_TURN_SECONDS", 0)

    async def check() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        query = EventQuery(tags=("third",), entity_id="e-1")
        chunks = [chunk async for chunk in store.read_async(TENANT, query)]
        assert all(chunks)
        assert [event for chunk in chunks for event in chunk] == list(store.read(TENANT, query))
        none = [chunk async for chunk in store.read_async(TENANT, EventQuery(until=0))]
        assert none == []
        assert turns >= 5
        counting.cancel()

    asyncio.run(check())


@pytest.mark.parametrize("limit", [1, 64, 1500, None])
def test_a_read_collects_no_more_than_it_gives(store: EventStore, limit: int | None) -> None:
    chunks = store.read_chunks(TENANT, EventQuery(limit=limit))
    sizes = [len(chunk) for chunk in chunks]
    assert sum(sizes) == (5000 if limit is None else limit)
    assert max(sizes, default=0) <= 1024
