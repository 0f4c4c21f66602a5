"""Results of benchmarks: one JSON object a line."""

from __future__ import annotations

import argparse
import functools
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

__all__ = ["Result", "Section", "Target", "at_least", "at_most", "is_small", "percentile", "report", "time_runs"]


class Section(StrEnum):
    """Where on the page a result stands."""

    ENGINE = "engine"
    HTTP = "http"
    PEERS = "peers"
    GROWTH = "growth"


class Result(msgspec.Struct, omit_defaults=True):
    """One measurement.

    Attributes:
        name: of the workload, in words; no other result has it.
        parameters: what was varied, and whatever else one must know.
        runs: how many times it was run.
        median: of the runs, in `unit`.
        p99: the 99th percentile of single calls, in milliseconds, where calls were timed one by one.
        unit: ``events/s``, ``requests/s``, ``µs`` …
        commit: of the code that was measured; ``+`` behind it means with changes.
        section: of the page.
        target: what the design asks for, in words.
        reached: whether the runs came to that; None where nothing is asked for.
        peer: row and column of the peers' table that the median stands in.
    """

    name: str
    parameters: dict[str, Any]
    runs: int
    median: float
    unit: str
    commit: str
    section: Section
    p99: float | None = None
    target: str | None = None
    reached: bool | None = None
    peer: tuple[str, str] | None = None


class Target(msgspec.Struct, frozen=True):
    """What is asked of a result; see `at_least` and `at_most`.

    Attributes:
        words: as on the page.
        bound: inclusive.
        is_floor: whether more is better.
        value: what is compared; None for the median.
    """

    words: str
    bound: float
    is_floor: bool
    value: float | None = None

    def is_reached(self, median: float) -> bool:
        value = median if self.value is None else self.value
        return value >= self.bound if self.is_floor else value <= self.bound


def at_least(bound: float, *, of: str = "{}", value: float | None = None) -> Target:
    """The median, or `value`, is to be so much or more; `of` says of what: ``{} times bare``, where it is not plain."""
    return Target(of.format(f"≥ {bound:,}"), bound, is_floor=True, value=value)


def at_most(bound: float, *, of: str = "{}", value: float | None = None) -> Target:
    """The same, so much or less."""
    return Target(of.format(f"≤ {bound:,}"), bound, is_floor=False, value=value)


def report(
    section: Section,
    name: str,
    runs: Sequence[float],
    unit: str,
    *,
    p99: float | None = None,
    targets: Sequence[Target] = (),
    peer: tuple[str, str] | None = None,
    **parameters: Any,
) -> None:
    """Print one result. `runs` has one value a run, in `unit`; all `targets` must be met for it to be reached."""
    median = statistics.median(runs)
    result = Result(
        name=name,
        parameters=parameters,
        runs=len(runs),
        median=round(median, 3),
        unit=unit,
        commit=_commit(),
        section=section,
        p99=None if p99 is None else round(p99, 3),
        target="; ".join(target.words for target in targets) or None,
        reached=all(target.is_reached(median) for target in targets) if targets else None,
        peer=peer,
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
