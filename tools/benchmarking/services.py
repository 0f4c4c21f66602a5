"""Both services for a benchmark, and the workloads that are measured over HTTP."""

from __future__ import annotations

import json
import secrets
import statistics
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from tools.benchmarking.load import Load, http_request, run_load
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, Target, at_least, at_most, percentile, report
from tools.benchmarking.workload import batch_body, entity, event_body
from tools.stack import Stack

__all__ = ["BenchmarkServices", "measure_workloads"]

_RUNS: Final = 5
_BATCHES: Final = "batches of 1,000"
_SINGLE: Final = "one event a request"
_READS: Final = "an entity's 100 events"

_FLOORS: Final = {
    ("core", _BATCHES): 800_000,
    ("core", _SINGLE): 10_000,
    ("core", _READS): 8000,
    ("gateway", _SINGLE): 3000,
}
_P99_MS: Final = {("core", _SINGLE): 25}


class BenchmarkServices:
    """A fresh store below the working directory, both services, and a token of its administrator."""

    def __init__(self) -> None:
        self._directory = benchmark_directory()
        self._password = secrets.token_urlsafe(16)
        path = Path(self._directory.name)
        environ = {
            "ALLSOURCE_AUTH__MASTER_KEY": secrets.token_urlsafe(48),
            "ALLSOURCE_GATEWAY__KEY": secrets.token_urlsafe(48),
            "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD": self._password,
            # Many connections begin at once: on a slow machine the last of them takes its time, and that is measured.
            "ALLSOURCE_GATEWAY__CONNECT_TIMEOUT_MS": "60000",
            "ALLSOURCE_GATEWAY__INTROSPECT_TIMEOUT_MS": "60000",
        }
        self.stack = Stack(
            path / "data", environ=environ, log_dir=path, ready_timeout_seconds=120.0, stop_timeout_seconds=120.0
        )
        self.token = ""

    def __enter__(self) -> Self:
        try:
            self.stack.start()
            body = json.dumps({"username": "admin", "password": self._password}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{self.stack.core_url}/api/v1/auth/login", body, headers)
            with urllib.request.urlopen(request) as answer:
                self.token = json.load(answer)["token"]
        except BaseException:
            self.stack.kill()
            self._directory.cleanup()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.stack.stop()
        finally:
            self._directory.cleanup()


class _Workload(msgspec.Struct, frozen=True):
    """Requests to send in turn, and how."""

    name: str
    requests: list[bytes]
    count: int
    connections: int
    events_each: int
    """Events that a request appends; 0 for one that reads."""


def _batches(token: str) -> list[bytes]:
    """10,000 events of 100 entities."""
    return [
        http_request("POST", "/api/v1/events/batch", token, batch_body(first, 1000), Prefer="return=minimal")
        for first in range(0, 10_000, 1000)
    ]


def _workloads(token: str, *, small: bool) -> list[_Workload]:
    batches = _batches(token)
    singles = [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(1000)]
    reads = [http_request("GET", f"/api/v1/events/query?entity_id={entity(7)}&limit=100", token)]
    return [
        # First: each entity has a hundred events still.
        _Workload(_READS, reads, 50 if small else 2000, 16, 0),
        _Workload(_BATCHES, batches, 20 if small else 150, 8, 1000),
        _Workload(_SINGLE, singles, 200 if small else 8000, 64, 1),
    ]


def measure_workloads(services: BenchmarkServices, *, small: bool) -> None:
    """Reads of one entity's 100 events, batches of 1,000 and single events: to the core and through the gateway, in
    turn, so that whatever else the machine does meets both alike.
    """
    run_load(services.stack.core_url, _batches(services.token), count=10, connections=1)
    urls = {"core": services.stack.core_url, "gateway": services.stack.gateway_url}
    for workload in _workloads(services.token, small=small):
        loads: dict[str, list[Load]] = {service: [] for service in urls}
        for run in range(2 if small else _RUNS + 1):
            for service, url in urls.items():
                load = run_load(url, workload.requests, count=workload.count, connections=workload.connections)
                if run:  # the first one only warms up
                    loads[service].append(load)
        medians = {service: _report(service, workload, loads[service]) for service in urls}
        report(
            Section.HTTP,
            f"{workload.name}, gateway against core",
            [medians["gateway"] / medians["core"]],
            "of the core's",
            targets=[at_least(0.7)] if workload.name == _BATCHES else [],
        )


def _targets(service: str, name: str, p99: float) -> list[Target]:
    key = service, name
    targets = [at_least(_FLOORS[key])] if key in _FLOORS else []
    return targets + ([at_most(_P99_MS[key], of="p99 {} ms", value=p99)] if key in _P99_MS else [])


def _report(service: str, workload: _Workload, loads: list[Load]) -> float:
    """Report the runs of a workload: events/s where events are appended, else requests/s; returns the median rate."""
    rates = [load.requests_per_second * (workload.events_each or 1) for load in loads]
    p99 = percentile([latency for load in loads for latency in load.latencies_ms], 0.99)
    report(
        Section.HTTP,
        f"{workload.name}, {service}",
        rates,
        "events/s" if workload.events_each else "requests/s",
        p99=p99,
        targets=_targets(service, workload.name, p99),
        connections=workload.connections,
        generator_share=statistics.median(load.generator_share for load in loads),
    )
    return statistics.median(rates)
