"""What guards the core costs: authentication, permission, rate limit, quotas and figures, on against off in one run.

Pairs of cores, each with a store of its own, are loaded in turn with the same requests. One is as operators run it, and
its tenant has every quota and a rate limit, all too high to be reached; of the other everything that guards it was
taken off (`tools.benchmarking.unguarded_core`). Then the instructions of both for a request, which no noise touches, if
Valgrind is there to count them. Then sign-ins, as fast as the machine allows, and what a writer beside them sees. What
is not claimed: that the share is the same where the network is slower; it is less there.
"""

from __future__ import annotations

import http
import json
import statistics
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from tools.benchmarking.core_service import CoreService
from tools.benchmarking.instructions import can_count, counted, under_callgrind
from tools.benchmarking.load import Load, http_request, run_load
from tools.benchmarking.machine import benchmark_directory
from tools.benchmarking.results import Section, at_most, is_small, percentile, report
from tools.benchmarking.unguarded_core import TENANT
from tools.benchmarking.workload import batch_body, event_body

_PASSWORD: Final = "a password for benchmarks only"  # noqa: S105 - of a store that is thrown away
_COUNTED_CORE: Final = "tools.benchmarking.counted_core"
_UNGUARDED: Final = "tools.benchmarking.unguarded_core"
_HIGH: Final = 10**12
_QUOTAS: Final = {
    "max_events_per_day": _HIGH,
    "max_storage_bytes": _HIGH,
    "max_queries_per_hour": _HIGH,
}
_LIMITS: Final = {"requests_per_minute": 10**9, "burst": 10**9}
_PAIRS: Final = 12
"""Of processes, one after the other: the same program takes up to 4 % more or less of the processor from one start to
the next."""
_TURNS: Final = 40
"""Of each pair. Many short ones: what else the machine does changes within a second, and so meets both alike. Medians
of as many requests in turns ten times as long differed by four times as much from run to run."""
_COUNTED: Final = 1000
"""Requests of which the instructions are counted."""

_SIGN_IN_CONNECTIONS: Final = 4
"""As many as one account may have under way: enough to keep both threads busy that check passwords."""
_STALL_MS: Final = 500
"""Longer than this an event must not take, whatever goes on."""


def call(core: CoreService, method: str, path: str, token: str, body: Any) -> Any:
    """One management call; its answer decoded."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"{core.url}/api/v1/{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read() or b"null")


def limited_writer(core: CoreService) -> str:
    """Make the tenant with its limits, and two users in it; returns a token of the writer."""
    admin = core.token()
    call(core, "POST", "tenants", admin, {"id": TENANT, "name": "Benchmark", "quotas": _QUOTAS})
    call(core, "PUT", f"tenants/{TENANT}/limits", admin, _LIMITS)
    for name in ("writer", "visitor"):
        user = {**_credentials(name), "role": "developer", "tenant_id": TENANT, "email": f"{name}@example.org"}
        call(core, "POST", "auth/register", admin, user)
    return str(call(core, "POST", "auth/login", admin, _credentials("writer"))["token"])


def _credentials(name: str) -> dict[str, str]:
    return {"username": name, "password": _PASSWORD}


def check(guarded: CoreService, unguarded: CoreService) -> None:
    """See that one is guarded and the other is not. Raises RuntimeError."""
    with urllib.request.urlopen(f"{unguarded.url}/api/v1/events/query?limit=1") as answer:
        left = [name for name in answer.headers if name.lower().startswith("x-ratelimit")]
    if left:
        raise RuntimeError(f"something still guards the core that nothing should: {left}")
    try:
        urllib.request.urlopen(f"{guarded.url}/api/v1/events/query?limit=1").close()
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.UNAUTHORIZED:
            return
    raise RuntimeError("nothing guards the core that everything should")


class _Pair(NamedTuple):
    """Two cores, and a token of the writer for the one that asks for it."""

    guarded: CoreService
    unguarded: CoreService
    token: str


class _Run(msgspec.Struct, frozen=True):
    """What one core did with a share of the requests."""

    rate: float
    processor_us: float
    """Of the core, for a request."""
    generator_share: float


def run(core: CoreService, requests: list[bytes], count: int, connections: int) -> _Run:
    """Load one core for a moment."""
    before = core.processor_seconds()
    load = run_load(core.url, requests, count=count, connections=connections)
    taken = core.processor_seconds() - before
    return _Run(load.requests_per_second, 1e6 * taken / count, load.generator_share)


class _Workload(NamedTuple):
    """Requests that both cores get."""

    name: str
    requests: Callable[[str], list[bytes]]
    """Made for a token."""
    count: int
    """In a turn."""
    connections: int


def in_turn(pair: _Pair, workload: _Workload, turns: int) -> list[tuple[_Run, _Run]]:
    """What both cores of a pair made of a workload, a moment each time: with guards, and without."""
    requests = workload.requests(pair.token)
    measured: list[tuple[_Run, _Run]] = []
    for turn in range(turns + 1):
        order = (pair.guarded, pair.unguarded) if turn % 2 else (pair.unguarded, pair.guarded)
        of = {core: run(core, requests, workload.count, workload.connections) for core in order}
        if turn:  # the first one only warms up
            measured.append((of[pair.guarded], of[pair.unguarded]))
    return measured


def report_overhead(workload: _Workload, measured: Sequence[tuple[_Run, _Run]]) -> None:
    """What guards cost, of the rate and of the processor's time."""
    processor_share = statistics.median(100 * (1 - off.processor_us / on.processor_us) for on, off in measured)
    report(
        Section.HTTP,
        f"{workload.name}, what guards cost",
        [100 * (1 - on.rate / off.rate) for on, off in measured],
        "% of the rate",
        targets=[at_most(5), at_most(5, of="{} % of processor time", value=processor_share)],
        connections=workload.connections,
        processor_percent=round(processor_share, 2),
        processor_us=round(statistics.median(on.processor_us for on, _ in measured), 1),
        processor_us_without=round(statistics.median(off.processor_us for _, off in measured), 1),
        requests_per_second=round(statistics.median(on.rate for on, _ in measured)),
        generator_share=statistics.median(one.generator_share for pair in measured for one in pair),
    )


