"""A disk that fails: what was acknowledged stays, what was not is uncertain and gone, and the store goes on."""

from __future__ import annotations

import asyncio
import copy
import errno
import logging
import os
import random
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from allsource_core.engine import (
    AppendUncertainError,
    CorruptionError,
    EventIdConflictError,
    EventStore,
    KeysDamagedError,
    OverloadedError,
    StoreReadOnlyError,
)
from allsource_core.engine.append_path import AppendPath
from allsource_core.engine.maintenance import Maintenance

from .data_directory import errors_of
from .stores import (
    SMALL,
    TENANT,
    FaultyFilesystem,
    Left,
    SteppedLogFile,
    TurnableClock,
    kill,
    new_event,
    open_store,
    without_background_work,
)
from .workload import Work, prepared, restarted

EVERY_VARIANT = os.environ.get("ALLSOURCE_FAULTS") == "all"

# A store is opened for every operation that may fail: the usual limit is for what hangs, and this only takes long.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    without_background_work(monkeypatch)
    # A captured record keeps the frames of what failed, and so the files that were being read.
    caplog.set_level(logging.CRITICAL + 1, "allsource_core.engine")


VARIANTS: list[tuple[Left, bool]] = [("nothing", True), ("half", True), ("all", True)]
VARIANTS += [(leaves, False) for leaves, _ in VARIANTS]
"""What the failing operation leaves, and whether all after it fail as well."""


def try_all(path: Path, template: Path | None, before: Work, do: Callable[[Work, EventStore], None]) -> None:
    """Work on a store once for every operation that may fail, each in one of the variants, or in all of them."""
    counting = FaultyFilesystem()
    with open_store(copied(template, path / "count"), filesystem=counting) as store:
        do(copy.deepcopy(before), store)
        assert store.stats().maintenance_failures == 0
    seed = random.randrange(len(VARIANTS))
    for fail_at in range(1, counting.operations + 1):
        chosen = VARIANTS if EVERY_VARIANT else [VARIANTS[(seed + fail_at) % len(VARIANTS)]]
        for leaves, lasting in chosen:
            root = copied(template, path / f"{fail_at}-{leaves}-{lasting}")
            filesystem = FaultyFilesystem(fail_at, leaves=leaves, lasting=lasting)
            try:
                try_one(root, filesystem, copy.deepcopy(before), do)
            except BaseException:
                print(f"operation {fail_at}, {counting.seen[fail_at - 1]}, leaves {leaves}, lasting {lasting}")
                raise
            shutil.rmtree(root)


def copied(template: Path | None, to: Path) -> Path:
    if template is not None:
        shutil.copytree(template, to)
    return to


def try_one(path: Path, filesystem: FaultyFilesystem, work: Work, do: Callable[[Work, EventStore], None]) -> None:
    try:
        store = open_store(path, filesystem=filesystem)
    except OSError:
        assert filesystem.failed
        restarted(path, work)
        return
    do(work, store)
    work.check_gone(store)
    work.check(store)
    if filesystem.lasting:
        assert not work.refused or store.stats().read_only_code in ("log_failed", "log_blocked")
    else:
        # It went on, and what failed was done again.
        assert len(work.uncertain) <= 1
        assert work.refused == []
        assert store.stats().read_only_reason is None
        assert work.failed_jobs <= 1
        # It may be that what failed comes only here.
        work.maintain(store.seal)
        store.seal()
        store.compact()
        assert store.stats().memory_events == 0
        assert store.stats().removals_pending == 0
        work.check(store)
    store.close()
    assert filesystem.failed
    if filesystem.lasting:
        restarted(path, work)
    else:
        with open_store(path) as reopened:
            work.check_gone(reopened)
            work.check(reopened)


def test_whatever_operation_fails_acknowledged_appends_are_there_after_a_restart(tmp_path: Path) -> None:
    try_all(tmp_path, None, Work(), Work.write)


def test_whatever_operation_of_sealing_and_compaction_fails_nothing_is_lost_and_it_is_done_again(
    tmp_path: Path,
) -> None:
    before = prepared(tmp_path / "template")
    try_all(tmp_path, tmp_path / "template", before, Work.seal_and_compact)


