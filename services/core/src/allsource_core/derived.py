"""SQLite files for what is derived, or is not worth an event: one file an owner, in `derived/` of the data directory.

What such a file says is only ever behind the log, so losing one costs time. One that is damaged, or of another version
than its owner's, is therefore no reason not to start: an empty one takes its place.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import structlog

__all__ = ["is_damage", "open_derived", "transaction"]

_DIRECTORY_MODE: Final = 0o700
_FILE_MODE: Final = 0o600
_BUSY_SECONDS_MAX: Final = 5.0
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_derived(path: Path, schema: str, version: int, *, durable: bool = False) -> sqlite3.Connection:
    """Open a derived file; make it, with its directory, if it is missing, damaged or of another version.

    The file is read once from beginning to end to see that it is sound. One that is damaged is kept beside it as
    ``<name>.damaged``, where it replaces the one before.

    Args:
        path: of the file. Its directory's parent exists.
        schema: SQL statements that make the tables of an empty file. They are run in one transaction.
        version: of the schema, 1 to 2**31 - 1; written into the file.
        durable: whether a transaction is on disk once it is committed. Else a loss of power, though not a crash of the
            process, may take the last ones; the file is whole in any case.

    Returns:
        A connection without implicit transactions (see `transaction`), in WAL mode. Any thread may use it, one at a
        time.

    Raises:
        sqlite3.OperationalError: it can't be opened or written at present: no descriptors, no space, no right to.
        OSError: likewise.
    """
    path.parent.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    try:
        connection = _open(path, schema, version, durable=durable)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        structlog.get_logger().warning("derived_file_damaged", file=path.name, error=str(error))
        _remove(path, aside=path.with_name(path.name + ".damaged"))
    else:
        if connection is not None:
            return connection
        structlog.get_logger().warning("derived_file_of_another_version", file=path.name, wanted=version)
        _remove(path)
    connection = _open(path, schema, version, durable=durable)
    assert connection is not None
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make one transaction of what a block writes: all of it is in the file afterwards, or, if anything fails, nothing.

    Raises:
        sqlite3.Error: it can't be begun or committed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some errors end it by themselves. What is in the way now matters less than what was first.
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that the file is damaged, rather than that something is in the way at present."""
    # The low byte is the kind, what is above it a closer description.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE


def _open(path: Path, schema: str, version: int, *, durable: bool) -> sqlite3.Connection | None:
    """A connection to a sound file; None if it is of another version."""
    # Before SQLite makes it, in the mode that the umask leaves; the files beside it get the mode of this one.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE))
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS_MAX, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is in no free part of a page either.
        connection.execute("PRAGMA secure_delete = ON")
        _check(connection)
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == 0:
            # The version in the same transaction: a file that has it has all tables.
            connection.executescript(f"BEGIN IMMEDIATE; {schema}; PRAGMA user_version = {version:d}; COMMIT")
        elif found != version:
            connection.close()
            return None
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        damage = sqlite3.DatabaseError(found)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def _remove(path: Path, *, aside: Path | None = None) -> None:
    """Take a file away, and what SQLite keeps beside it."""
    if aside is not None:
        path.replace(aside)
    else:
        path.unlink()
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
