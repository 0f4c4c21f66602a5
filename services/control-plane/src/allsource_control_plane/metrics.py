"""The gateway's figures, in a registry of its own.

Labels come from the route table and from fixed lists only, so that no client can make their number grow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["METRICS_MEDIA_TYPE", "GatewayMetrics"]

METRICS_MEDIA_TYPE: Final = "text/plain; version=0.0.4"
"""Of `GatewayMetrics.render`; Litestar adds the character set to a text."""

_PREFIX: Final = "control_plane"
_KNOWN_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_DURATION_BUCKETS_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class GatewayMetrics:
    """Counts requests and failures of the core.

    Attributes:
        requests_in_progress: requests that are being answered now.
        credential_cache_hits: requests whose credential was known; the others are asked for at the core.
        core_up: 1 while the core is healthy, else 0; as its last probe found it.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}_http_requests",
            "Requests answered; status 499 is a client that left before the answer.",
            ("operation", "method", "status"),
            registry=self._registry,
        )
        self._durations = Histogram(
            f"{_PREFIX}_http_request_duration_seconds",
            "From the head of a request to the last byte of its answer.",
            ("operation",),
            buckets=_DURATION_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self.requests_in_progress = Gauge(
            f"{_PREFIX}_http_requests_in_progress", "Requests being answered now.", registry=self._registry
        )
        self._core_errors = Counter(
            f"{_PREFIX}_core_errors", "Calls to the core that failed.", ("reason",), registry=self._registry
        )
        self.core_up = Gauge(f"{_PREFIX}_core_up", "Whether the core is healthy.", registry=self._registry)
        self._introspections = Counter(
            f"{_PREFIX}_introspections",
            "Credentials that the core was asked about: accepted, refused, or failed where it gave no answer.",
            ("outcome",),
            registry=self._registry,
        )
        self.credential_cache_hits = Counter(
            f"{_PREFIX}_credential_cache_hits", "Requests whose credential was known.", registry=self._registry
        )
        self._crowded_out = Counter(
            f"{_PREFIX}_crowded_out_requests",
            "Requests refused because too many of their tenant, or without a credential, were under way.",
            ("whose",),
            registry=self._registry,
        )
        ProcessCollector(namespace=_PREFIX, registry=self._registry)
        # Looking a label set up in the library costs more than the rest of the count.
        self._request_children: dict[tuple[str, str, int], Counter] = {}
        self._duration_children: dict[str, Histogram] = {}

    def observe_request(self, operation: str, method: str, status: int, seconds: float) -> None:
        """Count one request. A method that HTTP APIs don't use counts as ``other``."""
        if method not in _KNOWN_METHODS:
            method = "other"
        key = (operation, method, status)
        child = self._request_children.get(key)
        if child is None:
            child = self._request_children[key] = self._requests.labels(operation, method, str(status))
        child.inc()
        duration = self._duration_children.get(operation)
        if duration is None:
            duration = self._duration_children[operation] = self._durations.labels(operation)
        duration.observe(seconds)

    def count_core_error(self, reason: str) -> None:
        """Count one failed call to the core."""
        self._core_errors.labels(str(reason)).inc()

    def count_introspection(self, outcome: Literal["accepted", "refused", "failed"]) -> None:
        """Count one question about a credential."""
        self._introspections.labels(outcome).inc()

    def count_crowded_out(self, whose: Literal["tenant", "anonymous"]) -> None:
        """Count one request for which there was no place among those of its kind."""
        self._crowded_out.labels(whose).inc()

    def observe_credentials(self, known: Callable[[], int], silent_seconds: Callable[[], float]) -> None:
        """Have the figures of what is known of credentials read when they are asked for.

        Args:
            known: how many credentials are remembered.
            silent_seconds: since the last question for changes that the core answered.
        """
        entries = Gauge(f"{_PREFIX}_credential_cache_entries", "Credentials that are known.", registry=self._registry)
        entries.set_function(known)
        silence = Gauge(
            f"{_PREFIX}_changes_age_seconds",
            "Since the last question for changes that the core answered; over 1 nothing that is known counts.",
            registry=self._registry,
        )
        silence.set_function(silent_seconds)

    def render(self) -> bytes:
        """Every figure in the Prometheus text format (`METRICS_MEDIA_TYPE`)."""
        return generate_latest(self._registry)
