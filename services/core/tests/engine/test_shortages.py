"""Where something is short, descriptors, memory or space, what must go on goes on, and nothing is taken for damage."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allsource_core.engine import (
    CorruptionError,
    EventQuery,
    EventStore,
    OverloadedError,
    Raw,
    StoreOptions,
    StoreReadOnlyError,
    segment_writer,
    work_steps,
)
from allsource_core.engine.compaction import plan_compaction
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.job_runners import InlineRunner, JobFailedError
from allsource_core.engine.maintenance_jobs import CompactJob, Job, JobResult, SealJob
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.segment_format import COLUMN_BYTES_MAX, SEGMENT_CONTENT_BYTES
from allsource_core.engine.segment_index import build_index
from allsource_core.engine.segment_reader import OpenFiles, SegmentReader

from .stores import SMALL, TENANT, FaultyFilesystem, TurnableClock, new_event, open_store, without_background_work

MEBIBYTE = 1024 * 1024
SECONDS_MAX = 60


def wait_until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def accepts(store: EventStore, tenant: str = TENANT) -> bool:
    """Whether an append is taken; it is refused as read-only otherwise."""
    try:
        store.append(tenant, [new_event()])
    except StoreReadOnlyError:
        return False
    return True


class Jobs:
    """The jobs of maintenance, which wait until they may go on, or fail.

    Attributes:
        begun: a job waits, or did.
        may: they need not wait.
        fails: whether a job is to fail.
        failed: those that did.
    """

    def __init__(self) -> None:
        self.begun, self.may = threading.Event(), threading.Event()
        self.may.set()
        self.fails: Callable[[Job], bool] = lambda _job: False
        self.failed: list[Job] = []

    def run(self, run: Callable[[Any, Job], JobResult], runner: InlineRunner, job: Job) -> JobResult:
        self.begun.set()
        assert self.may.wait(SECONDS_MAX)
        if self.fails(job):
            self.failed.append(job)
            raise JobFailedError("ArrowInvalid: offset overflow")
        return run(runner, job)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    jobs, run = Jobs(), InlineRunner.run
    monkeypatch.setattr(InlineRunner, "run", lambda runner, job: jobs.run(run, runner, job))
    yield jobs
    jobs.may.set()


# --- space on the disk ---


def test_free_space_is_looked_at_while_a_job_of_maintenance_takes_long(tmp_path: Path, jobs: Jobs) -> None:
    filesystem = FaultyFilesystem(free=1024 * MEBIBYTE)
    # However many events are taken until somebody looks, they wait for no room: there is none while the job goes on.
    options = msgspec.structs.replace(SMALL, reserve_bytes=16 * MEBIBYTE, segment_rows_max=100_000)
    with open_store(tmp_path / "s", options=options, filesystem=filesystem) as store:
        watch = store._parts.disk_watch
        assert watch is not None
        assert watch._thread is not None
        store.append(TENANT, [new_event("gone")])
        jobs.may.clear()
        store._parts.path.freeze()
        assert jobs.begun.wait(SECONDS_MAX)
        filesystem.free = 15 * MEBIBYTE
        wait_until("tenants are not refused", lambda: not accepts(store))
        assert store.stats().read_only_code == "disk_space_low"
        assert accepts(store, "_system")
        assert store.removals.entity(TENANT, "gone").events_removed == 1
        filesystem.free = MEBIBYTE
        wait_until("the system itself is not refused", lambda: not accepts(store, "_system"))
        assert store.stats().read_only_code == "disk_full"
        filesystem.free = 1024 * MEBIBYTE
        wait_until("appends are not taken again", lambda: accepts(store))
        jobs.may.set()
    assert not watch._thread.is_alive()


def test_space_that_can_t_be_found_out_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = FaultyFilesystem(free=MEBIBYTE)
    options = msgspec.structs.replace(SMALL, reserve_bytes=2 * MEBIBYTE)
    with open_store(tmp_path / "s", options=options, filesystem=filesystem) as store:
        wait_until("tenants are not refused", lambda: not accepts(store))
        asked = threading.Event()

        def fail(_path: Path) -> int:
            asked.set()
            raise OSError(errno.EIO, "injected fault")

        monkeypatch.setattr(filesystem, "free_bytes", fail)
        assert asked.wait(SECONDS_MAX)
        assert not accepts(store)
        monkeypatch.undo()
        filesystem.free = 100 * MEBIBYTE
        wait_until("appends are not taken again", lambda: accepts(store))


# --- room in memory ---


def repeat(append: Callable[[], object]) -> None:
    """Append more often than there can be room for."""
    for _ in range(100):
        append()


@pytest.mark.parametrize("is_async", [False, True], ids=["in threads", "on a loop"])
def test_where_sealing_is_behind_the_system_and_removals_have_room_of_their_own_which_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, segment_rows_max=10, wait_seconds_max=0.05)

    def append(tenant: str) -> None:
        if is_async:
            asyncio.run(store.append_async(tenant, [new_event()]))
        else:
            store.append(tenant, [new_event()])

    with open_store(tmp_path / "s", options=options) as store:
        # It is the room that ends: looking an entity up may take as long as it does.
        store._parts.path._lookups._seconds_max = 60
        with pytest.raises(OverloadedError):
            repeat(lambda: append(TENANT))
        count = store.last_position
        append("_system")
        store.removals.entity(TENANT, "order-1")
        # At least one memtable is theirs alone.
        for _ in range(10):
            append("_system")
        assert store.last_position == count + 12
        with pytest.raises(OverloadedError):
            append(TENANT)
        with pytest.raises(OverloadedError):
            repeat(lambda: append("_system"))
        with pytest.raises(OverloadedError):
            store.removals.entity("_system", "order-1")
        assert store.last_position <= count + 30
        store.compact()
        append("_system")
        append(TENANT)
        store.removals.entity("_system", "order-1")


def test_retention_that_finds_no_room_goes_on_when_there_is_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, segment_rows_max=4, retention_seconds=0)
    with open_store(tmp_path / "s", options=options, clock=TurnableClock()) as store:
        for number in range(40):
            store.append(TENANT, [new_event(f"e-{number}")] * 2)
            store.seal()
        store.removals.set_policy(TENANT, "e-", max_count=1)
        for _ in range(20):
            store.compact()
            store._parts.maintenance.retain_now()
        assert [event.version for event in store.read(TENANT)] == [2] * 40
        assert store.stats().maintenance_failures == 0


def tags_of(number: int) -> list[str]:
    """32 tags of 256 bytes that no other event has."""
    return [f"{number * 32 + part:0256d}" for part in range(32)]


def test_a_memtable_is_complete_by_all_that_its_events_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, memory_budget_bytes=3 * MEBIBYTE, segment_rows_max=262_144)
    # On a disk that syncs nothing: there are thousands of syncs.
    filesystem = FaultyFilesystem()
    kinds: dict[str, Callable[[int], dict[str, Any]]] = {
        "payload": lambda _: {"payload": b'"' + b"x" * 16_000 + b'"'},
        "metadata": lambda _: {"metadata": Raw(b'{"x":"%s"}' % (b"y" * 16_000))},
        "tags": lambda number: {"tags": tags_of(number)},
        "short tags": lambda number: {"tags": [f"{number}-{part}" for part in range(32)]},
        "names": lambda number: {"entity_id": f"{number:0512d}", "event_type": f"{number:0256d}"},
    }
    for kind, fields in kinds.items():
        path = tmp_path / kind
        with open_store(path, options=options, clock=TurnableClock(), filesystem=filesystem) as store:
            memory = store._parts.sequencer.memory
            for number in range(2000):
                events = [new_event(**fields(number))]
                # One alone takes another way than one of several.
                store.append(TENANT, events if number % 2 else [*events, new_event()])
                if memory.frozen:
                    break
            (table,) = memory.frozen
            assert table.bytes > MEBIBYTE, kind
            assert table.held_bytes < MEBIBYTE + 20_000, kind
            assert store.stats().memory_bytes >= table.bytes
            count = len(table)
            store.append(TENANT, [new_event()])
        # Read back from the log they are the same ones, or their log files would not be theirs alone.
        with open_store(path, options=options, clock=TurnableClock(), filesystem=filesystem) as store:
            assert [len(frozen) for frozen in store._parts.sequencer.memory.frozen] == [count], kind
            assert store._parts.sequencer.memory.frozen[0].held_bytes == table.held_bytes, kind
            store.seal()
            assert store.stats().segments == 2, kind
            assert len(list(store.read(TENANT))) == count + 1


def test_row_groups_are_bounded_by_tags_too_and_so_is_a_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_background_work(monkeypatch)
    options = StoreOptions(reserve_bytes=0, maintenance="thread")
    with open_store(tmp_path / "s", options=options) as store:
        events = [new_event(f"e-{number}", tags=tags_of(number) if number % 3 else None) for number in range(1500)]
        for start in range(0, 1500, 500):
            store.append(TENANT, events[start : start + 500])
        monkeypatch.setattr(segment_writer, "COLUMN_BYTES_MAX", 8_000_000)
        with pytest.raises(ValueError, match="tags column"):
            store.seal()
        monkeypatch.undo()
        store.seal()
        (entry,) = store._parts.catalog.manifest.segments
        metadata = pq.ParquetFile(store._parts.catalog.paths.segment(entry.file)).metadata
        # A thousand events with 8 KiB of tags: 7.8 MiB, and the smallest bodies.
        assert 8_192_000 < entry.content_bytes < 8_300_000
        assert metadata.num_row_groups == 1
        store.append(TENANT, [new_event("f", tags=tags_of(number)) for number in range(1500)])
        store.seal()
        entry = store._parts.catalog.manifest.segments[-1]
        metadata = pq.ParquetFile(store._parts.catalog.paths.segment(entry.file)).metadata
        assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [1023, 477]
        assert [list(event.tags) for event in store.read(TENANT, EventQuery(entity_id="f"))] == [
            tags_of(number) for number in range(1500)
        ]


def test_snapshots_of_retention_count_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, memory_budget_bytes=3 * MEBIBYTE, segment_rows_max=10_000)
    with open_store(tmp_path / "s", options=options, clock=TurnableClock()) as store:
        for number in range(30):
            payload = b'{"pad":"%s"}' % (b"x" * 100_000)
            store.append(TENANT, [new_event(f"e-{number}", payload), new_event(f"e-{number}")])
            store.seal()
        sealed = store.stats().segments_sealed
        store.removals.set_policy(TENANT, "e-", max_count=1)
        store.compact()
        store.seal()
        # Thirty snapshots of 100 kB are in three segments at least.
        assert store.stats().segments_sealed >= sealed + 3


def test_the_budget_bounds_how_many_memtables_wait_and_never_makes_one_too_large() -> None:
    usual, large = StoreOptions(), StoreOptions(memory_budget_bytes=65_536 * MEBIBYTE)
    assert (usual.freeze_bytes, usual.frozen_max) == (128 * MEBIBYTE // 3, 2)
    assert (large.freeze_bytes, large.frozen_max) == (SEGMENT_CONTENT_BYTES, 1023)
    assert StoreOptions(memory_budget_bytes=1).frozen_max == 2
    # What an append may add to a full one is far below what a column of Arrow holds.
    assert SEGMENT_CONTENT_BYTES + 64 * MEBIBYTE < COLUMN_BYTES_MAX // 8


# --- jobs that can't succeed ---


def reader_of(tmp_path: Path, file: int, content_bytes: int, rows: int = 10) -> SegmentReader:
    entry = SegmentEntry(file, file, file, rows, rows, content_bytes, 1000, 1, 1, 1, 0)
    return SegmentReader(entry, StorePaths(tmp_path), Hasher(b"k" * 32), OpenFiles())


def test_segments_are_merged_by_what_they_hold_and_not_by_what_is_left_of_it_compressed(tmp_path: Path) -> None:
    def merged(*contents: int) -> list[int]:
        readers = [reader_of(tmp_path, number, content) for number, content in enumerate(contents, 1)]
        plan = plan_compaction(readers, [], 0, Hasher(b"k" * 32), StoreOptions())
        return [entry.file for entry in plan.segments]

    part = SEGMENT_CONTENT_BYTES // 8
    assert merged(*[part] * 12) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert merged(*[part * 4] * 12) == []
    assert merged(part * 5, part, part, part, part, part * 5) == [2, 3, 4, 5]
    assert merged(100 * part, 0, 0, 0) == []


def test_payloads_that_compress_well_do_not_become_one_segment_of_all(tmp_path: Path) -> None:
    payload = b'"' + b"a" * (MEBIBYTE - 2) + b'"'
    with open_store(tmp_path / "s", options=StoreOptions(reserve_bytes=0, maintenance="thread")) as store:
        for _ in range(10):
            store.append(TENANT, [new_event(payload=payload)] * 12)
            store.seal()
        store.compact()
        entries = store._parts.catalog.manifest.segments
        assert 2 <= len(entries) <= 4
        assert sum(entry.content_bytes for entry in entries) == 120 * (MEBIBYTE + len("order-1order.placed"))
        assert all(entry.content_bytes <= SEGMENT_CONTENT_BYTES for entry in entries)
        assert sum(entry.bytes for entry in entries) < MEBIBYTE
        (event,) = store.read(TENANT, EventQuery(limit=1))
        assert event.payload == payload


def test_what_can_t_be_merged_keeps_nothing_else_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    without_background_work(monkeypatch)
    monkeypatch.setattr(work_steps, "_RETRY_SECONDS", 3600)
    jobs.fails = lambda job: isinstance(job, CompactJob) and len(job.segments) > 1
    options = msgspec.structs.replace(SMALL, removal_seconds=0)
    with open_store(tmp_path / "s", options=options) as store:
        for number in range(4):
            store.append(TENANT, [new_event(f"e-{number}")])
            if number < 3:
                store.seal()
        store._parts.path.freeze()
        store.append(TENANT, [new_event("e-4")])
        removal = store.removals.entity(TENANT, "e-1")
        for _ in range(4):
            with pytest.raises(JobFailedError, match="overflow"):
                store.compact()
        assert removal.finished_at
        assert len(store._parts.writer.files) == 1
        assert [event.entity_id for event in store.read(TENANT)] == ["e-0", "e-2", "e-3", "e-4"]
        # In the background it is left alone for a while, and nobody forgets that it failed.
        failed = len(jobs.failed)
        store._parts.maintenance._round()
        assert len(jobs.failed) == failed
        jobs.fails = lambda _job: False
        store.compact()
        assert store.stats().segments == 1
        store._parts.maintenance._round()
        assert store.stats().maintenance_failure is None


def test_what_can_t_be_sealed_does_not_keep_a_compaction_back_nor_fills_memory_with_small_memtables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, removal_seconds=0)
    with open_store(tmp_path / "s", options=options) as store:
        for number in range(4):
            store.append(TENANT, [new_event(f"e-{number}")])
            store._parts.path.freeze()
            if number < 3:
                store.seal()
        jobs.fails = lambda job: isinstance(job, SealJob)
        removal = store.removals.entity(TENANT, "e-1")
        for number in range(5):
            with pytest.raises(JobFailedError):
                store.compact()
            store.append(TENANT, [new_event(f"f-{number}")])
        assert not removal.finished_at
        assert len(store._parts.sequencer.memory.frozen) == 1
        jobs.fails = lambda _job: False
        store.compact()
        store.compact()
        assert removal.finished_at


def test_damage_that_one_step_meets_is_told_before_what_others_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    without_background_work(monkeypatch)
    jobs.fails = lambda job: isinstance(job, SealJob)
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store._parts.path.freeze()
        damage = CorruptionError(tmp_path / "a", 7, "it is gone")

        def meet() -> bool:
            raise damage

        steps = store._parts.maintenance._steps
        steps._steps = (*steps._steps, meet)
        store._parts.maintenance._round()
        assert store.stats().read_only_code == "storage_damaged"
        assert "byte 7" in (store.stats().maintenance_failure or "")


# --- descriptors ---

REFUSALS = [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EIO]


@pytest.fixture
def no_descriptors(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Have the system refuse, or open again, segments, indexes, key files and log files that are read."""
    numbers = itertools.cycle(REFUSALS)
    map_file, open_file, open_path, open_ = pa.memory_map, pa.OSFile, Path.open, os.open

    def refuse(path: Any, *_: Any, **__: Any) -> Any:
        raise OSError(next(numbers), "injected fault", str(path))

    def refuse_keys(path: Any, *arguments: Any, **fields: Any) -> int:
        return refuse(path) if Path(path).parent.name == "keys" else open_(path, *arguments, **fields)

    def turn(refused: bool) -> None:
        monkeypatch.setattr(pa, "memory_map", refuse if refused else map_file)
        monkeypatch.setattr(pa, "OSFile", refuse if refused else open_file)
        monkeypatch.setattr(Path, "open", refuse if refused else open_path)
        monkeypatch.setattr(os, "open", refuse_keys if refused else open_)

    return turn


