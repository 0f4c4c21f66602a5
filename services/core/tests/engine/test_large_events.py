"""Large events come in lists that whoever reads slowly can hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from allsource_core.engine import Event, EventQuery, EventStore, NewEvent, Raw, StoreOptions

TENANT = "t"
CHUNK_BYTES = 1024 * 1024
EVENT_BYTES = 100_000
EVENTS = 120
SMALL = 20_000

ENTITY = {"entity_id": "large"}
QUERIES: list[dict[str, Any]] = [{}, ENTITY, {"tags": ("t",)}, {**ENTITY, "tags": ("t",)}, {"limit": 90}]


def large(number: int) -> NewEvent:
    """An event whose payload is large, or all of what is beside it."""
    if number % 2:
        tags = ["t", *(f"{tag:03d}{'x' * 250}" for tag in range(31))]
        return NewEvent("a", "large", Raw(b"{}"), metadata=Raw(b'{"m":"%b"}' % (b"m" * 15_000)), tags=tags)
    return NewEvent("a", "large", Raw(b'"%b"' % (b"x" * EVENT_BYTES)), tags=["t"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventStore]:
    options = StoreOptions(maintenance="thread", reserve_bytes=0, removal_seconds=0)
    with EventStore.open(tmp_path_factory.mktemp("store"), options=options) as store:
        store.append(TENANT, [large(number) for number in range(EVENTS)])
        store.seal()
        store.append(TENANT, [NewEvent("a", f"small-{number % 50}", Raw(b"{}")) for number in range(SMALL // 2)])
        store.append(TENANT, [NewEvent("a", f"small-{number % 50}", Raw(b"{}")) for number in range(SMALL // 2)])
        store.seal()
        yield store


def size(event: Event) -> int:
    return 300 + len(event.payload) + len(event.metadata or b"") + len("".join(event.tags))


async def in_order(store: EventStore, query: EventQuery) -> list[list[Event]]:
    return [chunk async for chunk in store.read_async(TENANT, query)]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("selected", QUERIES)
def test_lists_are_cut_by_bytes_and_join_without_a_gap(
    store: EventStore, selected: dict[str, Any], descending: bool
) -> None:
    query = EventQuery(descending=descending, **selected)
    expected = list(range(1, EVENTS + 1 if "entity_id" in selected or "tags" in selected else EVENTS + SMALL + 1))
    expected = (expected[::-1] if descending else expected)[: query.limit]
    for chunks in (list(store.read_chunks(TENANT, query)), asyncio.run(in_order(store, query))):
        assert [event.position for chunk in chunks for event in chunk] == expected
        # A part may pass what was asked for by one event, and two may come back from a thread together.
        assert max(sum(map(size, chunk)) for chunk in chunks) <= 2 * (CHUNK_BYTES + EVENT_BYTES)


def test_lists_are_not_cut_finer_than_that(store: EventStore) -> None:
    large = list(store.read_chunks(TENANT, EventQuery(limit=EVENTS)))
    assert len(large) <= 10
    small = list(store.read_chunks(TENANT, EventQuery(after_position=EVENTS)))
    assert len(small) <= 20


def test_an_event_larger_than_a_list_comes_alone(tmp_path: Path) -> None:
    with EventStore.open(tmp_path, options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        # Beside its payload, which may have just as much, there are names.
        store.append(TENANT, [NewEvent("a", "e", Raw(b'"%b"' % (b"x" * (CHUNK_BYTES - 2)))) for _ in range(3)])
        store.seal()
        for query in (EventQuery(), EventQuery(entity_id="e")):
            assert [len(chunk) for chunk in store.read_chunks(TENANT, query)] == [1, 1, 1]
