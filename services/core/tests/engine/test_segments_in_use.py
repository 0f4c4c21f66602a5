"""Reads of decoded segments whose readers stall: what they hold has a bound, and what they get is the same."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.engine import Event, EventQuery, EventStore, NewEvent, StoreOptions, reading, segments_in_use
from allsource_core.engine import decoded_segment as decoding
from allsource_core.engine.decoded_segment import DecodedSegment
from allsource_core.engine.segment_reader import SegmentReader

from .stores import TENANT, new_event, without_background_work

SEGMENTS = 6
EVENTS = 40
"""Of a segment."""
OPTIONS = StoreOptions(
    durability="os",
    segment_rows_max=EVENTS,
    maintenance="thread",
    removal_seconds=0,
    reserve_bytes=0,
    cache_bytes_max=0,
    in_use_bytes_max=0,
)
"""Nothing is kept but the one segment that was read from last."""


def numbered(number: int) -> NewEvent:
    tags = [f"tag-{number % 4}", "all"]
    return new_event(f"e-{number % 7}", b"%d" % number, event_type=f"type-{number % 3}", tags=tags)


def fill(store: EventStore) -> None:
    """Full segments of events of two tenants; every read of one takes many steps."""
    for segment in range(SEGMENTS):
        for number in range(segment * EVENTS, (segment + 1) * EVENTS):
            store.append(TENANT if number % 5 else "other", [numbered(number)])
        store.seal()
    assert store.stats().segments == SEGMENTS


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    # Two or three events a list, and a few candidates a step.
    monkeypatch.setattr(decoding, "CHUNK_BYTES", 900)
    monkeypatch.setattr(decoding, "_SCAN_CHUNK_MAX", 8)
    monkeypatch.setattr(decoding.Scan.__init__, "__defaults__", (0, 4))
    monkeypatch.setattr(segments_in_use, "_STEP_SECONDS", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "s", options=OPTIONS) as opened:
        fill(opened)
        yield opened


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each file was decoded."""
    counted: Counter[int] = Counter()
    decode = SegmentReader.decode

    def counting(reader: SegmentReader) -> DecodedSegment:
        counted[reader.entry.file] += 1
        return decode(reader)

    monkeypatch.setattr(SegmentReader, "decode", counting)
    return counted


def begun(store: EventStore, query: EventQuery, tenant: str = TENANT) -> Iterator[list[Event]]:
    """A read that has given its first events."""
    lists = store.read_chunks(tenant, query)
    assert next(lists)
    return lists


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What a test lets go of goes without the collector; what others before it left is gone already."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def in_memory() -> int:
    """Decoded segments, whoever holds them. Nothing is collected first: nothing has to be."""
    return sum(isinstance(each, DecodedSegment) for each in gc.get_objects())


def behind(segment: int) -> EventQuery:
    return EventQuery(after_position=segment * EVENTS)


@pytest.mark.usefixtures("no_collector")
def test_readers_who_stall_hold_no_segment(store: EventStore) -> None:
    before = in_memory()
    reads = [begun(store, behind(segment)) for segment in range(SEGMENTS)]
    reads += [begun(store, EventQuery(tags=("all",), before_position=n * EVENTS, descending=True)) for n in range(1, 6)]
    assert in_memory() == before + 1
    assert store._parts.in_use.nbytes > 0
    del reads
    assert in_memory() == before
    assert store._parts.in_use.nbytes == 0


@pytest.fixture
def roomy(tmp_path: Path, decodings: Counter[int]) -> Iterator[EventStore]:
    """With room for three segments."""
    with EventStore.open(tmp_path / "s", options=OPTIONS) as opened:
        fill(opened)
        lists = begun(opened, behind(0))
        room = opened._parts.in_use.nbytes * 7 // 2
        del lists
    decodings.clear()
    with EventStore.open(tmp_path / "s", options=msgspec.structs.replace(OPTIONS, in_use_bytes_max=room)) as opened:
        yield opened


def test_as_many_are_held_as_there_is_room_for(roomy: EventStore, decodings: Counter[int]) -> None:
    reads = [begun(roomy, behind(segment)) for segment in range(3)]
    for lists in reads * 3:
        assert next(lists)
    assert list(decodings.values()) == [1, 1, 1]
    before = roomy._parts.in_use.nbytes
    reads += [begun(roomy, behind(segment)) for segment in range(3, SEGMENTS)]
    assert before * 0.9 < roomy._parts.in_use.nbytes < before * 7 / 6


