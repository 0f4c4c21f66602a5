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
from allsource_core.engine.filesystem import Filesystem

__all__ = ["StoreDirectory"]

DIRECTORY_FORMAT: Final = 1


class _Identity(msgspec.Struct, frozen=True):
    format: int
    store_id: str


class StoreDirectory:
    """A data directory that this process has to itself."""

    def __init__(self, path: Path, filesystem: Filesystem, lock: int, store_id: str) -> None:
        """Use `open`."""
        self.filesystem = filesystem
        self.log_directory = path / "log"
        self.store_id = store_id
        self._lock = lock

    @classmethod
    def open(cls, path: Path, filesystem: Filesystem) -> Self:
        """Lock a data directory, making it a store's if it is missing or empty.

        Raises:
            StoreLockedError: another process has it.
            ForeignDirectoryError: it is not empty and not a store's, or of another format.
            OSError: it can't be made or used.
        """
        filesystem.make_directory(path)
        foreign = {entry.name for entry in path.iterdir()} - {"LOCK", "STORE", "STORE.tmp", "lost+found"}
        if foreign and not (path / "STORE").exists():
            raise ForeignDirectoryError(f"{path} holds {sorted(foreign)[0]!r} and is no store: name an empty directory")
        lock = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            store_id = _identify(path / "STORE", filesystem)
            filesystem.make_directory(path / "log")
        except BlockingIOError:
            os.close(lock)
            raise StoreLockedError(path) from None
        except BaseException:
            os.close(lock)
            raise
        return cls(path, filesystem, lock, store_id)

    def close(self) -> None:
        """Let others have the directory."""
        os.close(self._lock)


def _identify(path: Path, filesystem: Filesystem) -> str:
    if not path.exists():
        identity = _Identity(DIRECTORY_FORMAT, str(uuid.uuid4()))
        filesystem.create(path, msgspec.json.encode(identity))
        return identity.store_id
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=_Identity)
    except ValueError as error:
        raise ForeignDirectoryError(f"{path} can't be read: {error}") from error
    if identity.format != DIRECTORY_FORMAT:
        raise ForeignDirectoryError(
            f"{path}: format {identity.format} of the data directory; this release reads format {DIRECTORY_FORMAT}"
        )
    return identity.store_id
