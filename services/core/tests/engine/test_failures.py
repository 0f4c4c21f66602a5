"""A disk that fails: what was acknowledged stays, what was not is uncertain, and nothing pretends."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import UUID

import pytest

from allsource_core.engine import AppendUncertainError, EventStore, StoreReadOnlyError

from .stores import TENANT, FaultyFilesystem, Killed, PageCacheFilesystem, new_event, open_store


def append_until_refused(store: EventStore, count: int) -> tuple[list[int], int]:
    """Append one by one; returns the acknowledged numbers and how many appends were uncertain."""
    acknowledged, uncertain = [], 0
    for number in range(count):
        try:
            store.append(TENANT, [new_event(payload=b'{"n":%d,"pad":"%s"}' % (number, b"x" * 200))] * 2)
            acknowledged.append(number)
        except AppendUncertainError:
            uncertain += 1
        except StoreReadOnlyError:
            continue
    return acknowledged, uncertain


@pytest.mark.parametrize("partial", [False, True], ids=["nothing-written", "half-written"])
def test_whatever_operation_fails_acknowledged_appends_are_there_after_a_restart(tmp_path: Path, partial: bool) -> None:
    operations = FaultyFilesystem()
    with open_store(tmp_path / "count", filesystem=operations) as store:
        append_until_refused(store, 30)
    assert operations.operations > 60
    for fail_at in range(1, operations.operations + 1):
        path = tmp_path / f"{partial}-{fail_at}"
        filesystem = FaultyFilesystem(fail_at, partial=partial)
        try:
            store = open_store(path, filesystem=filesystem)
        except OSError:
            with open_store(path) as reopened:
                assert reopened.last_position == 0
            continue
        acknowledged, uncertain = append_until_refused(store, 30)
        assert uncertain <= 1
        if uncertain:
            assert store.stats().read_only_reason is not None
        assert [event.version for event in store.read(TENANT)] == list(range(1, 2 * len(acknowledged) + 1))
        store.close()
        with open_store(path) as reopened:
            versions = [event.version for event in reopened.read(TENANT)]
        assert versions == list(range(1, len(versions) + 1))
        assert 2 * len(acknowledged) <= len(versions) <= 2 * (len(acknowledged) + uncertain)
        assert len(versions) % 2 == 0, "a batch is never half there"


def test_after_a_failed_write_reads_go_on_and_appends_are_refused_as_read_only(tmp_path: Path) -> None:
    filesystem = FaultyFilesystem()
    store = open_store(tmp_path / "s", filesystem=filesystem)
    store.append(TENANT, [new_event()])
    filesystem.fail_at = filesystem.operations + 1
    with pytest.raises(AppendUncertainError):
        store.append(TENANT, [new_event()])
    with pytest.raises(StoreReadOnlyError):
        store.append(TENANT, [new_event()])
    assert len(list(store.read(TENANT))) == 1
    assert store.stats().read_only_reason is not None
    store.close()


async def _gather(path: Path, filesystem: FaultyFilesystem) -> list[object]:
    with open_store(path, filesystem=filesystem) as store:
        await store.append_async(TENANT, [new_event()])
        filesystem.fail_at = filesystem.operations + 1
        waits = [store.append_async(TENANT, [new_event(f"e-{number}")]) for number in range(10)]
        answers = await asyncio.gather(*waits, return_exceptions=True)
        assert len(list(store.read(TENANT))) == 1
        return list(answers)


def test_every_append_that_shared_a_failed_write_is_uncertain(tmp_path: Path) -> None:
    answers = asyncio.run(_gather(tmp_path / "s", FaultyFilesystem()))
    assert {type(answer) for answer in answers} <= {AppendUncertainError, StoreReadOnlyError}
    assert any(isinstance(answer, AppendUncertainError) for answer in answers)


class LyingFilesystem(FaultyFilesystem):
    """The canary: its appends go nowhere, and it says that they were synced."""

    def step(self, write_half: object = None) -> None:
        self.operations += 1

    def open_append(self, path: Path) -> object:  # type: ignore[override]
        class Nowhere:
            def append(self, data: bytes) -> None: ...
            def sync(self) -> None: ...
            def close(self) -> None: ...

        return Nowhere()


def test_the_harness_notices_a_store_that_loses_acknowledged_events(tmp_path: Path) -> None:
    store = open_store(tmp_path / "s", filesystem=LyingFilesystem())
    acknowledged, _ = append_until_refused(store, 5)
    store.close()
    with open_store(tmp_path / "s") as reopened:
        assert len(list(reopened.read(TENANT))) < 2 * len(acknowledged)


def test_events_that_a_killed_process_wrote_and_did_not_sync_are_on_disk_before_they_are_served(tmp_path: Path) -> None:
    """kill -9 between write and sync, a new process that answers "duplicate", then a power failure."""
    event = new_event(event_id=UUID(int=1))
    first = PageCacheFilesystem()
    store = open_store(tmp_path / "s", filesystem=first)
    store.append(TENANT, [new_event()])
    first.kill_at_sync = True
    with pytest.raises(Killed):
        store.append(TENANT, [event])
    store._directory.close()

    second = PageCacheFilesystem(first.durable)
    store = open_store(tmp_path / "s", filesystem=second)
    assert store.append(TENANT, [event]).duplicate
    store._directory.close()
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
            store.append(TENANT, [new_event(payload=b'{"n":%d,"pad":"%s"}' % (number, b"x" * 200))])
        filesystem.kill_at_sync = True
        with pytest.raises(Killed):
            store.append(TENANT, [new_event()])
        store._directory.close()
        filesystem.lose_power()
        with open_store(path) as reopened:
            assert reopened.last_position == crash


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("a defect"), KeyboardInterrupt()])
def test_whatever_breaks_a_commit_nobody_hangs_and_the_store_opens_again(tmp_path: Path, error: BaseException) -> None:
    class BreakingFilesystem(FaultyFilesystem):
        def step(self, write_half: object = None) -> None:
            self.operations += 1
            if self.fail_at and self.operations >= self.fail_at:
                raise error

    filesystem = BreakingFilesystem()
    store = open_store(tmp_path / "s", filesystem=filesystem)
    store.append(TENANT, [new_event()])
    filesystem.fail_at = filesystem.operations + 1
    with pytest.raises((AppendUncertainError, KeyboardInterrupt)):
        store.append(TENANT, [new_event()])
    filesystem.fail_at = 0
    for _ in range(2):
        with pytest.raises(StoreReadOnlyError):
            store.append(TENANT, [new_event()])
    assert store.last_position == 1
    store.close()
    with open_store(tmp_path / "s") as reopened:
        assert 1 <= reopened.last_position <= 2
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
        patch.setattr(store._committer, "enqueue", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.append(TENANT, [new_event()])
    with pytest.raises(AppendUncertainError):
        store.append(TENANT, [new_event()])
    with pytest.raises(StoreReadOnlyError):
        store.append(TENANT, [new_event()])
    store.close()
    with open_store(tmp_path / "s") as reopened:
        assert reopened.last_position == 1
