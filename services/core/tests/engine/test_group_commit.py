"""Appends that wait at the same time share a write and a sync, whoever makes them."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from allsource_core.engine import (
    AppendUncertainError,
    EventQuery,
    EventStore,
    StoreClosedError,
    VersionConflictError,
)
from allsource_core.engine.events import server_id
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.log_writer import LogWriter

from .stores import SMALL, TENANT, FaultyFilesystem, SteppedLogFile, new_event, open_store, without_background_work


async def _many_tasks(store: EventStore, tasks: int, each: int) -> None:
    async def write(task: int) -> None:
        for _ in range(each):
            await store.append_async(TENANT, [new_event(f"e-{task}")])

    await asyncio.gather(*(write(task) for task in range(tasks)))


async def _sequenced(store: EventStore, position: int) -> None:
    """Wait until an append has this position."""
    while store._parts.sequencer.memory.next_position <= position:
        await asyncio.sleep(0.001)


def test_tasks_that_wait_at_the_same_time_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def append_all(store: EventStore) -> None:
        committer = store._path._committer
        assert committer is not None
        with committer._committing:
            appends = [asyncio.create_task(store.append_async(TENANT, [new_event(f"e-{n}")])) for n in range(32)]
            await _sequenced(store, 33)
        await asyncio.gather(*appends)

    without_background_work(monkeypatch)
    filesystem = FaultyFilesystem()
    options = msgspec.structs.replace(SMALL, log_file_bytes_max=1024 * 1024)
    with open_store(tmp_path / "s", options=options, filesystem=filesystem) as store:
        store.append(TENANT, [new_event()])
        before = filesystem.syncs
        asyncio.run(append_all(store))
        assert store.last_position == 33
        assert filesystem.syncs == before + 1


def test_a_single_append_is_written_and_synced_once_in_the_thread_of_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_background_work(monkeypatch)
    threads: list[threading.Thread] = []

    class WatchedFilesystem(FaultyFilesystem):
        def do_sync_log(self, file: SteppedLogFile) -> None:
            threads.append(threading.current_thread())

    filesystem = WatchedFilesystem()
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        store.append(TENANT, [new_event()])
        threads.clear()
        before = filesystem.operations
        store.append(TENANT, [new_event()] * 5)
        assert [kind for kind, _ in filesystem.seen[before:]] == ["write", "sync"]
        assert threads == [threading.current_thread()]


def test_threads_and_tasks_together_keep_order_and_gapless_versions(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:

        def write(thread: int) -> None:
            for _ in range(100):
                store.append(TENANT, [new_event("shared"), new_event(f"t-{thread}")])

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        asyncio.run(_many_tasks(store, 8, 50))
        for thread in threads:
            thread.join()
    with open_store(tmp_path / "s") as store:
        events = list(store.read(TENANT))
        shared = [event.version for event in events if event.entity_id == "shared"]
    assert [event.position for event in events] == list(range(1, 2001))
    assert shared == list(range(1, 801))


class UnsteadyFilesystem(FaultyFilesystem):
    """Fails operations of a kind on log files now and then, once it is told to begin."""

    def __init__(self, kinds: Collection[str], chance: random.Random) -> None:
        super().__init__()
        self.begins = threading.Event()
        self._kinds = kinds
        self._chance = chance
        self._count = 0

    def step(self, kind: str, path: Path, do: Callable[[], None], half: Callable[[], None] = lambda: None) -> None:
        if self.begins.is_set() and path.parent.name == "log" and kind in self._kinds:
            self._count += 1
            # One certainly, however few there are because many appends share them.
            if self._count == 5 or self._chance.random() < 0.03:
                half()
                raise OSError("injected fault")
        super().step(kind, path, do, half)

    def truncate(self, path: Path, size: int) -> None:
        """The repair: it works."""
        LocalFilesystem.truncate(self, path, size)


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_threads_and_tasks_go_on_together_while_single_writes_fail_and_segments_are_made(
    tmp_path: Path, durability: str
) -> None:
    """What is acknowledged is there, in order; what is uncertain is gone or was told to be."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    kinds = ("write", "sync") if durability == "fsync" else ("write",)
    filesystem = UnsteadyFilesystem(kinds, random.Random(seed))
    acknowledged: list[int] = []
    uncertain: list[int] = []

    def write(store: EventStore, writer: int) -> None:
        for number in range(writer * 1000, writer * 1000 + 60):
            batch = [new_event("shared", b"%d" % number), new_event(f"w-{writer}", b"%d" % number)]
            try:
                store.append(TENANT, batch)
                acknowledged.append(number)
            except AppendUncertainError:
                uncertain.append(number)

    async def write_async(store: EventStore, writer: int) -> None:
        for number in range(writer * 1000, writer * 1000 + 60):
            batch = [new_event("shared", b"%d" % number), new_event(f"w-{writer}", b"%d" % number)]
            try:
                await store.append_async(TENANT, batch)
                acknowledged.append(number)
            except AppendUncertainError:
                uncertain.append(number)

    async def all_async(store: EventStore) -> None:
        await asyncio.gather(*(write_async(store, writer) for writer in range(4, 8)))

    def check(store: EventStore) -> None:
        events = list(store.read(TENANT))
        numbers = [int(event.payload) for event in events]
        assert numbers[::2] == numbers[1::2]
        assert set(acknowledged) <= set(numbers) <= {*acknowledged, *uncertain}
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        for entity_id in ("shared", *(f"w-{writer}" for writer in range(8))):
            versions = [event.version for event in events if event.entity_id == entity_id]
            assert versions == list(range(1, len(versions) + 1))

    options = msgspec.structs.replace(SMALL, segment_rows_max=50, durability=durability)
    with open_store(tmp_path / "s", options=options, filesystem=filesystem) as store:
        filesystem.begins.set()
        threads = [threading.Thread(target=write, args=(store, writer)) for writer in range(4)]
        for thread in threads:
            thread.start()
        asyncio.run(all_async(store))
        for thread in threads:
            thread.join()
        assert len(acknowledged) + len(uncertain) == 8 * 60
        assert uncertain
        check(store)
        assert (store.stats().read_only_reason, store.stats().maintenance_failures) == (None, 0)
    with open_store(tmp_path / "s") as store:
        check(store)


