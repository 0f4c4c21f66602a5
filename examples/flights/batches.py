"""How the events are cut into batches: the same cut on every run, and never through a flight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from examples.flights.events import Event

__all__ = ["BATCH_EVENTS_MAX", "cut_batches", "halve"]

BATCH_EVENTS_MAX = 10_000
"""More than this the store does not take at once."""


def cut_batches(events: Iterable[Event], batch_size: int) -> Iterator[list[Event]]:
    """Cut a sequence in which every flight's events stand together.

    A batch gets flights until the next one would not fit, so where the cuts are depends on the events and
    `batch_size` alone. The store takes a batch that it already has as a whole for a duplicate, and refuses one of
    which it has a part: a run with another size, or over more flights than before, meets such batches, and the
    loader then halves them (`halve`), which costs requests but doubles nothing.

    Args:
        events: in any order of flights.
        batch_size: events in a batch at most, 3 to 10,000; a flight has up to 3.

    Raises:
        ValueError: another `batch_size`.
    """
    if not 3 <= batch_size <= BATCH_EVENTS_MAX:
        raise ValueError(f"batch_size is {batch_size}; it must be 3 to {BATCH_EVENTS_MAX}")
    batch: list[Event] = []
    for _, group in groupby(events, key=attrgetter("entity_id")):
        flight = list(group)
        if len(batch) + len(flight) > batch_size:
            yield batch
            batch = []
        batch += flight
    if batch:
        yield batch


def halve(batch: list[Event]) -> tuple[list[Event], list[Event]] | None:
    """The batch in two parts of about the same number of flights; None if it is only one flight."""
    starts = [place for place, event in enumerate(batch) if place == 0 or event.entity_id != batch[place - 1].entity_id]
    if len(starts) < 2:
        return None
    middle = starts[len(starts) // 2]
    return batch[:middle], batch[middle:]
