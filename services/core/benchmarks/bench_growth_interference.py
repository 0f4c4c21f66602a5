"""How much appends are held up by what else goes on: sealing, compaction, another tenant's broad conditions.

Single durable appends, one after the other, in a quiet store and beside the other work, in turn and for as long. What
is not claimed: how long the other work takes; and on two cores, of which it takes one, that the rest costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from allsource_core.engine import (
    AppendCondition,
    ConditionFailedError,
    ConditionItem,
    ConditionTooBroadError,
    EventStore,
    NewEvent,
)
from tools.benchmarking.growth import BATCH, Growth, fill
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, at_most, percentile, report
from tools.benchmarking.workload import EVENT_TYPE, TENANT, new_events

GROWTH = Section.GROWTH
OTHER_TENANTS = ("acme", "globex", "initech", "umbrella")
SMALL_SEGMENTS = 4
"""So many small neighbours are merged."""
TAGGED_EVERY = 100
"""Batches: some in every segment."""


class Appender:
    """Appends single events of several tenants, and notes how long each took."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._next = count()

    def until(self, is_over: Callable[[], bool]) -> list[float]:
        """The milliseconds of each append, at least of one, until it is over."""
        taken: list[float] = []
        while not taken or not is_over():
            number = next(self._next)
            events = new_events(number, 1)
            tenant = OTHER_TENANTS[number % len(OTHER_TENANTS)]
            started = time.perf_counter()
            self._store.append(tenant, events)
            taken.append((time.perf_counter() - started) * 1000)
        return taken

    def quietly(self, seconds: float) -> list[float]:
        """The same for a time, with nothing beside it."""
        end = time.perf_counter() + seconds
        return self.until(lambda: time.perf_counter() >= end)


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Work in another thread; what it raises is raised again here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()
    if failures:
        raise failures[0]


def put(name: str, busy: list[float], quiet: list[float], runs: int, **parameters: Any) -> None:
    ratio = percentile(busy, 0.99) / percentile(quiet, 0.99)
    report(
        GROWTH,
        name,
        [percentile(busy, 0.5)],
        "ms",
        p99=percentile(busy, 0.99),
        targets=[at_most(2, of="p99 {} times otherwise", value=ratio)],
        times_otherwise=round(ratio, 2),
        otherwise_p99_ms=round(percentile(quiet, 0.99), 3),
        otherwise_p50_ms=round(percentile(quiet, 0.5), 3),
        slowest_ms=round(max(busy), 1),
        otherwise_slowest_ms=round(max(quiet), 1),
        appends=len(busy),
        rounds=runs,
        **parameters,
    )


def sealing(directory: Path, size: Growth) -> None:
    """Nearly a whole segment at a time."""
    busy: list[float] = []
    quiet: list[float] = []
    events = size.segment_rows * 9 // 10 // BATCH * BATCH
    with EventStore.open(directory / "sealing", options=size.options) as store:
        appender = Appender(store)
        for _ in range(size.runs):
            fill(store, range(0, events, BATCH), lambda first: new_events(first, BATCH))
            started = time.perf_counter()
            with beside(store.seal) as thread:
                busy += appender.until(lambda: not thread.is_alive())
            quiet += appender.quietly(time.perf_counter() - started)
        assert store.stats().segments >= size.runs
    put("appends while a segment is sealed", busy, quiet, size.runs, events_sealed=events)


def compacting(directory: Path, size: Growth) -> None:
    """Four small segments become one; the last of them is sealed just before."""
    busy: list[float] = []
    quiet: list[float] = []
    events = size.segment_rows // (SMALL_SEGMENTS + 1) // 100 * 100
    with EventStore.open(directory / "compacting", options=size.options) as store:
        appender = Appender(store)
        for _ in range(size.runs):
            for part in range(SMALL_SEGMENTS):
                fill(store, range(0, events, 100), lambda first: new_events(first, 100))
                if part < SMALL_SEGMENTS - 1:
                    store.seal()
            started = time.perf_counter()
            with beside(store.seal) as thread:
                busy += appender.until(lambda: not thread.is_alive())
            quiet += appender.quietly(time.perf_counter() - started)
        compactions = store.stats().compactions
    put("appends while segments are compacted", busy, quiet, size.runs, compactions=compactions)


def tagged_batch(first: int) -> list[NewEvent]:
    """The usual events, and in some batches a few that give a condition something to look for in every segment."""
    events = new_events(first, BATCH)
    if first // BATCH % TAGGED_EVERY == 0:
        events[0].tags = ["rare"]
        events[0].event_type = f"{EVENT_TYPE}.tagged"
    return events


def conditions(directory: Path, size: Growth) -> None:
    """A tenant asks for a type together with a tag that every segment has, but never on one event: no filter helps, and
    all events are looked at until the condition is refused as too broad or holds.
    """
    condition = AppendCondition((ConditionItem(event_types=(EVENT_TYPE,), tags=("rare",)),))
    answers: Counter[str] = Counter()
    took: list[float] = []
    busy: list[float] = []
    quiet: list[float] = []
    with EventStore.open(directory / "conditions", options=size.options) as store:
        fill(store, size.firsts(), tagged_batch)
        store.seal()
        appender = Appender(store)
        stop = threading.Event()

        def ask() -> None:
            while True:
                started = time.perf_counter()
                try:
                    store.append(TENANT, new_events(0, 1), condition=condition)
                    answers["held"] += 1
                except ConditionTooBroadError:
                    answers["too_broad"] += 1
                except ConditionFailedError:
                    answers["failed"] += 1
                took.append(time.perf_counter() - started)
                if stop.is_set():
                    return

        seconds = 0.2 if size.small else 4.0
        for _ in range(size.runs):
            stop.clear()
            with beside(ask):
                busy += appender.quietly(seconds)
                stop.set()
            quiet += appender.quietly(seconds)
    name = "other tenants' appends while one sends conditions over all events"
    slowest = round(max(took), 2)
    put(name, busy, quiet, size.runs, stored=size.events, slowest_condition_s=slowest, **answers)


def main() -> None:
    size = Growth.from_arguments()
    with benchmark_directory() as name:
        directory = Path(name)
        sealing(directory, size)
        compacting(directory, size)
        conditions(directory, size)


if __name__ == "__main__":
    main()
