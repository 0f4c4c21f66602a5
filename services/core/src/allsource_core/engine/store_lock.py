"""That one process at a time has a data directory."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Final

from allsource_core.engine.errors import StoreLockedError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import FILE_MODE

__all__ = ["StoreLock"]

_SECONDS_MAX: Final = 2.0


class StoreLock:
    """Keeps other processes out of a data directory until it is released.

    Locked are the file LOCK and the directory itself: if somebody deletes LOCK under a running store, the next process
    makes another one, which nobody holds. The descriptors are not inherited by programs that this process starts; a
    fork would share them.

    Args:
        paths: of the directory, which is there.
        shared: let others in that ask for the same, and change nothing; LOCK may be missing, as in a copy.

    Raises:
        StoreLockedError: another process has it.
        OSError: LOCK can't be made or locked.
    """

    def __init__(self, paths: StorePaths, *, shared: bool = False) -> None:
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptors: list[int] = []
        try:
            self._take_directory(paths, operation)
            self._take_file(paths, operation, may_make=not shared)
        except BlockingIOError:
            self.release()
            raise StoreLockedError(paths.root) from None
        except BaseException:
            self.release()
            raise

    def _take_directory(self, paths: StorePaths, operation: int) -> None:
        descriptor = os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._descriptors.append(descriptor)
        try:
            _lock(descriptor, operation)
        except BlockingIOError:
            raise
        except OSError:
            # Some network file systems lock no directories. LOCK is there for them.
            return

    def _take_file(self, paths: StorePaths, operation: int, *, may_make: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT if may_make else os.O_RDONLY
        try:
            descriptor = os.open(paths.lock, flags | os.O_CLOEXEC, FILE_MODE)
        except FileNotFoundError:
            if may_make:
                raise
            return
        self._descriptors.append(descriptor)
        _lock(descriptor, operation)

    def release(self) -> None:
        """Let others have the directory."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _lock(descriptor: int, operation: int) -> None:
    """Take a lock. Raises BlockingIOError: another process has it, and keeps it.

    A process that is killed in the moment that it starts its maintenance process leaves the lock to that one until it
    has begun its program, a few milliseconds later; so the lock is asked for more than once.
    """
    deadline = time.monotonic() + _SECONDS_MAX
    while True:
        try:
            fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
