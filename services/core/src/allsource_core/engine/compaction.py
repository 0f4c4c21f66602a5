"""Which segments to rewrite: those that removals touch, and small neighbours, which become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from allsource_core.engine.hashes import Hasher
from allsource_core.engine.manifest import Removal, SegmentEntry
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.segment_format import SEGMENT_CONTENT_BYTES
from allsource_core.engine.segment_reader import SegmentReader

__all__ = ["CompactionPlan", "plan_compaction"]

_NEIGHBOURS_MIN: Final = 4
"""So many small neighbours become one: with fewer, each event would be rewritten more often."""


class CompactionPlan(msgspec.Struct, frozen=True):
    """What to do next.

    Attributes:
        segments: to rewrite as one; neighbours. Empty: nothing.
        untouched: segments that surely hold nothing of what was removed.
    """

    segments: list[SegmentEntry] = []
    untouched: list[SegmentEntry] = []


def plan_compaction(
    segments: Sequence[SegmentReader], removals: Sequence[Removal], through: int, hasher: Hasher, options: StoreOptions
) -> CompactionPlan:
    """Decide what to rewrite next.

    Args:
        segments: all, by position.
        removals: those that are pending.
        through: removals up to this position can be applied: they are durable and sealed.
        hasher: of the store.
        options: of the store.

    Raises:
        CorruptionError: an index can't be read.
    """
    due = [removal for removal in removals if removal.position <= through]
    untouched: list[SegmentEntry] = []
    for segment in segments:
        entry = segment.entry
        unapplied = [removal for removal in due if removal.position > entry.removals_through]
        if any(_touches(segment, removal, hasher) for removal in unapplied):
            return CompactionPlan([entry], untouched)
        if unapplied:
            untouched.append(entry)
    return CompactionPlan(_small_neighbours(segments, options), untouched)


def _touches(segment: SegmentReader, removal: Removal, hasher: Hasher) -> bool:
    """Whether a segment may hold what was removed."""
    entry = segment.entry
    if removal.kind == "event":
        return entry.first_position <= removal.event_position <= entry.last_position
    if entry.first_position > removal.position:
        return False
    if removal.kind == "tenant":
        return removal.tenant in segment.index.tenant_events
    return segment.may_contain(hasher.entity(removal.tenant, removal.entity_id))


def _small_neighbours(segments: Sequence[SegmentReader], options: StoreOptions) -> list[SegmentEntry]:
    """The first run of small neighbours that is long enough to be worth it."""
    small_rows = options.segment_rows_max // 2
    run: list[SegmentEntry] = []
    for segment in segments:
        entry = segment.entry
        is_small = entry.rows <= small_rows and entry.content_bytes <= SEGMENT_CONTENT_BYTES // 2
        rows = sum(one.rows for one in run) + entry.rows
        content_bytes = sum(one.content_bytes for one in run) + entry.content_bytes
        if is_small and rows <= options.segment_rows_max and content_bytes <= SEGMENT_CONTENT_BYTES:
            run.append(entry)
            continue
        if len(run) >= _NEIGHBOURS_MIN:
            return run
        run = [entry] if is_small else []
    return run if len(run) >= _NEIGHBOURS_MIN else []
