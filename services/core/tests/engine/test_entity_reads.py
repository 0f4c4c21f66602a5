"""Reading one entity whose events are in segments: as much as is asked for, from memory where it was read before."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import pytest

from allsource_core.engine import Event, EventQuery, EventStore, StoreOptions, decoded_cache, segment_writer
from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.engine.row_group import RowGroup
from allsource_core.engine.segment_reader import SegmentReader
from allsource_core.engine.tenants import TenantKey

from .stores import TENANT, new_event, without_background_work

GROUP_ROWS = 16
OPTIONS = StoreOptions(segment_rows_max=256, maintenance="thread", removal_seconds=0, reserve_bytes=0)
ENTITIES = ("a", "b", "long")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    """Two segments of small row groups; `long` is in many of them, `b` and `a` in one of each segment."""
    without_background_work(monkeypatch)
    monkeypatch.setattr(segment_writer, "ROW_GROUP_ROWS", GROUP_ROWS)
    monkeypatch.setattr(decoded_cache, "_SELECTION_EVENTS_MIN", 3)
    with EventStore.open(tmp_path / "s", options=OPTIONS) as opened:
        for segment in range(2):
            for number in range(80):
                entity_id = {0: "a", 1: "b"}.get(number % 20, "long")
                opened.append(TENANT, [new_event(entity_id, b"%d" % number, tags=[f"t-{number % 3}"])])
            opened.append("other", [new_event("a", b'"not yours"') for _ in range(segment + 1)])
            opened.seal()
        yield opened


class Reads:
    """Which row groups were read from files, and how many events were made of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[tuple[int, int]] = []
        self.events = 0
        read, make = SegmentReader.row_group, RowGroup._events

        def reading(reader: SegmentReader, number: int) -> RowGroup:
            self.groups.append((reader.entry.file, number))
            return read(reader, number)

        def making(group: RowGroup, low: int, high: int, *names: str) -> list[Event]:
            self.events += high - low
            return make(group, low, high, *names)

        monkeypatch.setattr(SegmentReader, "row_group", reading)
        monkeypatch.setattr(RowGroup, "_events", making)


