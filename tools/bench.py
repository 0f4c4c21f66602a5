"""``make bench``: run the benchmarks, print their lines, and write docs/performance.md from them.

The lines of each program are kept in .dev/benchmarks until it is run again, so that programs can be run one at a time:
the page is written when there are lines of every one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tools.benchmarking.machine import describe_machine
from tools.benchmarking.peers import peers_table
from tools.benchmarking.results import Result, Section

__all__ = ["main"]

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs" / "performance.md"
KEPT: Final = ROOT / ".dev" / "benchmarks"

_INTRODUCTION: Final = """\
<!-- Written by `make bench` from the lines that the benchmarks print. -->

# Performance

Measured on {machine}, at commit {commits}. Unless a row says otherwise, every append is on disk before it is
acknowledged. The event everywhere:
`{{"event_type":"benchmark.event","entity_id":"entity-<i mod 100>","payload":{{"index":<i>,"data":"payload"}}}}`; where
a row says so, of other entities.

*To reach* is what the design asks for on two cores; whether it is reached is judged by this run alone. *Median* is that
of the runs, *p99* that of single calls. *Bare* is a write and an fdatasync of as many bytes to a file of zeros, taken
in turn with the run.

What is not claimed: that single figures hold elsewhere, or tomorrow. The machine is shared and noisy: compare ratios
within one run. The load generator runs on the cores that the services run on; `generator_share` is what it took of one
core, and a row of the gateway with more than half is void. Quotas and rate limits are only part of the rows that name
them. Each program in `services/*/benchmarks` says in its first lines what else it does not claim; `make bench` runs
them all, `make bench ONLY=engine` one of them.
"""

_HEADINGS: Final = {
    Section.ENGINE: "The engine, in process",
    Section.HTTP: "Over HTTP, authenticated, durable",
    Section.PEERS: "Against what people would pick instead",
    Section.GROWTH: "Growth",
}
_TABLE_HEAD: Final = """\
| workload | median | p99 ms | to reach | reached | runs | parameters |
| --- | ---: | ---: | --- | --- | ---: | --- |
"""
_REACHED: Final = {None: "", True: "yes", False: "**no**"}
_WHOLE_NUMBERS_FROM: Final = 1000


def main() -> int:
    """Run them.

    Returns:
        0 if every benchmark ran to its end; the page is written only then, and not with ``--small``.
    """
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--small", action="store_true", help="only show that every benchmark runs")
    parser.add_argument("--only", default="", metavar="NAME", help="run those whose name begins so: engine, growth")
    options = parser.parse_args()
    programs = sorted(ROOT.glob("services/*/benchmarks/bench_*.py"))
    chosen = [program for program in programs if program.stem.startswith(f"bench_{options.only}")]
    if not chosen:
        names = ", ".join(program.stem.removeprefix("bench_") for program in programs)
        parser.error(f"no benchmark is called {options.only!r}; there are: {names}")
    for program in chosen:
        print(f"{program.relative_to(ROOT)} ...", file=sys.stderr)
        lines = run_benchmark(program, small=options.small)
        if lines is None:
            return 1
        if not options.small:
            KEPT.mkdir(parents=True, exist_ok=True)
            kept_lines(program).write_text("".join(lines), encoding="utf-8")
    if not options.small:
        write_page(programs)
    return 0


def write_page(programs: Sequence[Path]) -> None:
    """Write the page if every program has lines, else say which ones have none."""
    missing = [program.stem.removeprefix("bench_") for program in programs if not kept_lines(program).exists()]
    if missing:
        print(f"{PAGE.relative_to(ROOT)} is not written: run these too: {', '.join(missing)}", file=sys.stderr)
        return
    lines = [line for program in programs for line in kept_lines(program).read_bytes().splitlines()]
    PAGE.write_text(page([msgspec.json.decode(line, type=Result) for line in lines]), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)


def kept_lines(program: Path) -> Path:
    """Where the lines of a program are kept."""
    return KEPT / f"{program.stem}.jsonl"


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


def page(results: Sequence[Result]) -> str:
    """The whole page, of the newest result of every workload."""
    newest = list({result.name: result for result in results}.values())
    commits = ", ".join(dict.fromkeys(result.commit for result in newest))
    parts = [_INTRODUCTION.format(machine=describe_machine(), commits=commits)]
    for section, heading in _HEADINGS.items():
        of_section = [result for result in newest if result.section is section]
        parts.append(f"\n## {heading}\n\n{_TABLE_HEAD}" + "".join(map(_row, of_section)))
        if section is Section.PEERS:
            parts.append("\n" + peers_table(of_section))
    return "".join(parts)


def _row(result: Result) -> str:
    parameters = ", ".join(f"{name} {_figure(value)}" for name, value in result.parameters.items())
    p99 = "" if result.p99 is None else f"{result.p99:.2f}"
    cells = (
        result.name,
        f"{_figure(result.median)} {result.unit}",
        p99,
        result.target or "",
        _REACHED[result.reached],
        str(result.runs),
        parameters,
    )
    return f"| {' | '.join(cells)} |\n"


def _figure(value: object) -> str:
    if isinstance(value, float) and value < _WHOLE_NUMBERS_FROM:
        return f"{value:,.2f}".rstrip("0").rstrip(".")
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
