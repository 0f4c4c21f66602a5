"""Retention among removals, reads and appends that come at any moment; what it looks at; what is known of before it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from allsource_core.engine import (
    EventQuery,
    EventStore,
    NotFoundError,
    StateNotKeptError,
    StoreOptions,
    retention,
)
from allsource_core.engine.job_runners import InlineRunner
from allsource_core.engine.log_writer import LogWriter
from allsource_core.engine.maintenance_jobs import Job, JobResult, RetentionJob
from allsource_core.engine.segment_format import SHORTENED
from allsource_core.engine.view import View

from .data_directory import errors_of, files_with
from .stores import TENANT, TurnableClock, new_event, without_background_work

SECOND = 1_000_000
OPTIONS = StoreOptions(
    maintenance="thread",
    segment_rows_max=64,
    log_file_bytes_max=4096,
    removal_seconds=0,
    retention_seconds=0,
    reserve_bytes=0,
)


@pytest.fixture
def clock() -> TurnableClock:
    return TurnableClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@pytest.fixture
def store(path: Path, clock: TurnableClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[EventStore]:
    """It works when a test says so. Whatever was done to it, it is whole at the end, and open for reading again."""
    without_background_work(monkeypatch)
    with EventStore.open(path, options=OPTIONS, clock=clock) as store:
        yield store
    assert errors_of(path) == []


def finish(store: EventStore) -> None:
    for _ in range(5):
        store.compact()
        if not store.stats().removals_pending:
            return
    raise AssertionError("a removal does not end")


def fill(store: EventStore, count: int, entity_id: str = "e") -> list[int]:
    """So many events, each with a member of its own; their positions."""
    appended = [
        store.append(TENANT, [new_event(entity_id, b'{"n":%d,"k%d":1}' % (n, n))]).first_position
        for n in range(1, count + 1)
    ]
    return list(map(int, appended))


def versions(store: EventStore, entity_id: str = "e") -> list[int]:
    return [event.version for event in store.read(TENANT, EventQuery(entity_id=entity_id))]


def during_the_look(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Have something done between the moment that a look has found what to remove and that of its removal."""
    run = InlineRunner.run

    def run_and_do(runner: InlineRunner, job: Job) -> JobResult:
        result = run(runner, job)
        if isinstance(job, RetentionJob):
            monkeypatch.setattr(InlineRunner, "run", run)
            do()
        return result

    monkeypatch.setattr(InlineRunner, "run", run_and_do)


