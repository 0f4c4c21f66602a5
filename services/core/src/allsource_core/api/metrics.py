"""The core's figures, in the Prometheus text format. No label ever names a tenant, user, entity or event type."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aiohttp.web import Response, StreamResponse
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from allsource_core.api.call import Call
from allsource_core.engine import EventStore

__all__ = ["CoreMetrics"]

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class CoreMetrics:
    """Counts what the service does. One registry a process, made by the composition root."""

    def __init__(self) -> None:
        # A series of creation times beside every counter doubles the page and tells nobody anything.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "allsource_http_requests_total",
            "Requests answered",
            ["operation", "method", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "allsource_http_request_duration_seconds",
            "Time from the head of a request to the end of its answer",
            ["operation"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.events_ingested = Counter("allsource_events_ingested_total", "Events appended", registry=self.registry)
        self.ingestion_seconds = Histogram(
            "allsource_ingestion_duration_seconds",
            "Time of an append in the engine, until its events are durable",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queries = Counter("allsource_queries_total", "Reads", ["query_type"], registry=self.registry)
        self.query_seconds = Histogram(
            "allsource_query_duration_seconds", "Time of a read", buckets=_SECONDS, registry=self.registry
        )
        # Looking a labelled child up costs more than counting; routes, methods and statuses are few.
        self._children: dict[tuple[str, str, int], tuple[Callable[[], None], Callable[[float], None]]] = {}

    def observe_store(self, store: EventStore) -> None:
        """Show the figures of a store from now on, read when they are asked for."""
        self.registry.register(_StoreCollector(store))

    def answered(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        key = (operation, method, status)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = (
                self._requests.labels(operation, method, str(status)).inc,
                self._request_seconds.labels(operation).observe,
            )
        count, observe = children
        count()
        observe(seconds)

    async def show(self, _call: Call) -> StreamResponse:
        """``GET /metrics``."""
        return Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


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
