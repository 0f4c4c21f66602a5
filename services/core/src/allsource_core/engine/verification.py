"""Verification of a stopped store, or of a copy of one: everything that is on disk against everything else.

Nothing is changed, and nothing of the directory is written to: it may be on a read-only file system. What is found,
and what can't be: docs/admin.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.hashes import Hasher, Words
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.segment_format import ERASED
from allsource_core.engine.verification_derived import KeyFiles, verify_index, verify_key_file
from allsource_core.engine.verification_files import StoreFiles, held, read_store, verify_files
from allsource_core.engine.verification_findings import (
    Area,
    Finding,
    ProgressMeter,
    Reporter,
    ReportVerification,
    Severity,
    VerificationProgress,
    first_ones,
)
from allsource_core.engine.verification_ledger import LOG, Ledger
from allsource_core.engine.verification_log import LogVerification
from allsource_core.engine.verification_manifest import verify_manifest
from allsource_core.engine.verification_rows import SegmentRows
from allsource_core.engine.verification_segments import SegmentVerification
from allsource_core.engine.verification_versions import Holes, VersionFault, faults_of_versions

__all__ = ["Area", "Finding", "Severity", "VerificationProgress", "verify_held_store", "verify_store"]


def verify_store(path: Path, *, progress: ReportVerification = lambda _progress: None) -> Iterator[Finding]:
    """Walk through everything that a data directory holds, and say what is wrong, as it is found.

    Other processes can't open the store until the iterator ends or is closed. Every byte is read once, every row is
    looked at: 3 s for a million small events, 8 s if each has an entity of its own. Memory: some 300 MB, whatever the
    store's size, and a row group; temporary files outside the directory take 64 bytes for each entity of each segment.

    Args:
        path: of the directory.
        progress: called after every file.

    Raises (while iterating):
        StoreLockedError: another process has it open.
        ForeignDirectoryError: it is no store.
        OSError: a file can't be read.
    """
    with held(path) as paths:
        yield from verify_held_store(paths, progress=progress)


def verify_held_store(paths: StorePaths, *, progress: ReportVerification = lambda _progress: None) -> Iterator[Finding]:
    """`verify_store` for a store that the caller has to itself."""
    findings: list[Finding] = []
    store = read_store(paths, findings)
    yield from findings
    if store is None:
        return
    yield from verify_files(store)
    yield from verify_manifest(store.manifest, paths)
    yield from _Verification(store, progress).findings()


class _Verification:
    """What belongs to one walk through a store."""

    def __init__(self, store: StoreFiles, report: ReportVerification) -> None:
        self._paths = store.paths
        self._manifest = manifest = store.manifest
        self._reporter = Reporter(store.paths)
        self._hasher = Hasher(bytes.fromhex(manifest.hash_key))
        logs = [path.stat().st_size for number, path in store.paths.numbered(store.paths.log, "log")]
        keys = sum(entry.bytes for entry in manifest.key_files)
        self._progress = ProgressMeter(sum(logs) + sum(entry.bytes for entry in manifest.segments) + keys, report)
        self._log = LogVerification(store.paths, manifest, self._progress)
        self._holes = [(loss.first_position, loss.last_position) for loss in manifest.losses]

    def findings(self) -> Iterator[Finding]:
        manifest = self._manifest
        yield from self._log.findings()
        self._holes += self._log.holes
        removals = [*manifest.removals, *self._log.removals]
        removed = {removal.tenant for removal in removals if removal.kind == "tenant"}
        items = sum(entry.rows for entry in manifest.segments) + len(self._log.runs)
        with Ledger(self._hasher, items, removed) as ledger:
            for entry in manifest.segments:
                yield from self._segment(entry, ledger, removed)
                self._progress.add("segments", entry.bytes)
            ledger.add_log(self._log.runs)
            ledger.add_removals([removal for removal in removals if removal.kind in ("entity", "shortened")])
            keys_are_sound = True
            for key_entry in manifest.key_files:
                for finding in verify_key_file(self._paths, key_entry):
                    keys_are_sound = False
                    yield finding
                self._progress.add("keys", key_entry.bytes)
            yield from self._across(ledger, removed, compare_keys=keys_are_sound)
        self._progress.add("versions", 0)

    def _segment(self, entry: SegmentEntry, ledger: Ledger, removed: set[int]) -> Iterator[Finding]:
        tenants: dict[int, str | None] = dict.fromkeys(removed)
        tenants.update(self._manifest.tenants)
        segment = SegmentVerification(self._paths, entry, tenants)
        is_sound = True
        for finding in segment.findings():
            is_sound = False
            yield finding
        if segment.rows is None:
            self._holes.append((entry.first_position, entry.last_position))
        else:
            ledger.add_segment(entry.file, segment.rows)
            yield from self._erased(entry, segment.rows)
        yield from verify_index(self._paths, entry, self._hasher, is_sound=is_sound)

    def _erased(self, entry: SegmentEntry, rows: SegmentRows) -> Iterator[Finding]:
        """Bodies that were removed must be gone from a segment that says so."""
        positions = [
            removal.event_position
            for removal in self._manifest.removals
            if removal.kind == "event" and removal.position <= entry.removals_through
        ]
        if not positions:
            return
        left = np.isin(rows.position, positions) & rows.is_event & (rows.kind != ERASED)
        path = self._paths.segment(entry.file)
        yield from first_ones(
            rows.position[left].tolist(),
            lambda position: self._reporter.error(
                Area.SEGMENT, path, f"the event at position {position} was erased, but is there", number=entry.file
            ),
            lambda count: self._reporter.error(Area.SEGMENT, path, f"{count} more of these", number=entry.file),
        )

    # --- over all segments ---

    def _across(self, ledger: Ledger, removed: set[int], *, compare_keys: bool) -> Iterator[Finding]:
        manifest = self._manifest
        holes = Holes(self._holes)
        all_tenants = {number for number, _ in manifest.tenants} == set(range(1, manifest.next_tenant))
        is_complete = all_tenants and not removed and not holes
        pending = bool(self._log.removals) or any(not removal.finished_at for removal in manifest.removals)
        keys = KeyFiles(self._paths, manifest.key_files, holes, is_complete=is_complete, removals_pending=pending)
        through = self._removals_through()
        try:
            for number in range(ledger.parts):
                part = ledger.part(number)
                yield from first_ones(
                    faults_of_versions(part, holes, through),
                    lambda fault: self._version_fault(fault, ledger),
                    self._more_version_faults,
                )
                if compare_keys:
                    yield from keys.findings(part, number, ledger.parts)
        finally:
            keys.close()

    def _removals_through(self) -> Callable[[Words], Words]:
        entries = sorted(self._manifest.segments, key=lambda entry: entry.file)
        files = np.array([LOG, *(entry.file for entry in entries)], np.uint64)
        through = np.array([0, *(entry.removals_through for entry in entries)], np.uint64)
        return lambda numbers: through[files.searchsorted(numbers)]

    def _version_fault(self, fault: VersionFault, ledger: Ledger) -> Finding:
        if fault.source == LOG:
            text = fault.text.format(ledger.log_entities[fault.row])
            return self._reporter.error(Area.LOG, self._paths.log, text)
        path = self._paths.segment(fault.source)
        text = fault.text.format(_entity_at(path, fault.row))
        return self._reporter.error(Area.SEGMENT, path, text, number=fault.source)

    def _more_version_faults(self, count: int) -> Finding:
        return self._reporter.error(Area.SEGMENT, self._paths.segments, f"versions of {count} more entities are wrong")


def _entity_at(path: Path, row: int) -> str:
    """The entity of a row, for people. Reads the segment once more."""
    table = pq.read_table(path, columns=["tenant_id", "entity_id"], memory_map=True, use_threads=False).slice(row, 1)
    return f"{table['entity_id'][0].as_py()!r} of tenant {table['tenant_id'][0].as_py()!r}"