def test_of_overlapping_writers_under_one_expected_version_exactly_one_wins(tmp_path: Path) -> None:
    async def race(store: EventStore) -> list[object]:
        appends = [store.append_async(TENANT, [new_event("x", expected_version=0)]) for _ in range(50)]
        return list(await asyncio.gather(*appends, return_exceptions=True))

    with open_store(tmp_path / "s") as store:
        answers = asyncio.run(race(store))
        assert sum(isinstance(answer, VersionConflictError) for answer in answers) == 49
        assert store.last_position == 1


def test_an_event_is_visible_to_readers_when_its_append_returns(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        for number in range(1, 50):
            (event,) = (await store.append_async(TENANT, [new_event()])).events
            assert store.last_position >= event.position == number
            assert store.get(TENANT, event.id) is not None

    with open_store(tmp_path / "s") as store:
        asyncio.run(check(store))


def test_waiting_for_a_position_ends_when_it_is_durable_or_the_time_is_over(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        assert not await store.wait_for_position_async(1, 0)
        waiting = asyncio.create_task(store.wait_for_position_async(2, 600))
        await store.append_async(TENANT, [new_event()])
        assert not waiting.done()
        await store.append_async(TENANT, [new_event()])
        assert await waiting
        for _ in range(3):
            assert not await store.wait_for_position_async(100, 0.01)

    with open_store(tmp_path / "s") as store:
        asyncio.run(check(store))


def test_closing_makes_durable_what_is_under_way_and_refuses_who_waits_for_more(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        appends = [asyncio.create_task(store.append_async(TENANT, [new_event()])) for _ in range(20)]
        forever = asyncio.create_task(store.wait_for_position_async(1000, 600))
        await asyncio.sleep(0)
        await asyncio.to_thread(store.close)
        await asyncio.gather(*appends)
        with pytest.raises(StoreClosedError):
            await forever

    asyncio.run(check(open_store(tmp_path / "s")))
    with open_store(tmp_path / "s") as store:
        assert store.last_position == 20


def test_other_threads_may_read_while_one_appends(tmp_path: Path) -> None:
    errors: list[BaseException] = []
    done = threading.Event()

    def read(store: EventStore) -> None:
        try:
            while not done.is_set():
                store.stats()
                for event in store.read(TENANT, EventQuery(entity_id="e-1", descending=True, limit=3)):
                    assert store.get(TENANT, event.id) == event
                    assert event.client_id is not None
                    store.get(TENANT, UUID(bytes=event.client_id))
                store.get(TENANT, server_id(1_700_000_000_000_000, store.last_position + 1))
        except BaseException as error:
            errors.append(error)

    with open_store(tmp_path / "s") as store:
        readers = [threading.Thread(target=read, args=(store,)) for _ in range(3)]
        for reader in readers:
            reader.start()
        for number in range(40):
            store.append(f"tenant-{number % 7}", [new_event("x")])
            store.append(TENANT, [new_event(f"e-{n % 5}", event_id=uuid4()) for n in range(20)])
        done.set()
        for reader in readers:
            reader.join()
    assert errors == []


def test_tenants_take_turns_where_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One tenant's flood does not keep another out: of those that wait, each gets its turn."""
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, segment_rows_max=1)

    async def check(store: EventStore) -> list[str]:
        order: list[str] = []
        look_up = store._path._look_up_async

        async def entered(prepared: Any) -> Any:
            """The first thing that an append does which was let in; how long the rest takes is another matter."""
            order.append(prepared.tenant_id)
            return await look_up(prepared)

        for _ in range(3):
            await store.append_async("a", [new_event()])
        monkeypatch.setattr(store._path, "_look_up_async", entered)
        flood = [asyncio.create_task(store.append_async("a", [new_event()])) for _ in range(100)]
        await asyncio.sleep(0)
        other = asyncio.create_task(store.append_async("b", [new_event()]))
        await asyncio.sleep(0)
        assert order == []
        while not all(task.done() for task in (*flood, other)):
            await asyncio.to_thread(store.seal)
        await asyncio.gather(*flood, other)
        return order

    with open_store(tmp_path / "s", options=options) as store:
        # First come, first served would make it the last. Some are let in together, and go on in any order.
        assert asyncio.run(check(store)).index("b") < 80


def test_a_caller_that_is_cancelled_leaves_its_append_to_the_store(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        appending = asyncio.create_task(store.append_async(TENANT, [new_event()]))
        await asyncio.sleep(0)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        (event,) = (await store.append_async(TENANT, [new_event()])).events
        assert event.version == len(list(store.read(TENANT)))

    with open_store(tmp_path / "s") as store:
        asyncio.run(check(store))


def test_waits_are_refused_when_they_are_ended(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        waiting = [asyncio.create_task(store.wait_for_position_async(10, 600)) for _ in range(3)]
        await asyncio.sleep(0)
        store.end_waits()
        for wait in waiting:
            with pytest.raises(StoreClosedError):
                await wait
        with pytest.raises(StoreClosedError):
            await store.wait_for_position_async(10, 600)
        await store.append_async(TENANT, [new_event()])
        assert await store.wait_for_position_async(1, 0)

    with open_store(tmp_path / "s") as store:
        asyncio.run(check(store))


@pytest.mark.parametrize("form", ["append", "append_async"])
def test_what_is_durable_of_a_failed_write_is_seen_and_acknowledged_before_the_rest_is_uncertain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Two appends share a commit but no file: the first is on the disk when the second file can't be made."""
    told = threading.Event()
    repair = LogWriter.repair

    def repair_late(writer: LogWriter) -> None:
        told.wait(10)
        repair(writer)

    async def append(store: EventStore) -> tuple[str, int]:
        """What its author is told, and where readers are then."""
        try:
            if form == "append":
                await asyncio.to_thread(store.append, TENANT, [new_event()])
            else:
                await store.append_async(TENANT, [new_event()])
        except AppendUncertainError:
            return "uncertain", store.last_position
        return "stored", store.last_position

    async def append_both(store: EventStore) -> list[tuple[str, int]]:
        committer = store._path._committer
        assert committer is not None
        with committer._committing:
            first = asyncio.create_task(append(store))
            await _sequenced(store, 2)
            store._path.freeze()
            second = asyncio.create_task(append(store))
            await _sequenced(store, 3)
            filesystem.fail_next()
        seen = await asyncio.gather(first, second)
        told.set()
        return seen

    without_background_work(monkeypatch)
    filesystem = FaultyFilesystem(only=lambda kind, _path: kind == "open", lasting=False)
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        store.append(TENANT, [new_event()])
        monkeypatch.setattr(LogWriter, "repair", repair_late)
        assert asyncio.run(append_both(store)) == [("stored", 2), ("uncertain", 2)]
        assert filesystem.failed == 1
        assert len(list(store.read(TENANT))) == 2
        assert store.append(TENANT, [new_event()]).events[0].position == 3


def test_a_reader_that_waits_while_the_disk_fails_is_told_not_yet(tmp_path: Path) -> None:
    async def check(store: EventStore, filesystem: FaultyFilesystem) -> None:
        waiting = asyncio.create_task(store.wait_for_position_async(2, 0.2))
        await asyncio.sleep(0)
        filesystem.fail_next()
        with pytest.raises(AppendUncertainError):
            await store.append_async(TENANT, [new_event()])
        assert not await waiting
        assert not await store.wait_for_position_async(99, 0)

    filesystem = FaultyFilesystem()
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        asyncio.run(check(store, filesystem))
