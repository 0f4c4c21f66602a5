"""What the usage of tenants is counted from at start: a position of the log, and what was appended up to it.

The counts are made of the store's own records up to that position, never of what the service believes it has appended,
and are written together with it. So they are right whatever happened since, and the rest is counted behind it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from allsource_core.derived import open_derived, transaction
from allsource_core.engine import DAY_US, EventStore

__all__ = ["UsageFile"]

_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE events (
    tenant_id TEXT NOT NULL, day INTEGER NOT NULL, events INTEGER NOT NULL, PRIMARY KEY (tenant_id, day)
) STRICT, WITHOUT ROWID;
CREATE TABLE queries (
    tenant_id TEXT NOT NULL PRIMARY KEY, hour INTEGER NOT NULL, queries INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE counted (through INTEGER NOT NULL) STRICT
"""
_DAYS_KEPT: Final = 2
_HOURS_KEPT: Final = 2
_HOUR_US: Final = 3600 * 1_000_000


class UsageFile:
    """Counts of every tenant's events by day up to a position, and of its queries of an hour, in a derived file.

    Used by one thread at a time. What is wrong with the file is logged and costs nothing but the counts in it: they are
    made anew of the store, and the file with the next `save`.

    Args:
        path: of the file; None keeps nothing.
        store: whose appends are counted.
        clock: microseconds since the epoch.

    Attributes:
        position: up to which `events` says what was appended.
        events: (tenant, day since the epoch) to events that were recorded on it; of the last days alone.
        queries: tenant to (hour since the epoch, queries in it).
    """

    def __init__(self, path: Path | None, store: EventStore, clock: Callable[[], int]) -> None:
        self.position = 0
        self.events: dict[tuple[str, int], int] = {}
        self.queries: dict[str, tuple[int, int]] = {}
        self._path = path
        self._store = store
        self._clock = clock
        self._file: sqlite3.Connection | None = None
        # What the file does not have yet; and whether it has nothing that is still meant.
        self._unsaved_events: set[tuple[str, int]] = set()
        self._unsaved_queries: set[str] = set()
        self._saved_position = -1
        self._starts_anew = True
        self._failure = ""

    def load(self) -> None:
        """Read the file and count what the log has behind it. Without a file, the events of today are counted, which
        takes 10 ms for each segment that has any.

        Raises: what `EventStore.appended_since` raises.
        """
        counted = self._read()
        end = self._store.last_position
        if counted is None or counted > end:
            if counted is not None:
                structlog.get_logger().warning("usage_ahead_of_the_log", counted_through=counted, log_ends_at=end)
            self.events.clear()
            self._count(0, end, recorded_since=self._clock() // DAY_US * DAY_US)
        else:
            self._starts_anew = False
            self._saved_position = counted
            self._count(counted, end)

    def advance(self, forgotten: set[str]) -> set[str]:
        """Count what was appended since, up to the last durable position.

        Args:
            forgotten: tenants of which nothing counts that was counted up to now. Emptied when it is done: what is
                counted from then on is of new ones of these ids.

        Returns:
            The tenants that have appended something.

        Raises: what `EventStore.appended_since` raises; then nothing was counted.
        """
        # First: of a removed tenant whose id has come again the store says what the new one appends.
        for tenant_id in forgotten:
            self._drop([key for key in self.events if key[0] == tenant_id])
            if self.queries.pop(tenant_id, None) is not None:
                self._unsaved_queries.add(tenant_id)
        end = self._store.last_position
        appended = self._count(self.position, end) if end > self.position else set()
        forgotten.clear()
        return appended

    def note_queries(self, queries: Mapping[str, tuple[int, int]]) -> None:
        """Keep the queries of tenants: the hour, and how many in it."""
        self.queries.update(queries)
        self._unsaved_queries.update(queries)
        # Not of hours that are far ahead: the clock was set back.
        last = self._clock() // _HOUR_US + 1
        newest = max((hour for hour, _ in self.queries.values() if hour <= last), default=0)
        for tenant_id in [one for one, (hour, _) in self.queries.items() if not newest - _HOURS_KEPT < hour <= last]:
            del self.queries[tenant_id]
            self._unsaved_queries.add(tenant_id)

    def save(self) -> None:
        """Write what the file does not have yet, in one transaction."""
        is_saved = not (self._unsaved_events or self._unsaved_queries) and self.position == self._saved_position
        if self._path is None or is_saved:
            return
        try:
            if self._file is None:
                self._file = open_derived(self._path, _SCHEMA, _VERSION)
            self._write(self._file)
        except (sqlite3.Error, OSError) as error:
            if str(error) != self._failure:
                structlog.get_logger().warning("usage_not_saved", error=str(error))
            self._failure = str(error)
            # The next time all of it, into whatever file there is then.
            self.close()
        else:
            self._unsaved_events.clear()
            self._unsaved_queries.clear()
            self._saved_position = self.position
            self._starts_anew = False
            self._failure = ""

    def close(self) -> None:
        """Let go of the file."""
        file, self._file = self._file, None
        self._saved_position, self._starts_anew = -1, True
        if file is not None:
            with suppress(sqlite3.Error):
                file.close()

    def _read(self) -> int | None:
        """Take what the file says; the position up to which it has counted, None if it does not say."""
        if self._path is None:
            return None
        try:
            self._file = open_derived(self._path, _SCHEMA, _VERSION)
            counted = self._file.execute("SELECT through FROM counted").fetchone()
            events = self._file.execute("SELECT tenant_id, day, events FROM events").fetchall()
            queries = self._file.execute("SELECT tenant_id, hour, queries FROM queries").fetchall()
        except (sqlite3.Error, OSError) as error:
            structlog.get_logger().warning("usage_not_read", error=str(error))
            self.close()
            return None
        self.events = {(tenant_id, day): count for tenant_id, day, count in events}
        self.queries = {tenant_id: (hour, count) for tenant_id, hour, count in queries}
        return None if counted is None else int(counted[0])

    def _count(self, position: int, end: int, *, recorded_since: int = 0) -> set[str]:
        # All of it before any is taken: it may break off.
        found = list(self._store.appended_since(position, up_to=end, recorded_since=recorded_since))
        for appends in found:
            key = appends.tenant_id, appends.day
            self.events[key] = self.events.get(key, 0) + appends.events
            self._unsaved_events.add(key)
        self.position = end
        newest = max((day for _, day in self.events), default=0)
        self._drop([key for key in self.events if key[1] <= newest - _DAYS_KEPT])
        return {appends.tenant_id for appends in found}

    def _drop(self, keys: list[tuple[str, int]]) -> None:
        for key in keys:
            del self.events[key]
        self._unsaved_events.update(keys)

    def _write(self, file: sqlite3.Connection) -> None:
        with transaction(file):
            if self._starts_anew:
                file.execute("DELETE FROM events")
                file.execute("DELETE FROM queries")
                self._unsaved_events.update(self.events)
                self._unsaved_queries.update(self.queries)
            file.executemany("DELETE FROM events WHERE tenant_id = ? AND day = ?", self._unsaved_events)
            events = [(*key, self.events[key]) for key in self._unsaved_events if key in self.events]
            file.executemany("INSERT INTO events VALUES (?, ?, ?)", events)
            file.executemany("DELETE FROM queries WHERE tenant_id = ?", [(one,) for one in self._unsaved_queries])
            queries = [(one, *self.queries[one]) for one in self._unsaved_queries if one in self.queries]
            file.executemany("INSERT INTO queries VALUES (?, ?, ?)", queries)
            file.execute("DELETE FROM counted")
            file.execute("INSERT INTO counted VALUES (?)", (self.position,))
