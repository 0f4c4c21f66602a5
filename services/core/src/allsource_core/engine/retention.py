"""Which entities retention shortens, and the state of what it removes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.segment_format import SHORTENED
from allsource_core.engine.segment_reader import OpenFiles, SegmentReader, check_segment
from allsource_core.engine.states import EntityState, fold, state_of_snapshot
from allsource_core.engine.tenants import TenantKey

__all__ = ["RetentionRule", "Shortening", "find_shortenings"]

SHORTENINGS_MAX: Final = 1000
"""Entities that one look finds: each has its events read, 0.4 ms a segment that it is in. The next look finds more."""

_COLUMNS: Final = ["tenant", "entity_id", "version", "recorded_at", "kind"]


class RetentionRule(msgspec.Struct, frozen=True):
    """A policy at one moment.

    Attributes:
        recorded_before: events recorded before this, in microseconds since the epoch, are too old; None for no bound.
        max_count: of events that an entity keeps; None for no bound.
    """

    tenant: int
    tenant_id: str
    prefix: str
    recorded_before: int | None
    max_count: int | None


class Shortening(msgspec.Struct, frozen=True):
    """An entity whose events up to `version` are to be removed; `snapshot` is the state that they made, as JSON."""

    tenant: int
    entity_id: str
    version: int
    events_removed: int
    snapshot: bytes


def find_shortenings(
    paths: StorePaths,
    hasher: Hasher,
    segments: Sequence[SegmentEntry],
    rules: Sequence[RetentionRule],
    floors: dict[tuple[int, str], int],
) -> list[Shortening]:
    """What the rules ask to be removed of events in segments, at most 1,000 entities at a time.

    Memory: about 50 bytes for each entity that a rule concerns.

    Args:
        paths, hasher: of the store.
        segments: all of them, by position.
        rules: a longer prefix of a tenant wins over a shorter one.
        floors: (tenant, entity id) to the version up to which events are removed already, if segments don't show it.

    Raises:
        CorruptionError: a segment is damaged.
    """
    open_files = OpenFiles()
    readers = [SegmentReader(entry, paths, hasher, open_files) for entry in segments]
    by_length = sorted(rules, key=lambda rule: len(rule.prefix), reverse=True)
    found: list[Shortening] = []
    for rule in by_length:
        longer = [other.prefix for other in by_length if other.tenant == rule.tenant and other is not rule]
        longer = [prefix for prefix in longer if prefix.startswith(rule.prefix)]
        for entity_id, first, version in _too_long(paths, segments, rule):
            if len(found) == SHORTENINGS_MAX:
                return found
            floor = floors.get((rule.tenant, entity_id), 0)
            if any(entity_id.startswith(prefix) for prefix in longer) or version <= floor:
                continue
            state = _state(readers, rule, entity_id, floor, version)
            if state is not None:
                removed = version - max(first - 1, floor)
                found.append(Shortening(rule.tenant, entity_id, version, removed, state.to_json()))
    return found


def _too_long(
    paths: StorePaths, segments: Sequence[SegmentEntry], rule: RetentionRule
) -> Iterator[tuple[str, int, int]]:
    """(entity id, first version that is there, version up to which the rule removes) of each entity it concerns."""
    parts = [part for entry in segments if (part := _summary(paths, entry, rule)).num_rows]
    if not parts:
        return
    merged = (
        pa.concat_tables(parts)
        .group_by("entity_id", use_threads=False)
        .aggregate([("first", "min"), ("last", "max"), ("old", "max")])
    )
    through = merged["old_max"]
    if rule.max_count is not None:
        through = pc.max_element_wise(through, pc.subtract(merged["last_max"], pa.scalar(rule.max_count)))
    merged = merged.append_column("through", through)
    merged = merged.filter(pc.greater_equal(merged["through"], merged["first_min"]))
    yield from zip(*(merged[name].to_pylist() for name in ("entity_id", "first_min", "through")), strict=True)


def _summary(paths: StorePaths, entry: SegmentEntry, rule: RetentionRule) -> pa.Table:
    """Of each entity of a segment that the rule is for: first and last version, and the last one that is too old."""
    path = paths.segment(entry.file)
    check_segment(entry, path)
    table: Any = pq.read_table(path, columns=_COLUMNS, memory_map=True, use_threads=False)
    concerned = pc.and_(
        pc.and_(
            pc.equal(table["tenant"], pa.scalar(rule.tenant, pa.int32())),
            pc.starts_with(table["entity_id"], rule.prefix),
        ),
        pc.less(table["kind"], pa.scalar(SHORTENED, pa.int8())),
    )
    table = table.filter(concerned)
    old = pa.array([0], pa.int64()).take(pa.array([0] * table.num_rows, pa.int32()))
    if rule.recorded_before is not None:
        is_old = pc.less(table["recorded_at"].cast(pa.int64()), pa.scalar(rule.recorded_before))
        old = pc.if_else(is_old, table["version"], pa.scalar(0, pa.int64()))
    table = table.select(["entity_id", "version"]).append_column("old", old)
    grouped = table.group_by("entity_id", use_threads=False).aggregate(
        [("version", "min"), ("version", "max"), ("old", "max")]
    )
    names = {"entity_id": "entity_id", "version_min": "first", "version_max": "last", "old_max": "old"}
    summary: pa.Table = grouped.select(list(names)).rename_columns(list(names.values()))
    return summary


def _state(
    readers: Sequence[SegmentReader], rule: RetentionRule, entity_id: str, floor: int, version: int
) -> EntityState | None:
    """The state that the events up to a version made, those that were removed before included.

    None where a removal is so new that no segment tells of it yet, nor of the state that it left: wait for that one.
    """
    tenant = TenantKey(rule.tenant, rule.tenant_id)
    rows = [reader.entity_rows(tenant, entity_id, 1, version) for reader in readers]
    # A marker stands where its removal was recorded, which may be behind events that it left.
    markers = [marker for part in rows for marker in part.markers]
    state = EntityState()
    if markers:
        newest = max(markers, key=lambda marker: (marker.version, marker.position))
        payload = newest.payload if newest.kind == SHORTENED else b"{}"
        state = state_of_snapshot(newest.version, payload, newest.position, newest.recorded_at)
    if floor > state.version:
        return None
    return fold(state, (event for part in rows for event in part.events if event.version > state.version))
