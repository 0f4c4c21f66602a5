"""Time of the processor that processes take."""

from __future__ import annotations

import time
from typing import Final

__all__ = ["processor_seconds"]

_SCHEDULED_TIME: Final = 2


def processor_seconds(pid: int) -> float:
    """What all threads of a process have taken, those that ended too; not what it started. To the nanosecond.

    `/proc/<pid>/stat` says the same in hundredths of a second.
    """
    # The clock that clock_getcpuclockid(3) finds for a process, which Python has no function for.
    return time.clock_gettime((~pid << 3) | _SCHEDULED_TIME)
