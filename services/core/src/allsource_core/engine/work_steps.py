"""Kinds of work that are done one after the other, the most urgent first, where one that fails keeps no other back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from allsource_core.engine.errors import CorruptionError

__all__ = ["Step", "WorkSteps"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0
"""How long a kind of work that failed is left alone."""

Step = Callable[[], bool | None]
"""Does a piece of work. True: it may have made other work, and there may be more of its own."""


class WorkSteps:
    """Does what there is to do until there is nothing left.

    Sealing goes on where a compaction can't succeed, and the other way round: for as long as a step fails, the others
    are done all the same, and it is tried again after a while.

    Args:
        steps: the most urgent first. After one that did something all begins anew.
        is_stopped: whether to leave the rest.
    """

    def __init__(self, steps: Sequence[Step], is_stopped: Callable[[], bool]) -> None:
        self._steps = tuple(steps)
        self._is_stopped = is_stopped
        self._retry_at: dict[Step, float] = {}

    @property
    def is_failing(self) -> bool:
        """Whether some step failed the last time that it was tried."""
        return bool(self._retry_at)

    def run(self, *, patiently: bool) -> None:
        """Do everything that there is to do now.

        Args:
            patiently: leave out steps that failed a moment ago.

        Raises:
            Exception: what a step raised, after the others have done what they could: damage if any met it, else the
                first. The others are logged.
        """
        now = time.monotonic()
        left = [step for step in self._steps if not patiently or now >= self._retry_at.get(step, now)]
        failures: list[Exception] = []
        while self._do_next(left, failures):
            continue
        if failures:
            chosen = _gravest(failures)
            # An error that is found from its own frames would keep them, and the files that they were reading.
            failures.clear()
            try:
                raise chosen
            finally:
                del chosen

    def _do_next(self, left: list[Step], failures: list[Exception]) -> bool:
        """Do the most urgent piece of work; False if there is none. A step that fails is left no more."""
        for step in left:
            if self._is_stopped():
                return False
            try:
                has_done = step()
            except Exception as error:
                self._retry_at[step] = time.monotonic() + _RETRY_SECONDS
                left.remove(step)
                failures.append(error)
                return True
            self._retry_at.pop(step, None)
            if has_done:
                return True
        return False


def _gravest(failures: Sequence[Exception]) -> Exception:
    """The one to raise; the others are logged."""
    chosen = next((error for error in failures if isinstance(error, CorruptionError)), failures[0])
    for error in failures:
        if error is not chosen:
            # In words, for the same reason.
            _log.error("maintenance failed in another place too: %s: %s", type(error).__name__, str(error))
    return chosen
