"""What the flights' codes stand for: the time zones of airports, the names of airlines, the types of aircraft."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from examples.flights.dataset import data_directory, known

__all__ = ["Airport", "Plane", "Reference", "read_airlines", "read_airports", "read_planes", "read_reference"]

# Destinations of the flights that airports.csv does not list. The zones are those that the IANA time zone
# database (zone.tab) gives for Puerto Rico (PR) and the U.S. Virgin Islands (VI): UTC-4 all year.
_ZONES_NOT_LISTED: Final = {
    "BQN": "America/Puerto_Rico",  # Aguadilla
    "PSE": "America/Puerto_Rico",  # Ponce
    "SJU": "America/Puerto_Rico",  # San Juan
    "STT": "America/St_Thomas",  # Charlotte Amalie
}


class Airport(msgspec.Struct, frozen=True):
    """An airport; `zone` is the name of its time zone in the IANA database, if the file has it."""

    code: str
    name: str
    zone: str | None


class Plane(msgspec.Struct, frozen=True):
    """An aircraft; `year` is the one it was built in."""

    tail: str
    manufacturer: str
    model: str
    year: int | None
    seats: int


class Reference(msgspec.Struct, frozen=True):
    """Everything that events take from the smaller files.

    Attributes:
        zones: FAA code to time zone, for every origin and destination.
        airlines: carrier to name.
        planes: tail number to aircraft; about one flight in six has an aircraft that is not there.
    """

    zones: Mapping[str, ZoneInfo]
    airlines: Mapping[str, str]
    planes: Mapping[str, Plane]


def read_reference() -> Reference:
    """All of it; a few thousand records.

    Raises:
        DatasetError: the data package is not installed.
    """
    names = {airport.code: airport.zone for airport in read_airports() if airport.zone is not None}
    return Reference(
        zones={code: ZoneInfo(name) for code, name in (names | _ZONES_NOT_LISTED).items()},
        airlines=read_airlines(),
        planes={plane.tail: plane for plane in read_planes()},
    )


def read_airports() -> Iterator[Airport]:
    """The airports of airports.csv."""
    for row in _rows("airports.csv"):
        yield Airport(code=row["faa"], name=row["name"], zone=known(row["tzone"]))


def read_airlines() -> dict[str, str]:
    """Carrier to name, ``UA`` to ``United Air Lines Inc.``."""
    return {row["carrier"]: row["name"] for row in _rows("airlines.csv")}


def read_planes() -> Iterator[Plane]:
    """The aircraft of planes.csv."""
    for row in _rows("planes.csv"):
        year = known(row["year"])
        yield Plane(
            tail=row["tailnum"],
            manufacturer=row["manufacturer"],
            model=row["model"],
            year=None if year is None else int(year),
            seats=int(row["seats"]),
        )


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (data_directory() / name).open(encoding="utf-8", newline="") as text:
        yield from csv.DictReader(text)
