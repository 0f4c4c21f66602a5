"""What the engine's tests share: stores in temporary directories, events, a clock to turn, disks that fail."""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import pytest

from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions, maintenance
from allsource_core.engine.filesystem import FILE_MODE, Bytes, LocalFilesystem, LogFile
from allsource_core.engine.maintenance import Maintenance

TENANT = "default"

Made = tuple[EventStore, Callable[[EventStore], None]]
"""What the fixture `made` gives: a store, and what settles it: nothing, or sealing."""

SMALL = StoreOptions(
    log_file_bytes_max=4096, segment_rows_max=256, maintenance="thread", reserve_bytes=0, wait_seconds_max=600
)
"""Small log files and memtables, so that tests meet their borders; one process; no look at the free space; whoever
waits for room gets it, however slow the machine is."""


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
    """A store with the options above, or `options`."""
    return EventStore.open(path, options=arguments.pop("options", SMALL), **arguments)


def without_background_work(patch: pytest.MonkeyPatch) -> None:
    """From now on stores seal and compact when a test says `seal()` or `compact()`, and never by themselves."""
    patch.setattr(Maintenance, "start", lambda _self: None)
    # And `seal()` takes no slow machine for a quiet one, on which there would be more to do.
    patch.setattr(maintenance, "_QUIET_SECONDS", 3600.0)


def kill(store: EventStore) -> None:
    """End what is left of a store whose process was killed: nothing more is written, and others may open it.

    Its file system should be one that is dead, or have nothing to write.
    """
    parts = store._parts
    committer = parts.path._committer
    if parts.disk_watch is not None:
        parts.disk_watch.stop()
    if parts.maintenance is not None:
        parts.maintenance.stop()
    if committer is not None:
        committer._pending.clear()
        committer._closed = True
        committer._wake.put(None)
        committer._thread.join()
    if parts.directory is not None and not store._closed:
        parts.directory.close()


# --- disks that fail ---

Left = Literal["nothing", "half", "all"]


def _anything(_kind: str, _path: Path) -> bool:
    return True


