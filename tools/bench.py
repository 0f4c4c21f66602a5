"""``make bench``: run every benchmark, print its lines, and write docs/performance.md from them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from tools.benchmarking.machine import describe_machine
from tools.benchmarking.results import Result

__all__ = ["main"]

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "performance.md"

_INTRODUCTION: Final = """\
<!-- Written by `make bench` from the lines that the benchmarks print. -->

# Performance

Measured on {machine}. Every append is on disk before it is acknowledged. The machine is shared and noisy: compare
ratios within one run, and take single figures with a grain of salt. The programs are in `services/*/benchmarks`; each
says in its first lines what it does not claim. *To reach* is what the design asks for on two cores.

| workload | median | p99 ms | to reach | runs | parameters |
| --- | ---: | ---: | --- | ---: | --- |
"""


def main() -> int:
    """Run them all.

    Returns:
        0 if every benchmark ran to its end; the page is written only then, and not with ``--small``.
    """
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--small", action="store_true", help="only show that every benchmark runs")
    options = parser.parse_args()
    results: list[Result] = []
    for program in sorted(ROOT.glob("services/*/benchmarks/bench_*.py")):
        print(f"{program.relative_to(ROOT)} ...", file=sys.stderr)
        lines = run_benchmark(program, small=options.small)
        if lines is None:
            return 1
        results += [msgspec.json.decode(line, type=Result) for line in lines]
    if not options.small:
        PAGE.write_text(page(results), encoding="utf-8")
        print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)
    return 0


def run_benchmark(program: Path, *, small: bool) -> list[str] | None:
    """Run one program, passing its lines on as they come; None if it failed."""
    command = [sys.executable, str(program), *(["--small"] if small else [])]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode != 0:
        print(f"{program.name} ended with {process.returncode}", file=sys.stderr)
        return None
    return lines


def page(results: list[Result]) -> str:
    """The whole page, of the newest result of every workload."""
    rows = []
    for result in {result.name: result for result in results}.values():
        parameters = ", ".join(f"{name} {value}" for name, value in result.parameters.items())
        digits = 0 if result.median >= 1000 else 2
        rows.append(
            f"| {result.name} | {result.median:,.{digits}f} {result.unit} | "
            f"{'' if result.p99 is None else f'{result.p99:.2f}'} | {result.target or ''} | "
            f"{result.runs} | {parameters} |"
        )
    return _INTRODUCTION.format(machine=describe_machine()) + "\n".join(rows) + f"\n\nCommit {results[0].commit}.\n"


if __name__ == "__main__":
    sys.exit(main())
