"""Which entities retention shortens, and the state of what it removes."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from allsource_core.engine import segment_columns as columns
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.markers import Marker
from allsource_core.engine.segment_format import SHORTENED
from allsource_core.engine.segment_index import SegmentIndex
from allsource_core.engine.segment_reader import OpenFiles, SegmentReader
from allsource_core.engine.states import EntityState, fold

__all__ = ["RetentionRule", "RetentionRules", "Shortening", "Shortenings", "Unsealed", "find_shortenings"]

SHORTENINGS_MAX: Final = 50_000
_SNAPSHOTS_BYTES_MAX: Final = 32 * 1024 * 1024
"""What one look finds at most, in entities and in bytes of their states: all of it is in memory until it is sealed, and
in the manifest until it is applied.
"""
_SNAPSHOT_BYTES_MAX: Final = 16 * 1024 * 1024
"""An entity of a larger state is left as it is: a record of the log holds 64 MiB."""

_NO_VERSION: Final = 2**62
_SUMMARY_COLUMNS: Final = ["tenant", "entity_id", "version", "recorded_at", "kind"]
_ROW_COLUMNS: Final = [*_SUMMARY_COLUMNS, "position", "payload", "metadata", "timestamp"]


class RetentionRule(msgspec.Struct, frozen=True):
    """A policy at one moment.

    Attributes:
        recorded_before: events recorded before this, in microseconds since the epoch, are too old; None for no bound.
        max_count: of events that an entity keeps; None for no bound.
    """

    tenant: int
    prefix: str
    recorded_before: int | None
    max_count: int | None


class RetentionRules:
    """Which rule an entity is under: of a tenant's rules, that of the longest prefix."""

    def __init__(self, rules: Iterable[RetentionRule]) -> None:
        self._of_tenant: dict[int, list[RetentionRule]] = {}
        for rule in sorted(rules, key=lambda rule: len(rule.prefix), reverse=True):
            self._of_tenant.setdefault(rule.tenant, []).append(rule)

    @property
    def tenants(self) -> list[int]:
        """Those that have rules."""
        return list(self._of_tenant)

    def find(self, tenant: int, entity_id: str) -> RetentionRule | None:
        """The rule for an entity, if it is under one."""
        return next((rule for rule in self._of_tenant[tenant] if entity_id.startswith(rule.prefix)), None)


class Unsealed(msgspec.Struct, frozen=True):
    """What segments don't show, of entities by (tenant, entity id).

    Attributes:
        floors: up to which version events are removed already.
        erased: positions of events that lose their bodies.
        markers: what removals that are in no segment leave.
        heads: the last versions of entities that have events in memory.
    """

    floors: list[tuple[int, str, int]] = []
    erased: list[int] = []
    markers: list[tuple[int, str, Marker]] = []
    heads: list[tuple[int, str, int]] = []


class Shortening(msgspec.Struct, frozen=True):
    """An entity whose events up to `version` are to be removed; `snapshot` and `summary` are the state that they made,
    as in `EntityShortened`.
    """

    tenant: int
    entity_id: str
    version: int
    events_removed: int
    snapshot: bytes
    summary: bytes


class Shortenings(msgspec.Struct):
    """What a look found.

    Attributes:
        found: to be removed.
        is_cut: there is more.
        too_large: entities that are left as they are, because their states are too large to be kept.
    """

    found: list[Shortening] = []
    is_cut: bool = False
    too_large: list[str] = []


def find_shortenings(
    paths: StorePaths, hasher: Hasher, segments: Sequence[SegmentEntry], rules: Sequence[RetentionRule], known: Unsealed
) -> Shortenings:
    """What rules ask to be removed of events in segments.

    Reads five narrow columns of the segments of tenants that have rules, once, and of the entities that are found their
    row groups, once. Memory: about 50 bytes for each entity under a rule, and a row group of each segment.

    Args:
        paths, hasher: of the store.
        segments: all of them, by position.
        rules: at most one of a tenant and prefix.
        known: what segments don't show.

    Raises:
        CorruptionError: a segment is damaged.
    """
    files = OpenFiles()
    sealed = [_Segment(paths, SegmentReader(entry, paths, hasher, files)) for entry in segments]
    summaries = _summaries(sealed, rules, known)
    by_entity = RetentionRules(rules)
    floors = {(tenant, entity_id): version for tenant, entity_id, version in known.floors}
    erased = frozenset(known.erased)
    result, left, size = Shortenings(), SHORTENINGS_MAX, 0
    for rule, parts in zip(rules, summaries, strict=True):
        wanted: dict[str, _Wanted] = {}
        for entity_id, first, version in _too_long(parts, rule):
            floor = floors.get((rule.tenant, entity_id), 0)
            if version <= floor or by_entity.find(rule.tenant, entity_id) is not rule:
                continue
            if len(wanted) == left:
                result.is_cut = True
                break
            wanted[entity_id] = _Wanted(max(first - 1, floor), floor, version)
        left -= len(wanted)
        for entity_id, state in _states(sealed, rule, wanted, known.markers, erased):
            version = wanted[entity_id].version
            snapshot = state.to_json()
            if len(snapshot) > _SNAPSHOT_BYTES_MAX:
                result.too_large.append(entity_id)
                continue
            removed = version - wanted[entity_id].before
            result.found.append(
                Shortening(rule.tenant, entity_id, version, removed, snapshot, state.summary()),
            )
            size += len(snapshot)
            if size >= _SNAPSHOTS_BYTES_MAX:
                result.is_cut = True
                return result
        if result.is_cut:
            break
    return result


