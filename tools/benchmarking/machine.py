"""The machine that a benchmark ran on, without its name."""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
import tempfile
from pathlib import Path

__all__ = ["benchmark_directory", "describe_machine"]


def describe_machine() -> str:
    """Processor, cores, memory, system, Python and the file system of the checkout."""
    processor = _first("/proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.processor()
    parts = [
        f"{os.cpu_count()} cores of {processor}",
        _memory(),
        f"{platform.system()} {platform.release().split('-')[0]}",
        f"Python {platform.python_version()}",
        _file_system(Path.cwd()),
    ]
    return ", ".join(part for part in parts if part)


def benchmark_directory() -> tempfile.TemporaryDirectory[str]:
    """A fresh directory on the disk that the checkout is on: a temporary one may be in memory.

    From then on SIGTERM ends the program as Ctrl-C does, so that the directory goes then too.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    parent = Path(".dev")
    parent.mkdir(mode=0o700, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=parent, prefix="bench-")


def _memory() -> str:
    kibibytes = _first("/proc/meminfo", r"MemTotal:\s*(\d+) kB")
    return f"{round(int(kibibytes) / 1024 / 1024)} GiB of memory" if kibibytes else ""


def _file_system(path: Path) -> str:
    """The type of the file system below a path: that of the longest mount point above it."""
    best, kind = "", ""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, mount, mount_kind, *_ = line.split()
        if str(path.resolve()).startswith(mount) and len(mount) >= len(best):
            best, kind = mount, mount_kind
    return kind


def _first(path: str, pattern: str) -> str:
    try:
        match = re.search(pattern, Path(path).read_text(encoding="utf-8"))
    except OSError:
        return ""
    return match[1].strip() if match is not None else ""
