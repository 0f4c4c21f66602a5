"""The real core with ten million events of a million entities: taking them over HTTP, its memory, its start.

Memory is `RssAnon` of the core and of the child that seals, seen twice a second. What is not claimed: start-up from a
disk whose pages are not cached yet; a rate over HTTP without the load generator beside it (four processes, on the same
cores, that make their batches as they send them).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from allsource_core.engine import EventStore
from tools.benchmarking.core_service import CoreService
from tools.benchmarking.growth import BATCH, Growth, fill, manifest_of
from tools.benchmarking.load import Load, http_request, run_load_together
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, at_most, percentile, report
from tools.benchmarking.workload import new_events, random_batch_bodies

GROWTH = Section.GROWTH
PROCESSES = 4
CONNECTIONS = 4
IN_LOG = 250_000
WATCH_SECONDS = 0.5


class MemoryWatch:
    """Looks at the memory of a service until it is left."""

    def __init__(self, core: CoreService) -> None:
        self._core = core
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.seen = [core.anonymous_mib()]

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.seen.append(self._core.anonymous_mib())

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            self.seen.append(self._core.anonymous_mib())


def requests(token: str, count: int, entities: int, seed: int) -> Iterator[bytes]:
    for body in islice(random_batch_bodies(BATCH, entities, seed), count):
        yield http_request("POST", "/api/v1/events/batch", token, body, Prefer="return=minimal")


def load(core: CoreService, size: Growth) -> Load:
    token = core.token()
    processes = 1 if size.small else PROCESSES
    count = size.events // BATCH // processes
    sources = [partial(requests, token, count, size.entities, seed) for seed in range(processes)]
    return run_load_together(core.url, sources, count=count, connections=CONNECTIONS)


def take_events(core: CoreService, size: Growth) -> None:
    core.start()
    with MemoryWatch(core) as watch:
        ran = load(core, size)
    core.stop()
    report(
        GROWTH,
        "RssAnon of all the core's processes after taking the whole load over HTTP",
        [watch.seen[-1]],
        "MiB",
        targets=[at_most(600)],
        stored=size.events,
        entities=size.entities,
        most_meanwhile=round(max(watch.seen)),
        before=round(watch.seen[0]),
    )
    report(
        GROWTH,
        "the whole load over HTTP, batches of 1,000, random entities, sealing beside it",
        [ran.requests_per_second * BATCH],
        "events/s",
        p99=percentile(ran.latencies_ms, 0.99),
        connections=PROCESSES * CONNECTIONS,
        generator_share=ran.generator_share,
    )


def leave_in_log(data_dir: Path, size: Growth) -> int:
    """Seal everything, then append what is to be read from the log; how many events are sealed."""
    in_log = min(IN_LOG, size.segment_rows - BATCH)
    with EventStore.open(data_dir, options=size.options) as store:
        store.seal()
        fill(store, range(0, in_log, BATCH), lambda first: new_events(first, min(BATCH, in_log - first)))
        return sum(entry.events for entry in manifest_of(store).segments)


def start_up(core: CoreService, size: Growth) -> None:
    sealed = leave_in_log(core.data_dir, size)
    if not size.small:
        core.start()  # so that the page cache is warm
        core.stop()
    taken, memory = [], []
    for _ in range(size.runs):
        taken.append(core.start())
        memory.append(core.anonymous_mib())
        core.stop()
    report(
        GROWTH,
        "start-up, exec to ready, page cache warm",
        taken,
        "s",
        targets=[at_most(2)],
        sealed=sealed,
        in_log=min(IN_LOG, size.segment_rows - BATCH),
        slowest_s=round(max(taken), 2),
        rss_anon_mib=round(max(memory)),
    )


def main() -> None:
    size = Growth.from_arguments()
    with benchmark_directory() as name, CoreService(Path(name).resolve()) as core:
        take_events(core, size)
        start_up(core, size)


if __name__ == "__main__":
    main()
