"""The three ways of writing that every store is measured by: one writer, many writers, batches; all durable."""

from __future__ import annotations

import asyncio
import threading
import time

from allsource_core.engine import EventStore
from tools.benchmarking.workload import TENANT, new_events

__all__ = ["append_batches", "append_by_tasks", "append_by_threads", "append_one_by_one"]


def append_one_by_one(store: EventStore, count: int) -> float:
    """One event a call, one call after the other; events/s."""
    events = new_events(0, count)
    started = time.perf_counter()
    for event in events:
        store.append(TENANT, [event])
    return count / (time.perf_counter() - started)


def append_by_threads(store: EventStore, writers: int, each: int) -> float:
    """The same by many threads at once."""
    events = new_events(0, each)

    def write() -> None:
        for event in events:
            store.append(TENANT, [event])

    threads = [threading.Thread(target=write) for _ in range(writers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return writers * each / (time.perf_counter() - started)


def append_by_tasks(store: EventStore, writers: int, each: int) -> float:
    """The same by many tasks of one event loop."""
    events = new_events(0, each)

    async def write() -> None:
        for event in events:
            await store.append_async(TENANT, [event])

    async def run() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(write() for _ in range(writers)))
        return writers * each / (time.perf_counter() - started)

    return asyncio.run(run())


def append_batches(store: EventStore, count: int) -> float:
    """So many batches of 1,000 events, one call after the other; events/s."""
    made = [new_events(first, 1000) for first in range(0, count * 1000, 1000)]
    started = time.perf_counter()
    for batch in made:
        store.append(TENANT, batch)
    return count * 1000 / (time.perf_counter() - started)
