"""The core's figures, in the Prometheus text format. No label ever names a tenant, user, entity or event type."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from aiohttp.web import Response, StreamResponse
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from allsource_core.api.call import Call
from allsource_core.engine import EventStore

__all__ = ["DURATION_BOUNDS", "CoreMetrics"]

DURATION_BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BUCKETS: Final = [*(str(float(bound)) for bound in DURATION_BOUNDS), "+Inf"]
"""Their names: each counts what took no longer."""
_BOUNDS: Final = np.array(DURATION_BOUNDS)

_COUNTED_TOGETHER: Final = 1024


class CoreMetrics:
    """Counts what the service does. One registry a process, made by the composition root.

    What every request counts is counted on the event loop alone, and so without the locks of the library's own
    counters, of which a request would take 5 µs.
    """

    def __init__(self) -> None:
        # A series of creation times beside every counter doubles the page and tells nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = _Requests()
        self._appends = _Appends()
        self.registry.register(self._requests)
        self.registry.register(self._appends)
        self.queries = Counter("allsource_queries_total", "Reads", ["query_type"], registry=self.registry)
        self.query_seconds = Histogram(
            "allsource_query_duration_seconds", "Time of a read", buckets=DURATION_BOUNDS, registry=self.registry
        )

    def observe_store(self, store: EventStore) -> None:
        """Show the figures of a store from now on, read when they are asked for."""
        self.registry.register(_StoreCollector(store))

    def observe_memory(self, held: Callable[[], int]) -> None:
        """Show from now on how many bytes bodies and answers under way take."""
        gauge = Gauge(
            "allsource_request_memory_bytes", "Bytes of large bodies and answers under way", registry=self.registry
        )
        gauge.set_function(held)

    def answered(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request. About 0.1 µs."""
        new = self._requests.new[operation][method][status]
        new.append(seconds)
        if len(new) >= _COUNTED_TOGETHER:
            self._requests.count(operation, method, status)
            self._appends.count()

    def appended(self, events: int, seconds: float) -> None:
        """Count an append that stored something, of a request that will be answered."""
        appends = self._appends
        if events != 1:
            appends.more_events += events - 1
        appends.new.append(seconds)

    async def show(self, _call: Call) -> StreamResponse:
        """``GET /metrics``."""
        return Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


