"""Cutting a damaged log: what is behind the first damage is kept aside, and never asked for again."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from allsource_core.engine.clock import Clock
from allsource_core.engine.directory import DIRECTORY_FORMAT, StoreDirectory
from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.log_format import (
    FILE_HEADER_BYTES,
    LogFileHeader,
    Record,
    decode_body,
    encode_file_header,
    read_frame,
)
from allsource_core.engine.manifest import Loss, Manifest, write_manifest
from allsource_core.engine.opening import _assemble
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.recovery import _possible_records, positions_of, read_header
from allsource_core.engine.repair_keeping import KeptAside
from allsource_core.engine.sealing import temporary
from allsource_core.engine.verification_findings import ProgressMeter
from allsource_core.engine.verification_log import LogVerification

__all__ = ["LogCut", "cut_log", "plan_cut"]

_FILE_BYTES_MAX: Final = 2**32
"""Of a file that is gone nobody knows how much was in it."""

_OPTIONS: Final = StoreOptions(maintenance="thread", reserve_bytes=0)


class LogCut(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log has to be cut, and what that costs.

    Attributes:
        file, offset: the place: everything from here on goes.
        behind: the log files behind it, which go too.
        kept_through: the last position that is left, in the log or in segments.
        lost_through: no position behind this one was ever assigned; up to it none is assigned again. It may be far
            above what was: of damaged bytes nobody knows how many events they were.
        bytes_lost: zeros at the ends of files aside.
        readable_records, readable_events: of what goes, those that are whole.
    """

    file: int
    offset: int
    behind: list[int]
    kept_through: int
    lost_through: int
    bytes_lost: int
    readable_records: int
    readable_events: int

    def __str__(self) -> str:
        return (
            f"log/{self.file:012d}.log is cut at byte {self.offset}, and {len(self.behind)} files behind it go: "
            f"{self.bytes_lost} bytes, among them {self.readable_records} whole records with "
            f"{self.readable_events} events. Everything behind position {self.kept_through} is lost"
        )


def plan_cut(paths: StorePaths, manifest: Manifest) -> LogCut | None:
    """Find the first damage of the log that keeps the store from opening. None: there is none, or a file is of another
    release, and nothing of it is to be given up.
    """
    log = LogVerification(paths, manifest, ProgressMeter(0, lambda _progress: None))
    for _ in log.findings():
        continue
    if log.damaged_at is None or log.is_foreign:
        return None
    file, offset = log.damaged_at
    behind = [number for number, _ in paths.numbered(paths.log, "log") if number > file]
    size, records, events = 0, 0, 0
    last = max([log.kept_through, *(loss.last_position for loss in manifest.losses)])
    for number in (file, *behind):
        path = paths.log_file(number)
        start = offset if number == file else 0
        size += _bytes_behind(path, start)
        for record in _readable_records(path, number, max(start, FILE_HEADER_BYTES)):
            first, last_of_record = positions_of(record)
            if first > log.kept_through:
                records += 1
                events += len(record) if isinstance(record, StoredEvents) else 0
                last = max(last, last_of_record)
        last = max(last, _first_position(path, number) - 1 if number != file else 0)
    newest = max((number for number, _ in paths.numbered(paths.log, "log")), default=manifest.first_log_file - 1)
    files_missing = max(0, manifest.newest_log_file - newest)
    return LogCut(
        file=file,
        offset=offset,
        behind=behind,
        kept_through=log.kept_through,
        # An event takes more than one byte.
        lost_through=max(last, log.kept_through + size + files_missing * _FILE_BYTES_MAX),
        bytes_lost=size,
        readable_records=records,
        readable_events=events,
    )


def _bytes_behind(path: Path, start: int) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(start)
        return len(file.read().rstrip(b"\0"))


def _first_position(path: Path, number: int) -> int:
    try:
        return read_header(path, number).first_position
    except (CorruptionError, ForeignDirectoryError):
        return 0


def _readable_records(path: Path, number: int, start: int) -> Iterator[Record]:
    """The whole records behind a place, wherever they stand."""
    if not path.exists() or path.stat().st_size <= start:
        return
    try:
        version = read_header(path, number).format_version
    except (CorruptionError, ForeignDirectoryError):
        version = DIRECTORY_FORMAT
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        offset: int | None = start
        while offset is not None:
            found = read_frame(data, offset)
            if found is None:
                offset = _next_whole(mapped, data, offset + 1)
                continue
            body, offset, _ = found
            try:
                record = decode_body(body, version)
            except (msgspec.MsgspecError, ValueError):
                continue
            finally:
                body.release()
            if record is not None:
                yield record


def _next_whole(mapped: mmap.mmap, data: memoryview, start: int) -> int | None:
    for candidate in _possible_records(mapped, start):
        found = read_frame(data, candidate)
        if found is not None:
            found[0].release()
            return candidate
    return None


