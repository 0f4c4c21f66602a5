"""What the engine's tests share: stores in temporary directories, events, a clock to turn, files that fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions
from allsource_core.engine.filesystem import AppendFile, LocalFilesystem

TENANT = "default"


class TurnableClock:
    """A clock that stands still until it is turned, forwards or backwards."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def new_event(
    entity_id: str = "order-1",
    payload: bytes = b'{"n":1}',
    *,
    event_type: str = "order.placed",
    event_id: UUID | None = None,
    **fields: Any,
) -> NewEvent:
    """An event that differs from the usual one where a test says so."""
    return NewEvent(event_type, entity_id, Raw(payload), event_id=event_id, **fields)


def open_store(path: Path, **arguments: Any) -> EventStore:
    """A store with small log files, so that tests meet their borders."""
    options = arguments.pop("options", StoreOptions(log_file_bytes_max=4096))
    return EventStore.open(path, options=options, **arguments)


class FaultyFilesystem(LocalFilesystem):
    """Fails the n-th operation and, as a disk that broke would, every one after it.

    Args:
        fail_at: the operation that fails, from 1; 0 for none.
        partial: a failing write leaves half of its bytes.
    """

    def __init__(self, fail_at: int = 0, *, partial: bool = False, error_number: int = errno.EIO) -> None:
        self.fail_at = fail_at
        self.partial = partial
        self.error_number = error_number
        self.operations = 0
        self.syncs = 0

    def step(self, write_half: Callable[[], None] = lambda: None) -> None:
        """Count an operation; raise if it is time."""
        self.operations += 1
        if self.fail_at and self.operations >= self.fail_at:
            if self.operations == self.fail_at:
                write_half()
            raise OSError(self.error_number, "injected fault")

    def create(self, path: Path, data: bytes) -> None:
        self.step()
        super().create(path, data)

    def sync(self, path: Path) -> None:
        self.step()
        super().sync(path)

    def truncate(self, path: Path, size: int) -> None:
        self.step()
        super().truncate(path, size)

    def open_append(self, path: Path) -> AppendFile:
        self.step()
        return _FaultyFile(super().open_append(path), self)


class _FaultyFile:
    def __init__(self, file: AppendFile, filesystem: FaultyFilesystem) -> None:
        self._file = file
        self._filesystem = filesystem

    def append(self, data: bytes) -> None:
        half = data[: len(data) // 2] if self._filesystem.partial else b""
        self._filesystem.step(lambda: self._file.append(half))
        self._file.append(data)

    def sync(self) -> None:
        self._filesystem.step()
        self._filesystem.syncs += 1
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class Killed(BaseException):
    """The process was killed here, as far as a `PageCacheFilesystem` is concerned."""


class PageCacheFilesystem(LocalFilesystem):
    """Knows how much of each file is on the disk, and how much only in the memory of the operating system.

    Attributes:
        durable: size of each file on disk. Hand it on to the file system of the next process.
        kill_at_sync: the next sync of a log does not happen, nor anything after it.
    """

    def __init__(self, durable: dict[Path, int] | None = None) -> None:
        self.durable = durable if durable is not None else {}
        self.kill_at_sync = False
        self._dead = False

    def lose_power(self) -> None:
        """What was not synced is gone."""
        for path, size in self.durable.items():
            os.truncate(path, size)

    def _live(self) -> None:
        if self._dead:
            raise Killed

    def create(self, path: Path, data: bytes) -> None:
        self._live()
        super().create(path, data)
        self.durable[path] = len(data)

    def sync(self, path: Path) -> None:
        self._live()
        super().sync(path)
        self.durable[path] = path.stat().st_size

    def truncate(self, path: Path, size: int) -> None:
        self._live()
        super().truncate(path, size)
        self.durable[path] = size

    def open_append(self, path: Path) -> AppendFile:
        self._live()
        return _CachedFile(super().open_append(path), path, self)

    def sync_log(self, path: Path) -> None:
        """Instead of the sync of a file that is being appended to."""
        self._dead = self._dead or self.kill_at_sync
        self._live()
        self.durable[path] = path.stat().st_size


class _CachedFile:
    def __init__(self, file: AppendFile, path: Path, filesystem: PageCacheFilesystem) -> None:
        self._file = file
        self._path = path
        self._filesystem = filesystem

    def append(self, data: bytes) -> None:
        self._file.append(data)

    def sync(self) -> None:
        self._filesystem.sync_log(self._path)

    def close(self) -> None:
        self._file.close()
