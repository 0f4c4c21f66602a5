"""The data directory of an open store: nobody else gets in, and it stays where it was."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from allsource_core.engine import EventStore, StoreLockedError, verify_store

from .data_directory import errors_of
from .stores import SMALL, TENANT, new_event, open_store


def test_a_directory_may_be_given_as_text(tmp_path: Path) -> None:
    with EventStore.open(str(tmp_path / "s"), options=SMALL) as store:
        store.append(TENANT, [new_event()])
    with open_store(tmp_path / "s") as store:
        assert len(list(store.read(TENANT))) == 1


def test_a_lock_file_that_is_deleted_lets_nobody_in(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        (tmp_path / "s" / "LOCK").unlink()
        with pytest.raises(StoreLockedError):
            open_store(tmp_path / "s")
        with pytest.raises(StoreLockedError):
            list(verify_store(tmp_path / "s"))
    open_store(tmp_path / "s").close()
    assert (tmp_path / "s" / "LOCK").exists()


def test_where_directories_can_t_be_locked_the_lock_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with open_store(tmp_path / "s"), pytest.raises(StoreLockedError):
        open_store(tmp_path / "s")
    open_store(tmp_path / "s").close()


def test_a_relative_directory_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with open_store(Path("s")) as store:
        store.append(TENANT, [new_event()])
        monkeypatch.chdir(tmp_path / "elsewhere")
        for _ in range(2):
            store.append(TENANT, [new_event()])
            store.seal()
        assert len(list(store.read(TENANT))) == 3
        store.removals.entity(TENANT, "order-1")
        assert store.version(TENANT, "order-1") == 3
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert errors_of(tmp_path / "s") == []
