"""Appending to a store of ten million events in a million entities, and what its files take.

Batches of 1,000; every append is on disk before it returns. Between two runs everything is sealed, so that no entity is
in memory when a run begins. What is not claimed: appends while a segment is made (bench_growth_interference.py).
"""

from __future__ import annotations

import random
import statistics
import time
import uuid
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from allsource_core.engine import EventStore, NewEvent
from tools.benchmarking.growth import BATCH, Growth, fill, manifest_of
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, Target, at_least, at_most, report
from tools.benchmarking.workload import TENANT, new_events, random_events

GROWTH = Section.GROWTH
REGULAR_SEGMENTS = 4


class Appends:
    """A large store, and batches for it."""

    def __init__(self, store: EventStore, size: Growth) -> None:
        self.store = store
        self.size = size
        self.batches = 3 if size.small else 100
        self._rng = random.Random(1)
        self._next = count(size.events, BATCH)

    def make(self, first: int) -> list[NewEvent]:
        return random_events(first, BATCH, self.size.entities, self._rng)

    def random_batches(self) -> list[list[NewEvent]]:
        return [self.make(next(self._next)) for _ in range(self.batches)]

    def regular_batches(self) -> list[list[NewEvent]]:
        return [new_events(next(self._next), BATCH) for _ in range(self.batches)]

    def rate(self, batches: Sequence[list[NewEvent]], store: EventStore | None = None) -> float:
        """Append them; events/s."""
        store = store or self.store
        started = time.perf_counter()
        for batch in batches:
            store.append(TENANT, batch)
        return len(batches) * BATCH / (time.perf_counter() - started)


def put(name: str, rates: list[float], size: Growth, *targets: Target, **parameters: Any) -> None:
    report(GROWTH, name, rates, "events/s", targets=targets, stored=size.events, entities=size.entities, **parameters)


def sealed_entities(appends: Appends) -> None:
    rates = []
    for _ in range(appends.size.runs):
        appends.store.seal()
        rates.append(appends.rate(appends.random_batches()))
    put("batches of 1,000 to 1,000 random entities, all sealed", rates, appends.size, at_least(300_000))


def client_ids(appends: Appends) -> None:
    rng = random.Random(2)
    new, again, sealed_again = [], [], []
    for _ in range(appends.size.runs):
        appends.store.seal()
        batches = appends.random_batches()
        for event in (event for batch in batches for event in batch):
            event.event_id = uuid.UUID(int=rng.getrandbits(128), version=4)
        position = appends.store.last_position
        new.append(appends.rate(batches))
        again.append(appends.rate(batches))
        appends.store.seal()
        sealed_again.append(appends.rate(batches))
        assert appends.store.last_position == position + len(batches) * BATCH
    target = at_least(250_000)
    put("the same, each event with a new client id", new, appends.size, target)
    put("the same batches a second time, still in memory", again, appends.size, target)
    put("the same batches a second time, sealed", sealed_again, appends.size, target)


def against_an_empty_store(directory: Path, appends: Appends) -> None:
    """The same batches to both in turn, nothing in the memory of either."""
    size = appends.size
    for name, make, targets in (
        ("append rate against an empty store", appends.regular_batches, [at_least(0.9)]),
        ("append rate against an empty store, random entities", appends.random_batches, []),
    ):
        large, empty = [], []
        for run in range(size.runs):
            batches = make()
            path = directory / f"{name[-6:]}-{run}"
            with EventStore.open(path, options=size.options) as store:
                empty.append(appends.rate(batches, store))
            appends.store.seal()
            large.append(appends.rate(batches))
        shares = [one / other for one, other in zip(large, empty, strict=True)]
        report(
            GROWTH,
            name,
            shares,
            "of the empty store's",
            targets=targets,
            stored=size.events,
            events_a_second=round(statistics.median(large)),
            empty_events_a_second=round(statistics.median(empty)),
        )


def report_segments(store: EventStore, arrival: str, target: Target, events: int) -> None:
    segments = manifest_of(store).segments
    assert sum(entry.events for entry in segments) == events
    report(
        GROWTH,
        f"segments, {arrival}",
        [sum(entry.bytes for entry in segments) / events],
        "bytes an event",
        targets=[target],
        stored=events,
        segments=len(segments),
        filters=round(sum(entry.index_bytes for entry in segments) / events, 2),
    )


def report_keys(store: EventStore, kind: str, name: str, keys: int, *targets: Target) -> None:
    """By key that was ever given: one may stand in several files until they are merged."""
    files = [entry for entry in manifest_of(store).key_files if entry.kind == kind]
    report(
        GROWTH,
        f"key directory, {name}",
        [round(sum(entry.bytes for entry in files) / keys, 1)],
        "bytes each",
        targets=targets,
        keys=keys,
        entries=sum(entry.entries for entry in files),
        files=len(files),
    )


def report_filters(store: EventStore, size: Growth) -> None:
    """Bytes of filters and of what else an index has: an entity counts in every segment that it is in."""
    filters = sum(entry.index_bytes for entry in manifest_of(store).segments)
    report(GROWTH, "filters and row groups", [filters / size.entities], "bytes an entity", entities=size.entities)


def regular_arrival(directory: Path, size: Growth) -> None:
    events = REGULAR_SEGMENTS * size.segment_rows // BATCH * BATCH
    with EventStore.open(directory / "regular", options=size.options) as store:
        fill(store, range(0, events, BATCH), lambda first: new_events(first, BATCH))
        store.seal()
        report_segments(store, "regular arrival", at_most(12), events)


def main() -> None:
    size = Growth.from_arguments()
    with benchmark_directory() as name:
        directory = Path(name)
        regular_arrival(directory, size)
        with EventStore.open(directory / "large", options=size.options) as store:
            appends = Appends(store, size)
            taken = fill(store, size.firsts(), appends.make)
            put("the whole load, random entities, sealing beside it", [size.events / taken], size)
            store.seal()
            report_segments(store, f"{size.entities:,} random entities", at_most(16), size.events)
            report_filters(store, size)
            report_keys(store, "entities", "an entity, when the load ends", size.entities)
            # What maintenance does by itself after a minute without a new segment.
            store.compact()
            report_keys(store, "entities", "an entity", size.entities, at_most(28))
            sealed_entities(appends)
            client_ids(appends)
            given = size.runs * appends.batches * BATCH
            report_keys(store, "ids", "a client event id", given, at_most(24))
            against_an_empty_store(directory, appends)


if __name__ == "__main__":
    main()
