"""Writing the log: whole records, in order, made durable together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from allsource_core.engine.filesystem import AppendFile, Filesystem
from allsource_core.engine.log_format import (
    CLOSING_MARK,
    FILE_HEADER_BYTES,
    LogFileHeader,
    encode_file_header,
    file_name,
    frame,
)

__all__ = ["LogWriter"]

_log = logging.getLogger(__name__)


class LogWriter:
    """Appends records to the newest log file and begins a new one when it is full.

    Used by one thread at a time. After an error it must not be used again: what is on disk is then unknown.

    Args:
        directory: of the log files.
        filesystem: below it.
        file_bytes_max: a file that has reached this size gets no further record.
        file_number, file_bytes: the file to go on with and its size.
    """

    def __init__(
        self,
        directory: Path,
        filesystem: Filesystem,
        *,
        file_bytes_max: int,
        file_number: int,
        file_bytes: int,
    ) -> None:
        self._directory = directory
        self._filesystem = filesystem
        self._file_bytes_max = file_bytes_max
        self._file_number = file_number
        self._offset = file_bytes
        self._bytes_written = 0
        self._file: AppendFile | None = filesystem.open_append(directory / file_name(file_number))

    @property
    def file_number(self) -> int:
        """The number of the newest file; as files are never skipped, also how many were begun."""
        return self._file_number

    @property
    def bytes_written(self) -> int:
        """Bytes of records that this writer has made durable."""
        return self._bytes_written

    def commit(self, bodies: Sequence[bytes], first_position: int) -> None:
        """Write records and return once they are on disk: one write and one fdatasync for all of them.

        Args:
            bodies: of the records, in order.
            first_position: of the first event in them.

        Raises:
            OSError: then nothing is known of these records.
        """
        file = self._file
        if file is None or self._offset >= self._file_bytes_max:
            file = self._begin_file(first_position)
        durable_offset = self._offset
        data = b"".join([frame(body, durable_offset) for body in bodies])
        file.append(data)
        file.sync()
        self._offset += len(data)
        self._bytes_written += len(data)

    def _begin_file(self, first_position: int) -> AppendFile:
        if self._file is not None:
            self._file.close()
            self._file = None
        number = self._file_number + 1
        path = self._directory / file_name(number)
        self._filesystem.create(path, encode_file_header(LogFileHeader(number, first_position)))
        self._file = self._filesystem.open_append(path)
        self._file_number = number
        self._offset = FILE_HEADER_BYTES
        return self._file

    def abandon(self) -> None:
        """Give up after a failure: close the file and try to cut it where it is durable for certain.

        What the failed write left would otherwise be read at the next start from memory of the operating system,
        which may never reach the disk.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
            self._filesystem.truncate(self._directory / file_name(self._file_number), self._offset)
        except Exception:
            # The next start finds an unfinished write and cuts it, or whole records and syncs them.
            _log.warning("the log could not be cut after a failed write", exc_info=True)

    def close(self, *, clean: bool) -> None:
        """Close the file; `clean` leaves the mark that vouches for every byte before it.

        Raises:
            OSError: the mark could not be left. The file is closed, and every committed record is on disk.
        """
        file, self._file = self._file, None
        if file is None:
            return
        try:
            if clean and self._offset > FILE_HEADER_BYTES:
                file.append(frame(CLOSING_MARK, self._offset))
                file.sync()
        finally:
            file.close()
