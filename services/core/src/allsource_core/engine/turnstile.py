"""Where appends wait while there is no room for them; tenants take turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final

from allsource_core.engine.errors import OverloadedError, StoreClosedError
from allsource_core.engine.futures import LoopFuture, complete, loop_future

__all__ = ["Turnstile"]

_WAITERS_MAX: Final = 10_000
_LET_IN_TOGETHER: Final = 16
"""How many are let in at a time: enough to fill a commit, few enough that room is not overrun by much."""


class _Waiter:
    """Somebody in the queue: a thread on a lock, or a task on a future."""

    def __init__(self, future: LoopFuture | None) -> None:
        self.future = future
        self.lock = threading.Lock()
        self.error: Exception | None = None
        if future is None:
            self.lock.acquire()

    def wake(self) -> None:
        if self.future is None:
            self.lock.release()
        else:
            complete([self.future], self.error)


class Turnstile:
    """Lets appends in while there is room, and queues them otherwise: each tenant its own queue, served in turn.

    Args:
        has_room: whether another append may enter now. Cheap: it is asked for every append.
        seconds_max: how long anybody waits before it is refused.
    """

    def __init__(self, has_room: Callable[[], bool], *, seconds_max: float) -> None:
        self._has_room = has_room
        self._seconds_max = seconds_max
        self._lock = threading.Lock()
        self._queues: OrderedDict[str, deque[_Waiter]] = OrderedDict()
        self._waiting = 0
        self._closed = False

    @property
    def is_open(self) -> bool:
        """Whether an append may go straight on."""
        return not self._waiting and self._has_room()

    def enter(self, tenant_id: str) -> None:
        """Block until there is room and it is the tenant's turn.

        Raises:
            OverloadedError: there was none in time, or too many wait.
            StoreClosedError: the store was closed meanwhile.
        """
        waiter = _Waiter(None)
        deadline = time.monotonic() + self._seconds_max
        self._join(tenant_id, waiter)
        # Whoever makes room calls `let_in`; the short waits see to it that a missed call costs little.
        while not waiter.lock.acquire(timeout=0.05):
            self.let_in()
            if time.monotonic() > deadline and self._leave(tenant_id, waiter):
                raise _overloaded(self._seconds_max)
        if waiter.error is not None:
            raise waiter.error

    async def enter_async(self, tenant_id: str) -> None:
        """The same for a caller on an event loop."""
        waiter = _Waiter(loop_future())
        assert waiter.future is not None
        self._join(tenant_id, waiter)
        try:
            deadline = time.monotonic() + self._seconds_max
            while not waiter.future[1].done():
                self.let_in()
                await asyncio.wait([waiter.future[1]], timeout=0.05)
                if time.monotonic() > deadline and self._leave(tenant_id, waiter):
                    raise _overloaded(self._seconds_max)
            waiter.future[1].result()
        finally:
            self._leave(tenant_id, waiter)

    def _join(self, tenant_id: str, waiter: _Waiter) -> None:
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store was closed")
            if self._waiting >= _WAITERS_MAX:
                raise OverloadedError(f"{_WAITERS_MAX} appends wait already")
            self._queues.setdefault(tenant_id, deque()).append(waiter)
            self._waiting += 1

    def _leave(self, tenant_id: str, waiter: _Waiter) -> bool:
        """Give up waiting; False if it is over anyway."""
        with self._lock:
            queue = self._queues.get(tenant_id)
            if queue is None or waiter not in queue:
                return False
            queue.remove(waiter)
            self._waiting -= 1
            if not queue:
                del self._queues[tenant_id]
            return True

    def let_in(self) -> None:
        """Let some in if there is room: called whenever some was made."""
        if not self._waiting:
            return
        woken: list[_Waiter] = []
        with self._lock:
            while self._queues and len(woken) < _LET_IN_TOGETHER and self._has_room():
                tenant_id, queue = self._queues.popitem(last=False)
                woken.append(queue.popleft())
                self._waiting -= 1
                if queue:
                    # To the end of the round: others come first now.
                    self._queues[tenant_id] = queue
        for waiter in woken:
            waiter.wake()

    def close(self) -> None:
        """Refuse everybody who waits, and whoever comes to wait."""
        with self._lock:
            self._closed = True
            waiting = [waiter for queue in self._queues.values() for waiter in queue]
            self._queues.clear()
            self._waiting = 0
        for waiter in waiting:
            waiter.error = StoreClosedError("the store is being closed")
            waiter.wake()


def _overloaded(seconds: float) -> OverloadedError:
    return OverloadedError(f"there was no room for the append within {seconds:g} s: the disk or sealing is behind")
