"""Files of derived state: they open whatever was there, and nobody else may read them."""

import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

import pytest

from allsource_core.derived import is_damage, open_derived, transaction

SCHEMA = "CREATE TABLE counts (name TEXT PRIMARY KEY, count INTEGER NOT NULL) STRICT"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "derived" / "counts.sqlite"


def _write(path: Path, count: int) -> None:
    with closing(open_derived(path, SCHEMA, 1)) as file:
        file.execute("INSERT OR REPLACE INTO counts VALUES ('a', ?)", (count,))


def _read(path: Path, version: int = 1) -> list[tuple[str, int]]:
    with closing(open_derived(path, SCHEMA, version)) as file:
        return file.execute("SELECT * FROM counts").fetchall()


def test_what_was_written_is_there_again(path: Path) -> None:
    assert _read(path) == []
    _write(path, 3)
    assert _read(path) == [("a", 3)]


def test_nobody_else_may_read_it(path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(open_derived(path, SCHEMA, 1)) as file:
            file.execute("INSERT INTO counts VALUES ('a', 1)")
            modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("counts.sqlite", "counts.sqlite-wal", "counts.sqlite-shm"), 0o600)


@pytest.mark.parametrize("durable", [False, True])
def test_a_reader_is_in_nobodys_way(path: Path, durable: bool) -> None:
    with closing(open_derived(path, SCHEMA, 1, durable=durable)) as file:
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file.execute("PRAGMA synchronous").fetchone() == (2 if durable else 1,)
        file.execute("BEGIN IMMEDIATE")
        file.execute("INSERT INTO counts VALUES ('a', 1)")
        assert _read(path) == []
        file.execute("COMMIT")
        assert _read(path) == [("a", 1)]


def test_a_transaction_is_written_as_a_whole_or_not_at_all(path: Path) -> None:
    with closing(open_derived(path, SCHEMA, 1)) as file:
        with transaction(file):
            file.execute("INSERT INTO counts VALUES ('a', 1)")
            assert _read(path) == []
        assert _read(path) == [("a", 1)]
        for repeat in ("INSERT INTO counts VALUES ('a', 2)", "INSERT OR ROLLBACK INTO counts VALUES ('a', 2)"):
            with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
                _execute_both(file, "INSERT INTO counts VALUES ('b', 2)", repeat)
        with suppress(KeyboardInterrupt), transaction(file):
            file.execute("INSERT INTO counts VALUES ('b', 2)")
            raise KeyboardInterrupt
        _execute_both(file, "INSERT INTO counts VALUES ('c', 3)", "UPDATE counts SET count = 4 WHERE name = 'a'")
    assert _read(path) == [("a", 4), ("c", 3)]


def _execute_both(file: sqlite3.Connection, first: str, second: str) -> None:
    with transaction(file):
        file.execute(first)
        file.execute(second)


def test_a_transaction_that_can_not_be_committed_is_none(path: Path) -> None:
    schema = "CREATE TABLE nodes (id INTEGER PRIMARY KEY, parent REFERENCES nodes DEFERRABLE INITIALLY DEFERRED)"
    with closing(open_derived(path, schema, 1)) as file:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"), transaction(file):
            file.execute("INSERT INTO nodes VALUES (1, 2)")
        assert not file.in_transaction
        assert file.execute("SELECT * FROM nodes").fetchall() == []


@pytest.mark.parametrize("damage", ["foreign", "header", "page", "cut"])
def test_a_damaged_file_is_set_aside(path: Path, damage: str) -> None:
    with closing(open_derived(path, SCHEMA, 1)) as file:
        file.executemany("INSERT INTO counts VALUES (?, ?)", [(f"name {n}", n) for n in range(5_000)])
    data = bytearray(path.read_bytes())
    if damage == "foreign":
        data[:] = b"this is no database " * 1000
    elif damage == "header":
        data[0:16] = bytes(16)
    elif damage == "page":
        data[8192:12288] = b"\xff" * 4096
    else:
        del data[len(data) // 2 :]
    path.write_bytes(data)
    assert _read(path) == []
    assert path.with_name("counts.sqlite.damaged").read_bytes()[100:] == data[100:]
    _write(path, 7)
    assert _read(path) == [("a", 7)]


def test_a_file_without_content_is_made_anew(path: Path) -> None:
    _write(path, 3)
    path.write_bytes(b"")
    assert _read(path) == []


def test_a_file_of_another_version_is_made_anew(path: Path) -> None:
    _write(path, 3)
    assert _read(path, version=2) == []
    assert _read(path, version=1) == []


def test_tables_that_were_made_in_part_are_none(path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        open_derived(path, SCHEMA + "; CREATE TABLE counts (name TEXT)", 1)
    assert _read(path) == []


def test_what_is_in_the_way_is_not_taken_for_damage(path: Path) -> None:
    path.parent.mkdir()
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        open_derived(path, SCHEMA, 1)
    assert path.is_dir()
    busy = sqlite3.OperationalError("database is locked")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    assert not is_damage(busy)
