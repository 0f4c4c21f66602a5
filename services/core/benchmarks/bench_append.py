"""Appending in process: one at a time, by threads, by tasks, in batches; beside a bare fdatasync of as many bytes.

Every append is on disk before it returns. What is not claimed: a store with millions of events, or other processes'
load beside it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

from allsource_core.engine import EventStore
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import is_small, percentile, report, time_runs
from tools.benchmarking.workload import new_events

TENANT = "default"


def bare_fdatasync(directory: Path, calls: int, bytes_each: int) -> float:
    """Writes and syncs a second of a growing file, as the log's is."""
    data = os.urandom(bytes_each)
    descriptor = os.open(directory / "bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        started = time.perf_counter()
        for _ in range(calls):
            os.write(descriptor, data)
            os.fdatasync(descriptor)
        return calls / (time.perf_counter() - started)
    finally:
        os.close(descriptor)


def one_writer(store: EventStore, count: int, latencies: list[float]) -> float:
    events = new_events(0, count)
    started = time.perf_counter()
    for event in events:
        before = time.perf_counter()
        store.append(TENANT, [event])
        latencies.append((time.perf_counter() - before) * 1000)
    return count / (time.perf_counter() - started)


def threads(store: EventStore, writers: int, each: int) -> float:
    def write() -> None:
        for event in new_events(0, each):
            store.append(TENANT, [event])

    started = time.perf_counter()
    running = [threading.Thread(target=write) for _ in range(writers)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return writers * each / (time.perf_counter() - started)


def tasks(store: EventStore, writers: int, each: int) -> float:
    async def write() -> None:
        for event in new_events(0, each):
            await store.append_async(TENANT, [event])

    async def run() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(write() for _ in range(writers)))
        return writers * each / (time.perf_counter() - started)

    return asyncio.run(run())


def batches(store: EventStore, count: int) -> float:
    made = [new_events(first, 1000) for first in range(0, count * 1000, 1000)]
    started = time.perf_counter()
    for batch in made:
        store.append(TENANT, batch)
    return count * 1000 / (time.perf_counter() - started)


def main() -> None:
    small = is_small()
    runs = 1 if small else 5
    scale = 20 if small else 1
    with benchmark_directory() as name, EventStore.open(Path(name) / "store") as store:
        directory = Path(name)
        latencies: list[float] = []
        bare, single = [], []
        for _ in range(runs):  # in turn: what else the machine does meets both alike
            bare.append(bare_fdatasync(directory, 2000 // scale, 120))
            single.append(one_writer(store, 2000 // scale, latencies))
        report("bare_fdatasync", bare, "syncs/s", bytes=120)
        report(
            "append_one",
            single,
            "events/s",
            p99=percentile(latencies, 0.99),
            target="0.75 of bare",
            of_bare=round(sorted(single)[runs // 2] / sorted(bare)[runs // 2], 2),
        )
        ran = time_runs(lambda: threads(store, 16, 400 // scale), runs)
        report("append_one_threads", ran, "events/s", target="3 times bare", writers=16)
        ran = time_runs(lambda: tasks(store, 16, 1000 // scale), runs)
        report("append_one_tasks", ran, "events/s", target="6 times bare", writers=16)
        ran = time_runs(lambda: batches(store, 100 // scale), runs)
        report("append_batches", ran, "events/s", target="1,200,000", batch=1000)


if __name__ == "__main__":
    main()
