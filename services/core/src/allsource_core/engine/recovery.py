"""Reading the log at start: every acknowledged record comes back, an unfinished write at the end is cut.

How damage is told from an unfinished write: each record says how far its file was durable when it was written. Bytes
that are no whole record are an unfinished write if no whole record behind them vouches for them; nobody was told that
they are stored. If one does, or a newer file exists, acknowledged bytes are damaged, and the store does not open.
"""

from __future__ import annotations

import logging
import mmap
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.log_format import (
    FILE_HEADER_BYTES,
    FRAME_HEADER_BYTES,
    LogFileHeader,
    Record,
    decode_body,
    decode_file_header,
    read_frame,
)
from allsource_core.engine.log_writer import LiveLogFile

__all__ = ["LogEnd", "RecoveryProgress", "positions_of", "read_log_file", "recover_log"]

_log = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 0.1
_FOUR_ZEROS: Final = bytes(4)
_NOT_ZERO: Final = re.compile(rb"[^\0]")
_UPPER_HALF: Final = FRAME_HEADER_BYTES - len(_FOUR_ZEROS)
"""Where in the head of a record the upper half of its durable offset stands."""


class RecoveryProgress(msgspec.Struct, frozen=True):
    """How far recovery is.

    Attributes:
        phase: ``opening``, ``rebuilding_indexes``, ``rebuilding_keys`` or ``reading_log``.
        bytes_done, bytes_total: of what the phase reads.
        seconds_left: an estimate from the rate so far; None at the beginning.
    """

    phase: str
    bytes_done: int
    bytes_total: int
    seconds_left: float | None


class LogEnd(msgspec.Struct, frozen=True):
    """What recovery found: the files, oldest first, and the position that the next record gets."""

    files: list[LiveLogFile]
    next_number: int
    next_position: int


ReportProgress = Callable[[RecoveryProgress], None]


def positions_of(record: Record) -> tuple[int, int]:
    """The first and the last position that a record takes."""
    if isinstance(record, StoredEvents):
        return record.first_position, record.first_position + len(record) - 1
    return record.position, record.position


def recover_log(
    paths: StorePaths,
    filesystem: Filesystem,
    *,
    first_file: int,
    newest_file: int,
    sealed_through: int,
    accept: Callable[[Record, int], None],
    report: ReportProgress,
    writable: bool = True,
) -> LogEnd:
    """Read every log file in order, hand the records above `sealed_through` to `accept`, and cut an unfinished write.

    When it returns, everything that it read is on disk: a process that was killed may have left whole records that
    were written and not synced, and they are about to be served.

    Args:
        paths, filesystem: of the store.
        first_file: number of the first file that is needed.
        newest_file: there was a file of this number; perhaps newer ones too.
        sealed_through: position up to which segments have everything.
        accept: called with each record and the bytes of its body, in the order of positions.
        report: called after every file and now and then within one.
        writable: False leaves every byte as it is.

    Raises:
        CorruptionError: for damage to bytes that were acknowledged, or records that don't follow on each other.
        ForeignDirectoryError: for a format version that this release can't read.
    """
    found = [(number, path) for number, path in paths.numbered(paths.log, "log") if number >= first_file]
    if not found:
        raise CorruptionError(paths.log_file(first_file), 0, "the file is missing")
    if found[-1][0] < newest_file:
        raise CorruptionError(paths.log_file(newest_file), 0, "the file is missing")
    progress = _ProgressMeter(sum(path.stat().st_size for _, path in found), report)
    live: list[LiveLogFile] = []
    next_position: int | None = None
    for index, (number, path) in enumerate(found):
        is_last = index == len(found) - 1
        size = path.stat().st_size
        header = read_header(path, number)
        # Power that failed may have taken unsynced records from the log which segments have.
        is_sealed = next_position is not None and next_position < header.first_position <= sealed_through + 1
        if next_position is not None and header.first_position != next_position and not is_sealed:
            reason = f"it begins at position {header.first_position}, expected was {next_position}: a file is missing"
            raise CorruptionError(path, 0, reason)
        next_position = header.first_position
        if not live and next_position > sealed_through + 1:
            raise CorruptionError(path, 0, f"it begins at position {next_position}, needed is {sealed_through + 1}")
        end = FILE_HEADER_BYTES
        for record, behind in read_log_file(path, header, is_last=is_last):
            size_of_body, end = behind - end - FRAME_HEADER_BYTES, behind
            if record is not None:
                first, last = positions_of(record)
                if first != next_position:
                    raise CorruptionError(path, end, f"position {first} follows {next_position - 1}")
                next_position = last + 1
                if last > sealed_through:
                    accept(record, size_of_body)
            progress.at(end)
        if is_last and writable:
            _end_last_file(path, end, size, filesystem)
        progress.file_done(size)
        live.append(LiveLogFile(number, header.first_position, end))
    assert next_position is not None
    return LogEnd(live, found[-1][0] + 1, next_position)


