"""Three questions, answered from what the store says and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from examples.flights.events import ARRIVED, CANCELLED, DEPARTED, SCHEDULED
from examples.flights.gateway import Gateway, StoredEvent

__all__ = [
    "AircraftYear",
    "CarrierCancellations",
    "FlightHistory",
    "aircraft_year",
    "cancellations_per_carrier",
    "flight_history",
]


class FlightHistory(msgspec.Struct, frozen=True):
    """What happened to one flight, by version."""

    entity_id: str
    events: list[StoredEvent]


class AircraftYear(msgspec.Struct, frozen=True):
    """What one aircraft did.

    Attributes:
        tail: its registration.
        aircraft: manufacturer, model and year of building; None if the data does not have it.
        flights: flights it was scheduled for.
        flown: those that departed.
        cancelled: those that did not.
        miles: distance of the flights that departed, as scheduled.
        airports: codes of the airports it left from or arrived at, in alphabetical order.
        mean_departure_delay: minutes, over the flights that departed; None if none did.
        flown_by_month: ``2013-01`` to the number of flights that departed; by the day that the origin had.
    """

    tail: str
    aircraft: str | None
    flights: int
    flown: int
    cancelled: int
    miles: int
    airports: list[str]
    mean_departure_delay: float | None
    flown_by_month: dict[str, int]


class CarrierCancellations(msgspec.Struct, frozen=True):
    """One airline's cancelled flights among its scheduled ones."""

    carrier: str
    airline: str
    scheduled: int
    cancelled: int

    @property
    def share(self) -> float:
        """Cancelled of scheduled flights, 0 to 1."""
        return self.cancelled / self.scheduled


async def flight_history(gateway: Gateway, entity_id: str) -> FlightHistory:
    """One flight's events; none if the store does not know the flight."""
    events = [event async for event in gateway.stream(entity_id=entity_id)]
    return FlightHistory(entity_id, sorted(events, key=lambda event: event.version))


async def aircraft_year(gateway: Gateway, tail: str) -> AircraftYear:
    """One aircraft's flights, found by its tag."""
    # The four types of a flight's events, put together by the flight.
    by_type: dict[str, dict[str, dict[str, Any]]] = {SCHEDULED: {}, DEPARTED: {}, ARRIVED: {}, CANCELLED: {}}
    async for event in gateway.stream(tag=f"tail:{tail}"):
        by_type.setdefault(event.event_type, {})[event.entity_id] = event.payload
    scheduled, departed = by_type[SCHEDULED], by_type[DEPARTED]
    flown = [scheduled[flight] for flight in departed]
    arrived = [scheduled[flight] for flight in by_type[ARRIVED]]
    delays = [payload["dep_delay_minutes"] for payload in departed.values()]
    months = Counter(payload["scheduled_departure"][:7] for payload in flown)
    return AircraftYear(
        tail=tail,
        aircraft=next((payload["aircraft"] for payload in scheduled.values() if "aircraft" in payload), None),
        flights=len(scheduled),
        flown=len(flown),
        cancelled=len(by_type[CANCELLED]),
        miles=sum(payload["distance_miles"] for payload in flown),
        airports=sorted({payload["origin"] for payload in flown} | {payload["dest"] for payload in arrived}),
        mean_departure_delay=sum(delays) / len(delays) if delays else None,
        flown_by_month=dict(sorted(months.items())),
    )


async def cancellations_per_carrier(gateway: Gateway) -> list[CarrierCancellations]:
    """Every airline with scheduled flights, the one with the largest share of cancelled flights first.

    It reads all scheduled flights of the store, for the store has no counts to ask for.
    """
    scheduled: Counter[str] = Counter()
    airlines: dict[str, str] = {}
    async for event in gateway.stream(event_type=SCHEDULED):
        carrier = event.payload["carrier"]
        scheduled[carrier] += 1
        airlines[carrier] = event.payload["airline"]
    cancelled: Counter[str] = Counter()
    async for event in gateway.stream(event_type=CANCELLED):
        cancelled[event.payload["carrier"]] += 1
    rows = [
        CarrierCancellations(carrier, airlines[carrier], scheduled[carrier], cancelled[carrier])
        for carrier in scheduled
    ]
    return sorted(rows, key=lambda row: (-row.share, row.carrier))
