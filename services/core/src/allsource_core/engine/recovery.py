"""Reading the log at start: every acknowledged event comes back, an unfinished write at the end is cut.

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
from allsource_core.engine.events import Event
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.log_format import (
    FILE_HEADER_BYTES,
    FRAME_HEADER_BYTES,
    decode_file_header,
    decode_record,
    file_name,
    list_log_files,
    read_frame,
)

__all__ = ["LogEnd", "RecoveryProgress", "recover_log"]

_log = logging.getLogger(__name__)

_REPORT_SECONDS: Final = 0.1
_FOUR_ZEROS: Final = bytes(4)
_NOT_ZERO: Final = re.compile(rb"[^\0]")
_UPPER_HALF: Final = FRAME_HEADER_BYTES - len(_FOUR_ZEROS)
"""Where in the head of a record the upper half of its durable offset stands."""


class RecoveryProgress(msgspec.Struct, frozen=True):
    """How far recovery is.

    Attributes:
        phase: ``opening`` or ``reading_log``.
        bytes_done, bytes_total: of the log.
        seconds_left: an estimate from the rate so far; None at the beginning.
    """

    phase: str
    bytes_done: int
    bytes_total: int
    seconds_left: float | None


class LogEnd(msgspec.Struct, frozen=True):
    """Where the log ends: the number and size of its newest file, and the size of all of them."""

    file_number: int
    file_bytes: int
    log_bytes: int


ReportProgress = Callable[[RecoveryProgress], None]


def recover_log(
    directory: Path,
    filesystem: Filesystem,
    accept: Callable[[list[Event]], None],
    report: ReportProgress,
) -> LogEnd:
    """Read every log file in order, hand each record's events to `accept`, and cut an unfinished write.

    When it returns, everything that it read is on disk: a process that was killed may have left whole records that
    were written and not synced, and they are about to be served.

    Args:
        directory: of the log files.
        filesystem: which does the cutting.
        accept: called once a record, in the order of positions.
        report: called after every file and now and then within one.

    Raises:
        CorruptionError: for damage to bytes that were acknowledged, or events that don't follow on each other.
        ForeignDirectoryError: for a format version that this release can't read.
    """
    files = list_log_files(directory)
    if not files:
        raise CorruptionError(directory / file_name(1), 0, "the file is missing")
    sizes = [path.stat().st_size for _, path in files]
    progress = _ProgressMeter(sum(sizes), report)
    next_position = 1
    last_number, last_size, cut = 0, 0, 0
    for index, (number, path) in enumerate(files):
        is_last = index == len(files) - 1
        if number != index + 1:
            raise CorruptionError(path, 0, f"log file {index + 1} is missing before it")
        end = FILE_HEADER_BYTES
        for events, end in _read_file(path, number, next_position, is_last=is_last):
            if events:
                if events[0].position != next_position:
                    raise CorruptionError(path, end, f"position {events[0].position} follows {next_position - 1}")
                next_position = events[-1].position + 1
                accept(events)
            progress.at(end)
        if end < sizes[index]:
            filesystem.truncate(path, end)
            cut = sizes[index] - end
            _log.warning("an unfinished write of %d bytes was cut from %s at byte %d", cut, path.name, end)
        elif is_last:
            filesystem.sync(path)
        last_number, last_size = number, end
        progress.file_done(sizes[index])
    return LogEnd(last_number, last_size, sum(sizes) - cut)


def _read_file(path: Path, number: int, position: int, *, is_last: bool) -> Iterator[tuple[list[Event], int]]:
    """The records of one file as (events, offset behind the record), up to its end or an unfinished write."""
    with path.open("rb") as file:
        _check_header(path, file.read(FILE_HEADER_BYTES), number, position)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            offset = FILE_HEADER_BYTES
            while offset < len(data):
                found = read_frame(data, offset)
                if found is None:
                    _check_unfinished(path, mapped, data, offset, is_last=is_last)
                    return
                body, end, _ = found
                try:
                    events = decode_record(body)
                except (msgspec.MsgspecError, ValueError) as error:
                    raise CorruptionError(path, offset, f"the record can't be decoded: {error}") from error
                finally:
                    body.release()
                offset = end
                yield events, end


def _check_header(path: Path, data: bytes, number: int, position: int) -> None:
    try:
        header = decode_file_header(data)
    except ValueError as error:
        if "format version" in str(error):
            raise ForeignDirectoryError(f"{path}: {error}") from error
        raise CorruptionError(path, 0, str(error)) from error
    if header.file_number != number:
        raise CorruptionError(path, 0, f"it says that it is log file {header.file_number}")
    if header.first_position != position:
        raise CorruptionError(path, 0, f"it begins at position {header.first_position}, expected was {position}")


def _check_unfinished(path: Path, mapped: mmap.mmap, data: memoryview, offset: int, *, is_last: bool) -> None:
    """Return if the bytes from `offset` on are the rest of a write that was never acknowledged.

    Args:
        mapped, data: the whole file, twice: one can be searched, the other be cut without a copy.
    """
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
