"""Retention: too old or too many events go, the state that they made stays, versions go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from allsource_core.engine import EventQuery, EventStore, Policy, StateNotKeptError, StoreOptions

from .data_directory import files_with
from .stores import TENANT, TurnableClock, new_event

SECOND = 1_000_000


def open_small(path: Path, clock: TurnableClock) -> EventStore:
    options = StoreOptions(
        maintenance="thread",
        segment_rows_max=10,
        log_file_bytes_max=4096,
        removal_seconds=0,
        reserve_bytes=0,
        # Whoever waits for sealing gets room, however slow the disk is.
        wait_seconds_max=600,
    )
    return EventStore.open(path, options=options, clock=clock)


@pytest.fixture
def clock() -> TurnableClock:
    return TurnableClock()


@pytest.fixture
def store(tmp_path: Path, clock: TurnableClock) -> Iterator[EventStore]:
    """25 events each of two entities, one a second, all sealed."""
    with open_small(tmp_path / "s", clock) as store:
        for number in range(25):
            store.append(
                TENANT,
                [
                    new_event("log-1", b'{"n":%d,"k%d":%d}' % (number, number % 3, number)),
                    new_event("keep-1", b'{"n":%d}' % number),
                ],
            )
            clock.now += SECOND
        store.seal()
        yield store


def settle(store: EventStore) -> None:
    """Let retention and what follows from it come to an end."""
    # Not by the time that it takes: a single round may wait for the disk for as long as it likes.
    for _ in range(100):
        store.compact()
        if not store.stats().removals_pending:
            return
    raise AssertionError("a removal does not end")


def versions(store: EventStore, entity_id: str, tenant: str = TENANT) -> list[int]:
    return [event.version for event in store.read(tenant, EventQuery(entity_id=entity_id))]


def test_the_newest_events_of_each_entity_with_the_prefix_stay(store: EventStore) -> None:
    before = store.state(TENANT, "log-1").to_json()
    store.removals.set_policy(TENANT, "log-", max_count=3)
    settle(store)
    assert versions(store, "log-1") == [23, 24, 25]
    assert versions(store, "keep-1") == list(range(1, 26))
    assert store.state(TENANT, "log-1").to_json() == before
    assert store.state(TENANT, "log-1").event_count == 25


def test_events_recorded_too_long_ago_go_and_a_moment_in_between_is_still_known(
    store: EventStore, clock: TurnableClock
) -> None:
    middle = store.state(TENANT, "log-1", as_of_version=22).to_json()
    store.removals.set_policy(TENANT, "log-", max_age_us=5 * SECOND)
    settle(store)
    assert versions(store, "log-1") == [21, 22, 23, 24, 25]
    assert store.state(TENANT, "log-1", as_of_version=22).to_json() == middle
    with pytest.raises(StateNotKeptError):
        store.state(TENANT, "log-1", as_of_version=3)


def test_an_entity_of_which_all_is_too_old_keeps_its_state_and_goes_on_with_the_next_version(
    store: EventStore, clock: TurnableClock
) -> None:
    before = store.state(TENANT, "log-1").to_json()
    clock.now += 60 * SECOND
    store.removals.set_policy(TENANT, "log-", max_age_us=SECOND)
    settle(store)
    assert versions(store, "log-1") == []
    assert store.state(TENANT, "log-1").to_json() == before
    appended = store.append(TENANT, [new_event("log-1", b'{"z":1}')], expected_versions={"log-1": "none"})
    assert appended.events[0].version == 26
    assert store.state(TENANT, "log-1").value() == {"n": 24, "k0": 24, "k1": 22, "k2": 23, "z": 1}


def test_what_retention_left_is_the_same_after_reopening_and_is_shortened_again(
    tmp_path: Path, clock: TurnableClock, store: EventStore
) -> None:
    before = store.state(TENANT, "log-1").to_json()
    store.removals.set_policy(TENANT, "log-", max_count=10)
    settle(store)
    store.close()
    with open_small(tmp_path / "s", clock) as store:
        assert store.removals.policies(TENANT) == [Policy(1, "log-", None, 10)]
        assert versions(store, "log-1") == list(range(16, 26))
        assert store.state(TENANT, "log-1").to_json() == before
        store.removals.set_policy(TENANT, "log-", max_count=2)
        settle(store)
        assert versions(store, "log-1") == [24, 25]
        assert store.state(TENANT, "log-1").to_json() == before
    with open_small(tmp_path / "s", clock) as store:
        assert versions(store, "log-1") == [24, 25]
        assert store.state(TENANT, "log-1").to_json() == before


def test_a_longer_prefix_wins_and_a_policy_can_be_taken_back(store: EventStore) -> None:
    store.removals.set_policy(TENANT, "keep", max_count=20)
    store.removals.set_policy(TENANT, "log-1")
    store.removals.set_policy(TENANT, "", max_count=1)
    settle(store)
    assert versions(store, "log-1") == [25]
    assert versions(store, "keep-1") == list(range(6, 26))
    store.removals.set_policy(TENANT, "", max_age_us=None, max_count=None)
    assert [policy.prefix for policy in store.removals.policies(TENANT)] == ["keep"]


def test_another_tenant_s_entities_of_the_same_name_are_left_alone(tmp_path: Path, clock: TurnableClock) -> None:
    with open_small(tmp_path / "t", clock) as store:
        for number in range(12):
            for tenant in ("a", "b"):
                store.append(tenant, [new_event("log-1", b"%d" % number)])
        store.seal()
        store.removals.set_policy("a", "log", max_count=1)
        settle(store)
        assert versions(store, "log-1", "a") == [12]
        assert versions(store, "log-1", "b") == list(range(1, 13))
        assert store.removals.policies("b") == []


def test_the_bytes_that_retention_removed_are_nowhere(tmp_path: Path, clock: TurnableClock) -> None:
    with open_small(tmp_path / "t", clock) as store:
        store.append(TENANT, [new_event("log-1", b'"needle-in-the-past"')])
        for number in range(12):
            store.append(TENANT, [new_event("log-1", b"%d" % number)])
        store.seal()
        store.removals.set_policy(TENANT, "log", max_count=2)
        settle(store)
        assert files_with(tmp_path / "t", b"needle-in-the-past") == []
