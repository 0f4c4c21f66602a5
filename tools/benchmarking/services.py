"""Both services for a benchmark, and the workloads that are measured over HTTP."""

from __future__ import annotations

import json
import secrets
import statistics
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tools.benchmarking.load import Load, http_request, run_load
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import percentile, report
from tools.benchmarking.workload import batch_body, entity, event_body
from tools.stack import Stack

__all__ = ["BenchmarkServices", "measure_workloads"]

_RUNS: Final = 5


class BenchmarkServices:
    """A fresh store below the working directory, both services, and a token of its administrator."""

    def __init__(self) -> None:
        self._directory = benchmark_directory()
        self._password = secrets.token_urlsafe(16)
        path = Path(self._directory.name)
        environ = {
            "ALLSOURCE_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": "admin",
            "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD": self._password,
        }
        self.stack = Stack(path / "data", environ=environ, log_dir=path)
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


def measure_workloads(service: str, url: str, token: str, *, small: bool) -> dict[str, float]:
    """Batches of 1,000, single events and reads of one entity; reports each and returns their median rates.

    Args:
        service: whose URL it is: ``core`` or ``gateway``.
    """
    rates = {}
    batches = [
        http_request("POST", "/api/v1/events/batch", token, batch_body(first, 1000), Prefer="return=minimal")
        for first in range(0, 10_000, 1000)
    ]
    loads = _runs(url, batches, count=20 if small else 150, connections=8, small=small)
    rates["batches"] = _report(f"{service}_batches", loads, events_each=1000, connections=8)
    singles = [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(1000)]
    loads = _runs(url, singles, count=200 if small else 8000, connections=64, small=small)
    rates["single"] = _report(f"{service}_single", loads, events_each=1, connections=64)
    target = f"/api/v1/events/query?entity_id={entity(7)}&limit=100"
    reads = [http_request("GET", target, token)]
    loads = _runs(url, reads, count=50 if small else 2000, connections=16, small=small)
    rates["reads"] = _report(f"{service}_reads", loads, connections=16, events=100)
    return rates


def _runs(url: str, requests: list[bytes], *, count: int, connections: int, small: bool) -> list[Load]:
    run_load(url, requests, count=count // 4, connections=connections)
    return [run_load(url, requests, count=count, connections=connections) for _ in range(1 if small else _RUNS)]


_TARGETS: Final = {
    "core_batches": "800,000",
    "core_single": "10,000; p99 25 ms",
    "core_reads": "8,000",
    "gateway_batches": "70 % of the core's own",
    "gateway_single": "3,000",
}


def _report(name: str, loads: list[Load], *, events_each: int = 0, **parameters: int) -> float:
    """Report runs of one workload: events/s where events are appended, else requests/s; returns the median rate."""
    per_request = events_each or 1
    rates = [load.requests_per_second * per_request for load in loads]
    report(
        name,
        rates,
        "events/s" if events_each else "requests/s",
        p99=percentile([latency for load in loads for latency in load.latencies_ms], 0.99),
        target=_TARGETS.get(name),
        generator_share=statistics.median(load.generator_share for load in loads),
        **parameters,
    )
    return statistics.median(rates)
