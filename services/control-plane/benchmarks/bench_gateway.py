"""Both services over HTTP, durable and authenticated: the core's own rates, and the gateway's in front of it.

The load generator shares the machine with both; its share of a core is part of every row, and a row where it took more
than half of one says little about the service. What is not claimed: rates with quotas and rate limits; there are none.
"""

from __future__ import annotations

import statistics

from tools.benchmarking.load import http_request, run_load
from tools.benchmarking.results import Section, at_most, is_small, percentile, report
from tools.benchmarking.services import BenchmarkServices, measure_workloads
from tools.benchmarking.workload import event_body


def added_latency(services: BenchmarkServices, *, small: bool) -> None:
    """One connection, single events: the median through the gateway less that of the core, taken in turn."""
    requests = [http_request("POST", "/api/v1/events", services.token, event_body(i)) for i in range(100)]
    count = 100 if small else 2000
    added: list[float] = []
    latencies: list[float] = []
    for _ in range(1 if small else 5):
        direct = run_load(services.stack.core_url, requests, count=count, connections=1)
        through = run_load(services.stack.gateway_url, requests, count=count, connections=1)
        added.append(statistics.median(through.latencies_ms) - statistics.median(direct.latencies_ms))
        latencies += through.latencies_ms
    report(
        Section.HTTP,
        "one event a request, added by the gateway",
        added,
        "ms",
        p99=percentile(latencies, 0.99),
        targets=[at_most(1.5)],
        connections=1,
    )


def main() -> None:
    small = is_small()
    with BenchmarkServices() as services:
        measure_workloads(services, small=small)
        added_latency(services, small=small)


if __name__ == "__main__":
    main()