@pytest.mark.parametrize("number", REFUSALS)
def test_a_look_of_retention_that_can_t_open_a_segment_calls_it_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    without_background_work(monkeypatch)
    map_file = pa.memory_map

    def refuse_segments(path: str, *arguments: Any) -> Any:
        if path.endswith(".parquet"):
            raise OSError(number, "injected fault", path)
        return map_file(path, *arguments)

    with open_store(tmp_path / "s", options=SMALL) as store:
        store.append(TENANT, [new_event()] * 3)
        store.seal()
        store.removals.set_policy(TENANT, "", max_count=1)
        monkeypatch.setattr(pa, "memory_map", refuse_segments)
        store._parts.maintenance._round()
        assert (store.stats().maintenance_failures, store.stats().read_only_code) == (1, None)
        monkeypatch.setattr(pa, "memory_map", map_file)
        store.compact()
        assert [event.version for event in store.read(TENANT)] == [3]


def test_a_file_that_can_t_be_opened_at_present_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_descriptors: Callable[[bool], None]
) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, removal_seconds=0, cache_bytes_max=0)
    with open_store(tmp_path / "s", options=options) as store:
        for number in range(3):
            store.append(TENANT, [new_event(f"e-{number}")] * 3)
            store.seal()
    with open_store(tmp_path / "s", options=options) as store:
        work: list[Callable[[], Any]] = [
            lambda: list(store.read(TENANT)),
            lambda: list(store.read(TENANT, EventQuery(entity_id="e-1"))),
            lambda: store.version(TENANT, "e-1"),
            lambda: store.append(TENANT, [new_event("e-1")]),
            lambda: store.removals.entity(TENANT, "e-1"),
        ]
        no_descriptors(True)
        for number, do in enumerate(work):
            with pytest.raises(OSError, match="injected fault|" + "|".join(map(os.strerror, REFUSALS))):
                do()
            assert store.last_position == 9, number
        no_descriptors(False)
        work[-1]()
        store._parts.path.freeze()
        no_descriptors(True)
        store._parts.maintenance._round()
        assert store.stats().maintenance_failures == 1
        assert store.stats().read_only_code is None
        assert not store._parts.catalog.keys_damage
        no_descriptors(False)
        for do in work[:-1]:
            do()
        store.seal()
        store.compact()
        assert [(event.entity_id, event.version) for event in store.read(TENANT, EventQuery(entity_id="e-1"))] == [
            ("e-1", 4)
        ]


