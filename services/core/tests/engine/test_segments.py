"""Segments: what is written is what is read, by entity and by position, and damage is never served."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.engine import segment_writer
from allsource_core.engine.decoded_segment import DecodedSegment
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.events import Event
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.segment_format import ERASED, EVENT, REMOVED, SCHEMA, SEGMENT_ROWS_MAX, SHORTENED
from allsource_core.engine.segment_index import build_index
from allsource_core.engine.segment_reader import OpenFiles, SegmentReader
from allsource_core.engine.segment_writer import write_segment
from allsource_core.engine.tenants import TenantKey

from .segment_rows import HASHER, START, TENANT, Row, Segment, table_of, usual_rows

names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)


@st.composite
def segments(draw: st.DrawFn) -> list[Row]:
    """Rows of a few entities whose positions have gaps, in any order, with erased events and markers."""
    keys = draw(st.lists(st.tuples(st.integers(1, 3), names), min_size=1, max_size=6, unique=True))
    keys += [(tenant + 1, name) for tenant, name in keys[:1]]
    keys = list(dict.fromkeys(keys))
    types, tags = draw(st.lists(names, min_size=1, max_size=3)), draw(st.lists(names, min_size=1, max_size=3))
    positions = draw(st.lists(st.integers(1, 200), min_size=1, max_size=40, unique=True))
    last: dict[tuple[int, str], int] = {}
    rows = []
    for position in sorted(positions):
        key = draw(st.sampled_from(keys))
        kind = draw(st.sampled_from([EVENT] * 8 + [ERASED, SHORTENED, REMOVED]))
        is_event, is_whole = kind < SHORTENED, kind == EVENT
        last[key] = last.get(key, 0) + is_event
        rows.append(
            Row(
                *key,
                last[key],
                position,
                kind,
                draw(st.sampled_from(types)) if is_event else "",
                draw(st.sampled_from(["{}", '"ü"', "1"])) if kind in (EVENT, SHORTENED) else "null",
                draw(st.sampled_from([None, "{}", '{"a":1}'])) if is_whole else None,
                tuple(draw(st.lists(st.sampled_from(tags), max_size=3))) if is_whole else (),
                draw(st.none() | st.integers(START - 50, START + 50)) if is_event else None,
                START + position,
                draw(st.none() | st.binary(min_size=16, max_size=16)) if is_event else None,
            )
        )
    return draw(st.permutations(rows))


queries = st.builds(
    EventQuery,
    entity_id=st.none() | st.integers(0, 9),
    event_type=st.none() | st.integers(0, 9),
    tags=st.lists(st.integers(0, 9), max_size=2),
    since=st.none() | st.integers(START - 60, START + 210),
    until=st.none() | st.integers(START - 60, START + 210),
    after_position=st.integers(0, 210),
    before_position=st.none() | st.integers(1, 210),
    from_version=st.integers(1, 6),
    to_version=st.none() | st.integers(0, 9),
    descending=st.booleans(),
    limit=st.none() | st.integers(1, 20),
)


def expected_of(rows: Sequence[Row], tenant: int, query: EventQuery) -> list[Event]:
    found = [
        row.event()
        for row in rows
        if row.tenant == tenant
        and row.position > query.after_position
        and (query.before_position is None or row.position < query.before_position)
        and query.selects(row.event())
    ]
    return (found[::-1] if query.descending else found)[: query.limit]


def scanned(decoded: DecodedSegment, tenant: int, query: EventQuery) -> list[Event]:
    """What a segment has of a query, step by step."""
    scan, found = decoded.scan(tenant, query), []
    while not scan.has_ended:
        for indices in decoded.cut(decoded.scan_on(scan)):
            found += decoded.events(indices)
    return found


def by_entity(reader: SegmentReader, tenant: int, query: EventQuery) -> list[Event]:
    """What the row groups of an entity have of a query, its limit aside."""
    bounds = query.entity_id or "", query.from_version, query.to_version
    numbers = list(reader.index.row_groups(tenant, *bounds))
    key, found = TenantKey(tenant, f"tenant-{tenant}"), []
    for number in numbers[::-1] if query.descending else numbers:
        group = reader.row_group(number)
        selection = group.select(key, query)
        assert len(selection.first) <= (query.limit or SEGMENT_ROWS_MAX)
        for events in (selection.first, *(group.events(piece, key, query) for piece in selection.rest)):
            found += filter(query.selects, events)
    return found


@settings(max_examples=150)
@given(segments(), st.lists(queries, min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 4), st.integers(1, 5))
def test_a_segment_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Row],
    drawn: list[EventQuery],
    min_version: int,
    more: int,
    group_rows: int,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment_writer, "ROW_GROUP_ROWS", group_rows)
        segment = Segment(tmp_path_factory.mktemp("s"), rows)
    reader = segment.reader()
    assert pq.ParquetFile(segment.path).num_row_groups == -(-len(rows) // group_rows)
    for tenant, entity_id in {(row.tenant, row.entity_id) for row in rows} | {(9, "none"), (1, "none")}:
        for bounds in ((1, None), (min_version, None), (min_version, min_version + more)):
            own = [row for row in segment.rows if (row.tenant, row.entity_id) == (tenant, entity_id)]
            # A marker of an entity without events has version 0: the bounds are of versions that were assigned.
            own = [row for row in own if bounds[0] <= row.version <= (bounds[1] or row.version)]
            found = reader.entity_rows(TenantKey(tenant, f"tenant-{tenant}"), entity_id, *bounds)
            assert found.events == [row.event() for row in own if row.kind < SHORTENED]
            assert found.markers == [row.marker() for row in own if row.kind >= SHORTENED]
    decoded = reader.decode()
    assert decoded.events(slice(None)) == [row.event() for row in segment.by_position]
    assert decoded.events(np.array([], dtype=np.int64)) == []
    entity_ids, types = sorted({row.entity_id for row in rows}), sorted({row.event_type for row in rows})
    tags = [*sorted({tag for row in rows for tag in row.tags}), "no such tag"]
    for query in drawn:
        query = msgspec.structs.replace(
            query,
            entity_id=None if query.entity_id is None else entity_ids[query.entity_id % len(entity_ids)],
            event_type=None if query.event_type is None else types[query.event_type % len(types)],
            tags=tuple(tags[number % len(tags)] for number in query.tags),
        )
        for tenant in range(1, 6):
            expected = expected_of(segment.by_position, tenant, query)
            assert scanned(decoded, tenant, query) == expected
            if query.entity_id is not None:
                bounded = msgspec.structs.replace(query, from_version=min_version, to_version=min_version + more)
                for wanted in (query, bounded):
                    assert by_entity(reader, tenant, wanted)[: query.limit] == expected_of(
                        segment.by_position, tenant, wanted
                    )


def test_scans_of_many_chunks_give_every_event_once_in_order(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(9000, entities=8))
    decoded = segment.reader().decode()
    for descending in (False, True):
        for limit in (None, 1, 600, 1024, 4000, 9000):
            for filters in ({}, {"event_type": "type-2"}, {"tags": ("third", "tag-0")}, {"entity_id": "entity-3"}):
                query = EventQuery(
                    descending=descending, limit=limit, after_position=5, before_position=8990, **filters
                )
                assert scanned(decoded, 2, query) == expected_of(segment.by_position, 2, query)


def test_positions_are_found_in_a_decoded_segment(tmp_path: Path) -> None:
    decoded = Segment(tmp_path, [Row(3, "e", number, number * 2) for number in range(1, 50)]).reader().decode()
    assert decoded.indices_of(3, [1, 2, 3, 98, 99]).tolist() == [0, 48]
    assert decoded.indices_of(2, [2, 98]).tolist() == []
    assert (len(decoded), decoded.positions[0]) == (49, 2)


def test_an_entity_of_many_row_groups_is_read_by_versions(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(20_000, entities=1, tenants=1))
    reader = segment.reader()
    groups = reader.index.row_groups(1, "entity-0", 9000, 9010)
    assert len(groups) == 1
    found = reader.entity_rows(TENANT, "entity-0", 9000, 9010)
    assert found.events == [row.event() for row in segment.by_position[8999:9010]]
    assert len(reader.entity_rows(TENANT, "entity-0").events) == 20_000


def test_other_programs_read_a_segment(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(5000))
    table = pq.read_table(segment.path)
    assert table.column("position").to_pylist() == [row.position for row in segment.rows]
    assert [tuple(tags or ()) for tags in table.column("tags").to_pylist()] == [row.tags for row in segment.rows]
    own = msgspec.json.decode(table.schema.metadata[b"allsource"])
    assert own == {"format": 2, "first_position": 1, "last_position": 5000, "removals_through": 7}
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select tenant, tenant_id, entity_id, version, position, kind, event_type, payload, metadata, tags,"
            " epoch_us(timestamp), epoch_us(recorded_at), event_id from read_parquet(?)",
            [str(segment.path)],
        ).fetchall()
    assert rows == [
        (
            *(row.tenant, row.tenant_id, row.entity_id, row.version, row.position, row.kind, row.event_type),
            *(row.payload, row.metadata, list(row.tags) or None, row.timestamp, row.recorded_at, row.event_id),
        )
        for row in segment.rows
    ]


def test_the_filter_knows_everything_that_is_there_and_little_else(tmp_path: Path) -> None:
    rows = [
        *usual_rows(3000, entities=1000),
        Row(1, "gone", 4, 4000, REMOVED, event_type="", payload="null", tags=()),
    ]
    reader = Segment(tmp_path, rows).reader()
    for row in rows:
        assert reader.may_contain(HASHER.entity(row.tenant, row.entity_id))
        assert row.kind == REMOVED or reader.may_contain(HASHER.event_type(row.tenant, row.event_type))
        assert all(reader.may_contain(HASHER.tag(row.tenant, tag)) for tag in row.tags)
    strangers = sum(reader.may_contain(HASHER.entity(1, f"stranger-{number}")) for number in range(10_000))
    assert strangers < 500
    assert not reader.may_contain(HASHER.event_type(1, ""))
    assert not reader.index.may_reach(None, START - 5000)


def test_an_index_made_anew_is_the_same(tmp_path: Path) -> None:
    segment = Segment(tmp_path, [*usual_rows(5000), Row(1, "gone", 4, 9000, REMOVED, event_type="", payload="null")])
    assert build_index(segment.path, HASHER) == segment.index_path.read_bytes()
    segment.path.write_bytes(b"PAR1")
    with pytest.raises(CorruptionError, match=segment.path.name):
        build_index(segment.path, HASHER)


READS: list[Callable[[SegmentReader], Any]] = [
    lambda reader: reader.entity_rows(TENANT, "entity-0"),
    lambda reader: reader.decode(),
    lambda reader: reader.may_contain((0, 0)) or reader.entity_rows(TENANT, "entity-2"),
]


def test_any_flipped_bit_is_found(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(300))
    path = segment.path
    data = path.read_bytes()
    for offset in [*range(0, len(data), 37), len(data) - 1]:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        path.write_bytes(flipped)
        for read in READS[:2]:
            with pytest.raises(CorruptionError) as caught:
                read(segment.reader())
            assert (caught.value.path, caught.value.offset) == (path, 0)
    path.write_bytes(data)
    assert len(segment.reader().decode()) == 300


def test_bits_that_flip_after_the_first_read_are_never_served(tmp_path: Path) -> None:
    """The file changes below a reader that has verified it: page checksums and decoders are what is left."""
    segment = Segment(tmp_path, usual_rows(300))
    data = segment.path.read_bytes()
    whole = segment.reader().decode().events(slice(None))
    pages = pq.ParquetFile(segment.path).metadata.row_group(0).column(12)
    caught = 0
    for offset in range(4, pages.data_page_offset + pages.total_compressed_size, 29):
        segment.path.write_bytes(data)
        reader = segment.reader()
        reader.decode()
        with segment.path.open("r+b") as file:
            file.seek(offset)
            file.write(bytes([data[offset] ^ 1 << offset % 8]))
        try:
            assert reader.decode().events(slice(None)) == whole
        except CorruptionError:
            caught += 1
    assert caught > 10


def test_an_index_with_any_flipped_bit_is_made_anew(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(300))
    whole = [read(segment.reader()) for read in (READS[0], READS[2])]
    data = segment.index_path.read_bytes()
    for offset in [*range(0, len(data), 11), len(data) - 1]:
        flipped = bytearray(data)
        flipped[offset] ^= 1 << offset % 8
        segment.index_path.write_bytes(flipped)
        assert [read(segment.reader()) for read in (READS[0], READS[2])] == whole
    segment.index_path.unlink()
    assert [read(segment.reader()) for read in (READS[0], READS[2])] == whole


@pytest.mark.parametrize("size", [None, 0, 1, 100])
def test_a_missing_or_shorter_file_is_damage(tmp_path: Path, size: int | None) -> None:
    segment = Segment(tmp_path, usual_rows(300))
    path = segment.path
    if size is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:size])
    for read in READS:
        with pytest.raises(CorruptionError) as caught:
            read(segment.reader())
        assert caught.value.path == path


def test_an_obsolete_segment_is_readable_until_its_reader_is_closed(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(300))
    reader = segment.reader()
    reader.mark_obsolete()
    assert len(reader.decode()) == 300
    assert segment.path.exists()
    reader.close()
    assert list(segment.paths.segments.iterdir()) == []
    assert len(segment.open_files) == 0
    reader.close()


def test_an_obsolete_segment_goes_with_the_last_reference_to_its_reader(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(300))
    reader = segment.reader()
    assert len(reader.entity_rows(TENANT, "entity-0").events) > 0
    view = [reader]
    reader.mark_obsolete()
    del reader
    gc.collect()
    assert segment.path.exists()
    view.clear()
    gc.collect()
    assert not segment.path.exists()
    assert not segment.index_path.exists()


def test_a_segment_that_is_not_obsolete_stays(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(30))
    segment.reader().close()
    gc.collect()
    assert segment.path.exists()
    closed = segment.reader()
    closed.close()
    closed.mark_obsolete()
    assert not segment.path.exists()


def test_large_payloads_get_row_groups_of_their_own(tmp_path: Path) -> None:
    chance = random.Random(5)
    rows = []
    for number in range(1, 41):
        size = 1024 * 1024 if number % 2 else 10
        payload = '"' + "".join(chance.choices("abcdefghij", k=64)) * (size // 64) + '"'
        rows.append(Row(1, f"e-{number % 4}", number, number, payload=payload, recorded_at=START + number))
    segment = Segment(tmp_path, rows)
    metadata = pq.ParquetFile(segment.path).metadata
    assert 3 <= metadata.num_row_groups <= 5
    assert segment.reader().decode().events(slice(None)) == [row.event() for row in rows]
    found = segment.reader().entity_rows(TENANT, "e-3").events
    assert found == [row.event() for row in rows if row.entity_id == "e-3"]


def test_tables_that_are_no_segment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows"):
        Segment(tmp_path, [Row(1, "e", 1, 1)] * (SEGMENT_ROWS_MAX + 1))
    arguments: Any = {"segment_path": tmp_path / "s", "index_path": tmp_path / "i", "hasher": HASHER, "file": 1}
    arguments |= {"filesystem": LocalFilesystem(), "first_position": 1, "last_position": 1, "removals_through": 0}
    with pytest.raises(ValueError, match="rows"):
        write_segment(SCHEMA.empty_table(), **arguments)
    with pytest.raises(ValueError, match="columns"):
        write_segment(table_of([Row(1, "e", 1, 1)]).drop_columns(["kind"]), **arguments)


def test_open_files_keep_as_many_as_they_may(tmp_path: Path) -> None:
    open_files = OpenFiles(2)
    segments = [Segment(tmp_path, usual_rows(100), number, open_files) for number in range(1, 5)]
    readers = [segment.reader() for segment in segments]
    for _ in range(2):
        for reader, segment in zip(readers, segments, strict=True):
            expected = [row.event() for row in segment.rows if (row.tenant, row.entity_id) == (1, "entity-0")]
            assert reader.entity_rows(TENANT, "entity-0").events == expected
            assert len(open_files) <= 2


def test_threads_read_one_segment_at_once(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(20_000, entities=400))
    reader = segment.reader()
    expected: dict[tuple[int, str], list[Event]] = {}
    for row in segment.rows:
        expected.setdefault((row.tenant, row.entity_id), []).append(row.event())
    wrong = []

    def read(seed: int) -> None:
        for tenant, entity_id in random.Random(seed).sample(sorted(expected), 200):
            found = reader.entity_rows(TenantKey(tenant, f"tenant-{tenant}"), entity_id).events
            if found != expected[tenant, entity_id]:
                wrong.append(entity_id)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
