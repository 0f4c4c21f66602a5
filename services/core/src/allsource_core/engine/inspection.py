"""What a stopped store, or a copy of one, is made of: for people and programs. Reads heads and the log, no events."""

from __future__ import annotations

from pathlib import Path

import msgspec

from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.manifest import KeyFileEntry, Loss, Policy, Removal, SegmentEntry
from allsource_core.engine.segment_index import SegmentIndex, build_index
from allsource_core.engine.segment_reader import check_segment
from allsource_core.engine.verification_files import StoreFiles, held, read_store
from allsource_core.engine.verification_findings import Finding, ProgressMeter
from allsource_core.engine.verification_log import LogVerification

__all__ = ["LogFileDescription", "StoreDescription", "TenantDescription", "inspect_store"]


class LogFileDescription(msgspec.Struct, frozen=True):
    """A log file: its number, and bytes with the zeros at its end."""

    file: int
    bytes: int


class TenantDescription(msgspec.Struct, frozen=True):
    """A tenant: its number, its id, and how many events are stored, those counted that wait for being removed."""

    number: int
    id: str
    events: int


class StoreDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is made of.

    Attributes:
        format, store_id, generation: of the directory and its manifest.
        sealed_through: the last position that is in segments.
        last_position: of the log; None where damage hides it.
        first_event_us, last_event_us: the lowest and highest time of an event: in segments its `timestamp`, in the log
            its `recorded_at`; None where there are no events.
        tenants: those that have events, or had and are not removed.
        events: of all tenants.
        removals_pending: what was removed and may still be in files.
        policies: of retention.
        losses: what repairs gave up.
        faults: why something above is not known; `verify_store` says more.
    """

    format: int
    store_id: str
    generation: int
    sealed_through: int
    last_position: int | None
    first_event_us: int | None
    last_event_us: int | None
    events: int
    tenants: list[TenantDescription]
    segments: list[SegmentEntry]
    log_files: list[LogFileDescription]
    key_files: list[KeyFileEntry]
    removals_pending: list[Removal]
    policies: list[Policy]
    losses: list[Loss]
    faults: list[str]


def inspect_store(path: Path) -> StoreDescription:
    """Describe a store. Reads manifest, log and indexes; an index that is damaged is made anew in memory.

    Raises:
        StoreLockedError: another process has it open.
        ForeignDirectoryError: it is no store.
        CorruptionError: without its manifest nothing can be said.
        OSError: a file can't be read.
    """
    with held(path) as paths:
        findings: list[Finding] = []
        store = read_store(paths, findings)
        if store is None:
            worst = findings[-1]
            raise CorruptionError(path / worst.file, worst.offset, worst.text)
        return _describe(store, [str(finding) for finding in findings])


def _describe(store: StoreFiles, faults: list[str]) -> StoreDescription:
    paths, manifest = store.paths, store.manifest
    log = LogVerification(paths, manifest, ProgressMeter(0, lambda _progress: None))
    faults += [str(finding) for finding in log.findings()]
    names = dict(manifest.tenants) | dict(log.numbers.items())
    counts = dict.fromkeys(names, 0)
    times = list(log.times or ())
    hasher = Hasher(bytes.fromhex(manifest.hash_key))
    for entry in manifest.segments:
        try:
            index = _index(store, entry, hasher)
        except CorruptionError as error:
            faults.append(str(error))
            continue
        times += [time for time in (index.min_timestamp, index.max_timestamp) if time is not None]
        for number, count in index.tenant_events.items():
            counts[number] = counts.get(number, 0) + count
    for tenant_id, count in log.tenant_events.items():
        number = log.numbers.get(tenant_id)
        counts[number] = counts.get(number, 0) + count
    return StoreDescription(
        format=store.format,
        store_id=store.store_id,
        generation=manifest.generation,
        sealed_through=manifest.sealed_through,
        last_position=None if log.next_position is None else log.next_position - 1,
        first_event_us=min(times, default=None),
        last_event_us=max(times, default=None),
        events=sum(counts.values()),
        tenants=[TenantDescription(number, names.get(number, ""), count) for number, count in sorted(counts.items())],
        segments=manifest.segments,
        log_files=[
            LogFileDescription(number, path.stat().st_size)
            for number, path in paths.numbered(paths.log, "log")
            if number >= manifest.first_log_file
        ],
        key_files=sorted(manifest.key_files, key=lambda key_file: key_file.file),
        removals_pending=_pending([*manifest.removals, *log.removals]),
        policies=list(log.policies.values()),
        losses=manifest.losses,
        faults=faults,
    )


def _index(store: StoreFiles, entry: SegmentEntry, hasher: Hasher) -> SegmentIndex:
    path = store.paths.segment_index(entry.file)
    try:
        return SegmentIndex(path.read_bytes(), path)
    except (FileNotFoundError, CorruptionError):
        check_segment(entry, store.paths.segment(entry.file))
        return SegmentIndex(build_index(store.paths.segment(entry.file), hasher), path)


def _pending(removals: list[Removal]) -> list[Removal]:
    """Those that are not done, each once: the manifest may know of one that stands in the log too."""
    by_position = {removal.position: removal for removal in reversed(removals)}
    return [by_position[position] for position in sorted(by_position) if not by_position[position].finished_at]
