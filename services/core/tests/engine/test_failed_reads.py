"""Reads that fail: they let go of what they read from, so that its files can go."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from allsource_core.engine import (
    AppendCondition,
    ConditionItem,
    CorruptionError,
    EventQuery,
    EventStore,
    NewEvent,
    NotFoundError,
)
from allsource_core.engine.segment_reader import SegmentReader
from allsource_core.engine.view import View

from .stores import TENANT, new_event, open_store, without_background_work

FAILURES = (CorruptionError, NotFoundError, OSError, MemoryError)
KNOWN = UUID(int=7)
OF_ENTITY = EventQuery(entity_id="order-1")
EXCLUDING = AppendCondition((ConditionItem(event_types=("order.placed",)),))


async def go_through(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass


def again(**fields: Any) -> list[NewEvent]:
    return [new_event("other", b'{"n":2}', **fields)]


READS: dict[str, Callable[[EventStore], object]] = {
    "read": lambda store: list(store.read(TENANT)),
    "read backwards": lambda store: list(store.read(TENANT, EventQuery(descending=True))),
    "read an entity": lambda store: list(store.read(TENANT, OF_ENTITY)),
    "get": lambda store: store.get(TENANT, KNOWN),
    "state": lambda store: store.state(TENANT, "order-1"),
    "append a known id": lambda store: store.append(TENANT, again(event_id=KNOWN)),
    "append with a condition": lambda store: store.append(TENANT, again(), condition=EXCLUDING),
}
ASYNC_READS: dict[str, Callable[[EventStore], Coroutine[Any, Any, object]]] = {
    "read": lambda store: go_through(store.read_async(TENANT)),
    "read an entity": lambda store: go_through(store.read_async(TENANT, OF_ENTITY)),
    "get": lambda store: store.get_async(TENANT, KNOWN),
    "subscribe": lambda store: go_through(store.subscribe_async(TENANT)),
    "append a known id": lambda store: store.append_async(TENANT, again(event_id=KNOWN)),
    "append with a condition": lambda store: store.append_async(TENANT, again(), condition=EXCLUDING),
}


def on_a_loop(read: Callable[[EventStore], Coroutine[Any, Any, object]]) -> Callable[[EventStore], object]:
    """A read whose error is let go of on the loop: `asyncio.run` would keep it in a cycle of its own."""

    async def fail(store: EventStore) -> None:
        with pytest.raises(FAILURES):
            await read(store)

    def run(store: EventStore) -> None:
        asyncio.run(fail(store))
        raise CorruptionError(Path(), 0, "it failed on the loop")

    return run


@pytest.fixture(
    params=[*READS.values(), *map(on_a_loop, ASYNC_READS.values())],
    ids=[*READS, *(f"{name} async" for name in ASYNC_READS)],
)
def read(request: pytest.FixtureRequest) -> Callable[[EventStore], object]:
    return request.param  # type: ignore[no-any-return]


def keeps_no_view(store: EventStore, read: Callable[[EventStore], object], *, with_error: bool = False) -> None:
    """Let a read fail, without the collector; then nobody has the view that it read from. `with_error`: not even who
    keeps the error.
    """
    kept: list[BaseException] = []
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(FAILURES) as raised:
            read(store)
        if with_error:
            kept.append(raised.value)
        del raised
        catalog = store._catalog
        view: weakref.ref[View] = weakref.ref(catalog.view)
        catalog.renew_view()
        deadline = time.monotonic() + 60
        # A thread lets go a moment after it has told how a read ended.
        while view() is not None:
            assert time.monotonic() < deadline, "the view is kept"
            time.sleep(0.001)
    finally:
        gc.enable()


def refusing(error: Exception) -> Callable[..., None]:
    """What raises an error that has a cause, whose frames lead to those of the read as well."""

    def refuse(*_arguments: Any) -> None:
        try:
            dict[str, int]().pop("unknown")
        except KeyError as cause:
            raise type(error)(*error.args) from cause

    return refuse


def filled(path: Path) -> EventStore:
    store = open_store(path)
    store.append(TENANT, [new_event(event_id=KNOWN)])
    store.seal()
    return store


def test_that_meet_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[EventStore], object]
) -> None:
    without_background_work(monkeypatch)
    filled(tmp_path / "s").close()
    (segment,) = (tmp_path / "s" / "segments").glob("*.parquet")
    damaged = bytearray(segment.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    segment.write_bytes(damaged)
    with open_store(tmp_path / "s") as store:
        keeps_no_view(store, read)


@pytest.mark.parametrize("error", [OSError(), MemoryError()], ids=repr)
def test_that_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[EventStore], object], error: Exception
) -> None:
    without_background_work(monkeypatch)
    with filled(tmp_path / "s") as store:
        monkeypatch.setattr(SegmentReader, "decode", refusing(error))
        monkeypatch.setattr(SegmentReader, "row_group", refusing(error))
        keeps_no_view(store, read)


@pytest.mark.parametrize("error", [NotFoundError("it is not there"), OSError(), MemoryError()], ids=repr)
def test_of_removals_whose_errors_somebody_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    without_background_work(monkeypatch)
    with filled(tmp_path / "s") as store:
        monkeypatch.setattr(View, "get", refusing(error))
        keeps_no_view(store, lambda store: store.removals.event(TENANT, KNOWN), with_error=True)
