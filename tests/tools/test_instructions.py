"""Counting instructions: as many as are executed while somebody is at work, and about the same every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.benchmarking.instructions import can_count, counted, under_callgrind

PROGRAM = """
import sys
for line in sys.stdin:
    total = 0
    for number in range(int(line)):
        total += number
    print(total, flush=True)
"""


def count(directory: Path, work: int) -> int:
    """Instructions that it takes to add up so many numbers."""
    directory.mkdir()
    command = [*under_callgrind(directory / "output"), sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = process.stdout

        def add_up(numbers: int) -> None:
            process.stdin.write(f"{numbers}\n")
            process.stdin.flush()
            assert int(answers.readline()) == numbers * (numbers - 1) // 2

        add_up(1000)
        found = counted(process.pid, directory / "output", lambda: add_up(work))
        process.stdin.close()
    return found


@pytest.mark.skipif(not can_count(), reason="Valgrind is not installed")
def test_they_are_those_of_the_work_and_the_same_again(tmp_path: Path):
    little, much, again = (count(tmp_path / f"{number}", work) for number, work in enumerate((10, 20_000, 20_000)))
    assert 3 * little < much
    assert abs(again - much) < much / 10
