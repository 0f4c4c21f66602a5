"""A disk that is really full: a small file system in memory, which has to be mounted for it."""

from __future__ import annotations

import base64
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from allsource_core.engine import (
    AppendUncertainError,
    EventQuery,
    EventStore,
    NewEvent,
    OverloadedError,
    StoreOptions,
    StoreReadOnlyError,
    disk_watch,
)
from allsource_core.engine.disk_watch import DiskWatch

from .data_directory import check_names, errors_of
from .stores import TENANT, new_event

MEBIBYTE = 1024 * 1024
DISK_BYTES = 48 * MEBIBYTE
RESERVE_BYTES = 16 * MEBIBYTE
SECONDS_MAX = 60

# Appends, sealing and compaction take a megabyte at a time.
OPTIONS = StoreOptions(
    log_file_bytes_max=MEBIBYTE,
    memory_budget_bytes=3 * MEBIBYTE,
    segment_rows_max=100,
    removal_seconds=0,
    wait_seconds_max=1.0,
    reserve_bytes=RESERVE_BYTES,
)

# What hangs is met by SECONDS_MAX; filling a disk may take a slow machine longer in all.
pytestmark = pytest.mark.timeout(10 * SECONDS_MAX)
MAINTENANCE = pytest.mark.parametrize("maintenance", ["process", "thread"])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    if shutil.which("mount") is None:
        pytest.skip("there is no program here that mounts a file system")
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def free_bytes(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


def batch_of(number: int) -> list[NewEvent]:
    """Eight events of 12 KiB that nothing compresses, half of them of one entity that all batches share."""
    chance = random.Random(number)
    return [
        new_event(
            "large" if part % 2 else f"e-{number % 7}",
            b'{"batch":%d,"pad":"%s"}' % (number, base64.b64encode(chance.randbytes(9 * 1024))),
        )
        for part in range(8)
    ]


class Written:
    """Batches, and what became of them."""

    def __init__(self) -> None:
        self.next = 0
        self.acknowledged: set[int] = set()
        self.uncertain: set[int] = set()
        self.refused: Counter[str] = Counter()

    def append(self, store: EventStore) -> bool:
        """Append the next batch; whether it was acknowledged."""
        number, self.next = self.next, self.next + 1
        try:
            store.append(TENANT, batch_of(number))
        except AppendUncertainError:
            self.uncertain.add(number)
            return False
        except (StoreReadOnlyError, OverloadedError) as refusal:
            self.refused[type(refusal).__name__] += 1
            return False
        self.acknowledged.add(number)
        return True

    def check(self, store: EventStore, *, events_each: int = 8) -> None:
        """Everything acknowledged is there; nothing is there in part."""
        counts: Counter[int] = Counter()
        for event in store.read(TENANT):
            counts[msgspec.json.decode(event.payload)["batch"]] += 1
        assert self.acknowledged <= set(counts), f"lost: {sorted(self.acknowledged - set(counts))}"
        assert set(counts) <= self.acknowledged | self.uncertain
        assert set(counts.values()) == {events_each}


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set whenever somebody has looked at the free space, which happens more often than usual."""
    looked, look = threading.Event(), DiskWatch.look

    def look_and_tell(watch: DiskWatch) -> None:
        look(watch)
        looked.set()

    monkeypatch.setattr(disk_watch, "_LOOK_SECONDS", 0.005)
    monkeypatch.setattr(DiskWatch, "look", look_and_tell)
    return looked


@MAINTENANCE
def test_below_the_reserve_tenants_are_refused_and_what_frees_space_goes_on(
    disk: Path, maintenance: str, looked: threading.Event
) -> None:
    # Sealing may be slow where others work as well: it is the free space that refuses.
    options = msgspec.structs.replace(OPTIONS, maintenance=maintenance, wait_seconds_max=SECONDS_MAX)
    written = Written()
    with EventStore.open(disk / "s", options=options) as store:
        while written.append(store):
            # Nothing may be written faster than anybody can look at the free space.
            looked.clear()
            assert looked.wait(SECONDS_MAX)
        assert written.refused == {"StoreReadOnlyError": 1}
        assert not written.uncertain
        assert len(written.acknowledged) > 100
        assert store.stats().read_only_code == "disk_space_low"
        assert free_bytes(disk) > RESERVE_BYTES // 2, "it was refused too late"

        # Reading goes on, and so does what the system itself writes.
        written.check(store)
        (audit,) = store.append("_system", [new_event("audit")]).events
        assert list(store.read("_system")) == [audit]
        assert not written.append(store)

        removal = store.removals.entity(TENANT, "large")
        assert removal.events_removed == 4 * len(written.acknowledged)
        wait_until("the removal does not end", lambda: bool(removal.finished_at))
        wait_until("appends are not accepted again", lambda: written.append(store))
        assert store.stats().read_only_code is None
        assert store.stats().maintenance_failures == 0
        assert free_bytes(disk) > RESERVE_BYTES
        store.removals.entity(TENANT, "large")
        written.check(store, events_each=4)
        store.seal()
        check_names(store)
    assert errors_of(disk / "s") == []
    with EventStore.open(disk / "s", options=options) as store:
        written.check(store, events_each=4)
        assert list(store.read("_system")) == [audit]


def test_below_an_eighth_of_the_reserve_nothing_is_taken_until_there_is_space_again(disk: Path) -> None:
    ballast = disk / "ballast"
    with EventStore.open(disk / "s", options=OPTIONS) as store:
        store.append("_system", [new_event("audit")])
        ballast.write_bytes(bytes(free_bytes(disk) - RESERVE_BYTES // 16))

        def is_refused() -> bool:
            try:
                store.append("_system", [new_event("audit")])
            except StoreReadOnlyError:
                return True
            return False

        wait_until("the disk is full, and everything goes on", is_refused)
        assert store.stats().read_only_code == "disk_full"
        with pytest.raises(StoreReadOnlyError):
            store.removals.entity("_system", "audit")
        assert next(store.read("_system", EventQuery(limit=1))).version == 1
        ballast.unlink()
        wait_until("there is space again, and nothing goes on", lambda: not is_refused())
        assert store.stats().read_only_code is None


def fill(store: EventStore, written: Written, disk: Path, *, failures_max: int) -> None:
    """Append until the disk is full and it fails again and again: whatever can be freed was freed, and filled."""
    failures = 0
    free = free_bytes(disk)
    deadline = time.monotonic() + SECONDS_MAX
    while failures < failures_max or free >= 2 * MEBIBYTE:
        assert time.monotonic() < deadline, "the disk does not fill"
        failures = 0 if written.append(store) else failures + 1
        before, free = free, free_bytes(disk)
        if not failures or free != before:
            # Something goes on, however slowly.
            deadline = time.monotonic() + SECONDS_MAX
        if failures:
            # A refusal takes no time, freeing does.
            time.sleep(0.02)


@pytest.mark.parametrize(
    "changes",
    [
        {"maintenance": "process"},
        {"maintenance": "thread"},
        {"memory_budget_bytes": 1024 * MEBIBYTE, "segment_rows_max": 100_000},
    ],
    ids=["by sealing in a process", "by sealing in a thread", "by the log"],
)
def test_a_disk_that_is_filled_without_a_reserve_loses_nothing_acknowledged(
    disk: Path, changes: dict[str, object]
) -> None:
    options = msgspec.structs.replace(OPTIONS, reserve_bytes=0, wait_seconds_max=0.1, **changes)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(DISK_BYTES // 2))
    written = Written()
    with EventStore.open(disk / "s", options=options) as store:
        fill(store, written, disk, failures_max=15)
        assert len(written.acknowledged) > 100
        assert written.uncertain or "memory_budget_bytes" not in changes
        written.check(store)
    # With as little space as before.
    with EventStore.open(disk / "s", options=options) as store:
        written.check(store)
        fill(store, written, disk, failures_max=5)
        written.check(store)
        ballast.unlink()
        wait_until("there is space again, and nothing goes on", lambda: written.append(store))
        wait_until("what waits is not sealed", lambda: not store._parts.sequencer.memory.frozen)
        written.check(store)
        store.seal()
        check_names(store)
    assert errors_of(disk / "s") == []
    with EventStore.open(disk / "s", options=options) as store:
        written.check(store)
