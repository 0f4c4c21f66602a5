"""Time as the engine sees it."""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns

__all__ = ["Clock", "system_clock"]

Clock = Callable[[], int]
"""Gives microseconds since the epoch, UTC. May jump either way; the engine's `recorded_at` does not go back."""


def system_clock() -> int:
    """The machine's clock."""
    return time_ns() // 1000