class _Wanted(NamedTuple):
    """Of an entity: the version before the first that is removed now, those removed already, the last one."""

    before: int
    floor: int
    version: int


class _Row(NamedTuple):
    """A row of a segment. Rows ascend in the order in which states are made; no two are equal up to `position`."""

    entity_id: str
    version: int
    kind: int
    position: int
    payload: bytes
    recorded_at: int
    timestamp: int
    metadata: bytes | None


class _Segment:
    """A segment that is read a row group at a time."""

    def __init__(self, paths: StorePaths, reader: SegmentReader) -> None:
        self._path = paths.segment(reader.entry.file)
        self._reader = reader
        self.index: SegmentIndex = reader.index

    def read(self, names: list[str], groups: Sequence[int] | None = None) -> Iterator[pa.Table]:
        """Columns of row groups, one after the other; of all by default. Raises CorruptionError, OSError."""
        mapped = self._reader.mapped()
        try:
            parquet: Any = pq.ParquetFile(pa.BufferReader(mapped), page_checksum_verification=True)
            for group in range(parquet.num_row_groups) if groups is None else groups:
                yield parquet.read_row_group(group, columns=names, use_threads=False)
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise CorruptionError(self._path, 0, f"it can't be read: {error}") from error


# --- which entities ---


def _summaries(segments: Sequence[_Segment], rules: Sequence[RetentionRule], known: Unsealed) -> list[list[pa.Table]]:
    """For each rule, parts that say of each entity: the first and the last version, the last sealed one, and the last
    one that is too old.
    """
    summaries: list[list[pa.Table]] = [[] for _ in rules]
    for segment in segments:
        concerned = [number for number, rule in enumerate(rules) if rule.tenant in segment.index.tenant_events]
        if not concerned:
            continue
        table = pa.concat_tables(segment.read(_SUMMARY_COLUMNS))
        for number in concerned:
            part = _summary(table, rules[number])
            if part.num_rows:
                summaries[number].append(part)
    for number, rule in enumerate(rules):
        heads = [head for head in known.heads if head[0] == rule.tenant and head[1].startswith(rule.prefix)]
        if heads and summaries[number]:
            part = pa.table(
                {
                    "entity_id": [entity_id for _, entity_id, _ in heads],
                    "first": [_NO_VERSION] * len(heads),
                    "last": [version for _, _, version in heads],
                    "sealed": [0] * len(heads),
                    "old": [0] * len(heads),
                }
            )
            summaries[number].append(part)
    return summaries


def _summary(table: pa.Table, rule: RetentionRule) -> pa.Table:
    """What a segment has of the entities whose ids begin as the rule says."""
    concerned = pc.and_(
        pc.and_(
            pc.equal(table["tenant"], pa.scalar(rule.tenant, pa.int32())),
            pc.starts_with(table["entity_id"], rule.prefix),
        ),
        pc.less(table["kind"], pa.scalar(SHORTENED, pa.int8())),
    )
    table = table.filter(concerned)
    old: Any = pa.array(np.zeros(table.num_rows, np.int64))
    if rule.recorded_before is not None:
        is_old = pc.less(table["recorded_at"].cast(pa.int64()), pa.scalar(rule.recorded_before))
        old = pc.if_else(is_old, table["version"], pa.scalar(0, pa.int64()))
    table = table.select(["entity_id", "version"]).append_column("old", old)
    grouped = table.group_by("entity_id", use_threads=False).aggregate(
        [("version", "min"), ("version", "max"), ("old", "max")]
    )
    last = grouped["version_max"]
    summary: pa.Table = pa.table(
        {
            "entity_id": grouped["entity_id"],
            "first": grouped["version_min"],
            "last": last,
            "sealed": last,
            "old": grouped["old_max"],
        }
    )
    return summary


