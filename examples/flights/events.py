"""From one flight to its events: pure functions, so the same data gives the same events on every run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID, uuid5

import msgspec

from examples.flights.clock import first_after, local_text, utc_text
from examples.flights.dataset import Flight
from examples.flights.reference import Plane, Reference

__all__ = [
    "ARRIVED",
    "CANCELLED",
    "DEPARTED",
    "NAMESPACE",
    "SCHEDULED",
    "Event",
    "Payload",
    "all_events",
    "count_events",
    "entity_id",
    "events_of",
]

SCHEDULED: Final = "flight.scheduled"
DEPARTED: Final = "flight.departed"
ARRIVED: Final = "flight.arrived"
CANCELLED: Final = "flight.cancelled"

# Of the event ids. Another namespace would make another run's events new ones: never change it.
NAMESPACE: Final = UUID("266e1ddd-b7be-4e3a-a991-5a19cd7859a2")

Payload = dict[str, str | int]


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as the store takes it.

    Attributes:
        event_type: one of the four of this module.
        entity_id: the flight, see `entity_id`.
        payload: facts; one that the data does not have is left out.
        tags: ``tail:N14228`` if the aircraft is known, ``carrier:UA``, ``origin:EWR``, ``dest:IAH``.
        timestamp: when it happened, RFC 3339 in UTC.
        event_id: a UUIDv5 of entity and type, by which the store knows an event that it already has.
    """

    event_type: str
    entity_id: str
    payload: Payload
    tags: list[str]
    timestamp: str
    event_id: str


def entity_id(flight: Flight) -> str:
    """The flight's name in the store, ``flight:2013-01-01:UA1545:EWR:0515``: date and time local to the origin.

    A carrier may use a number from two origins on one day, so the origin has to be in it.
    """
    return f"flight:{flight.date}:{flight.carrier}{flight.number}:{flight.origin}:{flight.departure_clock:04d}"


def count_events(flight: Flight) -> int:
    """How many events `events_of` makes of the flight, without making them."""
    return 2 if flight.departure_delay is None or flight.arrived_clock is None else 3


def all_events(flights: Iterable[Flight], reference: Reference) -> Iterator[Event]:
    """The events of the flights, flight after flight."""
    for flight in flights:
        yield from events_of(flight, reference)


def events_of(flight: Flight, reference: Reference) -> list[Event]:
    """What happened to a flight, in the order in which it happened.

    It is scheduled, and then either cancelled (if it has no departure time) or departed; of those that departed
    all but 458 also arrived. Those have no arrival time, and nothing is made up for them.

    Raises:
        KeyError: `reference` lacks the time zone of an airport or the name of the airline.
    """
    entity = entity_id(flight)
    tags = [f"carrier:{flight.carrier}", f"origin:{flight.origin}", f"dest:{flight.destination}"]
    if flight.tail is not None:
        tags.insert(0, f"tail:{flight.tail}")

    def event(event_type: str, happened: datetime, payload: Payload) -> Event:
        event_id = str(uuid5(NAMESPACE, f"{entity}/{event_type}"))
        return Event(event_type, entity, payload, tags, utc_text(happened), event_id)

    events = [event(SCHEDULED, flight.scheduled, _scheduled(flight, reference))]
    if flight.departure_delay is None:
        # No one knows when a flight was called off, so the event stands where the departure would have been.
        return [*events, event(CANCELLED, flight.scheduled, _cancelled(flight))]
    # Scheduled time plus delay needs no guess about midnight, and equals the clock of the data in every row.
    departed = flight.scheduled + timedelta(minutes=flight.departure_delay)
    events.append(event(DEPARTED, departed, _departed(departed, flight.departure_delay)))
    if flight.arrived_clock is not None:
        arrived = first_after(departed, flight.arrived_clock, reference.zones[flight.destination])
        events.append(event(ARRIVED, arrived, _arrived(arrived, flight)))
    return events


def _scheduled(flight: Flight, reference: Reference) -> Payload:
    zone = reference.zones[flight.destination]
    payload: Payload = {
        "flight": f"{flight.carrier}{flight.number}",
        "carrier": flight.carrier,
        "airline": reference.airlines[flight.carrier],
        "origin": flight.origin,
        "dest": flight.destination,
        "scheduled_departure": local_text(flight.scheduled, reference.zones[flight.origin]),
        "scheduled_arrival": local_text(first_after(flight.scheduled, flight.arrival_clock, zone), zone),
        "distance_miles": flight.miles,
    }
    if flight.tail is not None:
        payload["tail"] = flight.tail
        if (plane := reference.planes.get(flight.tail)) is not None:
            payload["aircraft"] = _aircraft(plane)
    return payload


def _departed(departed: datetime, delay: int) -> Payload:
    return {"dep_time": utc_text(departed), "dep_delay_minutes": delay}


def _arrived(arrived: datetime, flight: Flight) -> Payload:
    payload: Payload = {"arr_time": utc_text(arrived)}
    if flight.arrival_delay is not None:
        payload["arr_delay_minutes"] = flight.arrival_delay
    if flight.air_time is not None:
        payload["air_time_minutes"] = flight.air_time
    return payload


def _cancelled(flight: Flight) -> Payload:
    """The data gives no reason for a cancellation."""
    return {
        "flight": f"{flight.carrier}{flight.number}",
        "carrier": flight.carrier,
        "origin": flight.origin,
        "dest": flight.destination,
    }


def _aircraft(plane: Plane) -> str:
    """``BOEING 737-824 of 1999``."""
    return f"{plane.manufacturer} {plane.model}" + ("" if plane.year is None else f" of {plane.year}")
