"""Reading in process, from memory, and opening a store. What is not claimed: reading from disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from allsource_core.engine import EventQuery, EventStore
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import is_small, report, time_runs
from tools.benchmarking.workload import EVENT_TYPE, entity, new_events

TENANT = "default"


def microseconds(call: Callable[[], object], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls * 1e6


def main() -> None:
    small = is_small()
    runs, calls = (1, 20) if small else (5, 2000)
    with benchmark_directory() as name:
        path = Path(name) / "store"
        with EventStore.open(path) as store:
            for first in range(0, 10_000, 1000):
                store.append(TENANT, new_events(first, 1000))
            one = EventQuery(entity_id=entity(7))
            ran = time_runs(lambda: microseconds(lambda: list(store.read(TENANT, one)), calls), runs)
            report("read_entity", ran, "µs", target="5 µs", events=100, stored=10_000)
            typed = EventQuery(event_type=EVENT_TYPE, limit=100)
            ran = time_runs(lambda: microseconds(lambda: list(store.read(TENANT, typed)), calls), runs)
            report("query_type", ran, "µs", target="50 µs", limit=100, matching=10_000)
            for first in range(10_000, 20_000 if small else 250_000, 1000):
                store.append(TENANT, new_events(first, 1000))
            stored = store.last_position
            ran = time_runs(lambda: stored / (microseconds(lambda: sum(1 for _ in store.read(TENANT)), 1) / 1e6), runs)
            report("catch_up", ran, "events/s", target="1,500,000", stored=stored)
            ran = time_runs(lambda: microseconds(lambda: next(islice(store.read(TENANT), 1)), calls), runs)
            report("first_event", ran, "µs", stored=stored)

        def reopen() -> float:
            started = time.perf_counter()
            EventStore.open(path).close()
            return stored / (time.perf_counter() - started)

        report("recover", time_runs(reopen, runs), "events/s", stored=stored)


if __name__ == "__main__":
    main()
