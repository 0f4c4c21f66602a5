"""Subscriptions: catching up from a position, then live, with no gap and no duplicate.

A subscription is a reader that remembers how far it has read. Events become visible in the order of their positions;
so reading everything up to the last visible position, and then everything behind that, misses and repeats nothing,
whether the events come from segments or from memory. A subscriber that is slow simply reads more at a time.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING, Final

import msgspec

from allsource_core.engine.errors import StoreClosedError
from allsource_core.engine.queries import EventQuery

if TYPE_CHECKING:
    from allsource_core.engine.events import Event
    from allsource_core.engine.store import EventStore

__all__ = ["CaughtUp", "subscribe", "subscribe_async"]

_WAIT_SECONDS: Final = 3600.0
"""A wait for new events ends after so long, and begins again."""


class CaughtUp(msgspec.Struct, frozen=True):
    """Everything up to `position` was given out: what comes next is new."""

    position: int


def subscribe(
    store: EventStore, tenant_id: str, query: EventQuery, *, poll_seconds: float
) -> Generator[Event | CaughtUp, None, None]:
    """See `EventStore.subscribe`."""
    _check_endless(query)
    return _subscribe(store, tenant_id, query, poll_seconds)


def _subscribe(
    store: EventStore, tenant_id: str, query: EventQuery, poll_seconds: float
) -> Generator[Event | CaughtUp, None, None]:
    position = query.after_position
    while True:
        up_to = store.last_position
        if up_to > position:
            behind = msgspec.structs.replace(query, after_position=position)
            for chunk in store.read_chunks(tenant_id, behind, up_to=up_to):
                yield from chunk
            position = up_to
        # Below it where the subscription begins behind the end.
        if store.last_position <= position:
            yield CaughtUp(position)
            while store.last_position <= position:
                if store.is_closed:
                    return
                time.sleep(poll_seconds)


def subscribe_async(
    store: EventStore, tenant_id: str, query: EventQuery
) -> AsyncGenerator[list[Event] | CaughtUp, None]:
    """See `EventStore.subscribe_async`."""
    _check_endless(query)
    return _subscribe_async(store, tenant_id, query)


async def _subscribe_async(
    store: EventStore, tenant_id: str, query: EventQuery
) -> AsyncGenerator[list[Event] | CaughtUp, None]:
    position = query.after_position
    while True:
        up_to = store.last_position
        if up_to > position:
            behind = msgspec.structs.replace(query, after_position=position)
            async for chunk in store.read_async(tenant_id, behind, up_to=up_to):
                yield chunk
            position = up_to
        if store.last_position <= position:
            yield CaughtUp(position)
            try:
                while not await store.wait_for_position_async(position + 1, _WAIT_SECONDS):
                    continue
            except StoreClosedError:
                return


def _check_endless(query: EventQuery) -> None:
    if query.limit is not None or query.descending or query.before_position is not None:
        raise ValueError("a subscription has no limit, no end and one direction")
