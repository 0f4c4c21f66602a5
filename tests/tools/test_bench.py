"""Every benchmark runs, at a size that shows only that."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tools.bench import ROOT, page
from tools.benchmarking.peers import COLUMNS
from tools.benchmarking.results import Result, Section, at_least, at_most


@pytest.mark.timeout(900)  # every program, one after the other
def test_every_benchmark_runs_and_prints_results_that_make_a_page() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tools.bench", "--small"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    results = [msgspec.json.decode(line, type=Result) for line in ended.stdout.splitlines()]
    names = [result.name for result in results]
    assert len(set(names)) == len(names)
    assert {result.section for result in results} == set(Section)
    assert all(result.runs >= 1 and result.unit for result in results)
    of_peers = {result.peer[1] for result in results if result.peer is not None}
    assert of_peers == set(COLUMNS)
    rows = [line for line in page(results).splitlines() if line.startswith("| ")]
    assert all(any(row.startswith(f"| {name} |") for row in rows) for name in names)


def test_a_target_is_reached_by_the_median_or_by_the_value_that_it_names() -> None:
    assert at_least(500_000).words == "≥ 500,000"
    assert at_least(3).is_reached(3.0)
    assert not at_least(3).is_reached(2.9)
    assert at_most(10, of="p99 {} ms", value=9.0).is_reached(11.0)
    assert not at_most(10, value=11.0).is_reached(9.0)


def test_the_page_says_where_a_row_fell_short_and_what_the_peers_did() -> None:
    def result(name: str, *, reached: bool, section: Section = Section.GROWTH, **more: object) -> Result:
        return Result(name, {"stored": 10_000}, 5, 1234.5, "events/s", "abc", section, reached=reached, **more)

    ours = result("ours", reached=True, section=Section.PEERS, peer=("AllSource", "c"))
    text = page([result("slow", reached=False, target="≥ 2,000"), result("fast", reached=True), ours])
    assert "| slow | 1,234 events/s |  | ≥ 2,000 | **no** | 5 | stored 10,000 |" in text
    assert "| fast | 1,234 events/s |  |  | yes | 5 | stored 10,000 |" in text
    assert "| AllSource | yes |  |  | 1,234 |  |  |  |  |  |  |" in text
    assert "| UmaDB 0.7.8 | yes | 1,880 |" in text
    assert "2026-11-23" in text


def test_a_name_that_is_no_benchmark_is_refused_with_those_that_are() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tools.bench", "--only", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "growth_reads" in ended.stderr
