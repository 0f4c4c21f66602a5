"""The engine in process: appending, reading and writing a segment, at sizes that stay in memory.

Events are structs whose payload is bytes: nothing is decoded. *Bare* is a write and an fdatasync of as many bytes to a
file of zeros, taken in turn with the run. What is not claimed: a store with millions of events (bench_growth_…), other
processes' load beside it, HTTP.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from allsource_core.engine import EventQuery, EventStore, NewEvent
from allsource_core.engine.event_columns import EventColumns, StoredEvents
from allsource_core.engine.filesystem import Bytes, LocalFilesystem
from allsource_core.engine.hashes import HASH_KEY_BYTES, Hasher
from allsource_core.engine.record_rows import table_of_records
from allsource_core.engine.segment_writer import write_segment
from tools.benchmarking.bare import BareFile
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, at_least, at_most, is_small, percentile, report, time_runs
from tools.benchmarking.workload import EVENT_TYPE, TENANT, entity, new_events

ENGINE = Section.ENGINE
EVENTS = 10_000
BATCH = 1000


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def microseconds(call: Callable[[], object], calls: int) -> float:
    """Of one call, on average."""
    return seconds(lambda: [call() for _ in range(calls)]) / calls * 1e6


# --- appending ---


def append_singly(store: EventStore, events: Sequence[NewEvent]) -> None:
    for event in events:
        store.append(TENANT, [event])


def in_memory_alone(runs: int) -> None:
    events = new_events(0, EVENTS)

    def run() -> float:
        with EventStore.in_memory() as store:
            return EVENTS / seconds(lambda: append_singly(store, events))

    rates = time_runs(run, runs)
    report(ENGINE, "append one at a time, 10,000 events, memory only", rates, "events/s", targets=[at_least(500_000)])


def in_memory_threads(runs: int) -> None:
    shares = [new_events(first, 250) for first in range(0, 2000, 250)]

    def run() -> float:
        with EventStore.in_memory() as store:
            threads = [threading.Thread(target=append_singly, args=(store, share)) for share in shares]

            def together() -> None:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            return seconds(together) * 1000

    name = "8 threads appending 250 events each, memory only"
    report(ENGINE, name, time_runs(run, runs), "ms", targets=[at_most(4)])


def batches(directory: Path, runs: int, count: int) -> None:
    made = [new_events(first, BATCH) for first in range(0, count * BATCH, BATCH)]
    bare_file = BareFile(directory)
    with EventStore.open(directory / "batches") as store:

        def append() -> None:
            for batch in made:
                store.append(TENANT, batch)

        before = store.stats().log_bytes
        append()
        bytes_each = (store.stats().log_bytes - before) // count
        rates, bare = [], []
        for _ in range(runs):  # in turn: what else the machine does meets both alike
            bare.append(count * BATCH / bare_file.seconds(count, bytes_each))
            rates.append(count * BATCH / seconds(append))
    bare_file.close()
    report(
        ENGINE,
        "append in batches of 1,000, log on, fsync each batch",
        rates,
        "events/s",
        targets=[at_least(1_200_000)],
        batches=count,
        bytes_a_batch=bytes_each,
        bare_events_a_second=round(statistics.median(bare)),
    )


def hundred_appends(directory: Path, runs: int) -> None:
    events = new_events(0, 100)
    bare_file = BareFile(directory)
    latencies: list[float] = []
    with EventStore.open(directory / "hundred") as store:

        def append() -> float:
            started = time.perf_counter()
            for event in events:
                before = time.perf_counter()
                store.append(TENANT, [event])
                latencies.append((time.perf_counter() - before) * 1000)
            return (time.perf_counter() - started) * 1000

        before = store.stats().log_bytes
        append()
        bytes_each = (store.stats().log_bytes - before) // 100
        latencies.clear()
        taken, bare = [], []
        for _ in range(runs):
            bare.append(bare_file.seconds(100, bytes_each) * 1000)
            taken.append(append())
    bare_file.close()
    ratio = statistics.median(taken) / statistics.median(bare)
    report(
        ENGINE,
        "100 appends, fsync each",
        taken,
        "ms",
        p99=percentile(latencies, 0.99),
        targets=[at_most(1.3, of="{} times bare", value=ratio)],
        bare_ms=round(statistics.median(bare), 2),
        of_bare=round(ratio, 2),
        bytes_each=bytes_each,
    )


# --- reading ---


def reads(runs: int, calls: int) -> None:
    with EventStore.in_memory() as store:
        for first in range(0, EVENTS, BATCH):
            store.append(TENANT, new_events(first, BATCH))
        queries = [EventQuery(entity_id=entity(number)) for number in range(100)]
        # Each entity's events become objects when they are read for the first time.
        firsts = [microseconds(lambda: list(store.read(TENANT, query)), 1) for query in queries]  # noqa: B023
        one = queries[7]
        ran = time_runs(lambda: microseconds(lambda: list(store.read(TENANT, one)), calls), runs)
        name = "read one entity's 100 of 10,000 events"
        report(ENGINE, name, ran, "µs", targets=[at_most(5)], first_time_us=round(statistics.median(firsts), 1))
        typed = EventQuery(event_type=EVENT_TYPE, limit=100)
        ran = time_runs(lambda: microseconds(lambda: list(store.read(TENANT, typed)), calls), runs)
        report(ENGINE, "query by type, 10,000 match, limit 100", ran, "µs", targets=[at_most(50)])


def lookups(runs: int, calls: int) -> None:
    """What the indexes name, as lists of events that were all read before, without going through them one by one."""
    with EventStore.in_memory() as store:
        for first in range(0, EVENTS, BATCH):
            events = new_events(first, BATCH)
            for index, event in enumerate(events):
                event.event_type = f"{EVENT_TYPE}.{index % 10}"
            store.append(TENANT, events)
        made = list(store.read(TENANT))
        assert len(made) == EVENTS

        def measure(query: EventQuery, wanted: int) -> list[float]:
            assert sum(map(len, store.read_chunks(TENANT, query))) == wanted
            return time_runs(lambda: microseconds(lambda: list(store.read_chunks(TENANT, query)), calls), runs)

        ran = measure(EventQuery(entity_id=entity(7)), 100)
        report(ENGINE, "index lookup, entity, 100 results", ran, "µs", targets=[at_most(5)])
        ran = measure(EventQuery(event_type=f"{EVENT_TYPE}.3"), 1000)
        report(ENGINE, "index lookup, type, 1,000 results", ran, "µs", targets=[at_most(20)])


def states(runs: int, calls: int) -> None:
    with EventStore.in_memory() as store:
        entities = [f"entity-{number}" for number in range(max(runs, 5) * 4)]
        for name in entities:
            store.append(TENANT, new_events(0, BATCH, lambda _, name=name: name))  # type: ignore[misc]
        firsts = [seconds(lambda: store.state(TENANT, name)) * 1000 for name in entities]  # noqa: B023
        report(ENGINE, "state of an entity with 1,000 events, first time", firsts, "ms", targets=[at_most(0.8)])
        ran = time_runs(lambda: microseconds(lambda: store.state(TENANT, entities[0]), calls), runs)
        report(ENGINE, "state of it when nothing was appended since", ran, "µs", targets=[at_most(10)])


# --- a segment ---


class NoDisk(LocalFilesystem):
    """Takes what would be written, and drops it."""

    def write_new(self, path: Path, parts: Sequence[Bytes]) -> None:
        pass


def segment(directory: Path, runs: int, calls: int) -> None:
    new = new_events(0, BATCH)
    hasher = Hasher(os.urandom(HASH_KEY_BYTES))
    paths = [directory / "one.parquet", directory / "one.index"]
    aside = [directory / "one.parquet.new", directory / "one.index.new"]
    files: Iterator[int] = iter(range(1, 1_000_000))

    def write(filesystem: LocalFilesystem) -> None:
        columns = EventColumns(EVENT_TYPE, [event.entity_id for event in new], [bytes(event.payload) for event in new])
        versions = [number // 100 + 1 for number in range(BATCH)]
        stored = StoredEvents(1, TENANT, 1, time.time_ns() // 1000, versions, columns)
        write_segment(
            table_of_records([stored], {}, {}),
            file=next(files),
            segment_path=aside[0],
            index_path=aside[1],
            filesystem=filesystem,
            hasher=hasher,
            first_position=1,
            last_position=BATCH,
            removals_through=0,
        )

    def write_durably() -> None:
        filesystem = LocalFilesystem()
        write(filesystem)
        for path, to in zip(aside, paths, strict=True):
            filesystem.rename(path, to)
        filesystem.sync_directory(directory)

    ran = time_runs(lambda: microseconds(lambda: write(NoDisk()), calls) / 1000, runs)
    report(ENGINE, "write a Parquet segment of 1,000 events, from structs", ran, "ms", targets=[at_most(2)])
    ran = time_runs(lambda: microseconds(write_durably, calls) / 1000, runs)
    name = "the same with its index, fsync, rename and directory fsync"
    report(ENGINE, name, ran, "ms", targets=[at_most(4)])


def main() -> None:
    small = is_small()
    runs, calls = (1, 20) if small else (7, 2000)
    with benchmark_directory() as name:
        directory = Path(name)
        in_memory_alone(runs)
        batches(directory, runs, 5 if small else 100)
        reads(runs, calls)
        states(runs, calls)
        lookups(runs, calls)
        segment(directory, runs, 5 if small else 50)
        hundred_appends(directory, runs)
        in_memory_threads(runs)


if __name__ == "__main__":
    main()
