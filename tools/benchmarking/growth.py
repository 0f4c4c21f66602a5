"""Stores with millions of events: how many, how they are made, and what is known of their files."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from allsource_core.engine import Event, EventStore, NewEvent, StoreOptions
from allsource_core.engine.manifest import Manifest
from tools.benchmarking.results import is_small
from tools.benchmarking.workload import TENANT

__all__ = ["BATCH", "Growth", "drop_page_cache", "fill", "manifest_of", "segments_touched"]

BATCH: Final = 1000
_EVENTS_VARIABLE: Final = "ALLSOURCE_BENCH_EVENTS"
_EVENTS: Final = 10_000_000
_EVENTS_SMALL: Final = 20_000
_FULL_SEGMENTS: Final = 1_000_000
"""From so many events on segments are as large as they are in a service."""

_options: Final = partial(StoreOptions, wait_seconds_max=120.0)
"""Where sealing is slow, appends wait for it: that is to be measured, not refused."""


class Growth(msgspec.Struct, frozen=True):
    """How much is measured.

    Attributes:
        small: only to show that it runs.
        events: that a store is made with; ``ALLSOURCE_BENCH_EVENTS``, 10 million by default.
        entities: that these belong to.
        options: of the stores.
        segment_rows: events of a segment.
        runs: of each measurement.
        calls: of what is timed call by call.
    """

    small: bool
    events: int
    entities: int
    options: StoreOptions
    runs: int
    calls: int

    @property
    def segment_rows(self) -> int:
        return self.options.segment_rows_max

    @classmethod
    def from_arguments(cls) -> Growth:
        """Of the command line and the environment."""
        if is_small():
            options = _options(segment_rows_max=_EVENTS_SMALL // 8, log_file_bytes_max=1024 * 1024)
            return cls(True, _EVENTS_SMALL, _EVENTS_SMALL // 10, options, 1, 50)
        events = int(os.environ.get(_EVENTS_VARIABLE, _EVENTS)) // BATCH * BATCH
        options = _options() if events >= _FULL_SEGMENTS else _options(segment_rows_max=max(events // 8, 2 * BATCH))
        return cls(False, events, events // 10, options, 5, 1000)

    def firsts(self) -> range:
        """The index of the first event of every batch."""
        return range(0, self.events, BATCH)


def fill(store: EventStore, firsts: Iterable[int], make: Callable[[int], list[NewEvent]]) -> float:
    """Append batches; the seconds that appending took, without those for making the events.

    Args:
        store: to fill.
        firsts: the index of the first event of each batch.
        make: the events of a batch by that index.
    """
    taken = 0.0
    for first in firsts:
        events = make(first)
        started = time.perf_counter()
        store.append(TENANT, events)
        taken += time.perf_counter() - started
    return taken


def manifest_of(store: EventStore) -> Manifest:
    """Which files make up the store."""
    return store._parts.catalog.manifest


def segments_touched(store: EventStore, events: Iterable[Event]) -> int:
    """In how many segments these events are."""
    lasts = [entry.last_position for entry in manifest_of(store).segments]
    return len({bisect_left(lasts, event.position) for event in events})


def drop_page_cache(directory: Path) -> None:
    """Have the system forget what it has cached of the files below a directory, which nobody has mapped."""
    for path in directory.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
