"""Single flights: known facts, and what the data leaves open."""

from __future__ import annotations

from uuid import UUID, uuid5

import pytest
from msgspec.structs import replace

from examples.flights.dataset import Flight
from examples.flights.events import NAMESPACE, Event, count_events, events_of


@pytest.fixture(scope="module")
def ua1545(january) -> Flight:
    return next(flight for flight in january if (flight.carrier, flight.number) == ("UA", 1545))


def times(events: list[Event]) -> dict[str, str]:
    return {event.event_type.removeprefix("flight."): event.timestamp for event in events}


def test_ua1545_of_new_years_day_has_its_real_times_in_utc(ua1545, reference):
    assert times(events_of(ua1545, reference)) == {
        "scheduled": "2013-01-01T10:15:00.000000Z",  # 05:15 in Newark
        "departed": "2013-01-01T10:17:00.000000Z",
        "arrived": "2013-01-01T14:30:00.000000Z",  # 08:30 in Houston
    }


def test_ua1545_carries_its_facts(ua1545, reference):
    scheduled, departed, arrived = events_of(ua1545, reference)
    assert scheduled.entity_id == "flight:2013-01-01:UA1545:EWR:0515"
    assert scheduled.tags == ["tail:N14228", "carrier:UA", "origin:EWR", "dest:IAH"]
    assert scheduled.payload == {
        "flight": "UA1545",
        "carrier": "UA",
        "airline": "United Air Lines Inc.",
        "origin": "EWR",
        "dest": "IAH",
        "scheduled_departure": "2013-01-01T05:15:00-05:00",
        "scheduled_arrival": "2013-01-01T08:19:00-06:00",
        "distance_miles": 1400,
        "tail": "N14228",
        "aircraft": "BOEING 737-824 of 1999",
    }
    assert departed.payload == {"dep_time": "2013-01-01T10:17:00.000000Z", "dep_delay_minutes": 2}
    assert arrived.payload == {
        "arr_time": "2013-01-01T14:30:00.000000Z",
        "arr_delay_minutes": 11,
        "air_time_minutes": 227,
    }


def test_event_ids_come_from_entity_and_type_and_stay_what_they_were(ua1545, reference):
    events = events_of(ua1545, reference)
    assert events == events_of(ua1545, reference)
    assert [UUID(event.event_id) for event in events] == [
        uuid5(NAMESPACE, f"{event.entity_id}/{event.event_type}") for event in events
    ]
    assert events[0].event_id == "c19aa21e-5d13-5ed9-893a-dc27be5a55f9"


def test_flight_without_departure_is_cancelled_at_its_scheduled_time(ua1545, reference):
    flight = replace(ua1545, departure_delay=None, arrived_clock=None, arrival_delay=None, air_time=None)
    scheduled, cancelled = events_of(flight, reference)
    assert (scheduled.event_type, cancelled.event_type) == ("flight.scheduled", "flight.cancelled")
    assert cancelled.timestamp == scheduled.timestamp
    assert cancelled.payload == {"flight": "UA1545", "carrier": "UA", "origin": "EWR", "dest": "IAH"}


def test_flight_that_left_and_has_no_arrival_time_gets_no_arrival(ua1545, reference):
    flight = replace(ua1545, arrived_clock=None, arrival_delay=None, air_time=None)
    assert list(times(events_of(flight, reference))) == ["scheduled", "departed"]


def test_diverted_flight_arrives_without_delay_and_air_time(ua1545, reference):
    flight = replace(ua1545, arrival_delay=None, air_time=None)
    assert events_of(flight, reference)[2].payload == {"arr_time": "2013-01-01T14:30:00.000000Z"}


def test_unknown_aircraft_has_no_tag_and_no_payload_member(ua1545, reference):
    events = events_of(replace(ua1545, tail=None), reference)
    assert all(event.tags == ["carrier:UA", "origin:EWR", "dest:IAH"] for event in events)
    assert not {"tail", "aircraft"} & events[0].payload.keys()


def test_aircraft_that_is_not_in_the_register_keeps_its_tail(ua1545, reference):
    scheduled = events_of(replace(ua1545, tail="N0"), reference)[0]
    assert scheduled.payload["tail"] == "N0"
    assert "aircraft" not in scheduled.payload


def test_early_departure_has_a_timestamp_before_the_schedule(ua1545, reference):
    assert (
        times(events_of(replace(ua1545, departure_delay=-10), reference))["departed"] == "2013-01-01T10:05:00.000000Z"
    )


def test_delay_beyond_midnight_needs_no_guess(ua1545, reference):
    happened = times(events_of(replace(ua1545, departure_delay=1301, arrived_clock=557), reference))
    assert happened["departed"] == "2013-01-02T07:56:00.000000Z"
    assert happened["arrived"] == "2013-01-02T11:57:00.000000Z"


@pytest.mark.parametrize("airport", ["BQN", "PSE", "SJU", "STT"])
def test_caribbean_airports_keep_atlantic_standard_time_all_year(ua1545, reference, airport):
    """They have no row in airports.csv."""
    happened = times(events_of(replace(ua1545, destination=airport, arrived_clock=1004), reference))
    assert happened["arrived"] == "2013-01-01T14:04:00.000000Z"


def test_events_are_counted_without_making_them(january, reference):
    assert [count_events(flight) for flight in january] == [len(events_of(flight, reference)) for flight in january]