def test_an_index_is_made_anew_where_it_is_damaged_and_not_where_the_system_refuses(
    tmp_path: Path, no_descriptors: Callable[[bool], None]
) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store.seal()
        (segment,) = store._parts.catalog.segments
        path = store._parts.catalog.paths.segment(segment.entry.file)
        no_descriptors(True)
        with pytest.raises(OSError, match="injected fault"):
            build_index(path, store._parts.catalog.hasher)
        no_descriptors(False)
        assert build_index(path, store._parts.catalog.hasher)
        path.unlink()
        with pytest.raises(CorruptionError, match="missing"):
            build_index(path, store._parts.catalog.hasher)


def test_mapping_that_fails_without_a_number_is_told_as_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store.seal()
    with open_store(tmp_path / "s") as store:

        def refuse(_path: str) -> Any:
            raise OSError("Memory mapping file failed: Cannot allocate memory")

        monkeypatch.setattr(pa, "memory_map", refuse)
        with pytest.raises(OSError, match=os.strerror(errno.ENOMEM)) as caught:
            list(store.read(TENANT))
        assert caught.value.errno == errno.ENOMEM


def test_descriptors_that_really_run_out_cost_nothing_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    # Neither maintenance nor the collector gives a descriptor back once there is none.
    without_background_work(monkeypatch)
    gc.collect()
    options = StoreOptions(reserve_bytes=0, maintenance="thread", cache_bytes_max=0)
    with open_store(tmp_path / "s", options=options) as store:
        store.append(TENANT, [new_event()] * 10)
        store.seal()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    with open_store(tmp_path / "s", options=options, filesystem=LocalFilesystem()) as store:
        try:
            held.append(os.open("/dev/null", os.O_RDONLY))
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 20, hard))
            with suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(OSError, match="Too many open files"):
                list(store.read(TENANT))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in held:
                os.close(descriptor)
        assert len(list(store.read(TENANT))) == 10
        assert store.stats().read_only_code is None
