"""Results of benchmarks: one JSON object a line."""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

__all__ = ["Result", "is_small", "percentile", "report", "time_runs"]


class Result(msgspec.Struct, omit_defaults=True):
    """One measurement.

    Attributes:
        name: of the workload.
        parameters: what was varied, and whatever else one must know.
        runs: how many times it was run.
        median: of the runs, in `unit`.
        p99: the 99th percentile of single calls, in milliseconds, where calls were timed one by one.
        unit: ``events/s``, ``requests/s``, ``µs`` …
        commit: of the code that was measured; ``+`` behind it means with changes.
        target: what the design asks for, in words.
    """

    name: str
    parameters: dict[str, Any]
    runs: int
    median: float
    unit: str
    commit: str
    p99: float | None = None
    target: str | None = None


def report(
    name: str,
    runs: Sequence[float],
    unit: str,
    *,
    p99: float | None = None,
    target: str | None = None,
    **parameters: Any,
) -> None:
    """Print one result. `runs` has one value a run, in `unit`."""
    result = Result(
        name=name,
        parameters=parameters,
        runs=len(runs),
        median=round(statistics.median(runs), 3),
        unit=unit,
        commit=_commit(),
        p99=None if p99 is None else round(p99, 3),
        target=target,
    )
    print(msgspec.json.encode(result).decode(), flush=True)


@functools.cache
def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which this share (0 to 1) of the samples lies."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def time_runs(measure: Callable[[], float], runs: int) -> list[float]:
    """Call a measurement several times, after one call that only warms up."""
    measure()
    return [measure() for _ in range(runs)]


def is_small() -> bool:
    """Whether ``--small`` was given: the size at which the tests run every benchmark, so that none rots."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--small", action="store_true", help="a size that only shows that it runs")
    return bool(parser.parse_args().small)
