"""Load events through the gateway: several batches in flight, safe to repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from time import monotonic

import httpx
import msgspec

from examples.flights.batches import cut_batches, halve
from examples.flights.events import Event
from examples.flights.gateway import Gateway, GatewayError, Patience, open_gateway
from examples.flights.progress import Progress, show_progress

__all__ = ["BATCH_SIZE", "LoadReport", "load"]

BATCH_SIZE = 1000
"""Events in a batch. Part of what stays the same between runs, see `cut_batches`."""


class LoadReport(msgspec.Struct, frozen=True):
    """What a load did.

    Attributes:
        events: events that are in the store now, whether this run put them there or another one.
        duplicates: those of them that were there before. Events whose first answer got lost also count here.
        seconds: from the first request to the last answer.
        batches: accepted batches.
        retries: requests that had to be sent again.
    """

    events: int
    duplicates: int
    seconds: float
    batches: int
    retries: int

    @property
    def events_per_second(self) -> float:
        """Events through the gateway, duplicates among them."""
        return self.events / self.seconds if self.seconds else 0.0


class _Answer(msgspec.Struct):
    """An answer to a batch, as far as it is of use here."""

    count: int
    duplicate: bool = False


class _Tally:
    """What the connections have done together."""

    def __init__(self) -> None:
        self.events = self.duplicates = self.batches = 0

    def add(self, answer: _Answer) -> None:
        self.batches += 1
        self.events += answer.count
        self.duplicates += answer.count if answer.duplicate else 0


async def load(
    base_url: str,
    token: str,
    events: Iterable[Event],
    *,
    batch_size: int = BATCH_SIZE,
    connections: int = 4,
    progress: bool = True,
    total: int | None = None,
    patience: Patience | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> LoadReport:
    """Append all events, in batches that are cut the same way on every run.

    The events are drawn from `events` as connections come free, so memory holds one batch for each connection.

    Args:
        base_url: the gateway, ``http://127.0.0.1:8081``.
        token: an access token with the right to write.
        events: each flight's events together and in order.
        batch_size: see `cut_batches` for what a change of it means.
        connections: batches in flight at once.
        progress: whether to report on standard error.
        total: number of events, for the time left; None if not known.
        patience: how long to try a batch again when the gateway is busy or away; 60 s in all by default.
        transport: takes the network's place in tests.

    Raises:
        GatewayError: a batch was refused, or patience ended. Batches before it are stored: run it again.
    """
    batches = cut_batches(events, batch_size)
    tally = _Tally()
    began = monotonic()
    async with open_gateway(
        base_url, token, connections=connections, patience=patience, transport=transport
    ) as gateway:
        with show_progress(total, enabled=progress) as shown:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(connections):
                        group.create_task(_work(gateway, batches, tally, shown))
            except ExceptionGroup as failed:
                # The connections mostly fail together and for the same reason; the first one says it.
                raise failed.exceptions[0] from None
        seconds = monotonic() - began
        return LoadReport(tally.events, tally.duplicates, seconds, tally.batches, gateway.retries)


async def _work(gateway: Gateway, batches: Iterator[list[Event]], tally: _Tally, shown: Progress) -> None:
    """One connection's work. All of them draw from one iterator, which only ever moves between two awaits."""
    for batch in batches:
        await _append(gateway, batch, tally, shown)


async def _append(gateway: Gateway, batch: list[Event], tally: _Tally, shown: Progress) -> None:
    """Append a batch; in halves, and these in halves, where the store has a part of it."""
    try:
        answer = await gateway.append(msgspec.json.encode({"events": batch}))
    except GatewayError as error:
        halves = halve(batch) if error.status == 409 else None
        if halves is None:
            raise
        for half in halves:
            await _append(gateway, half, tally, shown)
        return
    report = msgspec.json.decode(answer, type=_Answer)
    tally.add(report)
    shown.update(report.count)
