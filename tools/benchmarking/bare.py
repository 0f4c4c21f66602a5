"""What the disk itself does: fdatasync after writing as many bytes to a file of the same kind as the log."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

__all__ = ["BareFile"]

_BYTES: Final = 8 * 1024 * 1024


class BareFile:
    """A file that is full of zeros, as a log file is before it is written.

    Args:
        directory: on the disk that the store is on.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / "bare", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._descriptor, bytes(_BYTES), 0)
        os.fsync(self._descriptor)

    def seconds(self, calls: int, bytes_each: int) -> float:
        """How long it takes to write and sync so many bytes so many times, one after the other."""
        data = os.urandom(bytes_each)
        places = max(1, _BYTES // bytes_each)
        started = time.perf_counter()
        for call in range(calls):
            os.pwrite(self._descriptor, data, call % places * bytes_each)
            os.fdatasync(self._descriptor)
        return time.perf_counter() - started

    def close(self) -> None:
        os.close(self._descriptor)
