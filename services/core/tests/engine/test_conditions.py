"""Append conditions: what they may say, what they see, and that of overlapping writers exactly one wins."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from allsource_core.engine import (
    AppendCondition,
    Appended,
    ConditionFailedError,
    ConditionItem,
    ConditionTooBroadError,
    Event,
    EventStore,
    InvalidEventError,
    NewEvent,
    StoreOptions,
    VersionConflictError,
    view,
)
from allsource_core.engine.hashes import HASH_KEY_BYTES
from allsource_core.engine.manifest import Manifest

from .stores import TENANT, Made, new_event, open_store

ROUNDS = 40
WRITERS = 8
TINY = StoreOptions(
    log_file_bytes_max=4096, segment_rows_max=8, maintenance="thread", reserve_bytes=0, wait_seconds_max=600
)


def none_of(*items: ConditionItem, after: int = 0) -> AppendCondition:
    return AppendCondition(items, after)


def none_tagged(*tags: str, after: int = 0) -> AppendCondition:
    return none_of(ConditionItem(tags=tags), after=after)


# --- what a condition may say ---

WORDS = tuple(f"word-{number}" for number in range(65))


@pytest.mark.parametrize(
    "condition, field",
    [
        (none_of(), "condition.fail_if_events_match"),
        (none_of(*[ConditionItem(tags=("t",))] * 17), "condition.fail_if_events_match"),
        (none_of(ConditionItem(tags=("t",)), ConditionItem()), "condition.fail_if_events_match[1]"),
        (none_of(ConditionItem(event_types=WORDS)), "condition.fail_if_events_match[0].event_types"),
        (none_of(ConditionItem(tags=WORDS)), "condition.fail_if_events_match[0].tags"),
        (none_of(ConditionItem(entity_ids=WORDS)), "condition.fail_if_events_match[0].entity_ids"),
        (none_of(ConditionItem(event_types=("x" * 257,))), "condition.fail_if_events_match[0].event_types"),
        (none_of(ConditionItem(tags=("",))), "condition.fail_if_events_match[0].tags"),
        (none_of(ConditionItem(entity_ids=("a\n",))), "condition.fail_if_events_match[0].entity_ids"),
        (none_tagged("t", after=-1), "condition.after"),
        (none_tagged("t", after=2**53), "condition.after"),
    ],
)
def test_a_condition_out_of_bounds_is_refused_by_its_place(made: Made, condition: AppendCondition, field: str) -> None:
    store, _ = made
    with pytest.raises(InvalidEventError) as refusal:
        store.append(TENANT, [new_event()], condition=condition)
    assert (refusal.value.index, refusal.value.field) == (None, field)
    assert store.last_position == 0


def test_a_condition_may_have_16_items_of_64_values_each(made: Made) -> None:
    store, settle = made
    words = WORDS[:64]
    item = ConditionItem(event_types=words, tags=words, entity_ids=words)
    store.append(TENANT, [new_event("word-1", event_type="word-63", tags=["word-1"])])
    settle(store)
    store.append(TENANT, [new_event("word-1")], condition=none_of(*[item] * 16))
    tag = ConditionItem(tags=("word-1",), entity_ids=words)
    with pytest.raises(ConditionFailedError):
        store.append(TENANT, [new_event()], condition=none_of(*[item] * 15, tag))


# --- what it sees ---


@pytest.mark.parametrize(
    "item, refuses",
    [
        (ConditionItem(event_types=("paid",)), True),
        (ConditionItem(event_types=("placed", "sent")), False),
        (ConditionItem(event_types=("sent", "paid")), True),
        (ConditionItem(tags=("red",)), True),
        (ConditionItem(tags=("red", "round")), True),
        (ConditionItem(tags=("red", "square")), False),
        (ConditionItem(entity_ids=("order-1",)), True),
        (ConditionItem(entity_ids=("order-2", "order-1")), True),
        (ConditionItem(entity_ids=("order-2",)), False),
        (ConditionItem(event_types=("paid",), tags=("red",), entity_ids=("order-1",)), True),
        (ConditionItem(event_types=("sent",), tags=("red",), entity_ids=("order-1",)), False),
        (ConditionItem(event_types=("paid",), tags=("blue",), entity_ids=("order-1",)), False),
        (ConditionItem(event_types=("paid",), tags=("red",), entity_ids=("order-2",)), False),
    ],
)
def test_an_item_means_one_of_the_types_all_of_the_tags_and_one_of_the_entities(
    made: Made, item: ConditionItem, refuses: bool
) -> None:
    store, settle = made
    (event,) = store.append(TENANT, [new_event(event_type="paid", tags=["red", "round"])]).events
    settle(store)
    if not refuses:
        assert store.append(TENANT, [new_event()], condition=none_of(item)).first_position == 2
        return
    with pytest.raises(ConditionFailedError) as refusal:
        store.append(TENANT, [new_event()], condition=none_of(ConditionItem(tags=("none",)), item))
    assert (refusal.value.position, refusal.value.event_id, refusal.value.after) == (1, event.id, 0)
    assert str(event.id) in str(refusal.value)
    # Behind that event there is none.
    assert store.append(TENANT, [new_event()], condition=none_of(item, after=1)).first_position == 2


def test_only_the_same_tenants_events_count_and_none_of_the_append_itself(made: Made) -> None:
    store, settle = made
    store.append("other", [new_event(tags=["t"])])
    settle(store)
    store.append(TENANT, [new_event(tags=["t"]), new_event(tags=["t"])], condition=none_tagged("t"))
    settle(store)
    with pytest.raises(ConditionFailedError):
        store.append("other", [new_event(tags=["t"])], condition=none_tagged("t"))
    store.append("third", [new_event(tags=["t"])], condition=none_tagged("t"))


def test_what_was_removed_or_erased_does_not_count(made: Made) -> None:
    store, settle = made
    (erased,) = store.append(TENANT, [new_event("erased", event_type="typed", tags=["t"])]).events
    store.append(TENANT, [new_event("removed", event_type="typed", tags=["t"])])
    settle(store)
    store.removals.event(TENANT, erased.id)
    store.removals.entity(TENANT, "removed")
    for _ in range(2):
        store.append(TENANT, [new_event()], condition=none_tagged("t"))
        # An erased event keeps its type and entity.
        typed = ConditionItem(event_types=("typed",), entity_ids=("erased", "removed"))
        with pytest.raises(ConditionFailedError) as refusal:
            store.append(TENANT, [new_event()], condition=none_of(typed))
        assert refusal.value.event_id == erased.id
        settle(store)
        store.compact()


def test_ids_come_first_then_versions_then_the_condition(made: Made) -> None:
    store, settle = made
    event = new_event(event_id=UUID(int=1), tags=["once"])
    assert not store.append(TENANT, [event], condition=none_tagged("once")).duplicate
    settle(store)
    assert store.append(TENANT, [event], condition=none_tagged("once")).duplicate
    with pytest.raises(VersionConflictError):
        store.append(TENANT, [new_event()], expected_versions={"order-1": 7}, condition=none_tagged("once"))
    with pytest.raises(ConditionFailedError):
        store.append(TENANT, [new_event()], expected_versions={"order-1": 1}, condition=none_tagged("once"))


def test_a_dry_run_tells_what_the_condition_would_say(made: Made) -> None:
    store, settle = made
    assert store.append(TENANT, [new_event()], condition=none_tagged("t"), dry_run=True).dry_run
    store.append(TENANT, [new_event(tags=["t"])])
    settle(store)
    with pytest.raises(ConditionFailedError):
        store.append(TENANT, [new_event()], condition=none_tagged("t"), dry_run=True)
    assert store.last_position == 1


# --- how much it may look at ---


def test_a_condition_that_would_read_too_many_row_groups_is_too_broad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view, "_CONDITION_ROW_GROUPS_MAX", 3)
    # By a key of chance the filter of one segment in 20,000 takes what is not there for something that may be.
    monkeypatch.setattr(Manifest, "new", lambda: Manifest(newest_log_file=1, hash_key="5a" * HASH_KEY_BYTES))
    # Segments of more than half as many events as they may have are not merged.
    with open_store(tmp_path / "s", options=msgspec.structs.replace(TINY, segment_rows_max=2)) as store:
        for turn in range(7):
            # Three segments have the type, and four the tag.
            batch = [new_event(event_type="t")] * 2 if turn < 3 else [new_event(tags=["tag"])] * 2
            store.append(TENANT, batch)
            store.seal()
        with pytest.raises(ConditionTooBroadError, match="more than 3 row groups"):
            store.append(TENANT, [new_event()], condition=none_tagged("tag"))
        # Items add up.
        items = ConditionItem(event_types=("t",), tags=("tag",)), ConditionItem(tags=("tag",))
        with pytest.raises(ConditionTooBroadError):
            store.append(TENANT, [new_event()], condition=none_of(*items))
        # Narrower, later, or by entity it is not too broad.
        with pytest.raises(ConditionFailedError):
            store.append(TENANT, [new_event()], condition=none_of(ConditionItem(event_types=("t",))))
        with pytest.raises(ConditionFailedError):
            store.append(TENANT, [new_event()], condition=none_tagged("tag", after=8))
        item = ConditionItem(tags=("other tag",), entity_ids=("order-1",))
        store.append(TENANT, [new_event()], condition=none_of(item))


def test_a_condition_that_takes_too_long_is_too_broad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_CONDITION_SECONDS_MAX", 0.0)
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(tags=["a"])])
        store.seal()
        item = ConditionItem(event_types=("other",), tags=("a",), entity_ids=("order-1",))
        with pytest.raises(ConditionTooBroadError, match="took more than 0 s"):
            store.append(TENANT, [new_event(), new_event()], condition=none_of(ConditionItem(tags=("b",)), item))
        assert store.last_position == 1


def test_looking_that_finds_nothing_is_bounded_in_time_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view, "_CONDITION_SECONDS_MAX", 0.0)
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(event_type="a", tags=["t"]), new_event(event_type="b")])
        store.seal()
        # Every segment may hold one, for all that its filter knows, and none does.
        item = ConditionItem(event_types=("b",), tags=("t",))
        with pytest.raises(ConditionTooBroadError, match="took more than 0 s"):
            store.append(TENANT, [new_event(), new_event()], condition=none_of(item))


# --- overlapping writers ---


@contextmanager
def sealing_all_the_time(store: EventStore) -> Iterator[None]:
    """Sealing and compaction go on beside what is tested."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            store.seal()
            time.sleep(0.001)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def together(call: Callable[[int], Appended]) -> list[Any]:
    """What several threads got that made a call at the same time: an answer, or the error."""
    barrier = threading.Barrier(WRITERS)
    outcomes: list[Any] = [None] * WRITERS

    def run(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = call(number)
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def check_one_won(store: EventStore, outcomes: list[Any], query_tag: str) -> None:
    won = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    lost = [outcome for outcome in outcomes if isinstance(outcome, ConditionFailedError)]
    assert (len(won), len(lost)) == (1, WRITERS - 1), outcomes
    stored = [event for event in store.read(TENANT) if query_tag in event.tags]
    assert stored == [event for event in won[0].events if query_tag in event.tags]
    for refusal in lost:
        assert (refusal.position, refusal.event_id) in [(event.position, event.id) for event in stored]


def seat(number: int, tag: str) -> list[NewEvent]:
    """A batch of which one event bears the tag, somewhere in it."""
    batch = [new_event(f"seat-{number}-{place}", b'{"by":%d}' % number) for place in range(number % 3 + 1)]
    batch[number % len(batch)].tags = [tag]
    return batch


@pytest.mark.parametrize("sealing", [False, True], ids=["at rest", "while sealing"])
def test_of_threads_that_append_on_the_same_condition_exactly_one_wins(tmp_path: Path, sealing: bool) -> None:
    with open_store(tmp_path / "s", options=TINY) as store:
        for turn in range(ROUNDS):
            after = random.choice([0, store.last_position])
            condition = none_tagged(f"seat-{turn}", after=after)

            def book(number: int, turn: int = turn, condition: AppendCondition = condition) -> Appended:
                return store.append(TENANT, seat(number, f"seat-{turn}"), condition=condition)

            if sealing:
                with sealing_all_the_time(store):
                    outcomes = together(book)
            else:
                outcomes = together(book)
            check_one_won(store, outcomes, f"seat-{turn}")


async def _book(store: EventStore, turn: int) -> list[Any]:
    condition = none_tagged(f"seat-{turn}")
    appends = [
        store.append_async(TENANT, seat(number, f"seat-{turn}"), condition=condition) for number in range(WRITERS)
    ]
    return await asyncio.gather(*appends, return_exceptions=True)


@pytest.mark.parametrize("sealing", [False, True], ids=["at rest", "while sealing"])
def test_of_tasks_that_append_on_the_same_condition_exactly_one_wins(tmp_path: Path, sealing: bool) -> None:
    async def run(store: EventStore) -> None:
        for turn in range(ROUNDS):
            check_one_won(store, await _book(store, turn), f"seat-{turn}")

    with open_store(tmp_path / "s", options=TINY) as store:
        if sealing:
            with sealing_all_the_time(store):
                asyncio.run(run(store))
        else:
            asyncio.run(run(store))


def test_conditions_that_overlap_in_part_keep_what_they_say(tmp_path: Path) -> None:
    """Two accounts, of which each writer needs both as it has seen them: no withdrawal is made twice."""
    items = (ConditionItem(entity_ids=("account-1", "account-2")), ConditionItem(tags=("frozen",)))
    wins = [0] * WRITERS
    refusals: list[tuple[int, int]] = []

    def withdraw(number: int, store: EventStore) -> None:
        chance = random.Random(number)
        while wins[number] < 10:
            seen = store.last_position
            entity = f"account-{chance.randint(1, 2)}"
            try:
                answer = store.append(TENANT, [new_event(entity)], condition=none_of(*items, after=seen))
            except ConditionFailedError as refusal:
                refusals.append((refusal.position, seen))
            else:
                # Nothing came between what was seen and what was decided.
                between = [event.position for event in store.read(TENANT) if event.position > seen]
                assert between[0] == answer.first_position
                wins[number] += 1

    with open_store(tmp_path / "s", options=TINY) as store:
        threads = [threading.Thread(target=withdraw, args=(number, store)) for number in range(WRITERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(1 for _ in store.read(TENANT)) == sum(wins) == 10 * WRITERS
        assert all(position > seen for position, seen in refusals)


def test_an_event_that_came_with_a_new_memtable_after_the_look_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer takes its view, and is late: what comes now stands in a memtable that the view does not have."""
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        path = store._parts.path
        look = path._facts
        late: list[bool] = []

        def look_late(*arguments: Any) -> Any:
            if not late:
                late.append(True)
                path.freeze()
                store.append(TENANT, [new_event(tags=["t"])])
            return look(*arguments)

        monkeypatch.setattr(path, "_facts", look_late)
        with pytest.raises(ConditionFailedError) as refusal:
            store.append(TENANT, [new_event()], condition=none_tagged("t"))
        assert refusal.value.position == 2


def test_a_refusal_waits_until_what_it_rests_on_is_durable(tmp_path: Path) -> None:
    """Who is told that an event is in the way must find it there, whatever happens next."""
    in_the_way: list[tuple[bool, Event | None]] = []
    with open_store(tmp_path / "s", options=TINY) as store:
        for turn in range(ROUNDS):
            tag = f"turn-{turn}"

            def append(number: int, tag: str = tag) -> Appended:
                try:
                    return store.append(TENANT, [new_event(f"e-{number}", tags=[tag])], condition=none_tagged(tag))
                except ConditionFailedError as refusal:
                    in_the_way.append((refusal.position <= store.last_position, store.get(TENANT, refusal.event_id)))
                    raise

            check_one_won(store, together(append), tag)
        assert len(in_the_way) == ROUNDS * (WRITERS - 1)
        assert all(is_durable and event is not None for is_durable, event in in_the_way)
