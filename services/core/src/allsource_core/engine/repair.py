"""Repair of a stopped store. Each repair is asked for by name; what it takes out of the store is kept aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import google_crc32c
import msgspec

from allsource_core.engine.clock import Clock, system_clock
from allsource_core.engine.directory import StoreDirectory
from allsource_core.engine.errors import EngineError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem, LocalFilesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.key_rebuilding import rebuild_keys
from allsource_core.engine.manifest import Loss, Manifest, SegmentEntry, write_manifest
from allsource_core.engine.repair_keeping import KeptAside
from allsource_core.engine.repair_log import cut_log, plan_cut
from allsource_core.engine.sealing import temporary
from allsource_core.engine.segment_index import build_index
from allsource_core.engine.verification import verify_held_store, verify_store
from allsource_core.engine.verification_files import StoreFiles, held, read_store, stray_files
from allsource_core.engine.verification_findings import Area, Finding, ReportVerification, Severity

__all__ = ["PlannedRepair", "RepairRefusedError", "Repairs", "plan_repairs", "repair_store"]

Tell = Callable[[str], None]


class RepairRefusedError(EngineError):
    """A repair can't be done, or is not needed; nothing more was changed."""


class Repairs(msgspec.Struct, frozen=True, kw_only=True):
    """Which repairs to do.

    Attributes:
        drop_segments: numbers of damaged segments to give up.
        rebuild_derived: make indexes and key files anew that are missing or wrong.
        remove_stray: remove files that no manifest names.
        cut_log: cut the log at its first damage.
    """

    drop_segments: tuple[int, ...] = ()
    rebuild_derived: bool = False
    remove_stray: bool = False
    cut_log: bool = False

    def __bool__(self) -> bool:
        return bool(self.drop_segments or self.rebuild_derived or self.remove_stray or self.cut_log)


class PlannedRepair(msgspec.Struct, frozen=True):
    """What could be done: the flag that asks for it (empty: none does), and what it does."""

    flag: str
    text: str


def plan_repairs(
    path: Path, *, progress: ReportVerification = lambda _progress: None
) -> tuple[list[Finding], list[PlannedRepair]]:
    """Verify a store, and say what could be done about each thing that is wrong. Changes nothing.

    Raises: as `verify_store`.
    """
    with held(path) as paths:
        findings = list(verify_held_store(paths, progress=progress))
        store = read_store(paths, [])
        return findings, list(_plan(findings, store))


def _plan(findings: Sequence[Finding], store: StoreFiles | None) -> Iterator[PlannedRepair]:
    by_area = {area: [finding for finding in findings if finding.area == area] for area in Area}
    if store is not None:
        damaged = damaged_segments(findings)
        for entry in store.manifest.segments:
            if entry.file in damaged:
                yield PlannedRepair(f"--drop-segment {entry.file}", _loss_of(entry))
        derived = len(by_area[Area.INDEX]) + len(by_area[Area.KEYS])
        if derived:
            yield PlannedRepair("--rebuild-derived", f"makes anew what {derived} findings are about; no event is lost")
        if by_area[Area.STRAY]:
            count = len(by_area[Area.STRAY])
            yield PlannedRepair("--remove-stray", f"removes {count} files that no manifest names")
        cut = plan_cut(store.paths, store.manifest)
        if cut is not None:
            yield PlannedRepair("--cut-log", str(cut))
    for area in (Area.STORE, Area.MANIFEST, Area.DIRECTORY, Area.PERMISSION, Area.FOREIGN):
        for finding in by_area[area]:
            if finding.severity != Severity.INFORMATION:
                yield PlannedRepair("", f"{finding.file}: {finding.text}; {finding.remedy}")


def damaged_segments(findings: Sequence[Finding]) -> set[int]:
    """Numbers of segments that can't be read, or hold what can't be right."""
    return {
        finding.number
        for finding in findings
        if finding.area == Area.SEGMENT and finding.severity == Severity.ERROR and finding.number is not None
    }


def _loss_of(entry: SegmentEntry) -> str:
    return (
        f"gives up segment {entry.file}: {entry.rows} rows, {entry.events} of them events of tenants, "
        f"at positions {entry.first_position} to {entry.last_position}"
    )


def repair_store(
    path: Path,
    repairs: Repairs,
    *,
    keep_in: Path | None = None,
    filesystem: Filesystem | None = None,
    clock: Clock = system_clock,
    tell: Tell = lambda _text: None,
    progress: ReportVerification = lambda _progress: None,
) -> list[Finding]:
    """Do the repairs that are asked for, and verify again.

    Args:
        path: the data directory of a stopped store.
        repairs: which ones.
        keep_in: where to keep what is taken out, instead of ``<data directory>.damaged-<time>`` beside the store.
        filesystem, clock: below the store; the time names the directory beside it.
        tell: called with each thing that was done.
        progress: of the verification before and after.

    Returns:
        What the verification finds afterwards.

    Raises:
        RepairRefusedError: a segment that is to be dropped is not damaged, or not there.
        ValueError: `keep_in` is in the data directory.
        CorruptionError: the manifest is damaged, which no repair mends; or a repair needs another one first.
        StoreLockedError, ForeignDirectoryError, OSError: as `EventStore.open`.
    """
    filesystem = filesystem or LocalFilesystem()
    kept = KeptAside(path, filesystem, clock, keep_in)
    if not repairs:
        return list(verify_store(path, progress=progress))
    directory = StoreDirectory.open(path, filesystem, create=False)
    try:
        findings = list(verify_held_store(directory.paths, progress=progress))
        repair = _Repair(directory, findings, kept, clock, tell)
        repair.check(repairs)
        for number in repairs.drop_segments:
            repair.drop_segment(number)
        if repairs.rebuild_derived:
            repair.rebuild_derived()
        if repairs.remove_stray:
            repair.remove_stray()
    except BaseException:
        directory.close()
        raise
    if repairs.cut_log:
        repair.cut_log()
    else:
        directory.close()
    return list(verify_store(path, progress=progress))


