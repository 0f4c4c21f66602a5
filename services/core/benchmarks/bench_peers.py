"""Our rows of the peers' table, in process and over HTTP: the loads that the peers were measured under.

*a* one writer, one event a call; *b* 16 writers, one event a call; *c* batches of 1,000; *d* 100 events of one entity
out of 10,000; *e* 10 events of one entity out of a million in 100,000 entities, each entity's spread over the whole
load; catch-up of that million; what it takes on disk and in memory; a restart to the first read. Every append is on
disk before it is acknowledged. What is not claimed: that the peers' figures, taken on another day, are of this machine.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from allsource_core.engine import EventQuery, EventStore, StoreOptions
from tools.benchmarking.bare import BareFile
from tools.benchmarking.core_service import CoreService
from tools.benchmarking.durable_writes import append_batches, append_by_tasks, append_by_threads, append_one_by_one
from tools.benchmarking.load import Load, http_request, run_load, run_load_together
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.memory import anonymous_mib
from tools.benchmarking.results import Section, Target, at_least, at_most, is_small, percentile, report
from tools.benchmarking.workload import TENANT, batch_body, entity, event_body, new_events, round_robin

BATCH = 1000
WRITERS = 16
EMBEDDED = "AllSource, in process"
SERVED = "AllSource, over HTTP, authenticated"
THREADS = f"{EMBEDDED}, 16 threads"
TASKS = f"{EMBEDDED}, 16 tasks"


class Size(msgspec.Struct, frozen=True):
    """How much is measured."""

    events: int
    entities: int
    processes: int
    runs: int
    warm_up: int
    calls: int
    reads: int
    batches: int
    options: StoreOptions

    @classmethod
    def of(cls, *, small: bool) -> Size:
        if small:
            return cls(20_000, 2000, 1, 1, 0, 40, 20, 4, StoreOptions(segment_rows_max=5000, wait_seconds_max=120))
        return cls(1_000_000, 100_000, 4, 5, 1, 2000, 1000, 100, StoreOptions())


def put(
    row: str,
    column: str,
    runs: list[float],
    unit: str,
    *targets: Target,
    p99: float | None = None,
    **parameters: Any,
) -> None:
    report(
        Section.PEERS,
        f"{row}: {column}",
        runs,
        unit,
        p99=p99,
        targets=targets,
        peer=(row, column),
        **parameters,
    )


def each_ms(call: Callable[[int], object], calls: int) -> list[float]:
    """The milliseconds of every single call."""
    taken = []
    for number in range(calls):
        started = time.perf_counter()
        call(number)
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def put_reads(row: str, column: str, taken: list[float], *targets: Target, **parameters: Any) -> None:
    microseconds = statistics.median(taken) * 1000
    put(row, column, [microseconds], "µs", *targets, p99=percentile(taken, 0.99), calls=len(taken), **parameters)


def disk_bytes(directory: Path) -> tuple[int, int, int]:
    """Of the files below a directory: all but log files, what is written of these, and their zeros that wait for it."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    logs = [path for path in files if path.suffix == ".log"]
    length = sum(path.stat().st_size for path in logs)
    written = sum(len(path.read_bytes().rstrip(b"\0")) for path in logs)
    return sum(path.stat().st_size for path in files) - length, written, length - written


# --- in process ---