class _Durations:
    """How many took how long, and what all took together."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(len(DURATION_BOUNDS) + 1, dtype=np.int64)
        self._sum = 0.0

    def add(self, seconds: list[float]) -> None:
        """Put some into their buckets. For one alone that costs as much as all else that is counted of a request."""
        # An array of the library takes a list in a third of the time that numpy does.
        new = np.frombuffer(array("d", seconds))
        self._counts += np.bincount(np.searchsorted(_BOUNDS, new), minlength=len(self._counts))
        self._sum += float(new.sum())

    def merge(self, other: _Durations) -> None:
        """Add those of another one."""
        self._counts += other._counts
        self._sum += other._sum

    def __len__(self) -> int:
        return int(self._counts.sum())

    def show(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        buckets = list(zip(_BUCKETS, self._counts.cumsum().tolist(), strict=True))
        family.add_metric(labels, buckets, self._sum)


def _by_status() -> defaultdict[int, list[float]]:
    return defaultdict(list)


def _by_method() -> defaultdict[str, defaultdict[int, list[float]]]:
    return defaultdict(_by_status)


class _Requests(Collector):
    """Of all requests: by operation, method and status, which are few.

    Attributes:
        new: seconds of those that are not in `_durations` yet. One key after the other is found in half the time that
            all three together take.
    """

    def __init__(self) -> None:
        self.new: defaultdict[str, defaultdict[str, defaultdict[int, list[float]]]] = defaultdict(_by_method)
        self._durations: defaultdict[tuple[str, str, int], _Durations] = defaultdict(_Durations)

    def count(self, operation: str, method: str, status: int) -> None:
        """Put the new ones where they belong."""
        new = self.new[operation][method]
        self._durations[operation, method, status].add(new[status])
        new[status] = []

    def collect(self) -> Iterator[Metric]:
        for operation, of_methods in self.new.items():
            for method, of_statuses in of_methods.items():
                for status in of_statuses:
                    self.count(operation, method, status)
        requests = CounterMetricFamily(
            "allsource_http_requests", "Requests answered", labels=["operation", "method", "status"]
        )
        of_operations: defaultdict[str, _Durations] = defaultdict(_Durations)
        for (operation, method, status), durations in self._durations.items():
            requests.add_metric([operation, method, str(status)], len(durations))
            of_operations[operation].merge(durations)
        yield requests
        seconds = HistogramMetricFamily(
            "allsource_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer",
            labels=["operation"],
        )
        for operation, durations in of_operations.items():
            durations.show(seconds, [operation])
        yield seconds


class _Appends(Collector):
    """Of all appends together.

    Attributes:
        more_events: that were appended than there were appends.
        new: seconds of those that are not in `_durations` yet.
    """

    def __init__(self) -> None:
        self.more_events = 0
        self.new: list[float] = []
        self._durations = _Durations()

    def count(self) -> None:
        """Put the new ones where they belong."""
        self._durations.add(self.new)
        self.new = []

    def collect(self) -> Iterator[Metric]:
        self.count()
        events = len(self._durations) + self.more_events
        yield CounterMetricFamily("allsource_events_ingested", "Events appended", value=events)
        seconds = HistogramMetricFamily(
            "allsource_ingestion_duration_seconds", "Time of an append in the engine, until its events are durable"
        )
        self._durations.show(seconds, [])
        yield seconds


class _StoreCollector(Collector):
    def __init__(self, store: EventStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        stats = self._store.stats()
        for name, text, value in (
            ("storage_events_total", "Events stored, those of reserved tenants left out", stats.events),
            ("storage_entities_total", "Entities stored, those of reserved tenants left out", stats.entities),
            ("storage_size_bytes", "Bytes of the store on disk", stats.disk_bytes),
            ("storage_last_position", "Position of the last durable event", stats.last_position),
            ("storage_sealed_position", "Last position that is in segments", stats.sealed_through),
            ("storage_segments", "Segments of the store", stats.segments),
            ("storage_segment_bytes", "Bytes of segments and their indexes", stats.segment_bytes),
            ("storage_key_bytes", "Bytes of the key directory", stats.key_bytes),
            ("storage_memory_events", "Events in memory that are not in segments yet", stats.memory_events),
            ("storage_memory_bytes", "About what they take", stats.memory_bytes),
            ("storage_in_use_bytes", "Decoded segments that reads hold beside the cache", stats.in_use_bytes),
            ("storage_removals_pending", "Removals whose bytes may still be on disk", stats.removals_pending),
            ("wal_segments_total", "Files of the write-ahead log", stats.log_files),
            ("wal_size_bytes", "Bytes of the write-ahead log", stats.log_bytes),
            ("storage_read_only", "1 while no appends are taken", int(stats.read_only_code is not None)),
            ("recovery_duration_seconds", "How long the last recovery took", stats.recovery_seconds),
        ):
            yield GaugeMetricFamily(f"allsource_{name}", text, value=value)
        for name, text, value in (
            ("storage_segments_sealed", "Segments made of events in memory", stats.segments_sealed),
            ("storage_compactions", "Compactions of segments", stats.compactions),
            ("storage_maintenance_failures", "Failures of sealing and compaction", stats.maintenance_failures),
        ):
            yield CounterMetricFamily(f"allsource_{name}", text, value=value)
        reason = GaugeMetricFamily("allsource_storage_read_only_reason", "Why no appends are taken", labels=["code"])
        if stats.read_only_code is not None:
            reason.add_metric([stats.read_only_code], 1)
        yield reason
