"""Answers that go on for long, and are broken off when their callers may no longer have them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from allsource_core.api.answers import break_off
from allsource_core.api.call import Call
from allsource_core.changes import Changes
from allsource_shared.problems import ApiError

__all__ = ["RunningStreams"]

_LOOK_AGAIN_SECONDS: Final = 0.05
"""Not sooner does a timer look again that came too early."""


class RunningStreams:
    """Looks at every caller again when something changed of who may do what, and when its credential expires. For one
    event loop.

    A stream whose caller is refused is broken off where it is, so that nobody takes it for complete; what the caller's
    own system has received by then is all that it gets.

    Args:
        changes: of who may do what.
    """

    def __init__(self, changes: Changes) -> None:
        self._calls: dict[int, Call] = {}
        # Of those whose credentials expire.
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._look_is_due = False
        changes.listen(self._changed)

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def watch(self, call: Call) -> Iterator[None]:
        """Watch over a call while it is answered.

        Raises:
            ApiError: as `Call.recheck`: something changed before the answer begins.
        """
        call.recheck(call)
        self._calls[id(call)] = call
        self._await_expiry(call, 0.0)
        try:
            yield
        finally:
            del self._calls[id(call)]
            timer = self._timers.pop(id(call), None)
            if timer is not None:
                timer.cancel()

    def _await_expiry(self, call: Call, seconds_min: float) -> None:
        """Look at a call when its credential expires, but not before so many seconds have passed."""
        expires_at = call.principal.expires_at
        if expires_at is not None:
            seconds = max(seconds_min, expires_at - time.time())
            self._timers[id(call)] = asyncio.get_running_loop().call_later(seconds, self._look_at, call, True)

    def _changed(self) -> None:
        # Not at once: more may change together with this, and be half done.
        if self._calls and not self._look_is_due:
            self._look_is_due = True
            asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        self._look_is_due = False
        for call in list(self._calls.values()):
            self._look_at(call)

    def _look_at(self, call: Call, expired: bool = False) -> None:
        """Break a stream off if its caller may no longer have it."""
        if expired:
            # Whatever the changes: what was remembered of the caller is worth nothing any more.
            call.revision = -1
        try:
            call.recheck(call)
        except ApiError as error:
            structlog.get_logger().info("stream_broken_off", reason=error.code)
            if call.request.transport is not None:
                break_off(call.request.transport)
        else:
            if expired:
                # Not yet: timers may come a millisecond early, and the clock that says so may have been set back.
                self._await_expiry(call, _LOOK_AGAIN_SECONDS)
