"""How far the load is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, Protocol, TextIO

from tqdm import tqdm

__all__ = ["Progress", "ProgressLines", "show_progress"]

_SECONDS_BETWEEN_LINES: Final = 5.0


class Progress(Protocol):
    """What the loader tells about its progress."""

    def update(self, n: int, /) -> object:
        """`n` more events are in the store."""


class ProgressLines:
    """Progress for a log: events so far, rate, time left.

    Args:
        total: events in all; None if that is not known.
        stream: where the lines go.
        seconds: between two lines.
    """

    def __init__(self, total: int | None, stream: TextIO, seconds: float = _SECONDS_BETWEEN_LINES) -> None:
        self._total = total
        self._stream = stream
        self._seconds = seconds
        self._began = self._printed = monotonic()
        self._done = 0

    def update(self, n: int, /) -> None:
        """Count `n` more, and print a line if the last one is old enough or all is done."""
        self._done += n
        now = monotonic()
        if now - self._printed >= self._seconds or self._done == self._total:
            self._printed = now
            print(self._line(max(now - self._began, 1e-6)), file=self._stream, flush=True)

    def _line(self, seconds: float) -> str:
        rate = self._done / seconds
        if self._total is None:
            return f"{self._done:,} events, {rate:,.0f}/s"
        left = (self._total - self._done) / rate if rate else 0.0
        return f"{self._done:,} of {self._total:,} events, {rate:,.0f}/s, {left:.0f} s left"


class _Silence:
    def update(self, n: int, /) -> None:
        """Nothing."""


@contextmanager
def show_progress(total: int | None, *, enabled: bool = True) -> Iterator[Progress]:
    """Progress on standard error for the time of the block, in the form that suits what standard error is."""
    if not enabled:
        yield _Silence()
    elif sys.stderr.isatty():
        with tqdm(total=total, unit=" events", unit_scale=True, file=sys.stderr, dynamic_ncols=True) as bar:
            yield bar
    else:
        yield ProgressLines(total, sys.stderr)
