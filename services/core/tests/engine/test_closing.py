"""A store that was closed says so, whatever is asked of it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from allsource_core.engine import AppendCondition, ConditionItem, EventQuery, EventStore, StoreClosedError

from .stores import TENANT, Made, new_event, open_store

CONDITION = AppendCondition((ConditionItem(event_types=("other",)),))
UNKNOWN = uuid.UUID(int=1)


def run(awaitable: Awaitable[object]) -> object:
    async def wait() -> object:
        return await awaitable

    return asyncio.run(wait())


def first(items: AsyncGenerator[object, None]) -> object:
    return run(anext(items))


async def drain(items: AsyncGenerator[object, None]) -> None:
    async for _ in items:
        continue


CALLS: dict[str, Callable[[EventStore], object]] = {
    "append": lambda store: store.append(TENANT, [new_event("new")]),
    "append with an id": lambda store: store.append(TENANT, [new_event("new", event_id=UNKNOWN)]),
    "append with a condition": lambda store: store.append(TENANT, [new_event("new")], condition=CONDITION),
    "append_async": lambda store: run(store.append_async(TENANT, [new_event("new")])),
    "append_async with an id": lambda store: run(store.append_async(TENANT, [new_event("new", event_id=UNKNOWN)])),
    "append_async with a condition": lambda store: run(
        store.append_async(TENANT, [new_event("new")], condition=CONDITION)
    ),
    "read": lambda store: store.read(TENANT),
    "read_chunks": lambda store: store.read_chunks(TENANT),
    "read_async": lambda store: first(store.read_async(TENANT)),
    "get": lambda store: store.get(TENANT, UNKNOWN),
    "get_async": lambda store: run(store.get_async(TENANT, UNKNOWN)),
    "version": lambda store: store.version(TENANT, "x"),
    "state": lambda store: store.state(TENANT, "x"),
    "subscribe": lambda store: store.subscribe(TENANT),
    "subscribe_async": lambda store: store.subscribe_async(TENANT),
    "wait_for_position_async": lambda store: run(store.wait_for_position_async(1000, 1)),
    "removals.entity": lambda store: store.removals.entity(TENANT, "x"),
    "removals.event": lambda store: store.removals.event(TENANT, UNKNOWN),
    "removals.tenant": lambda store: store.removals.tenant("nobody"),
    "removals.set_policy": lambda store: store.removals.set_policy(TENANT, "x", max_count=1),
    "removals.policies": lambda store: store.removals.policies(TENANT),
    "removals.find": lambda store: store.removals.find(TENANT, 1),
    "removals.latest": lambda store: store.removals.latest(TENANT, limit=1),
    "seal": lambda store: store.seal(),
    "compact": lambda store: store.compact(),
}


def test_whatever_is_asked_of_a_closed_store_is_refused(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x")])
    settle(store)
    store.close()
    store.close()
    for name, call in CALLS.items():
        with pytest.raises(StoreClosedError):
            print(name, call(store))
    assert (store.last_position, store.stats().last_position, store.is_closed) == (1, 1, True)


def test_a_read_under_way_on_an_event_loop_is_told_of_the_end(tmp_path: Path) -> None:
    async def check(store: EventStore) -> None:
        for _ in range(2):
            await store.append_async(TENANT, [new_event()] * 2000)
            await asyncio.to_thread(store.seal)
        chunks = store.read_async(TENANT, EventQuery(event_type="order.placed"))
        await anext(chunks)
        await asyncio.to_thread(store.close)
        with pytest.raises(StoreClosedError):
            await drain(chunks)

    asyncio.run(check(open_store(tmp_path / "s")))