# --- what was erased ---


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_was_erased_is_in_no_state_that_retention_keeps(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    needle = secrets.token_hex(16).encode()
    (first,) = store.append(TENANT, [new_event("e", b'{"name":"%s","a":1}' % needle)]).events
    store.append(TENANT, [new_event("e", b'{"b":2}'), new_event("e", b'{"c":3}')])
    store.seal()
    if when == "before":
        store.removals.event(TENANT, first.id)
    else:
        during_the_look(monkeypatch, lambda: store.removals.event(TENANT, first.id))
    store.removals.set_policy(TENANT, "", max_count=1)
    for _ in range(3):
        finish(store)
        state = store.state(TENANT, "e")
        assert (state.value(), state.event_count) == ({"b": 2, "c": 3}, 3)
        assert versions(store) == [3]
    assert files_with(path, needle) == []


def test_an_event_that_retention_takes_while_it_is_being_erased_is_not_said_to_be_erased(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = store.append(TENANT, [new_event("e", b'{"a":1}'), new_event("e", b'{"b":2}')]).events[0]
    store.removals.set_policy(TENANT, "", max_count=1)
    get = View.get

    def get_slowly(*arguments: Any) -> Any:
        event = get(*arguments)
        monkeypatch.setattr(View, "get", get)
        store.compact()
        return event

    monkeypatch.setattr(View, "get", get_slowly)
    with pytest.raises(NotFoundError):
        store.removals.event(TENANT, first.id)
    assert store.state(TENANT, "e").value() == {"a": 1, "b": 2}


# --- what comes meanwhile ---


def test_an_entity_that_is_removed_during_a_look_stays_removed(
    store: EventStore, path: Path, clock: TurnableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for entity_id in ("e", "other"):
        fill(store, 3, entity_id)
    store.seal()
    during_the_look(monkeypatch, lambda: store.removals.entity(TENANT, "e"))
    store.removals.set_policy(TENANT, "", max_count=1)
    store.compact()
    for afterwards in (lambda: None, store.compact, store.seal, lambda: finish(store)):
        afterwards()
        assert (store.state(TENANT, "e").version, store.version(TENANT, "e"), versions(store)) == (0, 3, [])
        assert (store.state(TENANT, "other").event_count, versions(store, "other")) == (3, [3])
        with pytest.raises(NotFoundError):
            store.removals.entity(TENANT, "e")
    store.close()
    with EventStore.open(path, options=OPTIONS, clock=clock) as store:
        assert (store.state(TENANT, "e").version, store.version(TENANT, "e")) == (0, 3)


def test_a_policy_that_is_taken_back_during_a_look_removes_nothing(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3)
    store.seal()
    during_the_look(monkeypatch, lambda: store.removals.set_policy(TENANT, ""))
    store.removals.set_policy(TENANT, "", max_count=1)
    finish(store)
    assert versions(store) == [1, 2, 3]


def test_a_policy_that_is_being_taken_back_as_a_look_begins_removes_nothing(
    store: EventStore, clock: TurnableClock
) -> None:
    fill(store, 3)
    store.seal()
    store.removals.set_policy(TENANT, "", max_age_us=SECOND)
    store.compact()
    clock.now += 2 * SECOND
    sequenced = store._parts.sequencer.memory.next_position
    committer = store._parts.path._committer
    assert committer is not None
    ending = threading.Thread(target=store.removals.set_policy, args=(TENANT, ""))
    with committer._committing:
        # It is sequenced, and waits for its sync.
        ending.start()
        while store._parts.sequencer.memory.next_position == sequenced:
            time.sleep(0.001)
        store.compact()
    ending.join()
    finish(store)
    assert versions(store) == [1, 2, 3]


@pytest.mark.parametrize("known", [False, True], ids=["a first read", "a state that is known"])
def test_a_state_that_is_read_while_retention_removes_events_is_whole(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    fill(store, 2)
    if known:
        store.state(TENANT, "e")
    fill(store, 2)
    store.seal()
    store.removals.set_policy(TENANT, "", max_count=1)
    read = View.read

    def read_late(*arguments: Any) -> Any:
        monkeypatch.setattr(View, "read", read)
        store.compact()
        return read(*arguments)

    monkeypatch.setattr(View, "read", read_late)
    state = store.state(TENANT, "e")
    assert (state.version, state.event_count, state.value()) == (4, 4, {"n": 2, "k1": 1, "k2": 1})
    assert versions(store) == [4]


def test_a_state_that_is_made_of_what_was_there_before_a_removal_is_not_kept(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 2)
    fill(store, 1, "other")
    store.removals.entity(TENANT, "other")
    take = store._states._take_view

    def take_early() -> View:
        monkeypatch.setattr(store._states, "_take_view", take)
        view = take()
        # From here on others take views that know of new removals in another place than this one.
        finish(store)
        store.removals.entity(TENANT, "e")
        return view

    monkeypatch.setattr(store._states, "_take_view", take_early)
    assert store.state(TENANT, "e").version in (0, 2)
    assert store.state(TENANT, "e").version == 0


# --- what is in memory ---


def test_events_that_are_only_in_memory_are_removed_as_well(store: EventStore, clock: TurnableClock) -> None:
    before = fill(store, 5)
    store.removals.set_policy(TENANT, "", max_count=2)
    store.compact()
    assert versions(store) == [4, 5]
    store.removals.set_policy(TENANT, "", max_age_us=10 * SECOND)
    clock.now += 9 * SECOND
    fill(store, 1)
    store.compact()
    assert versions(store) == [4, 5, 6]
    clock.now += 5 * SECOND
    store.compact()
    assert versions(store) == [6]
    clock.now += 10 * SECOND
    finish(store)
    assert versions(store) == []
    state = store.state(TENANT, "e")
    assert (state.version, state.event_count, state.first_version) == (6, 6, 7)
    assert before == [1, 2, 3, 4, 5]


def test_events_in_memory_count_for_those_in_segments(store: EventStore) -> None:
    fill(store, 3)
    store.seal()
    store.removals.set_policy(TENANT, "", max_count=3)
    fill(store, 2)
    sealed = store.stats().segments
    store.compact()
    assert versions(store) == [3, 4, 5]
    assert sealed == 1


def test_nothing_is_sealed_where_nothing_is_to_be_removed(store: EventStore) -> None:
    fill(store, 3)
    fill(store, 3, "other")
    store.removals.set_policy(TENANT, "e", max_count=3, max_age_us=SECOND)
    store.removals.set_policy(TENANT, "entity", max_count=1)
    store.compact()
    store.removals.entity(TENANT, "e")
    store.append(TENANT, [new_event("e")])
    memory = store._parts.sequencer.memory
    before = memory.tables
    for _ in range(3):
        store._parts.maintenance._retention.be_due()  # type: ignore[union-attr]
        assert not store._parts.maintenance._retention.look()  # type: ignore[union-attr]
    assert memory.tables == before
    assert memory.frozen == ()


# --- many entities ---


def append_twice_each(store: EventStore, count: int) -> None:
    for _ in range(2):
        for start in range(0, count, 60):
            store.append(TENANT, [new_event(f"e-{n}", b'{"n":%d}' % n) for n in range(start, start + 60)])
            store.compact()
    store.seal()


def test_many_entities_take_one_look_and_few_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    count = 1500
    with EventStore.open(tmp_path / "s", options=msgspec.structs.replace(OPTIONS, segment_rows_max=4096)) as store:
        append_twice_each(store, count)
        jobs: list[Job] = []
        commits: list[int] = []
        run, commit = InlineRunner.run, LogWriter.commit
        monkeypatch.setattr(InlineRunner, "run", lambda runner, job: jobs.append(job) or run(runner, job))
        monkeypatch.setattr(
            LogWriter, "commit", lambda writer, records: commits.append(len(records)) or commit(writer, records)
        )
        store.removals.set_policy(TENANT, "e-", max_count=1)
        maintenance = store._parts.maintenance
        assert maintenance is not None
        assert maintenance._retention.look()
        assert [type(job) for job in jobs] == [RetentionJob]
        assert (len(commits), sum(commits)) == (3, count + 1)
        assert all(versions(store, f"e-{n}") == [2] for n in range(0, count, 100))


def test_records_for_which_there_is_no_room_come_once_there_is(store: EventStore) -> None:
    append_twice_each(store, 600)
    store.removals.set_policy(TENANT, "e-", max_count=1)
    store.compact()
    assert all(versions(store, f"e-{n}") == [2] for n in range(600))


@pytest.mark.parametrize("bound", ["SHORTENINGS_MAX", "_SNAPSHOTS_BYTES_MAX"])
def test_more_than_one_look_may_find_comes_once_the_rest_is_applied(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    for number in range(8):
        fill(store, 2, f"e-{number}")
    state_bytes = len(store.state(TENANT, "e-0", as_of_version=1).to_json())
    monkeypatch.setattr(retention, bound, 3 if bound == "SHORTENINGS_MAX" else 3 * state_bytes)
    store.removals.set_policy(TENANT, "e-", max_count=1)
    shortened = []
    for _ in range(8):
        store.compact()
        assert store.stats().removals_pending <= 3
        shortened.append(sum(versions(store, f"e-{number}") == [2] for number in range(8)))
    assert sorted(set(shortened)) == [3, 6, 8]
    assert all(store.state(TENANT, f"e-{number}").event_count == 2 for number in range(8))


def test_an_entity_whose_state_is_too_large_for_a_record_is_left_as_it_is(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, 3, "small")
    fill(store, 9, "large")
    monkeypatch.setattr(retention, "_SNAPSHOT_BYTES_MAX", 40)
    store.removals.set_policy(TENANT, "", max_count=1)
    finish(store)
    assert (versions(store, "small"), versions(store, "large")) == ([3], list(range(1, 10)))


def test_removals_of_retention_are_no_operations_and_leave_nothing_in_the_manifest(store: EventStore) -> None:
    for number in range(5):
        fill(store, 2, f"e-{number}")
    fill(store, 1, "removed")
    removal = store.removals.entity(TENANT, "removed")
    store.removals.set_policy(TENANT, "e-", max_count=1)
    store.compact()
    assert store.stats().removals_pending == 5
    assert store.removals.latest(TENANT, limit=100) == [removal]
    assert store.removals.find(TENANT, removal.position + 3) is None
    finish(store)
    assert [one.position for one in store._catalog.manifest.removals] == [removal.position]
    assert list(store._catalog.removals) == [removal.position]
    assert store._catalog.removed.markers == {}


def test_finished_removals_are_forgotten_after_seven_days_without_another_one(
    store: EventStore, clock: TurnableClock
) -> None:
    fill(store, 1)
    removal = store.removals.entity(TENANT, "e")
    finish(store)
    clock.now += 7 * 24 * 3600 * SECOND
    store.compact()
    assert store.removals.find(TENANT, removal.position) is not None
    clock.now += 1
    store.compact()
    assert store.removals.find(TENANT, removal.position) is None


# --- what is known of before ---


def test_a_state_is_known_exactly_or_not_at_all(store: EventStore, clock: TurnableClock) -> None:
    positions, moments = [], []
    for number in range(1, 7):
        clock.now += SECOND
        positions += (
            fill(store, 1)
            if number == 1
            else [int(store.append(TENANT, [new_event("e", b'{"n":%d}' % number)]).first_position)]
        )
        moments.append(clock.now)
    exact = [store.state(TENANT, "e", as_of_version=version) for version in range(1, 7)]
    store.removals.set_policy(TENANT, "", max_count=2)
    for _ in range(2):
        finish(store)
        for number in range(6):
            for bound in (
                {"as_of_version": number + 1},
                {"as_of_position": positions[number]},
                {"as_of": moments[number]},
            ):
                if number < 3:
                    with pytest.raises(StateNotKeptError) as refusal:
                        store.state(TENANT, "e", **bound)
                    known = refusal.value.first_version, refusal.value.first_position, refusal.value.first_timestamp
                    assert known == (4, positions[3], moments[3])
                else:
                    state = store.state(TENANT, "e", **bound)
                    assert (state.version, state.to_json()) == (number + 1, exact[number].to_json())
        assert store.first_version(TENANT, "e") == store.state(TENANT, "e").first_version == 5
    assert store.first_version(TENANT, "another") == 1


def test_what_is_said_of_a_state_does_not_change_by_retention(store: EventStore, clock: TurnableClock) -> None:
    fill(store, 10)
    store.removals.entity(TENANT, "e")
    finish(store)
    clock.now += SECOND
    happened = [new_event("e", b'{"n":%d}' % n, timestamp=datetime(2001, 1, 9 - n, tzinfo=UTC)) for n in range(5)]
    store.append(TENANT, happened)
    before = store.state(TENANT, "e")
    assert (before.version, before.event_count, before.first_version) == (15, 5, 11)
    for bounds, first in (({"max_count": 2}, 14), ({"max_age_us": 1}, 16)):
        clock.now += SECOND
        store.removals.set_policy(TENANT, "", **bounds)
        finish(store)
        assert len(versions(store)) == 16 - first
        assert store.state(TENANT, "e") == msgspec.structs.replace(before, first_version=first)


def test_segments_show_what_was_shortened_as_the_format_says(store: EventStore, path: Path) -> None:
    positions = fill(store, 3)
    store.removals.set_policy(TENANT, "", max_count=1)
    finish(store)
    rows = [row for file in sorted((path / "segments").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    (row,) = [row for row in rows if row["kind"] == SHORTENED]
    assert (row["version"], msgspec.json.decode(row["payload"])) == (2, {"n": 2, "k1": 1, "k2": 1})
    now = TurnableClock().now
    assert msgspec.json.decode(row["metadata"]) == {
        "event_count": 2,
        "last_position": positions[1],
        "last_recorded_at": now,
        "last_timestamp": now,
        "newest_timestamp": now,
    }