def _end_last_file(path: Path, end: int, size: int, filesystem: Filesystem) -> None:
    """Cut what is no record from the last file; whatever was read from it must be on disk before it is served."""
    if end == size:
        filesystem.sync(path)
        return
    with path.open("rb") as file:
        file.seek(end)
        unfinished = len(file.read().rstrip(b"\0"))
    filesystem.truncate(path, end)
    if unfinished:
        _log.warning("an unfinished write of %d bytes was cut from %s at byte %d", unfinished, path.name, end)


def read_header(path: Path, number: int) -> LogFileHeader:
    """The header of a log file.

    Raises:
        CorruptionError, ForeignDirectoryError: as `recover_log`.
    """
    with path.open("rb") as file:
        data = file.read(FILE_HEADER_BYTES)
    try:
        header = decode_file_header(data)
    except ValueError as error:
        if "format version" in str(error):
            raise ForeignDirectoryError(f"{path}: {error}") from error
        raise CorruptionError(path, 0, str(error)) from error
    if header.file_number != number:
        raise CorruptionError(path, 0, f"it says that it is log file {header.file_number}")
    return header


def read_log_file(path: Path, header: LogFileHeader, *, is_last: bool) -> Iterator[tuple[Record | None, int]]:
    """The records of a log file, None for a mark, as (record, offset behind it), up to its end or unfinished write.

    Args:
        path: of the file.
        header: that `read_header` gave.
        is_last: no newer file exists.

    Raises:
        CorruptionError: for damage to bytes that were acknowledged.
    """
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        offset = FILE_HEADER_BYTES
        while offset < len(data):
            found = read_frame(data, offset)
            if found is None:
                _check_unfinished(path, mapped, data, offset, is_last=is_last)
                return
            body, end, _ = found
            try:
                record = decode_body(body, header.format_version)
            except (msgspec.MsgspecError, ValueError) as error:
                raise CorruptionError(path, offset, f"the record can't be decoded: {error}") from error
            finally:
                body.release()
            offset = end
            yield record, end


def _check_unfinished(path: Path, mapped: mmap.mmap, data: memoryview, offset: int, *, is_last: bool) -> None:
    """Return if the bytes from `offset` on are zeros, or the rest of a write that was never acknowledged.

    Args:
        path: of the file, for errors.
        mapped, data: the whole file, twice: one can be searched, the other be cut without a copy.
        offset: where no whole record is.
        is_last: no newer file exists.
    """
    if _NOT_ZERO.search(mapped, offset) is None:
        return
    if not is_last:
        raise CorruptionError(path, offset, "no whole record is here, and a newer log file exists")
    for candidate in _possible_records(mapped, offset + 1):
        found = read_frame(data, candidate)
        if found is not None:
            body, _, durable_offset = found
            body.release()
            if durable_offset > offset:
                raise CorruptionError(path, offset, f"no whole record is here, and the one at {candidate} is newer")


def _possible_records(mapped: mmap.mmap, start: int) -> Iterator[int]:
    """Offsets from `start` on at which the head of a record may stand.

    The upper half of its durable offset is zero, in files of less than 4 GiB; so only places with four zeros are
    looked at, and of a long run of zeros only the beginning: behind it the length of the record would be zero too.
    """
    place = mapped.find(_FOUR_ZEROS, start + _UPPER_HALF)
    while place >= 0:
        match = _NOT_ZERO.search(mapped, place)
        end = match.start() if match is not None else len(mapped)
        for zeros in range(place, min(place + 2 * len(_FOUR_ZEROS), end - len(_FOUR_ZEROS) + 1)):
            yield zeros - _UPPER_HALF
        place = mapped.find(_FOUR_ZEROS, end)


class _ProgressMeter:
    """Reports at the end of every file, and within one at most ten times a second."""

    def __init__(self, bytes_total: int, report: ReportProgress) -> None:
        self._bytes_total = bytes_total
        self._report = report
        self._bytes_before = 0
        self._started = self._reported = time.monotonic()

    def at(self, offset: int) -> None:
        now = time.monotonic()
        if now - self._reported >= _REPORT_SECONDS:
            self._reported = now
            self._tell(self._bytes_before + offset, now)

    def file_done(self, size: int) -> None:
        self._bytes_before += size
        self._tell(self._bytes_before, time.monotonic())

    def _tell(self, done: int, now: float) -> None:
        left = (now - self._started) / done * (self._bytes_total - done)
        self._report(RecoveryProgress("reading_log", done, self._bytes_total, round(left, 1)))
