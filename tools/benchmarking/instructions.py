"""Instructions that a process executes, counted by callgrind: the same from run to run, whatever else the machine does.

They tell two versions of a program apart that no clock can, and nothing of what waits for memory. A process runs about
a hundred times as slowly meanwhile.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["can_count", "counted", "under_callgrind"]

_VALGRIND: Final = "valgrind"
_CONTROL: Final = "callgrind_control"
_TOTALS: Final = re.compile(r"^totals: (\d+)", re.MULTILINE)


def can_count() -> bool:
    """Whether Valgrind is installed."""
    return shutil.which(_VALGRIND) is not None and shutil.which(_CONTROL) is not None


def under_callgrind(output: Path) -> list[str]:
    """What comes before the command of a process whose instructions are to be counted.

    Args:
        output: of callgrind; other files next to it begin with its name.
    """
    return [_VALGRIND, "--quiet", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={output}"]


def counted(pid: int, output: Path, work: Callable[[], None]) -> int:
    """Instructions of all threads of a process while `work` is done. Once for a process.

    Args:
        pid: of a process that was started `under_callgrind`.
        output: as it was told.
        work: has the process do something, and waits for it.
    """
    _control("--instr=on", pid)
    work()
    _control("--dump", pid)
    totals = _TOTALS.search(output.with_name(f"{output.name}.1").read_text())
    assert totals is not None
    return int(totals[1])


def _control(command: str, pid: int) -> None:
    subprocess.run([_CONTROL, command, str(pid)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
