"""Scans that are longer than one step of theirs."""

from __future__ import annotations

import asyncio

import pytest

from allsource_core.engine import EventQuery, EventStore, StoreOptions

from .stores import TENANT, new_event


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EventStore:
    """5,000 events of 7 entities, every third one tagged."""
    with EventStore.open(tmp_path_factory.mktemp("scan") / "s", options=StoreOptions()) as opened:
        for begin in range(0, 5000, 1000):
            opened.append(
                TENANT,
                [
                    new_event(f"e-{number % 7}", tags=["third"] if number % 3 == 0 else [])
                    for number in range(begin, begin + 1000)
                ],
            )
        yield opened


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 1023, 1024, 1025, 4999, 6000])
@pytest.mark.parametrize(("after", "before"), [(0, None), (17, 4801), (1024, 2049), (4999, None), (5000, None)])
def test_a_scan_gives_every_event_once_in_order(
    store: EventStore, descending: bool, limit: int | None, after: int, before: int | None
) -> None:
    query = EventQuery(after_position=after, before_position=before, descending=descending, limit=limit)
    expected = list(range(after + 1, before or 5001))
    if descending:
        expected.reverse()
    assert [event.position for event in store.read(TENANT, query)] == expected[:limit]


def test_a_scan_on_an_event_loop_gives_the_same_and_lets_others_run(store: EventStore) -> None:
    async def check() -> None:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        query = EventQuery(tags=("third",), entity_id="e-1")
        chunks = [chunk async for chunk in store.read_async(TENANT, query)]
        assert all(chunks)
        assert [event for chunk in chunks for event in chunk] == list(store.read(TENANT, query))
        none = [chunk async for chunk in store.read_async(TENANT, EventQuery(until=0))]
        assert none == []
        assert turns >= 5
        counting.cancel()

    asyncio.run(check())
