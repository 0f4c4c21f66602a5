"""Reading from a store of ten million events in a million entities, all of them in segments.

Once with each entity's ten events appended together, once scattered over the whole load by chance. *Cold* is a store
that was just opened: nothing of it is verified, parsed or decoded yet. What is not claimed: a disk that is slower than
this machine's, since the page cache holds such a store but for the rows that say otherwise.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from allsource_core.engine import EventQuery, EventStore, NewEvent
from tools.benchmarking.growth import BATCH, Growth, drop_page_cache, fill, manifest_of, segments_touched
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, at_least, at_most, percentile, report
from tools.benchmarking.workload import TENANT, neighbours, new_events, random_events

GROWTH = Section.GROWTH
EACH = 10
PAGE = 100
PAGES_BEHIND = 50
CATCH_UP = 1_000_000


def make_store(path: Path, size: Growth, make: Callable[[int], list[NewEvent]]) -> None:
    with EventStore.open(path, options=size.options) as store:
        fill(store, size.firsts(), make)
        store.seal()


def read_entities(store: EventStore, size: Growth, rng: random.Random) -> tuple[list[float], list[int], list[int]]:
    """Milliseconds, segments touched and events of each of many reads of an entity."""
    taken, touched, events = [], [], []
    for _ in range(size.calls):
        query = EventQuery(entity_id=f"entity-{rng.randrange(size.entities)}")
        started = time.perf_counter()
        found = list(store.read(TENANT, query))
        taken.append((time.perf_counter() - started) * 1000)
        touched.append(segments_touched(store, found))
        events.append(len(found))
    return taken, touched, events


def cold_reads(path: Path, size: Growth, arrival: str) -> None:
    """The first reads of a store whose files the system had to fetch, then others."""
    rng = random.Random(3)
    drop_page_cache(path)
    with EventStore.open(path, options=size.options) as store:
        segments = len(manifest_of(store).segments)
        for state in ("just opened, page cache empty", "page cache warm"):
            taken, touched, events = read_entities(store, size, rng)
            median, p99 = statistics.median(taken), percentile(taken, 0.99)
            of_each = statistics.median(ms / max(count, 1) for ms, count in zip(taken, touched, strict=True))
            if arrival == "together":
                targets = [at_most(1, of="p50 {} ms"), at_most(10, of="p99 {} ms", value=p99)]
            else:
                targets = [at_most(0.5, of="p50 {} ms × segments touched", value=of_each)]  # noqa: RUF001
            report(
                GROWTH,
                f"read one entity, its events {arrival}, {state}",
                [median],
                "ms",
                p99=p99,
                targets=targets,
                stored=size.events,
                calls=size.calls,
                events_each=statistics.median(events),
                segments_touched=statistics.median(touched),
                ms_a_segment=round(of_each, 3),
                segments=segments,
            )


def pages(path: Path, size: Growth) -> None:
    """From places far from each other, so that nothing is decoded yet: the first page there, and those behind it."""
    firsts: list[float] = []
    behind: list[float] = []
    with EventStore.open(path, options=size.options) as store:
        # Every third segment: the next one is decoded ahead.
        for entry in manifest_of(store).segments[::3]:
            after = entry.first_position - 1
            for page in range(min(PAGES_BEHIND + 1, entry.events // PAGE)):
                started = time.perf_counter()
                events = list(store.read(TENANT, EventQuery(after_position=after, limit=PAGE)))
                (behind if page else firsts).append((time.perf_counter() - started) * 1000)
                assert len(events) == PAGE
                after = events[-1].position
    for name, taken, bound in (
        ("page of 100 by position, the first of a segment", firsts, 250),
        ("page of 100 by position, the following ones", behind, 1),
    ):
        report(
            GROWTH,
            name,
            [statistics.median(taken)],
            "ms",
            p99=percentile(taken, 0.99),
            targets=[at_most(bound)],
            stored=size.events,
            calls=len(taken),
        )


def catch_up(path: Path, size: Growth) -> None:
    """Ranges of the store, with the next segment decoded beside and without, in turn."""
    wanted = min(size.events, CATCH_UP)
    ahead: list[float] = []
    alone: list[float] = []
    for run in range(size.runs):
        for rates, is_ahead in ((ahead, True), (alone, False)):
            with EventStore.open(path, options=size.options) as store:
                if not is_ahead:
                    store._parts.cache.prefetch = lambda reader: None  # type: ignore[method-assign]
                query = EventQuery(after_position=run * wanted % size.events, limit=wanted)
                started = time.perf_counter()
                count = sum(map(len, store.read_chunks(TENANT, query)))
                rates.append(count / (time.perf_counter() - started))
                assert count == wanted
    name = "catch-up as Event objects"
    report(GROWTH, f"{name}, decode-ahead on", ahead, "events/s", targets=[at_least(1_000_000)], events=wanted)
    report(GROWTH, f"{name}, in one thread", alone, "events/s", events=wanted)


def first_event(path: Path, size: Growth) -> None:
    """What a program waits for that opens the store and wants one event."""
    taken = []
    for _ in range(size.runs):
        started = time.perf_counter()
        with EventStore.open(path, options=size.options) as store:
            assert len(list(islice(store.read(TENANT, EventQuery(limit=1)), 1))) == 1
            taken.append((time.perf_counter() - started) * 1000)
    report(GROWTH, "open the store and read its first event", taken, "ms", stored=size.events)


def main() -> None:
    size = Growth.from_arguments()
    rng = random.Random(1)
    makers: dict[str, Callable[[int], list[NewEvent]]] = {
        "together": lambda first: new_events(first, BATCH, neighbours(EACH)),
        "scattered": lambda first: random_events(first, BATCH, size.entities, rng),
    }
    for arrival, make in makers.items():
        with benchmark_directory() as name:
            path = Path(name) / arrival
            make_store(path, size, make)
            cold_reads(path, size, arrival)
            if arrival == "scattered":
                pages(path, size)
                catch_up(path, size)
                first_event(path, size)


if __name__ == "__main__":
    main()
