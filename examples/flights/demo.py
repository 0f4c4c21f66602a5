"""The whole demonstration: sign in, load the flights, ask the three questions."""

from __future__ import annotations

import asyncio
import sys
from itertools import islice

import msgspec

from examples.flights.answers import aircraft_text, cancellations_text, history_text, load_text
from examples.flights.dataset import flights_by_departure
from examples.flights.events import all_events, count_events
from examples.flights.gateway import open_gateway, sign_in
from examples.flights.loader import LoadReport, load
from examples.flights.questions import (
    AircraftYear,
    CarrierCancellations,
    FlightHistory,
    aircraft_year,
    cancellations_per_carrier,
    flight_history,
)
from examples.flights.reference import read_reference

__all__ = ["AIRCRAFT", "FLIGHT", "DemoReport", "demo", "run_demo"]

FLIGHT = "flight:2013-01-01:UA1545:EWR:0515"
"""The first flight of the year, so that a short load has it too."""

AIRCRAFT = "N14228"
"""The aircraft of that flight."""


class DemoReport(msgspec.Struct, frozen=True):
    """What the demonstration found. `load` is None if it only asked."""

    load: LoadReport | None
    history: FlightHistory
    aircraft: AircraftYear
    cancellations: list[CarrierCancellations]

    def text(self) -> str:
        """All of it, for people."""
        parts = [] if self.load is None else [load_text(self.load)]
        parts += [
            history_text(self.history),
            aircraft_text(self.aircraft),
            cancellations_text(self.cancellations),
        ]
        return "\n\n".join(parts)


def run_demo(
    base_url: str,
    username: str,
    password: str,
    *,
    flights_limit: int | None = None,
    skip_load: bool = False,
    progress: bool = True,
) -> DemoReport:
    """`demo` for a caller that has no event loop."""
    return asyncio.run(
        demo(
            base_url,
            username,
            password,
            flights_limit=flights_limit,
            skip_load=skip_load,
            progress=progress,
        )
    )


async def demo(
    base_url: str,
    username: str,
    password: str,
    *,
    flights_limit: int | None = None,
    skip_load: bool = False,
    progress: bool = True,
) -> DemoReport:
    """Load the flights and ask the questions, all through the gateway.

    Args:
        base_url: the gateway, ``http://127.0.0.1:8081``.
        username: a user with the right to write and to read.
        password: theirs.
        flights_limit: only so many flights, the first ones of the year; None for all.
        skip_load: only ask.
        progress: whether to tell on standard error what goes on.

    Raises:
        GatewayError: the gateway refused something or is not there.
        DatasetError: the data package is not installed.
    """
    token = await sign_in(base_url, username, password)
    loaded = None if skip_load else await _load(base_url, token, flights_limit, progress)
    async with open_gateway(base_url, token) as gateway:
        if progress:
            print("asking the store ...", file=sys.stderr)
        history, aircraft, cancellations = await asyncio.gather(
            flight_history(gateway, FLIGHT),
            aircraft_year(gateway, AIRCRAFT),
            cancellations_per_carrier(gateway),
        )
    return DemoReport(loaded, history, aircraft, cancellations)


async def _load(base_url: str, token: str, flights_limit: int | None, progress: bool) -> LoadReport:
    if progress:
        print("reading the flights ...", file=sys.stderr)
    flights = list(islice(flights_by_departure(), flights_limit))
    return await load(
        base_url,
        token,
        all_events(flights, read_reference()),
        progress=progress,
        total=sum(map(count_events, flights)),
    )
