"""Subscriptions: catching up and going live, each event once, whatever happens to the files meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from allsource_core.engine import CaughtUp, Event, EventQuery, EventStore, StoreOptions
from allsource_core.engine.decoded_segment import DecodedSegment

from .stores import TENANT, new_event


def open_small(path: Path) -> EventStore:
    options = StoreOptions(
        maintenance="thread", segment_rows_max=20, log_file_bytes_max=4096, reserve_bytes=0, wait_seconds_max=600
    )
    return EventStore.open(path, options=options)


def take(store: EventStore, query: EventQuery, count: int) -> list[Event]:
    """The first so many events of a subscription."""
    items = (item for item in store.subscribe(TENANT, query) if isinstance(item, Event))
    return list(itertools.islice(items, count))


def test_what_is_stored_comes_first_and_then_what_is_new_with_no_gap_and_no_duplicate(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with open_small(tmp_path / "s") as store:
        for _ in range(50):
            store.append(TENANT, [new_event()])

        def write() -> None:
            for _ in range(100):
                store.append(TENANT, [new_event()] * chance.randint(1, 5))
                store.append("other", [new_event()])
                if chance.random() < 0.1:
                    store.seal()
            store.append(TENANT, [new_event(event_type="last")])

        writer = threading.Thread(target=write)
        writer.start()
        seen = []
        for item in store.subscribe(TENANT):
            if isinstance(item, Event):
                seen.append(item)
                if item.event_type == "last":
                    break
        writer.join()
        assert seen == list(store.read(TENANT)), f"seed {seed}"


def test_it_goes_on_behind_the_position_that_was_seen_last(tmp_path: Path) -> None:
    with open_small(tmp_path / "s") as store:
        for number in range(45):
            store.append(TENANT, [new_event(f"e-{number % 3}")])
        query = EventQuery(entity_id="e-1")
        first = take(store, query, 5)
        rest = take(store, EventQuery(entity_id="e-1", after_position=first[-1].position), 10)
        assert first + rest == list(store.read(TENANT, query))


def test_an_empty_store_is_caught_up_at_once(tmp_path: Path) -> None:
    with open_small(tmp_path / "s") as store:
        assert next(store.subscribe(TENANT)) == CaughtUp(0)
        store.append(TENANT, [new_event()])
        subscription = store.subscribe(TENANT)
        assert isinstance(next(subscription), Event)
        assert next(subscription) == CaughtUp(1)


def test_tasks_wait_for_what_is_new_and_end_when_the_store_is_closed(tmp_path: Path) -> None:
    everything: list[Event] = []
    some: list[Event] = []
    waiting: list[CaughtUp] = []

    async def follow(store: EventStore, query: EventQuery, seen: list[Event]) -> None:
        async with aclosing(store.subscribe_async(TENANT, query)) as items:
            async for item in items:
                if isinstance(item, CaughtUp):
                    waiting.append(item)
                else:
                    seen += item

    async def check(store: EventStore) -> None:
        for number in range(30):
            await store.append_async(TENANT, [new_event(f"e-{number % 2}")])
        await asyncio.to_thread(store.seal)
        following = [
            asyncio.create_task(follow(store, EventQuery(), everything)),
            asyncio.create_task(follow(store, EventQuery(entity_id="e-1", after_position=10), some)),
        ]
        await asyncio.sleep(0)
        for number in range(30):
            await store.append_async(TENANT, [new_event(f"e-{number % 2}")])
            await asyncio.sleep(0)
        expected = list(store.read(TENANT))
        expected_some = [event for event in expected if event.entity_id == "e-1" and event.position > 10]
        deadline = time.monotonic() + 60
        # Not only until they have seen all: a read that has not come to its end would be told of that of the store.
        while waiting.count(CaughtUp(60)) < 2 and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(store.close)
        await asyncio.gather(*following)
        assert everything == expected
        assert some == expected_some

    asyncio.run(check(open_small(tmp_path / "s")))


def test_a_subscription_has_no_end_and_one_direction(tmp_path: Path) -> None:
    with open_small(tmp_path / "s") as store:
        for query in (EventQuery(limit=1), EventQuery(descending=True), EventQuery(before_position=3)):
            with pytest.raises(ValueError, match="no end"):
                store.subscribe(TENANT, query)
            with pytest.raises(ValueError, match="no end"):
                store.subscribe_async(TENANT, query)


def test_one_that_begins_behind_the_end_waits_for_its_position(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        async with aclosing(store.subscribe_async(TENANT, query)) as items:
            assert await anext(items) == CaughtUp(3)
            following = asyncio.ensure_future(anext(items))
            await asyncio.sleep(0)
            for _ in range(4):
                (event,) = (await store.append_async(TENANT, [new_event()])).events
            assert await following == [event]

    query = EventQuery(after_position=3)
    with open_small(tmp_path / "a") as store:
        asyncio.run(check(store))
    with open_small(tmp_path / "b") as store:
        store.append(TENANT, [new_event()])
        subscription = store.subscribe(TENANT, query)
        assert next(subscription) == CaughtUp(3)
        *_, event = store.append(TENANT, [new_event()] * 3).events
        assert next(subscription) == event
        assert next(subscription) == CaughtUp(4)
    assert list(subscription) == []


def test_a_read_up_to_a_position_ends_there_wherever_the_events_are(tmp_path: Path) -> None:
    with open_small(tmp_path / "s") as store:
        for number in range(30):
            store.append(TENANT, [new_event(f"e-{number % 2}")])
        store.seal()
        for query in (EventQuery(), EventQuery(descending=True), EventQuery(entity_id="e-1"), EventQuery(limit=12)):
            chunks = list(store.read_chunks(TENANT, query, up_to=10))
            positions = sorted(event.position for chunk in chunks for event in chunk)
            assert positions == ([2, 4, 6, 8, 10] if query.entity_id else list(range(1, 11)))


@pytest.mark.parametrize("descending", [False, True])
def test_a_page_is_full_although_what_it_began_with_is_removed_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descending: bool
) -> None:
    options = StoreOptions(maintenance="thread", segment_rows_max=20, removal_seconds=3600, reserve_bytes=0)
    with EventStore.open(tmp_path / "s", options=options) as store:
        gone, left = ("z", "a") if descending else ("a", "z")
        for entity in ("a", "z"):
            store.append(TENANT, [new_event(entity) for _ in range(5)])
        store.seal()
        make = DecodedSegment.events

        def remove_meanwhile(decoded: DecodedSegment, indices: object) -> list[Event]:
            monkeypatch.setattr(DecodedSegment, "events", make)
            store.removals.entity(TENANT, gone)
            return make(decoded, indices)  # type: ignore[arg-type]

        monkeypatch.setattr(DecodedSegment, "events", remove_meanwhile)
        page = list(store.read(TENANT, EventQuery(limit=5, descending=descending)))
        assert [event.entity_id for event in page] == [left] * 5
