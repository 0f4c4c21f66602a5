"""The files below the engine, as a protocol, so that tests can make any operation fail."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

__all__ = ["DIRECTORY_MODE", "FILE_MODE", "Bytes", "Filesystem", "LocalFilesystem", "LogFile"]

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600
_ZEROS = bytes(1024 * 1024)

Bytes = bytes | bytearray | memoryview
"""What can be written. (`collections.abc.Buffer` is newer than Python 3.11.)"""


class LogFile(Protocol):
    """A file that is written from its beginning to its end, over zeros that were there before."""

    def write(self, data: bytes, offset: int) -> None:
        """Write all of `data` at `offset`. Raises OSError; then an unknown part of it was written."""

    def sync(self) -> None:
        """Return once everything written is on the disk. Raises OSError; then nothing is known of it."""

    def close(self) -> None:
        """Close without syncing."""


class Filesystem(Protocol):
    """What the engine asks of a file system. Every method may raise OSError."""

    def make_directory(self, path: Path) -> None:
        """Create a directory (mode 0700) with its parents, on disk, unless it is there."""

    def create(self, path: Path, data: bytes) -> None:
        """Create or replace a file (mode 0600) with this content, on disk, or leave what was there: write aside,
        sync, rename, sync the directory.
        """

    def write_new(self, path: Path, parts: Iterable[Bytes]) -> None:
        """Make a file (mode 0600) of these bytes, one part behind the other, on disk; its name is not synced."""

    def fill(self, path: Path, size: int) -> None:
        """Make a file (mode 0600) of so many zeros, on disk; its name is not synced."""

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name, replacing what has it; the name is not synced."""

    def remove(self, path: Path) -> None:
        """Remove a file; that it is gone is not synced. One that is not there is no error."""

    def sync_directory(self, path: Path) -> None:
        """Return once the names in a directory are on disk."""

    def open_log(self, path: Path) -> LogFile:
        """Open an existing file to write to it."""

    def sync(self, path: Path) -> None:
        """Return once a file and its name are on disk, whoever wrote it."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes, on disk, its name too."""

    def free_bytes(self, path: Path) -> int:
        """How many bytes this process may still write below a directory."""


class LocalFilesystem:
    """The operating system's files."""

    def make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_directory(path.parent)
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        self.sync_directory(path.parent)

    def create(self, path: Path, data: bytes) -> None:
        aside = path.with_name(path.name + ".tmp")
        self.write_new(aside, [data])
        aside.rename(path)
        self.sync_directory(path.parent)

    def write_new(self, path: Path, parts: Iterable[Bytes]) -> None:
        descriptor = _open_new(path)
        try:
            for part in parts:
                _write_all(descriptor, part)
            os.fsync(descriptor)
        except BaseException:
            _give_back(path)
            raise
        finally:
            os.close(descriptor)

    def fill(self, path: Path, size: int) -> None:
        descriptor = _open_new(path)
        try:
            for offset in range(0, size, len(_ZEROS)):
                _write_all(descriptor, memoryview(_ZEROS)[: size - offset])
            os.fsync(descriptor)
        except BaseException:
            _give_back(path)
            raise
        finally:
            os.close(descriptor)

    def rename(self, path: Path, to: Path) -> None:
        path.rename(to)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_directory(self, path: Path) -> None:
        _sync(path, os.O_DIRECTORY)

    def open_log(self, path: Path) -> LogFile:
        return _LocalLogFile(os.open(path, os.O_WRONLY | os.O_CLOEXEC))

    def sync(self, path: Path) -> None:
        _sync(path)
        self.sync_directory(path.parent)

    def truncate(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.sync_directory(path.parent)

    def free_bytes(self, path: Path) -> int:
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


class _LocalLogFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._link = f"/proc/self/fd/{descriptor}"

    def write(self, data: bytes, offset: int) -> None:
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def sync(self) -> None:
        # The size of a file is part of what fdatasync brings to disk; its times are not, and nobody asks for them.
        os.fdatasync(self._descriptor)
        # A file that somebody removed can be written and synced all the same, and is gone when it is closed.
        if self._is_removed():
            raise FileNotFoundError(errno.ENOENT, "the log file was removed while it was being written")

    def _is_removed(self) -> bool:
        try:
            # Not fstat: since Linux 6.13 a file whose times were asked for gets a new one with its next write, and the
            # next sync has an inode to write: 218 µs instead of 143 µs an append (measured on ext4).
            return os.readlink(self._link).endswith(" (deleted)")
        except OSError:
            return os.fstat(self._descriptor).st_nlink == 0

    def close(self) -> None:
        os.close(self._descriptor)


def _open_new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)


def _write_all(descriptor: int, data: Bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _give_back(path: Path) -> None:
    """Remove a file that could not be made: on a full disk others need the space."""
    with contextlib.suppress(OSError):
        path.unlink()


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
