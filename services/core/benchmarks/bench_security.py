"""What guards the core costs: authentication, permission, rate limit, quotas and figures, on against off in one run.

Two cores, each with a store of its own, are loaded in turn with the same requests. One is as operators run it, and its
tenant has every quota and a rate limit, all too high to be reached; of the other everything that guards it was taken
off (`tools.benchmarking.unguarded_core`). Then sign-ins, as fast as the machine allows, and what a writer beside them
sees. What is not claimed: that the share is the same where the network is slower; it is less there.
"""

from __future__ import annotations

import json
import statistics
import threading
import urllib.request
from pathlib import Path
from typing import Any, Final

from tools.benchmarking.core_service import CoreService
from tools.benchmarking.load import Load, http_request, run_load
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, at_least, at_most, is_small, percentile, report
from tools.benchmarking.unguarded_core import TENANT
from tools.benchmarking.workload import batch_body, event_body

_PASSWORD: Final = "a password for benchmarks only"  # noqa: S105 - of a store that is thrown away
_HIGH: Final = 10**12
_QUOTAS: Final = {
    "max_events_per_day": _HIGH,
    "max_storage_bytes": _HIGH,
    "max_queries_per_hour": _HIGH,
}
_LIMITS: Final = {"requests_per_minute": 10**9, "burst": 10**9}


def call(core: CoreService, method: str, path: str, token: str, body: Any) -> Any:
    """One management call; its answer decoded."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{core.url}/api/v1/{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


def limited_writer(core: CoreService) -> str:
    """Make the tenant with its limits and a user in it; returns a token of the user."""
    admin = core.token()
    call(core, "POST", "tenants", admin, {"id": TENANT, "name": "Benchmark", "quotas": _QUOTAS})
    call(core, "PUT", f"tenants/{TENANT}/limits", admin, _LIMITS)
    writer = {"username": "writer", "password": _PASSWORD, "role": "developer", "tenant_id": TENANT}
    call(core, "POST", "auth/register", admin, {**writer, "email": "writer@example.org"})
    body = {"username": "writer", "password": _PASSWORD}
    return str(call(core, "POST", "auth/login", admin, body)["token"])


def overhead(guarded: CoreService, unguarded: CoreService, token: str, *, small: bool) -> None:
    """Both workloads, in turn to both cores."""
    batches = [
        http_request("POST", "/api/v1/events/batch", token, batch_body(first, 1000), Prefer="return=minimal")
        for first in range(0, 10_000, 1000)
    ]
    singles = [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(1000)]
    for name, requests, count, connections in (
        ("batches of 1,000", batches, 20 if small else 150, 8),
        ("one event a request", singles, 200 if small else 8000, 64),
    ):
        shares: list[float] = []
        loads: list[Load] = []
        for run in range(2 if small else 12):
            pair = [guarded, unguarded] if run % 2 else [unguarded, guarded]
            rates = {}
            for core in pair:
                load = run_load(core.url, requests, count=count, connections=connections)
                rates[core is guarded] = load.requests_per_second
                loads.append(load)
            if run:  # the first one only warms up
                shares.append(100 * (1 - rates[True] / rates[False]))
        report(
            Section.HTTP,
            f"{name}, what guards cost",
            shares,
            "% of the rate",
            targets=[at_most(5)],
            connections=connections,
            generator_share=statistics.median(load.generator_share for load in loads),
        )


def sign_ins(core: CoreService, token: str, *, small: bool) -> None:
    """Sign-ins on 16 connections, and single events of one writer before and meanwhile."""
    body = json.dumps({"username": "writer", "password": _PASSWORD}).encode()
    logins = [http_request("POST", "/api/v1/auth/login", token, body)]
    singles = [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(1000)]
    count, events = (16, 100) if small else (400, 4000)
    alone = run_load(core.url, singles, count=events, connections=1)
    results: list[Load] = []
    signing_in = threading.Thread(
        target=lambda: results.append(run_load(core.url, logins, count=count, connections=16))
    )
    signing_in.start()
    beside: list[Load] = []
    while signing_in.is_alive():
        beside.append(run_load(core.url, singles, count=events // 20, connections=1))
    signing_in.join()
    latencies = [latency for load in beside for latency in load.latencies_ms]
    report(Section.HTTP, "sign-ins, 16 connections", [results[0].requests_per_second], "sign-ins/s", connections=16)
    report(
        Section.HTTP,
        "one event a request, one connection, beside sign-ins",
        [load.requests_per_second for load in beside],
        "requests/s",
        p99=percentile(latencies, 0.99),
        targets=[at_least(1, of="at least {} a second: it does not stall")],
        alone=alone.requests_per_second,
        longest_ms=max(latencies),
    )


def main() -> None:
    small = is_small()
    with benchmark_directory() as directory:
        for name in ("guarded", "unguarded"):
            (Path(directory) / name).mkdir()
        with (
            CoreService(Path(directory) / "guarded") as guarded,
            CoreService(Path(directory) / "unguarded", module="tools.benchmarking.unguarded_core") as unguarded,
        ):
            guarded.start()
            unguarded.start()
            token = limited_writer(guarded)
            overhead(guarded, unguarded, token, small=small)
            sign_ins(guarded, token, small=small)
            guarded.stop()
            unguarded.stop()


if __name__ == "__main__":
    main()
