"""Power that fails: what was acknowledged as durable is there, whatever part of the rest reached the disk."""

from __future__ import annotations

import contextlib
import copy
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from allsource_core.engine import AppendUncertainError, CorruptionError, EventStore, StoreReadOnlyError

from .stores import (
    SMALL,
    TENANT,
    FaultyFilesystem,
    Killed,
    PageCacheFilesystem,
    SteppedLogFile,
    kill,
    new_event,
    open_store,
    without_background_work,
)
from .workload import PADDING, Work, prepared, restarted

# A store is opened for every operation at which the power fails: the usual limit is for what hangs.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)


def survives(
    path: Path,
    work: KilledWork,
    do: Callable[[Work, EventStore], None],
    kill_at: int,
    seed: int | None,
    make: type[PageCacheFilesystem] = PageCacheFilesystem,
) -> None:
    """Cut the power at an operation, then again while the store is opened; then check what is left."""
    chance = None if seed is None else random.Random(seed)
    filesystem = make(kill_at=kill_at)
    store = None
    try:
        store = open_store(path, filesystem=filesystem)
        do(work, store)
        store.close()
    except Killed:
        if store is not None:
            kill(store)
    filesystem.lose_power(chance)
    opening = make(filesystem.disk, kill_at=random.Random(kill_at).randrange(1, 12))
    with contextlib.suppress(Killed):
        kill(open_store(path, filesystem=opening))
    opening.lose_power(chance)
    restarted(path, work)


class KilledWork(Work):
    """Of which the append or the removal that was under way when the process was killed is uncertain."""

    def __init__(self, before: Work) -> None:
        self.__dict__.update(copy.deepcopy(before.__dict__))

    def append(self, store: EventStore, count: int = 1) -> None:
        for _ in range(count):
            number = self._next
            try:
                super().append(store)
            except Killed:
                self.uncertain.append(number)
                raise

    def remove(self, store: EventStore, number: int) -> None:
        try:
            super().remove(store, number)
        except Killed:
            self.perhaps_removed.add(f"own-{number}")
            raise


def operations_of(path: Path, work: Work, do: Callable[[Work, EventStore], None]) -> int:
    filesystem = PageCacheFilesystem()
    with open_store(path, filesystem=filesystem) as store:
        do(copy.deepcopy(work), store)
    return filesystem.operations


def after_all(path: Path, template: Path | None, before: Work, do: Callable[[Work, EventStore], None]) -> None:
    """Cut the power once at every operation; what is not synced is lost, or a part of it."""
    count = operations_of(copied(template, path / "count"), before, do)
    seed = random.randrange(2**32)
    for kill_at in range(1, count + 1):
        root = copied(template, path / str(kill_at))
        chance = None if (seed + kill_at) % 2 else seed + kill_at
        try:
            survives(root, KilledWork(before), do, kill_at, chance)
        except BaseException:
            print(f"operation {kill_at}, seed {chance}")
            raise
        shutil.rmtree(root)


def copied(template: Path | None, to: Path) -> Path:
    if template is not None:
        shutil.copytree(template, to)
    return to


def test_power_that_fails_at_any_operation_takes_no_acknowledged_event(tmp_path: Path) -> None:
    after_all(tmp_path, None, Work(), Work.write)


def test_power_that_fails_at_any_operation_of_sealing_and_compaction_takes_no_acknowledged_event(
    tmp_path: Path,
) -> None:
    before = prepared(tmp_path / "template")
    after_all(tmp_path, tmp_path / "template", before, Work.seal_and_compact)


class LyingFilesystem(PageCacheFilesystem):
    """The canary: says of some syncs that they were done."""

    lies: str

    def do_sync(self, path: Path) -> None:
        if self.lies != "sync of files":
            super().do_sync(path)

    def do_sync_log(self, file: SteppedLogFile) -> None:
        if self.lies != "sync of logs":
            super().do_sync_log(file)

    def do_sync_directory(self, path: Path) -> None:
        if self.lies != "sync of directories":
            super().do_sync_directory(path)


@pytest.mark.parametrize("lies", ["sync of logs", "sync of files", "sync of directories"])
def test_the_harness_notices_a_disk_that_lies(tmp_path: Path, lies: str) -> None:
    class Liar(LyingFilesystem):
        pass

    Liar.lies = lies
    before = prepared(tmp_path / "template")
    count = operations_of(copied(tmp_path / "template", tmp_path / "count"), before, Work.seal_and_compact)
    noticed = 0
    for kill_at in range(10, count, 9):
        root = copied(tmp_path / "template", tmp_path / str(kill_at))
        try:
            survives(root, KilledWork(before), Work.seal_and_compact, kill_at, None, Liar)
        except (AssertionError, CorruptionError, OSError):
            noticed += 1
    assert noticed


def test_events_that_a_killed_process_wrote_and_did_not_sync_are_on_disk_before_they_are_served(tmp_path: Path) -> None:
    """kill -9 between write and sync, a new process that answers "duplicate", then a power failure."""
    event = new_event(event_id=UUID(int=1))
    first = PageCacheFilesystem()
    store = open_store(tmp_path / "s", filesystem=first)
    store.append(TENANT, [new_event()])
    first.kill_at_sync = True
    with pytest.raises(Killed):
        store.append(TENANT, [event])
    kill(store)

    second = PageCacheFilesystem(first.disk)
    store = open_store(tmp_path / "s", filesystem=second)
    assert store.append(TENANT, [event]).duplicate
    kill(store)
    second.lose_power()
    with open_store(tmp_path / "s") as reopened:
        assert reopened.last_position == 2


