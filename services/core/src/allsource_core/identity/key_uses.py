"""When each API key was last used: derived state, in memory and, a second later, in a file.

It changes with every request, which is too often for events, and losing a second of it harms nobody.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from allsource_core.derived import open_derived, transaction

__all__ = ["KeyUses"]

_SCHEMA: Final = """
CREATE TABLE uses (key_id TEXT PRIMARY KEY, last_used_at INTEGER NOT NULL) STRICT, WITHOUT ROWID
"""
_VERSION: Final = 1
_SECOND_US: Final = 1_000_000


class KeyUses:
    """Remembers when each key was last used. For one event loop, and for the start of the service before it.

    Blocks while it opens the file. One that can't be opened is no reason not to serve: then what is noted lasts as long
    as the process.

    Args:
        path: of the file, which only this object writes to.
        now: seconds since the epoch.
        interval_seconds: between two writes.
    """

    def __init__(self, path: Path, now: Callable[[], float], *, interval_seconds: float = 1.0) -> None:
        self._now = now
        self._interval_seconds = interval_seconds
        # Seconds; what is in the second is newer, and in the file only after the next write.
        self._known: dict[str, float] = {}
        self._noted: dict[str, float] = {}
        self._forgotten: list[str] = []
        self._failing = False
        self._writing: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._file: sqlite3.Connection | None = None
        try:
            self._file = open_derived(path, _SCHEMA, _VERSION)
            for key_id, last_used_at in self._file.execute("SELECT key_id, last_used_at FROM uses"):
                self._known[key_id] = last_used_at / _SECOND_US
        except (sqlite3.Error, OSError) as error:
            structlog.get_logger().warning("key_uses_not_kept", error=str(error))

    def note_use(self, key_id: str) -> None:
        """Note that a key was used now. Costs a look at the clock and a dict entry."""
        self._noted[key_id] = self._now()

    def last_used_at(self, key_id: str) -> int | None:
        """When a key was last used, in microseconds since the epoch; None if it never was."""
        seconds = self._noted.get(key_id) or self._known.get(key_id)
        return None if seconds is None else round(seconds * _SECOND_US)

    def forget(self, key_id: str) -> None:
        """Keep nothing of a key that is gone."""
        self._noted.pop(key_id, None)
        # While the service starts it hears of every key that ever was: only those in the file need a statement.
        if self._known.pop(key_id, None) is not None:
            self._forgotten.append(key_id)

    def start(self) -> None:
        """Write what is noted once a second from now on, in a worker thread."""
        self._writing = asyncio.create_task(self._keep_writing())

    async def close(self) -> None:
        """Write the rest, and close the file."""
        self._stopping.set()
        if self._writing is not None:
            await self._writing
        await self._flush()
        if self._file is not None:
            self._file.close()

    async def _keep_writing(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_seconds):
                    await self._stopping.wait()
                    return
            await self._flush()

    async def _flush(self) -> None:
        """Write what was noted since the last time. What can't be written is tried again with the next."""
        if not self._noted and not self._forgotten:
            return
        noted, self._noted = self._noted, {}
        forgotten, self._forgotten = self._forgotten, []
        self._known.update(noted)
        if self._file is None:
            return
        try:
            await asyncio.to_thread(_write, self._file, noted, forgotten)
        except sqlite3.Error as error:
            if not self._failing:
                structlog.get_logger().warning("key_uses_not_written", error=str(error))
            self._failing = True
            self._noted = {**noted, **self._noted}
            self._forgotten = [*forgotten, *self._forgotten]
        else:
            self._failing = False


def _write(file: sqlite3.Connection, noted: dict[str, float], forgotten: list[str]) -> None:
    with transaction(file):
        file.executemany(
            "INSERT OR REPLACE INTO uses VALUES (?, ?)",
            [(key_id, round(seconds * _SECOND_US)) for key_id, seconds in noted.items()],
        )
        # Behind it: a key may be both, and then it is gone.
        file.executemany("DELETE FROM uses WHERE key_id = ?", [(key_id,) for key_id in forgotten])