def instructions(core: CoreService, output: Path, requests: list[bytes]) -> float:
    """Those of a core for a request, once what it learns of its callers is known."""
    run_load(core.url, requests, count=_COUNTED, connections=64)
    total = counted(core.pid, output, lambda: run_load(core.url, requests, count=_COUNTED, connections=64))
    return total / _COUNTED


def report_instructions(directory: Path) -> None:
    """The share of guards in the instructions of a request with one event, the same to both. Usage is not written to
    its file meanwhile.
    """
    output = directory / "callgrind"
    directory.mkdir()
    with CoreService(directory / "on", module=_COUNTED_CORE, under=under_callgrind(output)) as core:
        core.start()
        requests = _singles(limited_writer(core))
        on = instructions(core, output, requests)
        core.stop()
    with CoreService(directory / "off", module=_UNGUARDED, under=under_callgrind(output)) as core:
        core.start()
        off = instructions(core, output, requests)
        core.stop()
    report(
        Section.HTTP,
        "one event a request, what guards cost in instructions",
        [100 * (1 - off / on)],
        "% of a request's",
        targets=[at_most(5)],
        connections=64,
        instructions=round(on),
        instructions_without=round(off),
    )


def _batches(token: str) -> list[bytes]:
    return [
        http_request("POST", "/api/v1/events/batch", token, batch_body(first, 1000), Prefer="return=minimal")
        for first in range(0, 10_000, 1000)
    ]


def _singles(token: str) -> list[bytes]:
    return [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(1000)]


def sign_ins(core: CoreService, token: str, *, small: bool) -> None:
    """Sign-ins of one user, and single events of another one before and meanwhile."""
    body = json.dumps(_credentials("visitor")).encode()
    logins = [http_request("POST", "/api/v1/auth/login", token, body)]
    singles = [http_request("POST", "/api/v1/events", token, event_body(index)) for index in range(1000)]
    count, events = (16, 100) if small else (600, 4000)
    alone = run_load(core.url, singles, count=events, connections=1)
    with ThreadPoolExecutor(1) as thread:
        signing_in = thread.submit(run_load, core.url, logins, count=count, connections=_SIGN_IN_CONNECTIONS)
        beside: list[Load] = []
        while not signing_in.done():
            beside.append(run_load(core.url, singles, count=events // 20, connections=1))
    rate = signing_in.result().requests_per_second
    report(Section.HTTP, "sign-ins", [rate], "sign-ins/s", connections=_SIGN_IN_CONNECTIONS)
    latencies = [latency for load in beside for latency in load.latencies_ms]
    report(
        Section.HTTP,
        "one event a request beside sign-ins",
        [load.requests_per_second for load in beside],
        "requests/s",
        p99=percentile(latencies, 0.99),
        targets=[at_most(_STALL_MS, of="longest {} ms", value=max(latencies))],
        connections=1,
        without_sign_ins=round(alone.requests_per_second),
        p99_without_sign_ins=round(percentile(alone.latencies_ms, 0.99), 3),
        longest_ms=round(max(latencies), 1),
    )


@contextmanager
def started_pair(directory: Path) -> Iterator[_Pair]:
    """Two cores, with stores of their own below a directory."""
    paths = [directory / name for name in ("guarded", "unguarded")]
    for path in paths:
        path.mkdir(parents=True)
    with (
        CoreService(paths[0]) as guarded,
        CoreService(paths[1], module=_UNGUARDED) as unguarded,
    ):
        guarded.start()
        unguarded.start()
        check(guarded, unguarded)
        yield _Pair(guarded, unguarded, limited_writer(guarded))
        guarded.stop()
        unguarded.stop()


def main() -> None:
    small = is_small()
    workloads = [
        _Workload("batches of 1,000", _batches, 20, 8),
        _Workload("one event a request", _singles, 200 if small else 400, 64),
    ]
    measured: list[list[tuple[_Run, _Run]]] = [[] for _ in workloads]
    with benchmark_directory() as directory:
        for number in range(1 if small else _PAIRS):
            with started_pair(Path(directory) / f"pair-{number}") as pair:
                for workload, of_all in zip(workloads, measured, strict=True):
                    of_all += in_turn(pair, workload, 1 if small else _TURNS)
        for workload, of_all in zip(workloads, measured, strict=True):
            report_overhead(workload, of_all)
        if can_count() and not small:
            report_instructions(Path(directory) / "instructions")
        with started_pair(Path(directory) / "sign-ins") as pair:
            sign_ins(pair.guarded, pair.token, small=small)


if __name__ == "__main__":
    main()
