"""Appends with client event ids: a repetition is answered, a change is refused, a mixture stores nothing."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from allsource_core.engine import (
    AppendCondition,
    ConditionItem,
    EventIdConflictError,
    InvalidEventError,
    NewEvent,
    Raw,
)
from allsource_core.engine.events import server_id

from .stores import TENANT, Made, TurnableClock, new_event, open_store

A, B, C = (UUID(int=number) for number in (1, 2, 3))


@pytest.mark.parametrize("sealed", [False, True])
def test_a_repetition_gets_the_first_answer_and_stores_nothing_also_after_a_restart(
    tmp_path: Path, sealed: bool
) -> None:
    batch = [new_event("x", event_id=A), new_event("y", event_id=B)]
    with open_store(tmp_path / "s") as store:
        first = store.append(TENANT, batch)
        if sealed:
            store.seal()
        again = store.append(TENANT, batch)
        assert (first.duplicate, again.duplicate) == (False, True)
        assert first.durable
        assert again.durable
    with open_store(tmp_path / "s") as store:
        later = store.append(TENANT, batch)
        assert later.duplicate
        assert first.events == again.events == later.events
        assert (later.first_position, later.last_position, len(later)) == (1, 2, 2)
        assert store.last_position == 2


def test_a_repetition_in_other_cuts_is_still_a_repetition(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x", event_id=A)])
    settle(store)
    store.append(TENANT, [new_event("x", event_id=B)])
    assert store.append(TENANT, [new_event("x", event_id=A), new_event("x", event_id=B)]).duplicate
    settle(store)
    assert store.append(TENANT, [new_event("x", event_id=B), new_event("x", event_id=A)]).duplicate
    assert store.append(TENANT, [new_event("x", event_id=B)]).duplicate
    assert store.last_position == 2


def test_ids_are_checked_before_versions_and_conditions(made: Made) -> None:
    store, settle = made
    event = new_event("x", event_id=A, expected_version=0, tags=["t"])
    condition = AppendCondition((ConditionItem(tags=("t",)),))
    store.append(TENANT, [event], condition=condition)
    settle(store)
    assert store.append(TENANT, [event], expected_versions={"x": 0}, condition=condition).duplicate


@pytest.mark.parametrize(
    "changed",
    [
        new_event("other", event_id=A),
        new_event("x", event_type="order.paid", event_id=A),
        new_event("x", b'{"n":2}', event_id=A),
        new_event("x", event_id=A, tags=["t"]),
        new_event("x", event_id=A, metadata=Raw(b"{}")),
        new_event("x", event_id=A, timestamp=datetime(2013, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_known_id_with_other_content_is_a_conflict(made: Made, changed: NewEvent) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x", event_id=A)])
    settle(store)
    with pytest.raises(EventIdConflictError) as refusal:
        store.append(TENANT, [changed])
    assert (refusal.value.conflicts, refusal.value.changed) == ([(0, A)], True)
    assert store.last_position == 1


def test_a_batch_of_which_a_part_is_known_is_a_conflict_that_names_the_known_ids(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x", event_id=B)])
    settle(store)
    for newcomer in (new_event("x", event_id=C), new_event("x")):
        with pytest.raises(EventIdConflictError) as refusal:
            store.append(TENANT, [newcomer, new_event("x", event_id=B)])
        assert (refusal.value.conflicts, refusal.value.changed) == ([(1, B)], False)
    assert store.last_position == 1


def test_events_without_an_id_belong_to_a_repetition_if_they_stand_where_they_stood(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [new_event("before")])
    batch = [new_event("a"), new_event("x", event_id=A), new_event("y")]
    first = store.append(TENANT, batch)
    settle(store)
    again = store.append(TENANT, batch)
    assert again.duplicate
    assert again.events == first.events
    # A part of it, too; not one that reaches beyond.
    assert store.append(TENANT, batch[1:]).events == first.events[1:]
    with pytest.raises(EventIdConflictError):
        store.append(TENANT, [*batch, new_event("z")])
    assert store.last_position == 4


def test_an_event_without_an_id_that_came_with_another_append_is_no_part_of_a_repetition(
    made: Made, clock: TurnableClock
) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x", event_id=A)])
    clock.now += 1
    store.append(TENANT, [new_event("x")])
    settle(store)
    with pytest.raises(EventIdConflictError):
        store.append(TENANT, [new_event("x", event_id=A), new_event("x")])
    assert store.last_position == 2


def test_an_id_is_unique_in_its_tenant_only(made: Made) -> None:
    store, settle = made
    store.append("a", [new_event("x", event_id=A)])
    settle(store)
    assert not store.append("b", [new_event("x", event_id=A)]).duplicate
    settle(store)
    assert store.append("a", [new_event("x", event_id=A)]).events[0].position == 1
    assert store.append("b", [new_event("x", event_id=A)]).events[0].position == 2
    assert store.last_position == 2


def test_an_id_that_the_server_gave_counts_as_known_in_its_tenant(made: Made) -> None:
    store, settle = made
    (event,) = store.append(TENANT, [new_event("x")]).events
    settle(store)
    assert store.append(TENANT, [new_event("x", event_id=event.id)]).duplicate
    with pytest.raises(EventIdConflictError):
        store.append(TENANT, [new_event("z", event_id=event.id)])
    assert not store.append("other", [new_event("x", event_id=event.id)]).duplicate


@pytest.mark.parametrize(("ahead", "is_taken"), [(0, True), (1, False), (2**32, False), (2**32 + 1, True)])
def test_an_id_that_the_store_would_give_to_an_event_to_come_is_refused(made: Made, ahead: int, is_taken: bool) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x")] * 3)
    settle(store)
    event = new_event("x", event_id=server_id(1_600_000_000_000_000, 3 + ahead))
    if is_taken:
        store.append(TENANT, [event])
        settle(store)
        assert store.append(TENANT, [event]).duplicate
    else:
        with pytest.raises(InvalidEventError, match="yet to come"):
            store.append(TENANT, [event])
    assert store.last_position == 3 + is_taken


def test_an_id_twice_in_one_batch_is_invalid(made: Made) -> None:
    store, _ = made
    with pytest.raises(InvalidEventError) as refusal:
        store.append(TENANT, [new_event(event_id=A), new_event(event_id=A)])
    assert (refusal.value.index, refusal.value.field) == (1, "event_id")


def test_a_dry_run_of_a_repetition_says_so(made: Made) -> None:
    store, settle = made
    batch = [new_event("x", event_id=A)]
    assert not store.append(TENANT, batch, dry_run=True).duplicate
    first = store.append(TENANT, batch)
    settle(store)
    again = store.append(TENANT, batch, dry_run=True)
    assert (again.duplicate, again.events) == (True, first.events)


async def _append_at_once(path: Path) -> tuple[int, int]:
    with open_store(path) as store:
        batch = [new_event("x", event_id=A), new_event("x", event_id=B)]
        answers = await asyncio.gather(*(store.append_async(TENANT, batch) for _ in range(20)))
        assert all(answer.events == answers[0].events for answer in answers)
        return sum(not answer.duplicate for answer in answers), store.last_position


def test_of_overlapping_repetitions_one_is_stored(tmp_path: Path) -> None:
    assert asyncio.run(_append_at_once(tmp_path / "s")) == (1, 2)
