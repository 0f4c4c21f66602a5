"""Writing the log: whole records, in order, made durable together."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import msgspec

from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem, LogFile
from allsource_core.engine.log_format import (
    CLOSING_MARK,
    FILE_HEADER_BYTES,
    LogFileHeader,
    encode_file_header,
    frame,
)

__all__ = ["LiveLogFile", "LogRecord", "LogWriter"]

_log = logging.getLogger(__name__)

_UNPREPARED_BYTES: Final = 4 * 1024 * 1024
"""Zeros of a file that is made while somebody waits for it: about 5 ms. The next one is prepared meanwhile."""


class LogRecord(msgspec.Struct, gc=False):
    """A record to write.

    Attributes:
        first_position, last_position: that it takes.
        begins_file: it must be the first one of a log file.
        must_sync: it is acknowledged only once it is on the disk.
    """

    body: bytes
    first_position: int
    last_position: int
    begins_file: bool = False
    must_sync: bool = True


class LiveLogFile(msgspec.Struct):
    """A log file that is still needed: its number, the position of its first record, its bytes of records."""

    number: int
    first_position: int
    bytes: int


class LogWriter:
    """Appends records to the newest log file and begins a new one when it is full.

    `commit`, `repair` and `close` are for one thread at a time; the others are safe beside them.

    Args:
        paths: of the store.
        filesystem: below it.
        file_bytes_max: a file that would pass this size is followed by a new one; files are filled with zeros before.
        files: those that are there, oldest first. The first commit begins another.
        next_number: of the file that is begun next.
    """

    def __init__(
        self,
        paths: StorePaths,
        filesystem: Filesystem,
        *,
        file_bytes_max: int,
        files: Sequence[LiveLogFile],
        next_number: int,
    ) -> None:
        self._paths = paths
        self._filesystem = filesystem
        self._file_bytes_max = file_bytes_max
        self._files = list(files)
        self._next_number = next_number
        self._file: LogFile | None = None
        # Offset and last position of what was written as its authors were promised. One value, so that nothing that
        # breaks in between can part the two.
        self._good = 0, 0
        self._synced_offset = 0
        # A sync failed behind which records stand that were acknowledged without one.
        self._lost_unsynced = False
        self._capacity = 0
        self._prepared = paths.temporary / "prepared.log"
        self._is_prepared = False
        self._lock = threading.Lock()

    @property
    def files(self) -> list[LiveLogFile]:
        """The files that are still needed, oldest first."""
        with self._lock:
            return list(self._files)

    @property
    def newest_file_number(self) -> int:
        """Of the newest file whose name is on disk; 0 if there is none."""
        with self._lock:
            return self._files[-1].number if self._files else 0

    def first_needed(self, sealed_through: int) -> int:
        """The number of the first file that holds, or will hold, a record behind a position."""
        files = self.files
        needed = [file.number for file, behind in pairwise(files) if behind.first_position > sealed_through + 1]
        return min(needed, default=files[-1].number)

    @property
    def good_position(self) -> int:
        """The position of the last record that was written as its author was promised, 0 before the first commit."""
        return self._good[1]

    def commit(self, records: Sequence[LogRecord]) -> None:
        """Write records and return once they are on disk: one write and one fdatasync for all that share a file.

        Raises:
            OSError: then nothing is known of these records; call `repair`.
        """
        start = 0
        if len(records) > 1:
            for index, record in enumerate(records):
                if record.begins_file and index > start:
                    self._commit_together(records[start:index])
                    start = index
        self._commit_together(records[start:] if start else records)

    def _commit_together(self, records: Sequence[LogRecord]) -> None:
        file = self._file
        if file is None or records[0].begins_file:
            file = self._begin_file(records[0].first_position)
        data = self._frames(records)
        offset = self._good[0]
        if offset + len(data) > self._capacity and offset > FILE_HEADER_BYTES:
            file = self._begin_file(records[0].first_position)
            data = self._frames(records)
            offset = FILE_HEADER_BYTES
        file.write(data, offset)
        end = offset + len(data)
        if records[-1].must_sync or any(record.must_sync for record in records):
            self._sync(file)
            self._synced_offset = end
        self._good = end, records[-1].last_position
        self._files[-1].bytes = end

    def _frames(self, records: Sequence[LogRecord]) -> bytes:
        durable_offset = self._synced_offset
        if len(records) == 1:
            return frame(records[0].body, durable_offset)
        return b"".join([frame(record.body, durable_offset) for record in records])

    def begin_file(self, first_position: int) -> None:
        """Begin a file now, unless the newest one has no record. Raises OSError: the next commit begins one."""
        if self._file is None or self._good[0] > FILE_HEADER_BYTES:
            self._begin_file(first_position)

    def _begin_file(self, first_position: int) -> LogFile:
        if self._file is not None and self._good[0] == FILE_HEADER_BYTES:
            # Nothing is in the newest one yet: it serves as well.
            return self._file
        self._end_file()
        number = self._next_number
        path = self._paths.log_file(number)
        # Under a name of its own: the next one may be prepared meanwhile.
        begun = self._paths.temporary / "begun.log"
        if self._take_prepared(begun):
            self._capacity = self._file_bytes_max
        else:
            self._capacity = min(self._file_bytes_max, _UNPREPARED_BYTES)
            self._filesystem.fill(begun, self._capacity)
        file = self._filesystem.open_log(begun)
        try:
            file.write(encode_file_header(LogFileHeader(number, first_position)), 0)
            file.sync()
            self._filesystem.rename(begun, path)
            self._next_number = number + 1
            self._filesystem.sync_directory(self._paths.log)
        except BaseException:
            file.close()
            raise
        self._file = file
        self._synced_offset = FILE_HEADER_BYTES
        self._good = FILE_HEADER_BYTES, first_position - 1
        with self._lock:
            self._files.append(LiveLogFile(number, first_position, FILE_HEADER_BYTES))
        return file

    def _end_file(self) -> None:
        """Sync what is not synced: a file with a newer one behind it has no unfinished write."""
        file = self._file
        if file is None:
            return
        if self._synced_offset < self._good[0]:
            self._sync(file)
        self._file = None
        file.close()

    def _sync(self, file: LogFile) -> None:
        try:
            file.sync()
        except BaseException:
            self._lost_unsynced = self._synced_offset < self._good[0]
            raise

    def prepare_next(self) -> None:
        """Fill the next file with zeros, so that nobody waits for it. If that can't be done, somebody will wait."""
        aside = self._paths.temporary / "preparing.log"
        try:
            # Where so little is free, others need it more.
            if self._is_prepared or self._filesystem.free_bytes(self._paths.root) < 4 * self._file_bytes_max:
                return
            self._filesystem.fill(aside, self._file_bytes_max)
            with self._lock:
                self._filesystem.rename(aside, self._prepared)
                self._is_prepared = True
        except OSError as error:
            _log.warning("the next log file could not be prepared: %s", error)

    def _take_prepared(self, to: Path) -> bool:
        """Give the prepared file another name, if there is one."""
        with self._lock:
            if not self._is_prepared:
                return False
            self._is_prepared = False
            self._filesystem.rename(self._prepared, to)
            return True

    def repair(self) -> None:
        """After a failed commit: give the file up, cut it behind the last good record, go on in another one.

        The descriptor that failed is never synced again: the system may have dropped the pages that it could not
        write, and would then report success. What was written behind is cut from the file, or the next start would
        take it for stored while its authors were told that nobody knows.

        Raises:
            OSError: the file could not be cut, or records in it that were acknowledged without a sync may be lost: a
                file with a newer one behind it must have none that is not whole. Nothing may be written from now on.
        """
        file, self._file = self._file, None
        if file is not None:
            file.close()
            if self._lost_unsynced:
                raise OSError(errno.EIO, "what was acknowledged without a sync may not be on the disk")
            self._filesystem.truncate(self._paths.log_file(self._files[-1].number), self._good[0])
        # A file whose making failed half-way has no record; the next start passes over it.

    def abandon(self) -> None:
        """Close the file and write nothing more."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def drop_through(self, position: int) -> int:
        """Remove the files of which no record is above a position; returns how many. They must be needed no more.

        Raises:
            OSError: some could not be removed; the next call tries again.
        """
        dropped = 0
        while True:
            with self._lock:
                if len(self._files) < 2 or self._files[1].first_position > position + 1:
                    break
                number = self._files[0].number
            self._filesystem.remove(self._paths.log_file(number))
            with self._lock:
                del self._files[0]
            dropped += 1
        if dropped:
            self._filesystem.sync_directory(self._paths.log)
        return dropped

    def close(self, *, clean: bool) -> None:
        """Close the file; `clean` leaves the mark that vouches for every byte before it, and gives back the zeros.

        Raises:
            OSError: the mark could not be left. The file is closed, and every committed record is on disk.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if clean:
                offset = self._good[0]
                if self._synced_offset < offset:
                    # Or the mark would not vouch for what was acknowledged without a sync.
                    file.sync()
                mark = frame(CLOSING_MARK, offset)
                file.write(mark, offset)
                file.sync()
                self._filesystem.truncate(self._paths.log_file(self._files[-1].number), offset + len(mark))
        finally:
            file.close()
