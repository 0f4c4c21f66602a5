"""Noticing that the core has reset a connection while nobody reads from it.

The core resets the connection of an answer whose caller may no longer have it. Who reads finds out behind the bytes
that came before: while a client reads slowly, that is megabytes later and as late as the client likes. The kernel knows
at once.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import TracebackType
from typing import Final, Self

from aiohttp import ClientResponse

__all__ = ["ConnectionResets"]

_GRACE_SECONDS: Final = 0.25
"""For what came before the reset: a client that keeps up gets all of it, and may find that it was the whole answer."""


class ConnectionResets:
    """Watches connections to the core. For one event loop; to be entered before use and left after it.

    Where the system has no epoll nothing is noticed, and a reset is found by reading.
    """

    def __init__(self) -> None:
        self._poll = select.epoll() if hasattr(select, "epoll") else None
        self._watched: dict[int, Callable[[], None]] = {}

    async def __aenter__(self) -> Self:
        if self._poll is not None:
            asyncio.get_running_loop().add_reader(self._poll.fileno(), self._look, self._poll)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        poll, self._poll = self._poll, None
        if poll is not None:
            asyncio.get_running_loop().remove_reader(poll.fileno())
            poll.close()

    @asynccontextmanager
    async def break_off(self, response: ClientResponse) -> AsyncIterator[None]:
        """Cancel the block soon after the connection was reset, unless all of the answer has come by then.

        Raises:
            TimeoutError: out of the block, when that happened.
        """
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def give_up() -> None:
            if not response.content.is_eof():
                timeout.reschedule(loop.time())

        def wait_a_little() -> None:
            nonlocal timer
            timer = loop.call_later(_GRACE_SECONDS, give_up)

        try:
            async with asyncio.timeout(None) as timeout:
                with self._watch(response, wait_a_little):
                    yield
        finally:
            if timer is not None:
                timer.cancel()

    @contextmanager
    def _watch(self, response: ClientResponse, on_reset: Callable[[], None]) -> Iterator[None]:
        descriptor = self._begin(response, on_reset)
        try:
            yield
        finally:
            if descriptor is not None:
                self._end(descriptor)

    def _begin(self, response: ClientResponse, on_reset: Callable[[], None]) -> int | None:
        transport = None if response.connection is None else response.connection.transport
        connection = None if transport is None else transport.get_extra_info("socket")
        if self._poll is None or connection is None:
            return None
        try:
            # One of our own: who has the other may close it, or use it for the next request.
            descriptor = os.dup(connection.fileno())
        except OSError:
            return None
        # Told of no event but those that nobody needs to ask for: an error, and an end in both directions.
        try:
            self._poll.register(descriptor, 0)
        except OSError:
            os.close(descriptor)
            return None
        self._watched[descriptor] = on_reset
        return descriptor

    def _end(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None) is not None and self._poll is not None:
            self._poll.unregister(descriptor)
        os.close(descriptor)

    def _look(self, poll: select.epoll) -> None:
        for descriptor, _ in poll.poll(0):
            poll.unregister(descriptor)
            self._watched.pop(descriptor)()
