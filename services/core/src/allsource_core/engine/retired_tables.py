"""Memtables that are in segments now, and perhaps still read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from allsource_core.engine.memtable import Memtable

__all__ = ["RetiredTables"]

_DISPOSAL_SECONDS: Final = 60.0
"""A reader that takes longer has the memtable for itself, and its end frees it all at once."""


class RetiredTables:
    """Gives the memory of sealed memtables back, gently, once nobody reads from them.

    Args:
        is_read: whether somebody may still read from a memtable.
    """

    def __init__(self, is_read: Callable[[Memtable], bool]) -> None:
        self._is_read = is_read
        self._tables: list[tuple[Memtable, float]] = []

    def add(self, table: Memtable) -> None:
        """No view that is made from now on has it."""
        self._tables.append((table, time.monotonic() + _DISPOSAL_SECONDS))

    def dispose(self) -> None:
        """Dispose of those that nobody reads from; forget those that somebody has read from for too long."""
        kept = []
        for table, deadline in self._tables:
            if not self._is_read(table):
                table.dispose()
            elif time.monotonic() < deadline:
                kept.append((table, deadline))
        self._tables = kept
