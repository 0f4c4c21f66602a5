"""Every benchmark runs, at a size that shows only that."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from tools.bench import ROOT, page
from tools.benchmarking.results import Result


def test_every_benchmark_runs_and_prints_results_that_make_a_page() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "tools.bench", "--small"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    results = [msgspec.json.decode(line, type=Result) for line in ended.stdout.splitlines()]
    names = {result.name for result in results}
    assert {"append_one", "append_batches", "read_entity", "core_batches", "gateway_single", "gateway_added"} <= names
    assert all(result.runs >= 1 and result.unit for result in results)
    assert page(results).count("\n| ") == len(names) + 2