def test_power_that_fails_at_any_commit_takes_no_acknowledged_event(tmp_path: Path) -> None:
    """Log files of 4 KiB, so that some of the failures meet the border between two."""
    for crash in range(1, 40):
        path = tmp_path / str(crash)
        filesystem = PageCacheFilesystem()
        store = open_store(path, filesystem=filesystem)
        for number in range(crash):
            store.append(TENANT, [new_event(payload=b'{"n":%d,"pad":"%s"}' % (number, PADDING))])
        filesystem.kill_at_sync = True
        with pytest.raises(Killed):
            store.append(TENANT, [new_event()])
        kill(store)
        filesystem.lose_power()
        with open_store(path) as reopened:
            assert reopened.last_position == crash


# --- durability = "os" ---

LAX = msgspec.structs.replace(SMALL, durability="os")


def test_without_syncs_an_answer_says_so_and_reserved_tenants_are_synced_all_the_same(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem()
    with open_store(tmp_path / "s", options=LAX, filesystem=filesystem) as store:
        answers = [store.append(TENANT, [new_event(event_id=UUID(int=7))]) for _ in range(2)]
        assert [(answer.duplicate, answer.durable) for answer in answers] == [(False, False), (True, False)]
        syncs = filesystem.syncs
        for _ in range(5):
            assert not store.append(TENANT, [new_event()]).durable
        assert filesystem.syncs == syncs
        assert store.append("_system", [new_event()]).durable
        assert filesystem.syncs == syncs + 1
        store.removals.entity(TENANT, "order-1")
        assert filesystem.syncs == syncs + 2
    with open_store(tmp_path / "s") as store:
        assert store.append("_system", [new_event()]).durable


@pytest.mark.parametrize("chance", [None, *range(10)])
def test_without_syncs_a_power_failure_takes_the_newest_batches_alone(tmp_path: Path, chance: int | None) -> None:
    filesystem = PageCacheFilesystem()
    store = open_store(tmp_path / "s", options=LAX, filesystem=filesystem)
    work = Work()
    work.append(store, 20)
    store.append("_system", [new_event("reserved")])
    synced = store.last_position
    work.append(store, 2)
    kill(store)
    filesystem.lose_power(None if chance is None else random.Random(chance))
    with open_store(tmp_path / "s") as store:
        assert len(list(store.read("_system"))) == 1
        numbers = [msgspec.json.decode(event.payload)["n"] for event in store.read(TENANT)]
        assert numbers == [number for number in range(len(numbers) // 3) for _ in range(3)]
        assert synced <= store.last_position <= synced + 6
        assert store.append(TENANT, [new_event()]).events[0].position == store.last_position


def test_where_a_sync_fails_behind_what_was_acknowledged_without_one_the_store_waits_for_a_restart(
    tmp_path: Path,
) -> None:
    """It may be that the system dropped those pages: a newer log file behind them would make that damage."""
    for begin_file in (False, True):
        path = tmp_path / str(begin_file)
        filesystem = PageCacheFilesystem(only=lambda kind, file: kind == "sync" and file.parent.name == "log")
        filesystem.lasting = False
        store = open_store(path, options=LAX, filesystem=filesystem)
        store.append("_system", [new_event()])
        filesystem.fail_next()
        with pytest.raises(AppendUncertainError):
            store.append("_system", [new_event()])
        # Nothing was unsynced before it: the store goes on.
        work = Work()
        work.append(store, 1)
        filesystem.fail_next()
        if begin_file:
            with pytest.raises(OSError, match="injected"):
                store._parts.path.begin_log_file()
        else:
            with pytest.raises(AppendUncertainError):
                store.append("_system", [new_event()])
        with pytest.raises(StoreReadOnlyError):
            store.append(TENANT, [new_event()])
        work.check_gone(store)
        kill(store)
        filesystem.lose_power()
        with open_store(path) as store:
            assert len(list(store.read("_system"))) == 1
            assert list(store.read(TENANT)) == []


def test_without_syncs_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    filesystem = PageCacheFilesystem()
    store = open_store(tmp_path / "s", options=LAX, filesystem=filesystem)
    work = Work()
    work.append(store, 20)
    kill(store)
    restarted(tmp_path / "s", work)


def test_without_syncs_what_was_sealed_survives_a_power_failure_that_took_it_from_the_log(tmp_path: Path) -> None:
    filesystem = PageCacheFilesystem()
    store = open_store(tmp_path / "s", options=LAX, filesystem=filesystem)
    work = Work()
    work.append(store, 3)
    store.seal()
    kill(store)
    filesystem.lose_power()
    for _ in range(2):
        # Killed before maintenance: the log has a file that ends below what is sealed.
        filesystem = PageCacheFilesystem(filesystem.disk)
        store = open_store(tmp_path / "s", filesystem=filesystem)
        work.append(store, 1)
        work.check(store)
        kill(store)
    restarted(tmp_path / "s", work)
