"""Figures of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from allsource_core.engine.writability import ReadOnlyCode

if TYPE_CHECKING:
    from allsource_core.engine.opening import OpenStore

__all__ = ["MaintenanceFigures", "StoreStats", "store_stats"]


class StoreStats(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a store.

    Attributes:
        events: stored, those of reserved tenants left out; what was removed counts until its segments are rewritten.
        entities: at most so many are stored: one counts in every key file and memtable that knows it.
        last_position: of the last durable record, reserved tenants included.
        log_files, log_bytes: of the log.
        segments, segment_bytes: of segments and their indexes.
        key_files, key_bytes: of the key directory.
        memory_events, memory_bytes: not sealed yet, and about what they take.
        in_use_bytes: of decoded segments that reads hold.
        sealed_through: the last position that is in segments.
        removals_pending: removals whose bytes may still be in a file.
        segments_sealed, compactions, maintenance_failures: since the store was opened.
        maintenance_failure: what the last attempt failed with, in words; None if it did not fail.
        recovery_seconds: that opening took.
        read_only_code, read_only_reason: why tenants' appends are refused, or None: for programs, and for people.
    """

    events: int
    entities: int
    last_position: int
    log_files: int
    log_bytes: int
    segments: int
    segment_bytes: int
    key_files: int
    key_bytes: int
    memory_events: int
    memory_bytes: int
    in_use_bytes: int
    sealed_through: int
    removals_pending: int
    segments_sealed: int
    compactions: int
    maintenance_failures: int
    maintenance_failure: str | None
    recovery_seconds: float
    read_only_code: ReadOnlyCode | None
    read_only_reason: str | None

    @property
    def disk_bytes(self) -> int:
        """Of everything, in use."""
        return self.log_bytes + self.segment_bytes + self.key_bytes


class MaintenanceFigures:
    """What maintenance has done since the store was opened."""

    def __init__(self) -> None:
        self.segments_sealed = 0
        self.compactions = 0
        self.segments_compacted = 0
        self.rows_removed = 0
        self.key_merges = 0
        self.failures = 0
        self.failure: str | None = None


def store_stats(parts: OpenStore) -> StoreStats:
    """Count what is counted already."""
    memory, path = parts.sequencer.memory, parts.path
    with path.lock:
        # An event is in one of them, and becomes one of the other's under the lock.
        tables, manifest, sealed_through = memory.tables, parts.catalog.manifest, memory.sealed_through
    numbers = [number for number, tenant_id in parts.sequencer.numbers.items() if not tenant_id.startswith("_")]
    events = sum(entry.events for entry in manifest.segments)
    entities = sum(entry.entries for entry in manifest.key_files if entry.kind == "entities")
    for table in tables:
        for number in numbers:
            index = table.find_tenant(number)
            if index is not None:
                events += len(index.places)
                entities += len(index.streams)
    files = parts.writer.files if parts.writer is not None else []
    reason = path.writability.reason
    figures = parts.maintenance.figures if parts.maintenance is not None else None
    return StoreStats(
        events=events,
        entities=entities,
        last_position=path.durable_position,
        log_files=len(files),
        log_bytes=sum(file.bytes for file in files),
        segments=len(manifest.segments),
        segment_bytes=sum(entry.bytes + entry.index_bytes for entry in manifest.segments),
        key_files=len(manifest.key_files),
        key_bytes=sum(entry.bytes for entry in manifest.key_files),
        memory_events=sum(map(len, tables)),
        memory_bytes=sum(table.bytes for table in tables),
        in_use_bytes=parts.in_use.nbytes,
        sealed_through=sealed_through,
        removals_pending=len(parts.catalog.pending_removals()),
        segments_sealed=figures.segments_sealed if figures is not None else 0,
        compactions=figures.compactions if figures is not None else 0,
        maintenance_failures=figures.failures if figures is not None else 0,
        maintenance_failure=figures.failure if figures is not None else None,
        recovery_seconds=parts.recovery_seconds,
        read_only_code=None if reason is None else reason[0],
        read_only_reason=None if reason is None else reason[1],
    )
