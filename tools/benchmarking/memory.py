"""Memory that processes have for themselves."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["anonymous_mib"]

_MIB_KB = 1024


def anonymous_mib(pid: int) -> float:
    """Anonymous resident memory (`RssAnon`) of a process and all that it started, in MiB."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        text = _read(status)
        if text:
            # The name, in parentheses, may hold anything.
            parent = int(text.rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(status.parent.name))
    total, left = 0, [pid]
    while left:
        process = left.pop()
        match = re.search(r"RssAnon:\s*(\d+) kB", _read(Path(f"/proc/{process}/status")))
        total += int(match[1]) if match else 0
        left += children.get(process, [])
    return total / _MIB_KB


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended
        return ""