def _too_long(parts: Sequence[pa.Table], rule: RetentionRule) -> Iterator[tuple[str, int, int]]:
    """(entity id, first version that is there, version up to which the rule removes) of entities, by id."""
    if not parts:
        return
    merged = (
        pa.concat_tables(parts)
        .group_by("entity_id", use_threads=False)
        .aggregate([("first", "min"), ("last", "max"), ("sealed", "max"), ("old", "max")])
    )
    through = merged["old_max"]
    if rule.max_count is not None:
        through = pc.max_element_wise(through, pc.subtract(merged["last_max"], pa.scalar(rule.max_count)))
    # What is in memory is removed once it is sealed.
    merged = merged.append_column("through", pc.min_element_wise(through, merged["sealed_max"]))
    merged = merged.filter(pc.greater_equal(merged["through"], merged["first_min"])).sort_by("entity_id")
    for batch in merged.select(["entity_id", "first_min", "through"]).to_batches(max_chunksize=4096):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


# --- what they were ---


def _states(
    segments: Sequence[_Segment],
    rule: RetentionRule,
    wanted: dict[str, _Wanted],
    markers: Sequence[tuple[int, str, Marker]],
    erased: frozenset[int],
) -> Iterator[tuple[str, EntityState]]:
    """The states that events of entities made which are to be removed, those that were removed before included."""
    unsealed = [
        _Row(entity_id, one.version, one.kind, one.position, one.payload, one.recorded_at, 0, one.summary)
        for tenant, entity_id, one in markers
        if tenant == rule.tenant and entity_id in wanted
    ]
    ids = sorted(wanted)
    sources: list[Iterable[_Row]] = [sorted(unsealed)]
    sources += [_rows(segment, rule.tenant, ids, wanted, erased) for segment in segments]
    for entity_id, rows in groupby(heapq.merge(*sources), key=attrgetter("entity_id")):
        state = _state(rows, wanted[entity_id].floor)
        if state is not None:
            yield entity_id, state


def _state(rows: Iterator[_Row], floor: int) -> EntityState | None:
    """The state that rows of an entity make; None where nothing tells what was removed up to the floor."""
    state, covered = EntityState(), 0
    for is_marker, part in groupby(rows, key=lambda row: row.kind >= SHORTENED):
        if is_marker:
            # Of those that stand behind the same event, the last one counts.
            *_, row = part
            marker = Marker(row.version, row.position, row.kind, row.payload, row.recorded_at, row.metadata)
            state, covered = marker.state(), row.version
        else:
            state = fold(state, (row for row in part if row.version > floor))
    return state if covered >= floor else None


def _rows(
    segment: _Segment, tenant: int, ids: list[str], wanted: dict[str, _Wanted], erased: frozenset[int]
) -> Iterator[_Row]:
    """The rows of entities up to the versions that are to be removed, a row group at a time.

    Args:
        segment: to read.
        tenant: whose.
        ids: of the entities, sorted.
        wanted: by id.
        erased: positions of events whose bodies are not there any more.
    """
    groups = segment.index.row_groups_of(tenant, ids)
    for table in segment.read(_ROW_COLUMNS, groups) if groups else ():
        table = table.filter(pc.equal(table["tenant"], pa.scalar(tenant, pa.int32())))
        if not table.num_rows:
            continue
        names = table["entity_id"]
        here = ids[bisect_left(ids, names[0].as_py()) : bisect_right(ids, names[-1].as_py())]
        if not here:
            continue
        places: Any = pc.index_in(names, value_set=pa.array(here, pa.string()))
        through = pa.array([wanted[entity_id].version for entity_id in here], pa.int64()).take(
            columns.one_chunk(places)
        )
        table = table.filter(pc.less_equal(table["version"], through))
        if not table.num_rows:
            continue
        rows = {name: columns.one_chunk(table[name]) for name in table.column_names}
        positions = columns.integers(rows["position"]).tolist()
        payloads = columns.binaries(rows["payload"])
        yield from map(
            _Row,
            columns.texts(rows["entity_id"]),
            columns.integers(rows["version"]).tolist(),
            columns.integers(rows["kind"]).tolist(),
            positions,
            [b"null" if at in erased else payload for at, payload in zip(positions, payloads, strict=True)],
            columns.integers(rows["recorded_at"]).tolist(),
            columns.timestamps(rows["timestamp"], rows["recorded_at"]).tolist(),
            columns.binaries(rows["metadata"]),
        )