def cut_log(
    directory: StoreDirectory,
    cut: LogCut,
    kept: KeptAside,
    *,
    clock: Clock,
    tell: Callable[[str], None],
) -> None:
    """Cut the log, and see that none of the positions that are lost is ever assigned again.

    What is left of the log becomes segments, and a new log file begins behind the lost positions. Cut bytes and files
    are kept aside, and the loss is in the manifest, before anything is cut; so a repair that was broken off is found by
    the next verification, and goes on when it is asked for again. Lets go of the directory.

    Raises:
        CorruptionError: the store does not open yet; the log is cut, and to be cut again after the other repairs.
        OSError: from the file system.
    """
    try:
        _keep(directory.paths, cut, kept)
        has_manifest = directory.format == DIRECTORY_FORMAT
        if has_manifest:
            _note_loss(directory, cut, clock)
        _cut(directory.paths, cut, directory.filesystem)
    except BaseException:
        directory.close()
        raise
    tell(str(cut))
    if has_manifest:
        _begin_behind(directory, cut, clock)
    else:
        directory.close()
        tell(f"positions behind {cut.kept_through} will be assigned again")


def _keep(paths: StorePaths, cut: LogCut, kept: KeptAside) -> None:
    path = paths.log_file(cut.file)
    if path.exists() and cut.offset < FILE_HEADER_BYTES:
        kept.copy(path, f"log/{path.name}")
    elif path.exists() and path.stat().st_size > cut.offset:
        kept.copy(path, f"log/{path.name}.from-{cut.offset}", start=cut.offset)
    for number in cut.behind:
        kept.copy(paths.log_file(number), f"log/{number:012d}.log")


def _note_loss(directory: StoreDirectory, cut: LogCut, clock: Clock) -> None:
    manifest = directory.manifest
    if cut.lost_through == max([cut.kept_through, *(loss.last_position for loss in manifest.losses)]):
        return
    stays = cut.file if cut.offset >= FILE_HEADER_BYTES else cut.file - 1
    found = [number for number, _ in directory.paths.numbered(directory.paths.log, "log") if number <= stays]
    loss = Loss(cut.kept_through + 1, cut.lost_through, clock())
    directory.manifest = msgspec.structs.replace(
        manifest,
        generation=manifest.generation + 1,
        # The files behind go, or are gone.
        newest_log_file=max(found, default=0),
        losses=[*manifest.losses, loss],
    )
    write_manifest(directory.paths.manifest, directory.manifest, directory.filesystem)


def _cut(paths: StorePaths, cut: LogCut, filesystem: Filesystem) -> None:
    """From the end: whatever breaks this off, the first damage stays the first."""
    for number in reversed(cut.behind):
        filesystem.remove(paths.log_file(number))
    filesystem.sync_directory(paths.log)
    if cut.offset < FILE_HEADER_BYTES:
        filesystem.remove(paths.log_file(cut.file))
        filesystem.sync_directory(paths.log)
    else:
        filesystem.truncate(paths.log_file(cut.file), cut.offset)


def _begin_behind(directory: StoreDirectory, cut: LogCut, clock: Clock) -> None:
    """Make segments of what is left of the log, and begin it anew behind what was lost."""
    filesystem = directory.filesystem
    if cut.kept_through > directory.manifest.sealed_through:
        try:
            parts = _assemble(directory, filesystem, _OPTIONS, clock, lambda _progress: None, writable=True)
        except BaseException:
            directory.close()
            raise
        try:
            assert parts.maintenance is not None
            parts.path.freeze()
            parts.path.commit()
            # Only this: nothing else that maintenance finds to do was asked for.
            while parts.maintenance._seal():
                continue
        finally:
            parts.close()
        directory = StoreDirectory.open(directory.paths.root, filesystem, create=False)
    try:
        paths, manifest = directory.paths, directory.manifest
        old = [number for number, _ in paths.numbered(paths.log, "log")]
        number = max([cut.file, *cut.behind, *old]) + 1
        header = encode_file_header(LogFileHeader(number, cut.lost_through + 1))
        path = paths.log_file(number)
        filesystem.make_directory(paths.temporary)
        filesystem.write_new(temporary(paths, path.name), [header])
        filesystem.rename(temporary(paths, path.name), path)
        filesystem.sync_directory(paths.log)
        manifest = msgspec.structs.replace(
            manifest,
            generation=manifest.generation + 1,
            sealed_through=cut.lost_through,
            first_log_file=number,
            newest_log_file=number,
        )
        write_manifest(paths.manifest, manifest, filesystem)
        for before in old:
            filesystem.remove(paths.log_file(before))
        filesystem.sync_directory(paths.log)
    finally:
        directory.close()
