"""The files below the engine, as a protocol, so that tests can make any operation fail."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

__all__ = ["AppendFile", "Filesystem", "LocalFilesystem"]

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


class AppendFile(Protocol):
    """A file that only grows."""

    def append(self, data: bytes) -> None:
        """Write all of `data` at the end. Raises OSError; then an unknown part of it was written."""

    def sync(self) -> None:
        """Return once everything appended is on the disk. Raises OSError; then nothing is known of it."""

    def close(self) -> None:
        """Close without syncing."""


class Filesystem(Protocol):
    """What the engine asks of a file system. Every method may raise OSError."""

    def make_directory(self, path: Path) -> None:
        """Create a directory (mode 0700) with its parents, on disk, unless it is there."""

    def create(self, path: Path, data: bytes) -> None:
        """Create a file (mode 0600) with this content, on disk, or not at all: write aside, sync, rename, sync."""

    def open_append(self, path: Path) -> AppendFile:
        """Open an existing file to append to it."""

    def sync(self, path: Path) -> None:
        """Return once a file and its name are on disk, whoever wrote it."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut a file to `size` bytes, on disk."""


class LocalFilesystem:
    """The operating system's files."""

    def make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_directory(path.parent)
        path.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        _sync(path.parent, os.O_DIRECTORY)

    def create(self, path: Path, data: bytes) -> None:
        aside = path.with_name(path.name + ".tmp")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        aside.rename(path)
        _sync(path.parent, os.O_DIRECTORY)

    def open_append(self, path: Path) -> AppendFile:
        return _LocalAppendFile(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))

    def sync(self, path: Path) -> None:
        _sync(path)
        _sync(path.parent, os.O_DIRECTORY)

    def truncate(self, path: Path, size: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _LocalAppendFile:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, data: bytes) -> None:
        _write_all(self._descriptor, data)

    def sync(self) -> None:
        # The size of a file is part of what fdatasync brings to disk; its times are not, and nobody asks for them.
        os.fdatasync(self._descriptor)
        # A file that somebody removed can be written and synced all the same, and is gone when it is closed.
        if os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the log file was removed while it was being written")

    def close(self) -> None:
        os.close(self._descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync(path: Path, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