@pytest.fixture
def reads(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


class Forbidden(Executor):
    """Threads that nobody may go to."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a read went to a thread")


async def read_async(store: EventStore, query: EventQuery, tenant: str = TENANT) -> list[Event]:
    return [event async for chunk in store.read_async(tenant, query) for event in chunk]


def test_an_entity_that_is_read_again_is_read_from_memory(store: EventStore, reads: Reads) -> None:
    query = EventQuery(entity_id="long")
    before = list(store.read(TENANT, query))
    assert len(before) == 144
    assert len(reads.groups) == len(set(reads.groups)) > 2 * 72 // GROUP_ROWS
    reads.groups.clear()
    reads.events = 0
    for chunk in store.read_chunks(TENANT, query):
        chunk.clear()  # it is the reader's own
    assert list(store.read(TENANT, query)) == before
    assert (reads.groups, reads.events) == ([], 0)
    assert list(store.read(TENANT, EventQuery(entity_id="long", limit=100))) == before[:100]
    assert reads.groups == []


def test_few_events_are_not_kept_beside_their_row_group(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = store._parts.cache
    for least, count in ((5, 0), (4, 2)):
        monkeypatch.setattr(decoded_cache, "_SELECTION_EVENTS_MIN", least)
        assert len(list(store.read(TENANT, EventQuery(entity_id="a")))) == 8
        assert len([key for key in cache._kept if len(key) > 2]) == count
    assert cache.nbytes == sum(decoded.nbytes for decoded in cache._kept.values())


def test_a_read_on_an_event_loop_goes_to_a_thread_only_for_files(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entity_id in ENTITIES:
        query = EventQuery(entity_id=entity_id, limit=7, descending=True)
        first = asyncio.run(read_async(store, query))
        assert first == list(store.read(TENANT, query))
        with monkeypatch.context() as patch:
            patch.setattr(store, "_readers", Forbidden())
            assert asyncio.run(read_async(store, query)) == first
            with pytest.raises(AssertionError, match="went to a thread"):
                asyncio.run(read_async(store, EventQuery()))


@pytest.mark.parametrize("descending", [False, True])
def test_no_more_is_read_nor_made_than_a_limit_asks_for(store: EventStore, reads: Reads, descending: bool) -> None:
    everything = list(store.read(TENANT, EventQuery(entity_id="long", descending=descending)))
    store._parts.cache.drop(1)
    for limit in (1, 5, GROUP_ROWS):
        reads.groups.clear()
        reads.events = 0
        found = list(store.read(TENANT, EventQuery(entity_id="long", descending=descending, limit=limit)))
        assert found == everything[:limit]
        assert len(reads.groups) <= 2
        # A row group that ends before the limit is reached has given all that it has.
        assert reads.events <= 2 * limit


@pytest.mark.parametrize("descending", [False, True])
def test_pages_of_an_entity_join_without_a_gap(store: EventStore, descending: bool) -> None:
    everything = list(store.read(TENANT, EventQuery(entity_id="long", descending=descending)))
    for size in (1, 7, GROUP_ROWS, 100):
        found: list[Event] = []
        bounds: dict[str, Any] = {}
        while True:
            query = EventQuery(entity_id="long", descending=descending, limit=size, **bounds)
            page = list(store.read(TENANT, query))
            found += page
            if len(page) < size:
                break
            bounds = {"before_position" if descending else "after_position": page[-1].position}
        assert found == everything


def test_a_read_goes_on_behind_events_that_a_filter_leaves_out(store: EventStore) -> None:
    everything = list(store.read(TENANT, EventQuery(entity_id="long")))
    for limit in (1, 10, 60):
        found = list(store.read(TENANT, EventQuery(entity_id="long", tags=("t-2",), limit=limit)))
        assert found == [event for event in everything if "t-2" in event.tags][:limit]


def test_tenants_with_entities_of_one_name_never_see_each_others(store: EventStore) -> None:
    """Their rows are neighbours, in one row group, which is kept for both."""
    query = EventQuery(entity_id="a")
    for tenant, count in ((TENANT, 8), ("other", 3), (TENANT, 8), ("other", 3)):
        found = list(store.read(tenant, query))
        assert {event.tenant_id for event in found} == {tenant}
        assert len(found) == count
        assert asyncio.run(read_async(store, query, tenant)) == found
    assert list(store.read("other", EventQuery(entity_id="long"))) == []
    assert list(store.read("nobody", query)) == []
    for reader in store._parts.catalog.segments:
        for number in range(len(reader.index.row_group_rows)):
            group = reader.row_group(number)
            for tenant, is_mine in ((TENANT, True), ("other", False), ("nobody", False)):
                key = TenantKey(store._numbers.get(tenant), tenant)
                events = group.select(key, query).first
                assert [event.payload != b'"not yours"' for event in events] == [is_mine] * len(events)
                assert tenant != "nobody" or events == []
                assert is_mine or group.select(key, EventQuery(entity_id="long")).first == []


def test_what_is_removed_between_two_reads_is_not_given_out_of_memory(store: EventStore) -> None:
    queries = [
        EventQuery(entity_id="a"),
        EventQuery(entity_id="a", limit=3),
        EventQuery(entity_id="a", descending=True),
    ]
    first = [list(store.read(TENANT, query)) for query in queries]
    erased = first[0][1]
    store.removals.event(TENANT, erased.id)
    for afterwards in (lambda: None, store.compact, store.seal, store.compact):
        afterwards()
        for query, before in zip(queries, first, strict=True):
            found = list(store.read(TENANT, query))
            assert [event.position for event in found] == [event.position for event in before]
            assert [event.erased for event in found] == [event.position == erased.position for event in before]
            assert asyncio.run(read_async(store, query)) == found
    store.removals.entity(TENANT, "a")
    for afterwards in (lambda: None, store.compact, store.seal, store.compact):
        afterwards()
        assert [list(store.read(TENANT, query)) for query in queries] == [[], [], []]
        assert len(list(store.read("other", EventQuery(entity_id="a")))) == 3
    # Versions go on; what comes now is read behind what was removed.
    (event,) = store.append(TENANT, [new_event("a")]).events
    assert event.version == 9
    store.seal()
    assert [list(store.read(TENANT, query)) for query in queries] == [[event]] * 3


def test_a_removal_that_comes_while_a_page_is_read_leaves_it_full(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = RowGroup._events
    key = store._numbers.get(TENANT), "long"

    def shorten_meanwhile(group: RowGroup, low: int, high: int, *names: str) -> list[Event]:
        store._parts.catalog.removed.floors[key] = 44
        return make(group, low, high, *names)

    monkeypatch.setattr(RowGroup, "_events", shorten_meanwhile)
    page = list(store.read(TENANT, EventQuery(entity_id="long", limit=10)))
    assert [event.version for event in page] == list(range(45, 55))


def test_segments_that_are_replaced_leave_the_cache(store: EventStore) -> None:
    cache = store._parts.cache
    for entity_id in ENTITIES:
        list(store.read(TENANT, EventQuery(entity_id=entity_id)))
    list(store.read(TENANT))
    files = {key[0] for key in cache._kept}
    assert len(files) == 2
    store.removals.entity(TENANT, "a")
    store.seal()
    store.compact()
    assert {reader.entry.file for reader in store._parts.catalog.segments} & files == set()
    assert (cache._kept, cache.nbytes) == ({}, 0)


def test_row_groups_and_whole_segments_share_one_bound(store: EventStore) -> None:
    readers = store._parts.catalog.segments
    groups = [(reader, number) for reader in readers for number in range(len(reader.index.row_group_rows))]
    size = max(reader.row_group(number).nbytes for reader, number in groups)
    whole = readers[0].decode().nbytes
    cache = DecodedCache(3 * size + whole)
    kept: list[tuple[SegmentReader, int]] = []
    chance = random.Random(6)
    for reader, number in chance.choices(groups, k=200):
        was_kept = cache.has_row_group(reader, number)
        assert not kept or kept[-1] != (reader, number) or was_kept
        group = cache.row_group(reader, number)
        assert cache.row_group(reader, number) is group
        if chance.random() < 0.1:
            assert len(cache.get(readers[0])) == readers[0].entry.rows
        assert cache.nbytes == sum(decoded.nbytes for decoded in cache._kept.values()) <= 3 * size + whole
        kept.append((reader, number))
    assert len(cache._kept) < len(groups)
    cache.drop(readers[0].entry.file)
    assert {key[0] for key in cache._kept} <= {readers[1].entry.file}
    nothing = DecodedCache(0)
    assert nothing.row_group(*groups[0]) is not nothing.row_group(*groups[0])
    assert nothing.nbytes == 0
    cache.close()
    cache.row_group(*groups[0])
    assert (cache.nbytes, len(cache._kept)) == (0, 0)