def test_most_of_many_who_read_in_turns_find_their_segments(
    roomy: EventStore, decodings: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_in_use, "_STALLED_SECONDS", 3600.0)
    reads = [begun(roomy, behind(segment)) for segment in range(4)]
    for _ in range(3):
        for lists in reads:
            assert next(lists)
    # Four at first, and one of every three steps; it would be each one, were the segment read from longest ago to go.
    assert decodings.total() == 4 + 12 // 3
    assert len(decodings) == 4


def test_those_who_stall_give_theirs_up_first(
    roomy: EventStore, decodings: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = [begun(roomy, behind(segment)) for segment in range(3)]
    files = list(decodings)
    assert next(reads[0])
    # Whoever is not the last has stalled.
    monkeypatch.setattr(segments_in_use, "_STALLED_SECONDS", 0.0)
    reads.append(begun(roomy, behind(3)))
    assert next(reads[2])
    assert next(reads[0])
    assert list(decodings.values()) == [1, 1, 1, 1]
    assert next(reads[1])
    assert decodings[files[1]] == 2


def test_what_may_be_read_from_just_then_stays(
    roomy: EventStore, decodings: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments_in_use, "_STEP_SECONDS", 3600.0)
    reads = [begun(roomy, behind(segment)) for segment in range(SEGMENTS)]
    for lists in reads * 2:
        assert next(lists)
    assert list(decodings.values()) == [1] * SEGMENTS


def test_one_read_decodes_each_segment_once_however_small_the_bound(store: EventStore, decodings: Counter[int]) -> None:
    assert len(list(store.read(TENANT))) == SEGMENTS * EVENTS * 4 // 5
    assert list(decodings.values()) == [1] * SEGMENTS


@pytest.mark.usefixtures("no_collector")
def test_readers_of_one_segment_share_it(store: EventStore, decodings: Counter[int]) -> None:
    before = in_memory()
    reads = [begun(store, EventQuery(before_position=EVENTS)) for _ in range(10)]
    for _ in range(3):
        for lists in reads:
            assert next(lists)
    assert list(decodings.values()) == [1]
    assert in_memory() == before + 1
    # One that has read everything takes nothing from the others.
    assert sum(map(len, reads.pop())) > 0
    assert next(reads[0])
    assert list(decodings.values()) == [1]


def expected(store: EventStore, query: EventQuery, tenant: str) -> list[Event]:
    """All of the tenant's events that a query selects, one at a time, its limit aside."""
    found = [event for event in store.read(tenant) if query.selects(event)]
    found = [event for event in found if event.position > query.after_position]
    if query.before_position is not None:
        found = [event for event in found if event.position < query.before_position]
    return found[::-1] if query.descending else found


QUERIES = st.builds(
    EventQuery,
    event_type=st.none() | st.sampled_from(["type-0", "type-1", "nothing"]),
    tags=st.sampled_from([(), ("all",), ("tag-1",), ("tag-2", "all"), ("none",)]),
    after_position=st.integers(0, SEGMENTS * EVENTS),
    before_position=st.none() | st.integers(1, SEGMENTS * EVENTS + 1),
    descending=st.booleans(),
    limit=st.none() | st.integers(1, 60),
    from_version=st.integers(1, 9),
)


READS = st.lists(st.tuples(QUERIES, st.sampled_from([TENANT, "other"])), min_size=2, max_size=6)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    with pytest.MonkeyPatch.context() as patch:
        without_background_work(patch)
        with EventStore.open(tmp_path_factory.mktemp("filled") / "s", options=OPTIONS) as opened:
            fill(opened)
            yield opened


@given(wanted=READS, data=st.data())
@settings(max_examples=60)
def test_reads_in_turns_give_what_each_gives_alone(filled: EventStore, wanted: list[Any], data: st.DataObject) -> None:
    reads = {number: filled.read_chunks(tenant, query) for number, (query, tenant) in enumerate(wanted)}
    found: dict[int, list[Event]] = {number: [] for number in reads}
    while reads:
        number = data.draw(st.sampled_from(sorted(reads)))
        events = next(reads[number], None)
        if events is None:
            del reads[number]
        else:
            found[number] += events
    for number, (query, tenant) in enumerate(wanted):
        assert found[number] == expected(filled, query, tenant)[: query.limit]


def test_what_is_removed_while_a_reader_stalls_is_not_given(store: EventStore) -> None:
    reads = [begun(store, EventQuery(limit=100)), begun(store, EventQuery(descending=True))]
    store.removals.entity(TENANT, "e-3")
    for lists in reads:
        left = [event.entity_id for events in lists for event in events]
        assert len(left) > 90
        assert "e-3" not in left


def test_segments_that_are_replaced_meanwhile_are_decoded_all_the_same(store: EventStore) -> None:
    before = list(store.read(TENANT))
    reads = [begun(store, behind(segment)) for segment in range(SEGMENTS)]
    store.removals.entity("other", "e-0")
    store.seal()
    store.compact()
    for segment, lists in enumerate(reads):
        found = [event for events in lists for event in events]
        assert found
        assert found == [event for event in before if event.position > segment * EVENTS][-len(found) :]


def test_on_a_loop_it_is_decoded_in_another_thread(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = SegmentReader.decode
    main = threading.get_ident()

    def elsewhere(reader: SegmentReader) -> DecodedSegment:
        assert threading.get_ident() != main
        return decode(reader)

    async def read() -> list[Event]:
        found: list[Event] = []
        async with aclosing(store.read_async(TENANT)) as lists, aclosing(store.read_async(TENANT, behind(3))) as others:
            async for events in lists:
                found += events
                # Its segment has to go.
                await anext(others, None)
        return found

    alone = list(store.read(TENANT))
    monkeypatch.setattr(SegmentReader, "decode", elsewhere)
    assert asyncio.run(read()) == alone


def test_what_was_replaced_does_not_come_back_into_the_cache(tmp_path: Path, decodings: Counter[int]) -> None:
    with EventStore.open(tmp_path / "s", options=msgspec.structs.replace(OPTIONS, cache_bytes_max=10**9)) as store:
        fill(store)
        stalled = begun(store, EventQuery())
        list(store.read(TENANT, behind(1)))
        assert store._parts.cache.nbytes > 0
        for number in range(7):
            store.removals.entity(TENANT, f"e-{number}")
            store.removals.entity("other", f"e-{number}")
        store.seal()
        store.compact()
        before = store._parts.cache.nbytes
        decodings.clear()
        assert list(stalled) == []
        assert list(decodings.values()) == [1] * SEGMENTS
        assert store._parts.cache.nbytes == before


def test_nothing_is_decoded_on_a_loop_where_nothing_is_found(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long each step takes."""
    alone = list(store.read(TENANT))
    monkeypatch.setattr(reading, "_TOGETHER_SECONDS", 0.0)
    decode, threads = SegmentReader.decode, set()

    def noting(reader: SegmentReader) -> DecodedSegment:
        threads.add(threading.get_ident())
        return decode(reader)

    monkeypatch.setattr(SegmentReader, "decode", noting)

    async def read(query: EventQuery) -> list[Event]:
        async with aclosing(store.read_async(TENANT, query)) as lists:
            return [event async for events in lists for event in events]

    nothing = EventQuery(tags=("tag-0", "tag-1"))
    assert asyncio.run(read(nothing)) == []
    assert asyncio.run(read(EventQuery())) == alone
    assert threading.get_ident() not in threads
    assert len(threads) >= 1


def test_what_many_threads_read_of_the_same_segments_is_the_same(store: EventStore) -> None:
    alone = list(store.read(TENANT))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: list(store.read(TENANT)), range(12)))
    assert found == [alone] * 12


def test_a_segment_that_can_not_be_decoded_again_ends_that_read_alone(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = list(store.read(TENANT))
    first, second = begun(store, behind(0)), begun(store, behind(3))
    with monkeypatch.context() as patch:
        patch.setattr(SegmentReader, "decode", lambda _: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            next(first)
        # Its own is still there.
        assert next(second)
    assert list(store.read(TENANT)) == alone
    assert sum(map(len, second)) > 90


def test_a_reader_who_stalls_goes_on_after_the_store_was_closed(tmp_path: Path) -> None:
    with EventStore.open(tmp_path / "s", options=OPTIONS) as store:
        fill(store)
        alone = list(store.read(TENANT))
        reads = [begun(store, EventQuery()), begun(store, behind(3))]
    found = [event for events in reads[0] for event in events]
    assert found == alone[-len(found) :]
    assert len(found) > len(alone) - 5


def test_what_was_beyond_the_bound_is_let_go_of_later(roomy: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(segments_in_use, "_STEP_SECONDS", 3600.0)
        reads = [begun(roomy, behind(segment)) for segment in range(SEGMENTS)]
    beyond = roomy._parts.in_use.nbytes
    roomy._parts.maintenance._round()
    assert roomy._parts.in_use.nbytes < beyond * 0.7
    assert all(sum(map(len, lists)) for lists in reads)