def test_the_work_above_meets_every_kind_of_operation(tmp_path: Path) -> None:
    work, filesystem = prepared(tmp_path / "s"), FaultyFilesystem()
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        work.seal_and_compact(store)
        stats = store.stats()
        assert (stats.segments_sealed, stats.removals_pending, stats.compactions >= 2) == (2, 0, True)
        assert store._parts.maintenance.figures.key_merges >= 1
    seen = {(kind, path.suffix or path.name) for kind, path in filesystem.seen}
    assert {("write", ".log"), ("sync", ".log"), ("open", ".log"), ("truncate", ".log"), ("remove", ".log")} <= seen
    assert {("rename", "MANIFEST"), ("rename", ".parquet"), ("rename", ".index"), ("rename", ".entities")} <= seen
    assert {("rename", ".ids"), ("remove", ".ids"), ("sync_directory", "segments"), ("write", ".new")} <= seen


@pytest.mark.parametrize("kind", ["write", "sync"])
@pytest.mark.parametrize("leaves", ["nothing", "half", "all"])
def test_after_a_failed_write_the_log_is_cut_to_its_last_good_byte_and_goes_on_in_a_new_file(
    tmp_path: Path, kind: str, leaves: Left
) -> None:
    filesystem = FaultyFilesystem(only=lambda done, path: done == kind and path.parent.name == "log", lasting=False)
    filesystem.leaves = leaves
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        store.append(TENANT, [new_event()])
        log = sorted((tmp_path / "s" / "log").iterdir())[-1]
        good = log.read_bytes().rstrip(b"\0")
        filesystem.fail_next()
        with pytest.raises(AppendUncertainError, match="injected fault"):
            store.append(TENANT, [new_event(payload=b'"uncertain"', event_id=UUID(int=1))])
        assert log.read_bytes() == good
        assert (store.last_position, store.version(TENANT, "order-1")) == (1, 1)
        assert store.get(TENANT, UUID(int=1)) is None
        (event,) = store.append(TENANT, [new_event(payload=b'"next"')], expected_versions={"order-1": 1}).events
        assert (event.position, event.version) == (2, 2)
        assert not store.append(TENANT, [new_event(payload=b'"again"', event_id=UUID(int=1))]).duplicate
        assert log.read_bytes() == good
        assert sorted((tmp_path / "s" / "log").iterdir())[-1] != log
    with open_store(tmp_path / "s") as store:
        assert [event.payload for event in store.read(TENANT)] == [b'{"n":1}', b'"next"', b'"again"']