def embedded_writes(directory: Path, size: Size) -> None:
    bare_file = BareFile(directory)
    with EventStore.open(directory / "writes") as store:
        before = store.stats().log_bytes
        append_one_by_one(store, size.calls)
        bytes_each = (store.stats().log_bytes - before) // size.calls
        bare, singles, threads, tasks, batches = [], [], [], [], []
        for _ in range(size.runs):  # in turn: what else the machine does meets all alike
            bare.append(size.calls / bare_file.seconds(size.calls, bytes_each))
            singles.append(append_one_by_one(store, size.calls))
            threads.append(append_by_threads(store, WRITERS, size.calls // 4))
            tasks.append(append_by_tasks(store, WRITERS, size.calls // 2))
            batches.append(append_batches(store, size.batches))
    bare_file.close()
    of_bare = statistics.median(bare)
    report(Section.PEERS, "bare fdatasync", bare, "syncs/s", bytes=bytes_each, median_us=round(1e6 / of_bare, 1))
    for row, column, runs, times in (
        (EMBEDDED, "a", singles, 0.75),
        (THREADS, "b", threads, 3),
        (TASKS, "b", tasks, 6),
    ):
        ratio = statistics.median(runs) / of_bare
        target = at_least(times, of="{} times bare", value=ratio)
        put(row, column, runs, "events/s", target, of_bare=round(ratio, 2))
    put(EMBEDDED, "c", batches, "events/s", at_least(1_200_000))


def embedded_reads_of_few(size: Size) -> None:
    query = EventQuery(entity_id=entity(7))
    with benchmark_directory() as name, EventStore.open(Path(name) / "store") as store:
        for first in range(0, 10_000, BATCH):
            store.append(TENANT, new_events(first, BATCH))
        taken = each_ms(lambda _: list(store.read(TENANT, query)), size.reads)
    put_reads(EMBEDDED, "d", taken, at_most(10, of="p50 {}"))


def fill(path: Path, size: Size) -> list[float]:
    """Fill a store, in a process that does nothing else: `RssAnon` of it and its child, at most and at the end."""
    with EventStore.open(path, options=size.options) as store:
        seen = []
        for first in range(0, size.events, BATCH):
            store.append(TENANT, new_events(first, BATCH, round_robin(size.entities)))
            if first % (size.events // 20) == 0:
                seen.append(anonymous_mib(os.getpid()))
        store.seal()
        return [max(seen), anonymous_mib(os.getpid())]


def embedded_reads_of_many(directory: Path, size: Size) -> None:
    path = directory / "many"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak, at_end = pool.apply(fill, (path, size))
    query = partial(entity_query, size, random.Random(1))
    put(EMBEDDED, "MB", [at_end], "MiB", most_while_writing=round(peak))
    restarts = []
    for _ in range(size.runs + size.warm_up):
        started = time.perf_counter()
        with EventStore.open(path, options=size.options) as store:
            assert len(list(store.read(TENANT, query()))) == size.events // size.entities
            restarts.append(time.perf_counter() - started)
    put(EMBEDDED, "restart s", restarts[size.warm_up :], "s")
    with EventStore.open(path, options=size.options) as store:
        taken = each_ms(lambda _: list(store.read(TENANT, query())), size.reads)
        put_reads(EMBEDDED, "e", taken, at_most(1000, of="p50 {}"), segments=store.stats().segments)
    rates = []
    for _ in range(size.runs):
        with EventStore.open(path, options=size.options) as store:  # nothing is decoded yet
            started = time.perf_counter()
            seen = sum(len(event.payload) for event in chain.from_iterable(store.read_chunks(TENANT)))
            rates.append(size.events / (time.perf_counter() - started))
            assert seen > size.events
    put(EMBEDDED, "catch-up", rates, "events/s", at_least(1_500_000), stored=size.events)
    put_bytes(EMBEDDED, path, size)


def put_bytes(row: str, data_dir: Path, size: Size) -> None:
    """Of a store that is sealed and closed."""
    other, log, zeros = disk_bytes(data_dir)
    put(
        row,
        "bytes",
        [(other + log) / size.events],
        "bytes an event",
        at_most(12),
        stored=size.events,
        of_which_log=round(log / size.events, 2),
        zeros_of_log_files_beside=round(zeros / size.events, 1),
    )


def entity_query(size: Size, rng: random.Random) -> EventQuery:
    return EventQuery(entity_id=f"entity-{rng.randrange(size.entities)}")


# --- over HTTP ---


def singles(token: str) -> list[bytes]:
    return [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(BATCH)]


def batch(token: str, body: bytes) -> bytes:
    return http_request("POST", "/api/v1/events/batch", token, body, Prefer="return=minimal")


def batches(token: str) -> list[bytes]:
    return [batch(token, batch_body(first, BATCH)) for first in range(0, 10 * BATCH, BATCH)]


def load_of(token: str, size: Size) -> Iterator[bytes]:
    entity_of = round_robin(size.entities)
    return (batch(token, batch_body(first, BATCH, entity_of)) for first in range(0, size.events, BATCH))


def read_request(token: str, entity_id: str) -> bytes:
    return http_request("GET", f"/api/v1/events/query?entity_id={entity_id}&limit=100", token)


def served(directory: Path, size: Size) -> None:
    with CoreService(directory / "served") as core:
        core.start()
        token = core.token()
        run_load(core.url, batches(token), count=10, connections=1)
        load = run_load(core.url, [read_request(token, entity(7))], count=size.reads, connections=1)
        put_reads(SERVED, "d", load.latencies_ms)
        served_writes(core.url, token, size)
        core.stop()


def served_writes(url: str, token: str, size: Size) -> None:
    one: list[Load] = []
    many: list[Load] = []
    large: list[Load] = []
    for _ in range(size.runs + size.warm_up):
        one.append(run_load(url, singles(token), count=size.calls, connections=1))
        many.append(together(url, partial(singles, token), size, size.calls))
        large.append(together(url, partial(batches, token), size, size.batches // size.processes))
    for column, loads, events, connections, targets in (
        ("a", one, 1, 1, []),
        ("b", many, 1, WRITERS, [at_least(10_000)]),
        ("c", large, BATCH, WRITERS, [at_least(800_000)]),
    ):
        loads = loads[size.warm_up :]
        put(
            SERVED,
            column,
            [load.requests_per_second * events for load in loads],
            "events/s",
            *targets,
            p99=percentile([latency for load in loads for latency in load.latencies_ms], 0.99),
            connections=connections,
            clients=1 if connections == 1 else size.processes,
            generator_share=statistics.median(load.generator_share for load in loads),
        )


def together(url: str, source: Callable[[], list[bytes]], size: Size, count: int) -> Load:
    return run_load_together(url, [source] * size.processes, count=count, connections=WRITERS // size.processes)


def served_with_many(directory: Path, size: Size) -> None:
    rng = random.Random(2)
    with CoreService(directory / "served-many") as core:
        core.start()
        token = core.token()
        run_load(core.url, load_of(token, size), count=size.events // BATCH, connections=4)
        put(SERVED, "MB", [core.anonymous_mib()], "MiB", stored=size.events)
        requests = [read_request(token, f"entity-{rng.randrange(size.entities)}") for _ in range(size.reads)]
        load = run_load(core.url, requests, count=size.reads, connections=1)
        put_reads(SERVED, "e", load.latencies_ms)
        put(SERVED, "catch-up", [catch_up(core.url, token, size) for _ in range(size.runs)], "events/s", form="NDJSON")
        restarts = []
        for _ in range(size.runs):
            core.stop()
            started = time.perf_counter()
            core.start()
            run_load(core.url, requests[:1], count=1, connections=1)
            restarts.append(time.perf_counter() - started)
        put(SERVED, "restart s", restarts, "s", includes="starting Python")
        core.stop()
        with EventStore.open(core.data_dir, options=size.options) as store:
            store.seal()
        put_bytes(SERVED, core.data_dir, size)


def catch_up(url: str, token: str, size: Size) -> float:
    """Read everything as NDJSON, counting lines."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/x-ndjson"}
    request = urllib.request.Request(f"{url}/api/v1/events/query", headers=headers)
    lines = 0
    started = time.perf_counter()
    with urllib.request.urlopen(request) as answer:
        while chunk := answer.read(1024 * 1024):
            lines += chunk.count(b"\n")
    seconds = time.perf_counter() - started
    assert lines == size.events
    return lines / seconds


def main() -> None:
    size = Size.of(small=is_small())
    with benchmark_directory() as name:
        directory = Path(name).resolve()
        embedded_writes(directory, size)
        embedded_reads_of_few(size)
        embedded_reads_of_many(directory, size)
        served(directory, size)
        served_with_many(directory, size)


if __name__ == "__main__":
    main()
