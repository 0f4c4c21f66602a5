"""How far readers see, and who waits to see further."""

from __future__ import annotations

import asyncio
import threading
from typing import Final

from allsource_core.engine.errors import OverloadedError, StoreClosedError
from allsource_core.engine.futures import LoopFuture, complete, loop_future

__all__ = ["Visibility"]

_WAITERS_MAX: Final = 10_000


class Visibility:
    """The position up to which events are durable, and so visible.

    Args:
        position: at the beginning.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        self._lock = threading.Lock()
        self._closed = False
        # By the future, so that one that gave up is removed without looking at the others.
        self._waiters: dict[asyncio.Future[None], tuple[int, LoopFuture]] = {}

    def advance(self, position: int) -> None:
        """Show events up to `position`, and wake who waited for one of them."""
        self.position = position
        if not self._waiters:
            return
        with self._lock:
            ready = [waiter for wanted, waiter in self._waiters.values() if wanted <= position]
            for _, future in ready:
                del self._waiters[future]
        complete(ready)

    async def wait(self, position: int, timeout_seconds: float) -> bool:
        """Wait until `position` is visible; False if it is not within the time.

        Raises:
            OverloadedError: 10,000 wait already.
            StoreClosedError: the store was closed, or `end_waits` called, first.
        """
        if self.position >= position:
            return True
        if timeout_seconds <= 0:
            return False
        waiter = loop_future()
        future = waiter[1]
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is being closed")
            if len(self._waiters) >= _WAITERS_MAX:
                raise OverloadedError(f"{_WAITERS_MAX} readers wait for a position already")
            self._waiters[future] = position, waiter
        try:
            # It may have become visible between the first look and the entry, with nobody left to say so.
            if self.position >= position:
                return True
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError:
            return False
        finally:
            with self._lock:
                self._waiters.pop(future, None)
        return True

    def end_waits(self) -> None:
        """Refuse everybody who waits, and whoever comes to wait."""
        with self._lock:
            self._closed = True
            waiting = [waiter for _, waiter in self._waiters.values()]
            self._waiters.clear()
        complete(waiting, StoreClosedError("the store is being closed"))
