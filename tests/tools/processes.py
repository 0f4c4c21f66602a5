"""Looking at real processes from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    return _state(pid)[0] not in ("", "Z")


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that run, oldest first: numbers begin anew when they have run out."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    found = {number: _state(number) for number in numbers}
    running = [number for number, (state, parent, _) in found.items() if parent == pid and state != "Z"]
    return sorted(running, key=lambda number: (found[number][2], number))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether `condition` holds within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _state(pid: int) -> tuple[str, int, int]:
    """State and parent of a process, and when it was started, since the system was; ("", 0, 0) if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return "", 0, 0
    return fields[0], int(fields[1]), int(fields[19])
