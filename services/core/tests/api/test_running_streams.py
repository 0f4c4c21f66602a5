"""Streams that are watched end with the credentials of their callers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from allsource_core.api import running_streams
from allsource_core.api.call import Call
from allsource_core.api.running_streams import RunningStreams
from allsource_core.changes import Changes
from allsource_shared.problems import ApiError


class Stream:
    """A call that may go on until its credential expires.

    Attributes:
        now: what the clock says.
        looks: how often it was looked at.
        broken_off: set when it is.
    """

    def __init__(self, expires_at: float) -> None:
        self.now = 100.0
        self.looks = 0
        self.broken_off = asyncio.Event()
        transport = SimpleNamespace(get_extra_info=lambda _name: None, abort=self.broken_off.set)
        self.call = cast(
            Call,
            SimpleNamespace(
                recheck=self.recheck,
                principal=SimpleNamespace(expires_at=expires_at),
                request=SimpleNamespace(transport=transport),
                revision=0,
            ),
        )

    def recheck(self, _call: Any) -> None:
        self.looks += 1
        if self.now >= self.call.principal.expires_at:  # type: ignore[operator]
            raise ApiError("unauthorized", "the token has expired")


@pytest.mark.asyncio
async def test_a_look_that_comes_too_early_is_not_the_last(monkeypatch: pytest.MonkeyPatch):
    stream = Stream(expires_at=100.01)
    monkeypatch.setattr(running_streams, "time", SimpleNamespace(time=lambda: stream.now))
    streams = RunningStreams(Changes())
    with streams.watch(stream.call):
        async with asyncio.timeout(60):
            # The clock stands still: for it the credential has not expired, however often the timer comes.
            while stream.looks < 3:
                await asyncio.sleep(0.001)
        assert not stream.broken_off.is_set()
        stream.now = 100.01
        async with asyncio.timeout(60):
            await stream.broken_off.wait()
    looks = stream.looks
    await asyncio.sleep(0.1)
    assert (stream.looks, len(streams), streams._timers) == (looks, 0, {})


@pytest.mark.asyncio
async def test_nobody_looks_at_a_stream_that_has_ended(monkeypatch: pytest.MonkeyPatch):
    stream = Stream(expires_at=100.01)
    monkeypatch.setattr(running_streams, "time", SimpleNamespace(time=lambda: stream.now))
    with RunningStreams(Changes()).watch(stream.call):
        async with asyncio.timeout(60):
            while stream.looks < 2:
                await asyncio.sleep(0.001)
    looks = stream.looks
    await asyncio.sleep(0.1)
    assert stream.looks == looks
