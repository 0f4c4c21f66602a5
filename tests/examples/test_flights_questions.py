"""The three questions, from a store in memory, against the CSV file read by other code."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from examples.flights.answers import aircraft_text, cancellations_text, history_text, text_table
from examples.flights.dataset import read_flights
from examples.flights.demo import AIRCRAFT, FLIGHT
from examples.flights.events import all_events
from examples.flights.gateway import Gateway, GatewayError, open_gateway
from examples.flights.loader import load
from examples.flights.questions import aircraft_year, cancellations_per_carrier, flight_history


def ask(store, question: Callable[[Gateway], Awaitable[Any]]) -> Any:
    async def asking() -> Any:
        async with open_gateway("http://gateway.test", "t", transport=httpx.MockTransport(store)) as gateway:
            return await question(gateway)

    return asyncio.run(asking())


@pytest.fixture(scope="module")
def selected():
    """The flights of one aircraft, and those of the day of the storm."""
    flights = list(read_flights())
    return (
        [flight for flight in flights if flight.tail == AIRCRAFT],
        [flight for flight in flights if flight.date == "2013-02-08"],
    )


def put(store, flights, reference) -> None:
    events = all_events(flights, reference)
    transport = httpx.MockTransport(store)
    asyncio.run(load("http://gateway.test", "t", events, progress=False, transport=transport))


def test_history_of_a_flight_is_its_events_by_version(store, selected, reference):
    put(store, selected[0], reference)
    history = ask(store, lambda gateway: flight_history(gateway, FLIGHT))
    assert [(event.version, event.event_type, event.timestamp) for event in history.events] == [
        (1, "flight.scheduled", "2013-01-01T10:15:00.000000Z"),
        (2, "flight.departed", "2013-01-01T10:17:00.000000Z"),
        (3, "flight.arrived", "2013-01-01T14:30:00.000000Z"),
    ]
    text = history_text(history)
    assert "flight.departed" in text
    assert "dep_delay_minutes 2" in text


def test_year_of_an_aircraft_is_that_of_the_file(store, selected, reference, counted):
    put(store, selected[0], reference)
    year = ask(store, lambda gateway: aircraft_year(gateway, AIRCRAFT))
    flown = [row for row in counted.aircraft if row["dep_time"] != "NA"]
    arrived = [row for row in counted.aircraft if row["arr_time"] != "NA"]
    assert year.aircraft == "BOEING 737-824 of 1999"
    assert (year.flights, year.flown) == (len(counted.aircraft), len(flown)) == (111, len(flown))
    assert year.cancelled == len(counted.aircraft) - len(flown)
    assert year.miles == sum(int(row["distance"]) for row in flown)
    assert year.mean_departure_delay == pytest.approx(sum(int(row["dep_delay"]) for row in flown) / len(flown))
    assert year.flown_by_month == Counter(f"2013-{int(row['month']):02d}" for row in flown)
    assert year.airports == sorted({row["origin"] for row in flown} | {row["dest"] for row in arrived})
    text = aircraft_text(year)
    assert f"{year.miles:,}" in text
    assert "2013-12" in text


def test_cancellations_of_the_day_of_the_storm_are_those_of_the_file(store, selected, reference, counted):
    put(store, selected[1], reference)
    rows = ask(store, cancellations_per_carrier)
    scheduled = Counter(row["carrier"] for row in counted.storm)
    cancelled = Counter(row["carrier"] for row in counted.storm if row["dep_time"] == "NA")
    assert cancelled.total() == 472
    assert {row.carrier: (row.scheduled, row.cancelled) for row in rows} == {
        carrier: (scheduled[carrier], cancelled[carrier]) for carrier in scheduled
    }
    assert [row.share for row in rows] == sorted((row.share for row in rows), reverse=True)
    assert {row.carrier: row.airline for row in rows}["UA"] == "United Air Lines Inc."
    assert "all" in cancellations_text(rows).splitlines()[-1]


def test_store_without_flights_gives_empty_answers(store):
    history = ask(store, lambda gateway: flight_history(gateway, FLIGHT))
    year = ask(store, lambda gateway: aircraft_year(gateway, AIRCRAFT))
    rows = ask(store, cancellations_per_carrier)
    assert (history.events, year.flights, year.mean_departure_delay, rows) == ([], 0, None, [])
    assert history_text(history)
    assert "unknown" in aircraft_text(year)
    assert cancellations_text(rows)


def test_refused_query_says_why(refuse):
    with pytest.raises(GatewayError, match="403 forbidden: needs read"):
        ask(lambda request: refuse(403, "forbidden", "needs read"), cancellations_per_carrier)


def test_event_is_read_whole_however_the_stream_is_cut(store, selected, reference):
    put(store, selected[0], reference)

    class Crumbs(httpx.AsyncByteStream):
        def __init__(self, content: bytes) -> None:
            self.content = content

        async def __aiter__(self):
            for start in range(0, len(self.content), 97):
                yield self.content[start : start + 97]

    def crumbling(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Crumbs(store(request).content.rstrip(b"\n")))

    whole = ask(store, lambda gateway: aircraft_year(gateway, AIRCRAFT))
    assert ask(crumbling, lambda gateway: aircraft_year(gateway, AIRCRAFT)) == whole


def test_stream_of_something_else_is_an_error():
    with pytest.raises(GatewayError, match="not an event"):
        ask(lambda request: httpx.Response(200, content=b"<html>\n"), cancellations_per_carrier)


def test_table_sets_numbers_to_the_right():
    assert text_table(["name", "n"], [["a", "1"], ["bc", "23"]], right=[1]) == (
        "name   n\n----  --\na      1\nbc    23"
    )
