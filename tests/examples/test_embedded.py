"""The example of embedding runs, and says what it is meant to show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "embedded.py"


def test_the_example_of_embedding_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "store")], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "shipped already: version 3, not 2" in ran.stdout
    assert "registered: True, False" in ran.stdout
    assert "repeated: True, same: True" in ran.stdout
    assert "order-1 is {'customer': 'ada', 'total': 42, 'by': 'card'}" in ran.stdout
    assert "order-1 was {'customer': 'ada', 'total': 42}" in ran.stdout
    assert "reopened: 6 events are there" in ran.stdout