class FaultyFilesystem(LocalFilesystem):
    """Fails the n-th operation, and every one after it as a disk that broke would, or that one alone.

    Operations are of the kinds ``write``, ``sync``, ``rename``, ``remove``, ``truncate``, ``open``, ``make_directory``
    and ``sync_directory``; `create`, say, is four of them. Nothing is really synced: no test could tell.

    Args:
        fail_at: the operation that fails, from 1; 0 for none. May be changed at any time.
        only: which operations count (kind, path); all by default.
        lasting: whether all later ones fail too, until `fail_at` is set to 0.
        leaves: what the failing operation leaves: nothing; of a write half of the bytes; or all, as if only the answer
            was lost. What can't be halved leaves nothing for ``half``.
        error_number: of the OSError.
        free: what `free_bytes` says; None asks the disk. It is no operation.

    Attributes:
        operations: how many were counted.
        seen: (kind, path) of every one that was counted.
        failed: how many failed.
        syncs: of log files while they are written.
    """

    def __init__(
        self,
        fail_at: int = 0,
        *,
        only: Callable[[str, Path], bool] = _anything,
        lasting: bool = True,
        leaves: Left = "nothing",
        error_number: int = errno.EIO,
        free: int | None = None,
    ) -> None:
        self.fail_at = fail_at
        self.only = only
        self.lasting = lasting
        self.leaves = leaves
        self.error_number = error_number
        self.free = free
        self.operations = 0
        self.seen: list[tuple[str, Path]] = []
        self.failed = 0
        self.syncs = 0
        self._counting = threading.RLock()
        self._log_files: list[SteppedLogFile] = []

    def fail_next(self) -> None:
        """Let the next operation that counts fail."""
        self.fail_at = self.operations + 1

    def step(self, kind: str, path: Path, do: Callable[[], None], half: Callable[[], None] = lambda: None) -> None:
        """Count an operation; do it, or fail if it is time."""
        with self._counting:
            if not self.only(kind, path):
                is_first = fails = False
            else:
                self.operations += 1
                self.seen.append((kind, path))
                is_first = self.operations == self.fail_at
                fails = is_first or (self.lasting and 0 < self.fail_at < self.operations)
        if fails:
            self.failed += 1
            if is_first and self.leaves == "all":
                do()
            elif is_first and self.leaves == "half":
                half()
            self.fail(kind, path)
        do()

    def fail(self, kind: str, path: Path) -> None:
        """Raise what a failing operation raises."""
        raise OSError(self.error_number, f"injected fault: {kind}", str(path))

    # --- operations, as an engine asks for them ---

    def make_directory(self, path: Path) -> None:
        if path.is_dir():
            return
        self.make_directory(path.parent)
        self.step("make_directory", path, lambda: self.do_make_directory(path))
        self.sync_directory(path.parent)

    def create(self, path: Path, data: bytes) -> None:
        aside = path.with_name(path.name + ".tmp")
        self.write_new(aside, [data])
        self.rename(aside, path)
        self.sync_directory(path.parent)

    def write_new(self, path: Path, parts: Sequence[Bytes]) -> None:
        data = b"".join(parts)
        half = data[: len(data) // 2]
        self.step("write", path, lambda: self.do_write(path, data), lambda: self.do_write(path, half))
        self.step("sync", path, lambda: self.do_sync(path))

    def fill(self, path: Path, size: int) -> None:
        self.write_new(path, [bytes(size)])

    def rename(self, path: Path, to: Path) -> None:
        self.step("rename", to, lambda: self.do_rename(path, to))

    def remove(self, path: Path) -> None:
        self.step("remove", path, lambda: self.do_remove(path))

    def sync_directory(self, path: Path) -> None:
        self.step("sync_directory", path, lambda: self.do_sync_directory(path))

    def open_log(self, path: Path) -> LogFile:
        files: list[SteppedLogFile] = []
        self.step("open", path, lambda: files.append(self.do_open(path)))
        return files[0]

    def sync(self, path: Path) -> None:
        self.step("sync", path, lambda: self.do_sync(path))
        self.sync_directory(path.parent)

    def truncate(self, path: Path, size: int) -> None:
        self.step("truncate", path, lambda: self.do_truncate(path, size))
        self.step("sync", path, lambda: self.do_sync(path))
        self.sync_directory(path.parent)

    def free_bytes(self, path: Path) -> int:
        return super().free_bytes(path) if self.free is None else self.free

    # --- operations, as they are done ---

    def do_make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    def do_write(self, path: Path, data: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, FILE_MODE)
        with open(descriptor, "wb") as file:
            file.write(data)

    def do_sync(self, path: Path) -> None:
        path.stat()

    def do_rename(self, path: Path, to: Path) -> None:
        super().rename(path, to)
        for file in self._log_files:
            if file.path == path:
                file.path = to

    def do_remove(self, path: Path) -> None:
        super().remove(path)

    def do_sync_directory(self, path: Path) -> None:
        path.stat()

    def do_truncate(self, path: Path, size: int) -> None:
        os.truncate(path, size)

    def do_open(self, path: Path) -> SteppedLogFile:
        file = SteppedLogFile(super().open_log(path), path, self)
        self._log_files = [*self._log_files[-1:], file]
        return file

    def do_sync_log(self, file: SteppedLogFile) -> None:
        """Nothing to do."""


class SteppedLogFile:
    """A log file of a `FaultyFilesystem`, which keeps its `path` up to date."""

    def __init__(self, inner: LogFile, path: Path, filesystem: FaultyFilesystem) -> None:
        self.inner = inner
        self.path = path
        self._filesystem = filesystem

    def write(self, data: bytes, offset: int) -> None:
        half = data[: len(data) // 2]
        self._filesystem.step(
            "write", self.path, lambda: self.inner.write(data, offset), lambda: self.inner.write(half, offset)
        )

    def sync(self) -> None:
        self._filesystem.step("sync", self.path, lambda: self._filesystem.do_sync_log(self))
        self._filesystem.syncs += 1

    def close(self) -> None:
        self.inner.close()


# --- power that fails ---


class Killed(BaseException):
    """The process was killed here, as far as a `PageCacheFilesystem` is concerned."""


class CachedFile:
    """A file, whatever names it has. `durable`: its content on the disk."""

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable


class Disk:
    """What is on the disk, and what only the operating system knows of.

    Attributes:
        names: the files as the operating system has them.
        durable: the names on the disk.
    """

    def __init__(self) -> None:
        self.names: dict[Path, CachedFile] = {}
        self.durable: dict[Path, CachedFile] = {}
        self.unsure_directories: set[Path] = set()


class PageCacheFilesystem(FaultyFilesystem):
    """Knows what of the files is on the disk, and what only in the memory of the operating system.

    Content is on disk once its file was synced; a name, a rename or a removal once its directory was. What a store
    wrote around this file system counts as on disk from the beginning.

    Args:
        disk: that of the process before, which was killed.
        kill_at: the operation at which the process is killed, from 1; 0 for none. `leaves` says what is left of it.
        faults: as `FaultyFilesystem`.

    Attributes:
        disk: hand it on to the file system of the next process.
        kill_at_sync: the next sync of a log does not happen, nor anything after it.
    """

    def __init__(self, disk: Disk | None = None, *, kill_at: int = 0, **faults: Any) -> None:
        super().__init__(**faults)
        self.disk = disk or Disk()
        self.kill_at = kill_at
        self.kill_at_sync = False
        self.is_dead = False

    def lose_power(self, chance: random.Random | None = None) -> None:
        """What was not synced is gone; with `chance`, any part of it, in pieces of 512 bytes, each name by itself."""
        disk = self.disk
        for path in [path for path in disk.names if not path.exists()]:
            del disk.names[path]
        contents = {file: path.read_bytes() for path, file in disk.names.items()}
        left: dict[Path, CachedFile] = {}
        for path in sorted({*disk.names, *disk.durable}):
            cached, durable = disk.names.get(path), disk.durable.get(path)
            file = cached if chance is not None and chance.random() < 0.5 else durable
            if file is not None:
                left[path] = file
        for file in dict.fromkeys(left.values()):
            if chance is not None:
                file.durable = _mixed(file.durable, contents.get(file, file.durable), chance)
        for path in disk.names:
            path.unlink()
        for directory in sorted(disk.unsure_directories, reverse=True):
            shutil.rmtree(directory, ignore_errors=True)
        for path, file in left.items():
            if not path.parent.is_dir():
                continue
            path.write_bytes(file.durable)
            path.chmod(0o600)
        disk.names = {path: file for path, file in left.items() if path.exists()}
        disk.durable = dict(disk.names)
        disk.unsure_directories.clear()

    def step(self, kind: str, path: Path, do: Callable[[], None], half: Callable[[], None] = lambda: None) -> None:
        if not self.is_dead and self.kill_at and self.operations + 1 >= self.kill_at and self.only(kind, path):
            self.is_dead = True
            if self.leaves != "nothing":
                (do if self.leaves == "all" else half)()
        if not self.is_dead:
            super().step(kind, path, do, half)
        elif kind != "remove":
            # A finaliser may remove a file, where nobody could catch this; whoever else does so comes here again.
            raise Killed

    def _file(self, path: Path) -> CachedFile | None:
        """The file of a name; one that was not made through here is on disk as it is."""
        if path not in self.disk.names and path.exists():
            self.disk.names[path] = self.disk.durable[path] = CachedFile(path.read_bytes())
        return self.disk.names.get(path)

    def do_make_directory(self, path: Path) -> None:
        super().do_make_directory(path)
        self.disk.unsure_directories.add(path)

    def do_write(self, path: Path, data: bytes) -> None:
        file = self._file(path)
        super().do_write(path, data)
        self.disk.names[path] = file or CachedFile()

    def do_sync(self, path: Path) -> None:
        file = self._file(path)
        super().do_sync(path)
        if file is not None:
            file.durable = path.read_bytes()

    def do_rename(self, path: Path, to: Path) -> None:
        file, _ = self._file(path), self._file(to)
        super().do_rename(path, to)
        if file is not None:
            del self.disk.names[path]
            self.disk.names[to] = file

    def do_remove(self, path: Path) -> None:
        self._file(path)
        super().do_remove(path)
        self.disk.names.pop(path, None)

    def do_sync_directory(self, path: Path) -> None:
        super().do_sync_directory(path)
        disk = self.disk
        disk.unsure_directories = {directory for directory in disk.unsure_directories if directory.parent != path}
        for name in {*disk.names, *disk.durable}:
            if name.parent != path:
                continue
            file = disk.names.get(name)
            if file is not None and name.exists():
                disk.durable[name] = file
            else:
                disk.durable.pop(name, None)

    def do_truncate(self, path: Path, size: int) -> None:
        self._file(path)
        super().do_truncate(path, size)

    def do_open(self, path: Path) -> SteppedLogFile:
        self._file(path)
        return super().do_open(path)

    def do_sync_log(self, file: SteppedLogFile) -> None:
        if self.kill_at_sync:
            self.is_dead = True
            raise Killed
        self.do_sync(file.path)


def _mixed(old: bytes, new: bytes, chance: random.Random) -> bytes:
    """A file of which any part of what was written since the last sync has reached the disk."""
    if old == new or chance.random() < 0.2:
        return old
    size = chance.choice([len(old), len(new)])
    mixed = bytearray()
    for begin in range(0, size, 512):
        piece = chance.choice([old, new])[begin : begin + 512][: size - begin]
        mixed += piece.ljust(min(512, size - begin), b"\0")
    return bytes(mixed)
