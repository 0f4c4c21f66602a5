"""The file of sessions, ``derived/sessions.sqlite``: which sessions are alive, durably.

It is not a part of the log, for a session changes with every refresh and is of no interest once it has ended. It holds
no token and nothing that a token could be made of without the master key. Without the file, or with a damaged one,
there are no sessions, and everybody signs in again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from allsource_core.derived import open_derived, transaction
from allsource_core.identity.errors import SessionsUnavailableError

__all__ = ["SESSIONS_FILE", "Session", "SessionFile", "clean_user_agent"]

SESSIONS_FILE: Final = Path("derived", "sessions.sqlite")
"""Its place in the data directory."""

_USER_AGENT_CHARACTERS_MAX: Final = 256
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    seed BLOB NOT NULL,
    generation INTEGER NOT NULL,
    rotated_at INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL
) WITHOUT ROWID;
"""


class Session(msgspec.Struct, frozen=True):
    """A session, as it is stored and as it was when it was asked for; times in microseconds since the epoch.

    Attributes:
        seed: random bytes that its refresh tokens are made with; of no use without the master key.
        generation: of its newest refresh token, from 0.
        rotated_at: when that became the newest.
        last_used_at: when it was begun or last refreshed, be it by a repeated refresh.
        expires_at: when it ends by itself.
        address, user_agent: of who used it last.
    """

    id: str
    user_id: str
    seed: bytes
    generation: int
    rotated_at: int
    created_at: int
    last_used_at: int
    expires_at: int
    address: str
    user_agent: str

    def __repr__(self) -> str:
        return f"Session(id={self.id!r}, user_id={self.user_id!r})"


_COLUMNS: Final = ", ".join(Session.__struct_fields__)
_WRITE: Final = (
    f"INSERT OR REPLACE INTO sessions ({_COLUMNS}) VALUES ({', '.join('?' * len(Session.__struct_fields__))})"  # noqa: S608 - names of ours
)
_READ: Final = f"SELECT {_COLUMNS} FROM sessions"  # noqa: S608 - names of ours


class SessionFile:
    """Reads and writes the file of sessions. Blocks; one thread at a time.

    Args:
        path: of the file. Its directory's parent exists.

    Raises:
        SessionsUnavailableError: it can't be opened at present.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._connection = open_derived(path, _SCHEMA, _VERSION, durable=True)
        except (sqlite3.Error, OSError) as error:
            raise SessionsUnavailableError(f"the file of sessions can't be opened: {error}") from error

    def read(self) -> list[Session]:
        """Every session, in no order.

        Raises:
            SessionsUnavailableError: it can't be read.
        """
        try:
            return [Session(*columns) for columns in self._connection.execute(_READ)]
        except sqlite3.Error as error:
            raise SessionsUnavailableError(f"the file of sessions can't be read: {error}") from error

    def write(self, alive: Sequence[Session], ended: Iterable[str]) -> None:
        """Store sessions as they are now and take those away that have ended: all of it, and durably, or nothing.

        Raises:
            SessionsUnavailableError: it can't be written.
        """
        connection = self._connection
        try:
            with transaction(connection):
                connection.executemany(_WRITE, map(msgspec.structs.astuple, alive))
                connection.executemany("DELETE FROM sessions WHERE id = ?", ((session_id,) for session_id in ended))
        except sqlite3.Error as error:
            raise SessionsUnavailableError(f"the file of sessions can't be written: {error}") from error

    def erase(self) -> None:
        """Leave nothing of sessions that were taken away: the file written ahead has them as they were.

        Raises:
            SessionsUnavailableError: it can't be done at present, as it is when another process reads the file.
        """
        try:
            is_busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            raise SessionsUnavailableError(f"the file of sessions can't be written: {error}") from error
        if is_busy:
            raise SessionsUnavailableError("the file of sessions is being read by another process")

    def close(self) -> None:
        """Close it. Nothing is left to be written."""
        self._connection.close()


def clean_user_agent(text: str) -> str:
    """What a caller says that it is, for people to read: short, and without control characters."""
    return "".join(filter(str.isprintable, text[: 4 * _USER_AGENT_CHARACTERS_MAX]))[:_USER_AGENT_CHARACTERS_MAX]
