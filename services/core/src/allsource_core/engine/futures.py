"""Completing the futures of event loops from any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

__all__ = ["LoopFuture", "complete", "loop_future"]

LoopFuture = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]"]
"""A future with the loop that it belongs to."""


def loop_future() -> LoopFuture:
    """A new future of the running loop."""
    loop = asyncio.get_running_loop()
    return loop, loop.create_future()


def complete(waiting: Iterable[LoopFuture], error: BaseException | None = None, *, result: Any = None) -> None:
    """Give each future this result or error, on its own loop: one hand-over a loop, however many wait there."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[Any]]] = {}
    for loop, future in waiting:
        by_loop.setdefault(loop, []).append(future)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_complete, futures, error, result)
        except RuntimeError:
            # The loop was closed meanwhile, and with it went everybody who waited there.
            continue


def _complete(futures: list[asyncio.Future[Any]], error: BaseException | None, result: Any) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