def test_a_store_that_can_t_be_repaired_is_read_only_until_it_is_opened_again(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem()
    store = open_store(tmp_path / "s", filesystem=filesystem)
    store.append(TENANT, [new_event()])
    filesystem.fail_next()
    with pytest.raises(AppendUncertainError):
        store.append(TENANT, [new_event()])
    filesystem.fail_at = 0
    seen = filesystem.operations
    for tenant in (TENANT, "_system"):
        with pytest.raises(StoreReadOnlyError, match="could not be written"):
            store.append(tenant, [new_event()])
    with pytest.raises(StoreReadOnlyError):
        store.removals.entity(TENANT, "order-1")
    assert filesystem.operations == seen
    assert len(list(store.read(TENANT))) == 1
    stats = store.stats()
    assert (stats.read_only_code, stats.last_position) == ("log_failed", 1)
    store.close()
    with open_store(tmp_path / "s") as reopened:
        reopened.append(TENANT, [new_event()])


def test_while_no_log_file_can_be_made_appends_are_refused_and_then_go_on(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem(only=lambda kind, path: path.name == "begun.log" or kind == "rename")
    with open_store(tmp_path / "s", filesystem=filesystem, options=SMALL) as store:
        store.append(TENANT, [new_event()])
        filesystem.fail_next()
        # Until the file is full.
        with suppress(AppendUncertainError):
            while True:
                store.append(TENANT, [new_event()])
        acknowledged = store.last_position
        for _ in range(2):
            seen = filesystem.operations
            with pytest.raises(StoreReadOnlyError, match="no new log file can be made") as refused:
                store.append(TENANT, [new_event()])
            assert (refused.value.code, filesystem.operations) == ("log_blocked", seen)
            with suppress(OSError):
                store.compact()
        filesystem.fail_at = 0
        store.compact()
        (event,) = store.append(TENANT, [new_event()]).events
        assert (event.version, event.position) == (acknowledged + 1, acknowledged + 1)
    with open_store(tmp_path / "s") as store:
        assert len(list(store.read(TENANT))) == acknowledged + 1
    assert errors_of(tmp_path / "s") == []


def test_a_descriptor_that_failed_is_never_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have dropped the pages that it could not write; then the next sync says that all is well."""
    failed: list[SteppedLogFile] = []
    sync, write = SteppedLogFile.sync, SteppedLogFile.write

    def watched_sync(file: SteppedLogFile) -> None:
        assert file not in failed
        try:
            sync(file)
        except OSError:
            failed.append(file)
            raise

    def watched_write(file: SteppedLogFile, data: bytes, offset: int) -> None:
        assert file not in failed
        write(file, data, offset)

    monkeypatch.setattr(SteppedLogFile, "sync", watched_sync)
    monkeypatch.setattr(SteppedLogFile, "write", watched_write)
    filesystem = FaultyFilesystem(only=lambda kind, path: kind == "sync" and path.parent.name == "log", lasting=False)
    work = Work()
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        for _ in range(3):
            work.append(store, 3)
            filesystem.fail_next()
            work.append(store, 3)
            store.seal()
        work.check_gone(store)
    assert len(failed) == len(work.uncertain) == 3
    restarted(tmp_path / "s", work)


def test_an_opening_that_fails_anywhere_has_lost_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    work, filesystem = prepared(tmp_path / "template"), FaultyFilesystem()
    killed = open_store(tmp_path / "template", filesystem=filesystem)
    work.append(killed, 2)
    (tmp_path / "template" / "tmp" / "left.new").write_bytes(b"x")
    kill(killed)
    log = sorted((tmp_path / "template" / "log").iterdir())[-1]
    log.write_bytes(log.read_bytes().rstrip(b"\0") + b"half a record")
    counting = FaultyFilesystem()
    with open_store(copied(tmp_path / "template", tmp_path / "count"), filesystem=counting):
        operations = counting.operations
    assert {kind for kind, _ in counting.seen} >= {"truncate", "sync", "sync_directory", "remove"}
    for fail_at in range(1, operations + 1):
        path = copied(tmp_path / "template", tmp_path / str(fail_at))
        with pytest.raises(OSError, match="injected"):
            open_store(path, filesystem=FaultyFilesystem(fail_at))
        restarted(path, copy.deepcopy(work))


async def _gather(path: Path, filesystem: FaultyFilesystem) -> list[object]:
    with open_store(path, filesystem=filesystem) as store:
        await store.append_async(TENANT, [new_event()])
        filesystem.fail_next()
        committer = store._parts.path._committer
        assert committer is not None
        with committer._committing:
            waits = [
                asyncio.ensure_future(store.append_async(TENANT, [new_event(f"e-{number}")])) for number in range(10)
            ]
            while store._parts.sequencer.memory.next_position <= 11:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert len(list(store.read(TENANT))) == 1
        (event,) = (await store.append_async(TENANT, [new_event("e-3")])).events
        assert (event.position, event.version) == (2, 1)
        return list(answers)


def test_every_append_that_shared_a_failed_write_is_uncertain(tmp_path: Path) -> None:
    answers = asyncio.run(_gather(tmp_path / "s", FaultyFilesystem(lasting=False)))
    assert [type(answer) for answer in answers] == [AppendUncertainError] * 10


@pytest.mark.parametrize("form", ["append", "append_async"])
def test_an_append_that_was_looked_up_before_a_failure_is_looked_up_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Its entity was in memory, by an event that was not durable, so nobody asked the key files for it."""
    is_written, may_fail = threading.Event(), threading.Event()

    class WaitingFilesystem(FaultyFilesystem):
        def fail(self, kind: str, path: Path) -> None:
            is_written.set()
            assert may_fail.wait(60)
            super().fail(kind, path)

    filesystem = WaitingFilesystem(only=lambda kind, path: kind == "sync" and path.parent.name == "log", lasting=False)
    uncertain: list[AppendUncertainError] = []

    def append_in_vain(store: EventStore) -> None:
        try:
            store.append(TENANT, [new_event("x")])
        except AppendUncertainError as error:
            uncertain.append(error)

    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        store.append(TENANT, [new_event("x")] * 3)
        store.seal()
        store.append(TENANT, [new_event("y")])
        filesystem.fail_next()
        other = threading.Thread(target=append_in_vain, args=(store,))
        other.start()
        assert is_written.wait(60)
        assert store.version(TENANT, "x") == 4
        decide = AppendPath._decide

        def decide_after_the_failure(path: AppendPath, *arguments: Any, **options: Any) -> Any:
            may_fail.set()
            other.join()
            return decide(path, *arguments, **options)

        monkeypatch.setattr(AppendPath, "_decide", decide_after_the_failure)
        if form == "append":
            (event,) = store.append(TENANT, [new_event("x")]).events
        else:
            (event,) = asyncio.run(store.append_async(TENANT, [new_event("x")])).events
        assert (event.version, event.position) == (4, 5)
    assert len(uncertain) == 1


def test_a_removal_whose_record_does_not_reach_the_disk_removes_nothing(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem(lasting=False)
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        (event,) = store.append("a", [new_event("x", b'{"secret":1}')]).events
        for remove in (
            lambda: store.removals.entity("a", "x"),
            lambda: store.removals.event("a", event.id),
            lambda: store.removals.tenant("a"),
            lambda: store.removals.set_policy("a", "", max_count=1),
        ):
            filesystem.fail_next()
            with pytest.raises(AppendUncertainError):
                remove()
            assert list(store.read("a")) == [event]
            assert store.append("a", [new_event("x")], expected_versions={"x": "exists"}, dry_run=True).dry_run
        assert store.removals.policies("a") == []
        (second,) = store.append("a", [new_event("x")]).events
        assert (second.version, second.position) == (2, 2)
    with open_store(tmp_path / "s") as store:
        assert list(store.read("a")) == [event, second]
        assert store.removals.policies("a") == []


def test_a_segment_that_is_made_meanwhile_knows_nothing_of_a_tenant_s_removal_that_fails(tmp_path: Path) -> None:
    class SealsAndFails(FaultyFilesystem):
        def fail(self, kind: str, path: Path) -> None:
            self.only = lambda _kind, _path: False
            store._parts.maintenance.work()
            assert store.stats().segments == 2
            super().fail(kind, path)

    filesystem = SealsAndFails(only=lambda kind, path: kind == "sync" and path.suffix == ".log", lasting=False)
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        events = [event for _ in range(2) for event in store.append("a", [new_event("x")]).events]
        store.seal()
        store.append("b", [new_event("x")])
        store._parts.path.freeze()
        filesystem.fail_next()
        with pytest.raises(AppendUncertainError):
            store.removals.tenant("a")
        assert list(store.read("a")) == events
    with open_store(tmp_path / "s") as store:
        assert list(store.read("a")) == events
        assert store.append("a", [new_event("x")]).events[0].version == 3
        store.removals.tenant("a")
    with open_store(tmp_path / "s") as store:
        assert list(store.read("a")) == []
    assert errors_of(tmp_path / "s") == []


# --- other things that go wrong ---


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a defect"), KeyboardInterrupt()])
def test_whatever_breaks_a_commit_nobody_hangs_and_the_store_goes_on(
    tmp_path: Path, error: BaseException, lasting: bool
) -> None:
    class BreakingFilesystem(FaultyFilesystem):
        def fail(self, kind: str, path: Path) -> None:
            raise error

    filesystem = BreakingFilesystem(lasting=lasting)
    store = open_store(tmp_path / "s", filesystem=filesystem)
    store.append(TENANT, [new_event()])
    filesystem.fail_next()
    with pytest.raises((AppendUncertainError, KeyboardInterrupt)):
        store.append(TENANT, [new_event()])
    filesystem.fail_at = 0
    for position in (2, 3):
        if lasting:
            with pytest.raises(StoreReadOnlyError):
                store.append(TENANT, [new_event()])
        else:
            assert store.append(TENANT, [new_event()]).last_position == position
    assert store.last_position == (1 if lasting else 3)
    store.close()
    with open_store(tmp_path / "s") as reopened:
        assert 1 <= reopened.last_position <= 3
        reopened.append(TENANT, [new_event()])


def test_an_append_that_was_broken_off_leaves_no_gap_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal between getting positions and handing over the record."""
    store = open_store(tmp_path / "s")
    store.append(TENANT, [new_event()])

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store._parts.path._committer, "enqueue", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.append(TENANT, [new_event("broken off")])
    with pytest.raises(AppendUncertainError):
        store.append(TENANT, [new_event()])
    (event,) = store.append(TENANT, [new_event()]).events
    assert (event.position, event.version) == (2, 2)
    store.close()
    with open_store(tmp_path / "s") as reopened:
        assert [event.entity_id for event in reopened.read(TENANT)] == ["order-1", "order-1"]
        assert reopened.version(TENANT, "broken off") == 0


def test_a_log_file_that_somebody_removes_is_noticed_before_anything_is_acknowledged(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        sorted((tmp_path / "s" / "log").iterdir())[-1].unlink()
        with pytest.raises(AppendUncertainError, match="removed"):
            store.append(TENANT, [new_event()])
        with pytest.raises(StoreReadOnlyError):
            store.append(TENANT, [new_event()])
        assert store.last_position == 1


def test_where_nothing_can_be_sealed_appends_wait_and_are_refused_until_it_can(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem(only=lambda _kind, path: ".parquet" in path.name, error_number=errno.ENOSPC)
    options = msgspec.structs.replace(SMALL, segment_rows_max=10, wait_seconds_max=0.05)
    with open_store(tmp_path / "s", options=options, filesystem=filesystem, clock=TurnableClock()) as store:
        filesystem.fail_at = 1
        for _ in range(3):
            store.append(TENANT, [new_event()] * 10)
        with pytest.raises(OSError, match="injected"):
            store.compact()
        with pytest.raises(OverloadedError):
            store.append(TENANT, [new_event()] * 10)
        assert len(list(store.read(TENANT))) == store.last_position
        filesystem.fail_at = 0
        store.compact()
        store.append(TENANT, [new_event()] * 10)
        count = store.last_position
    with open_store(tmp_path / "s") as store:
        assert [event.version for event in store.read(TENANT)] == list(range(1, count + 1))


EVENT_ID = UUID(int=1)


@pytest.mark.parametrize(
    "look",
    [
        lambda store: store.get(TENANT, EVENT_ID),
        lambda store: asyncio.run(store.get_async(TENANT, EVENT_ID)),
        lambda store: store.version(TENANT, "x"),
        lambda store: store.removals.event(TENANT, EVENT_ID),
        lambda store: store.append(TENANT, [new_event("x")]),
        lambda store: asyncio.run(store.append_async(TENANT, [new_event("y", event_id=EVENT_ID)], dry_run=True)),
    ],
    ids=["get", "get_async", "version", "erase", "append", "append_async"],
)
def test_whoever_meets_a_damaged_key_file_has_it_made_anew(
    tmp_path: Path, look: Callable[[EventStore], object]
) -> None:
    with open_store(tmp_path / "s") as store:
        (event,) = store.append(TENANT, [new_event("x", event_id=EVENT_ID)]).events
        store.seal()
    damage_keys(tmp_path / "s")
    with open_store(tmp_path / "s") as store:
        for _ in range(2):
            with pytest.raises(KeysDamagedError, match="try again"):
                look(store)
        assert list(store.read(TENANT)) == [event]
        store.compact()
        assert store.get(TENANT, EVENT_ID) == event
        with suppress(EventIdConflictError):
            look(store)
        assert store.stats().read_only_code is None
    assert errors_of(tmp_path / "s") == []


def test_merging_that_meets_a_damaged_key_file_makes_all_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [UUID(int=number) for number in range(1, 9)]
    with monkeypatch.context() as patch:
        patch.setattr(Maintenance, "_merge_keys", lambda *_: False)
        with open_store(tmp_path / "s") as store:
            for event_id in ids:
                store.append(TENANT, [new_event("x", event_id=event_id)])
                store.seal()
    damage_keys(tmp_path / "s")
    with open_store(tmp_path / "s") as store:
        assert store.stats().key_files == 16
        assert store._parts.maintenance is not None
        store._parts.maintenance._round()
        assert (store.stats().maintenance_failures, store.stats().read_only_code) == (1, None)
        store.compact()
        assert store.stats().key_files < 16
        assert [event.id for event in map(store.get, [TENANT] * 8, ids) if event is not None] == ids
    assert errors_of(tmp_path / "s") == []


def damage_keys(store: Path) -> None:
    """Flip a bit among the entries of every key file: no start looks there."""
    for path in (store / "keys").iterdir():
        data = bytearray(path.read_bytes())
        data[66] ^= 1
        path.write_bytes(data)


def test_damage_that_sealing_meets_is_named_and_nothing_is_dropped(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(payload=b'"first"')])
        log = sorted((tmp_path / "s" / "log").iterdir())[-1]
        whole = log.read_bytes()
        log.write_bytes(whole.replace(b"first", b"worst"))
        with pytest.raises(CorruptionError, match=log.name):
            store.seal()
        # Zeros look like the end of a file, but there should be something.
        log.write_bytes(whole[:32].ljust(len(whole), b"\0"))
        with pytest.raises(CorruptionError, match=rf"{log.name}.*position 1 is missing"):
            store.seal()
        assert [event.payload for event in store.read(TENANT)] == [b'"first"']
        assert log.exists()
        assert store.stats().segments == 0
        log.write_bytes(whole)
        store.seal()
        assert store.stats().segments == 1