class _Repair:
    """What the repairs of one store share."""

    def __init__(
        self, directory: StoreDirectory, findings: Sequence[Finding], kept: KeptAside, clock: Clock, tell: Tell
    ) -> None:
        self._directory = directory
        self._paths: StorePaths = directory.paths
        self._filesystem = directory.filesystem
        self._findings = findings
        self._damaged = damaged_segments(findings)
        self._kept = kept
        self._clock = clock
        self._tell = tell

    def check(self, repairs: Repairs) -> None:
        """Refuse before anything is changed."""
        known = {entry.file for entry in self._directory.manifest.segments}
        for number in repairs.drop_segments:
            if number not in known:
                raise RepairRefusedError(f"the store has no segment {number}")
            if number not in self._damaged:
                raise RepairRefusedError(f"segment {number} is sound, and is not dropped")
        if repairs.rebuild_derived and self._keys_are_wrong():
            left = self._damaged - set(repairs.drop_segments)
            if left:
                listed = ", ".join(map(str, sorted(left)))
                raise RepairRefusedError(f"key files are made from segments, of which these are damaged: {listed}")

    def _keys_are_wrong(self) -> bool:
        return any(finding.area == Area.KEYS for finding in self._findings)

    def drop_segment(self, number: int) -> None:
        """Keep a segment aside, and write a manifest without it. Key files stay: they know its last versions."""
        manifest = self._directory.manifest
        entry = next(entry for entry in manifest.segments if entry.file == number)
        files = [path for path in (self._paths.segment(number), self._paths.segment_index(number)) if path.exists()]
        for path in files:
            self._kept.copy(path, f"segments/{path.name}")
        self._replace_manifest(
            segments=[other for other in manifest.segments if other.file != number],
            losses=[*manifest.losses, Loss(entry.first_position, entry.last_position, self._clock())],
        )
        for path in files:
            self._filesystem.remove(path)
        if files:
            self._filesystem.sync_directory(self._paths.segments)
        self._tell(_loss_of(entry).replace("gives up", "gave up", 1))

    def rebuild_derived(self) -> None:
        """Make anew the indexes that are missing or wrong, and all key files if any is."""
        paths, manifest = self._paths, self._directory.manifest
        for directory in (paths.keys, paths.temporary):
            self._filesystem.make_directory(directory)
        hasher = Hasher(bytes.fromhex(manifest.hash_key))
        entries = [self._with_index(entry, hasher) for entry in manifest.segments]
        if entries != manifest.segments:
            self._replace_manifest(segments=entries)
        if self._keys_are_wrong():
            rebuild_keys(self._directory, lambda _progress: None)
            self._tell(f"made {len(self._directory.manifest.key_files)} key files anew")
            if manifest.losses or self._damaged:
                self._tell("last versions of entities whose events were given up may be forgotten, and assigned again")

    def _with_index(self, entry: SegmentEntry, hasher: Hasher) -> SegmentEntry:
        if entry.file in self._damaged:
            self._tell(f"the index of segment {entry.file} is left as it is: the segment is damaged")
            return entry
        path = self._paths.segment_index(entry.file)
        data = build_index(self._paths.segment(entry.file), hasher)
        if not path.exists() or path.read_bytes() != data:
            aside = temporary(self._paths, path.name)
            self._filesystem.write_new(aside, [data])
            self._filesystem.rename(aside, path)
            self._filesystem.sync_directory(path.parent)
            self._tell(f"made the index of segment {entry.file} anew")
        return msgspec.structs.replace(entry, index_bytes=len(data), index_checksum=google_crc32c.value(data))

    def remove_stray(self) -> None:
        """Remove what no manifest names. Files that are not of a store are left alone."""
        store = StoreFiles(self._paths, self._directory.format, self._directory.store_id, self._directory.manifest)
        stray = stray_files(store)
        for path in stray:
            self._filesystem.remove(path)
        for directory in {path.parent for path in stray}:
            self._filesystem.sync_directory(directory)
        self._tell(f"removed {len(stray)} files that no manifest names")

    def cut_log(self) -> None:
        """Cut the log at its first damage. Lets go of the directory."""
        try:
            cut = plan_cut(self._paths, self._directory.manifest)
        except BaseException:
            self._directory.close()
            raise
        if cut is None:
            self._directory.close()
            self._tell("the log is not damaged, and is not cut")
            return
        cut_log(self._directory, cut, self._kept, clock=self._clock, tell=self._tell)

    def _replace_manifest(self, **changes: object) -> None:
        old: Manifest = self._directory.manifest
        manifest = msgspec.structs.replace(old, generation=old.generation + 1, **changes)
        write_manifest(self._paths.manifest, manifest, self._filesystem)
        self._directory.manifest = manifest
