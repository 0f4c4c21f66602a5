"""The data directory: whose it is, and that one process at a time has it.

LOCK     held with flock by the process that has the store open
STORE    JSON: the format of the directory and the id of the store
log/     the write-ahead log
"""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from typing import Final, Self

import msgspec

from allsource_core.engine.errors import ForeignDirectoryError, StoreLockedError
from allsource_core.engine.filesystem import FILE_MODE, Filesystem
from allsource_core.engine.log_format import FILE_HEADER_BYTES, LogFileHeader, encode_file_header, file_name

__all__ = ["StoreDirectory"]

DIRECTORY_FORMAT: Final = 1

_LOCK: Final = "LOCK"
_STORE: Final = "STORE"
_LOG: Final = "log"


class _Identity(msgspec.Struct, frozen=True):
    format: int
    store_id: str


class StoreDirectory:
    """A data directory that this process has to itself."""

    def __init__(self, path: Path, filesystem: Filesystem, lock: int) -> None:
        """Use `open`."""
        self.filesystem = filesystem
        self.log_directory = path / _LOG
        self._lock = lock

    @classmethod
    def open(cls, path: Path, filesystem: Filesystem) -> Self:
        """Lock a data directory, making it a store's if it is missing or empty.

        The descriptor of the lock is not inherited by programs that this process starts; a fork would share it.

        Raises:
            StoreLockedError: another process has it.
            ForeignDirectoryError: it is not empty and not a store's, or of another format.
            OSError: it can't be made or used.
        """
        filesystem.make_directory(path)
        identity = path / _STORE
        if not identity.exists():
            _check_empty(path)
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if identity.exists():
                _check_identity(identity)
            else:
                _make_store(path, filesystem)
        except BlockingIOError:
            os.close(lock)
            raise StoreLockedError(path) from None
        except BaseException:
            os.close(lock)
            raise
        return cls(path, filesystem, lock)

    def close(self) -> None:
        """Let others have the directory."""
        os.close(self._lock)


def _check_empty(path: Path) -> None:
    """Refuse a directory in which somebody else has something; what a crash left of `_make_store` is ours."""
    ours = {_LOCK, f"{_STORE}.tmp", _LOG, "lost+found"}
    begun = {file_name(1), f"{file_name(1)}.tmp"}
    foreign = sorted(entry.name for entry in path.iterdir() if entry.name not in ours)
    if (path / _LOG).is_dir():
        log = list((path / _LOG).iterdir())
        foreign += sorted(f"{_LOG}/{entry.name}" for entry in log if entry.name not in begun)
        foreign += [f"{_LOG}/{entry.name}" for entry in log if entry.stat().st_size > FILE_HEADER_BYTES]
    if foreign:
        raise ForeignDirectoryError(f"{path} holds {foreign[0]!r} and is no store: name an empty directory")


def _make_store(path: Path, filesystem: Filesystem) -> None:
    """Make a directory a store's. The identity comes last: where it is, the first log file is, or was."""
    filesystem.make_directory(path / _LOG)
    filesystem.create(path / _LOG / file_name(1), encode_file_header(LogFileHeader(1, 1)))
    filesystem.create(path / _STORE, msgspec.json.encode(_Identity(DIRECTORY_FORMAT, str(uuid.uuid4()))))


def _check_identity(path: Path) -> None:
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=_Identity)
    except ValueError as error:
        raise ForeignDirectoryError(f"{path} can't be read: {error}") from error
    if identity.format != DIRECTORY_FORMAT:
        raise ForeignDirectoryError(
            f"{path}: format {identity.format} of the data directory; this release reads format {DIRECTORY_FORMAT}"
        )
