"""Going through what a view gives: for a caller in a thread, and for one on an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Executor
from typing import Any, Final, TypeVar

from allsource_core.engine.errors import StoreClosedError
from allsource_core.engine.events import Event
from allsource_core.engine.limits import CHUNK_BYTES
from allsource_core.engine.view import READS_FILES

__all__ = ["in_thread", "limited", "limited_async"]

_Result = TypeVar("_Result")

_TURN_SECONDS: Final = 0.001
"""For so long a read goes on on an event loop before others get their turn."""

_TOGETHER_EVENTS: Final = 1024
_TOGETHER_SECONDS: Final = 0.01
"""So many events, or what was found in so long a time, or is so large, come back from a thread together: going there
and back takes 0.1 ms."""


def limited(chunks: Iterator[list[Event]], limit: int | None) -> Iterator[list[Event]]:
    """The lists that are not empty, up to so many events."""
    return filter(None, chunks) if limit is None else _up_to(chunks, limit)


def _up_to(chunks: Iterator[list[Event]], limit: int) -> Iterator[list[Event]]:
    left = limit
    for chunk in chunks:
        chunk = chunk[:left]
        left -= len(chunk)
        if chunk:
            yield chunk
        if left == 0:
            return


async def limited_async(
    chunks: Iterator[list[Event]], limit: int | None, readers: Executor
) -> AsyncGenerator[list[Event], None]:
    """The same on an event loop: files are read in other threads, and others run in between."""
    left, reads_files, may_follow = limit, False, True
    turn_ends = time.monotonic() + _TURN_SECONDS
    while may_follow and left != 0:
        if reads_files:
            chunk, reads_files, may_follow = await in_thread(readers, _read_on, chunks, left)
            turn_ends = time.monotonic() + _TURN_SECONDS
        else:
            chunk, may_follow = _next(chunks)
            if chunk is READS_FILES:
                reads_files = True
                continue
            if time.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + _TURN_SECONDS
        if left is not None:
            chunk = chunk[:left]
            left -= len(chunk)
        if chunk:
            yield chunk


def _next(chunks: Iterator[list[Event]]) -> tuple[list[Event], bool]:
    """The next list, and whether there was one."""
    chunk = next(chunks, None)
    return ([], False) if chunk is None else (chunk, True)


async def in_thread(readers: Executor, read: Callable[..., _Result], *arguments: Any) -> _Result:
    """Have something read in another thread. Raises what it raises, or StoreClosedError."""
    # In no variable here: an error that it ends with keeps this frame, and would keep itself alive by it, and what was
    # read from.
    return await _begin(readers, read, arguments)


def _begin(readers: Executor, read: Callable[..., _Result], arguments: tuple[Any, ...]) -> asyncio.Future[_Result]:
    try:
        return asyncio.get_running_loop().run_in_executor(readers, read, *arguments)
    except RuntimeError:
        # They were shut down.
        raise StoreClosedError("the store was closed") from None


def _read_on(chunks: Iterator[list[Event]], wanted: int | None) -> tuple[list[Event], bool, bool]:
    """In a thread: go on with a read for a while. What it gives, whether it may read files next, and whether more may
    follow.
    """
    found: list[Event] = []
    enough = _TOGETHER_EVENTS if wanted is None else min(wanted, _TOGETHER_EVENTS)
    ends = time.monotonic() + _TOGETHER_SECONDS
    nbytes = 0
    for chunk in chunks:
        reads_files = chunk is READS_FILES
        if chunk:
            if not found:
                # What it was made from may have been decoded for it alone: then it is not the only one.
                ends = time.monotonic() + _TOGETHER_SECONDS
            found = found + chunk if found else chunk
            nbytes += sum([len(event.payload) + len(event.metadata or b"") for event in chunk])
        if len(found) >= enough or nbytes >= CHUNK_BYTES or time.monotonic() > ends:
            return found, reads_files, True
    return found, False, False
