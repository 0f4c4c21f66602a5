"""Threads that look things up for appends on an event loop; tenants take turns."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from allsource_core.engine.errors import OverloadedError, StoreClosedError
from allsource_core.engine.futures import LoopFuture, complete, loop_future

__all__ = ["FairPool"]

_Result = TypeVar("_Result")

_WAITING_MAX: Final = 1000
"""Of one tenant."""


class _Piece(NamedTuple):
    """Work that somebody waits for; not begun after the deadline, in seconds of `time.monotonic`."""

    waiter: LoopFuture
    work: Callable[[], Any]
    deadline: float


class FairPool:
    """Does work for tenants in turn: each has a queue of its own, and who was served last comes last.

    Args:
        threads: how much is done at a time. They begin with the first piece of work.
        name: of the threads.
        seconds_max: how long a piece waits. Where it is late is noticed when a thread is free.
    """

    def __init__(self, threads: int, name: str, *, seconds_max: float) -> None:
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True) for number in range(threads)
        ]
        self._seconds_max = seconds_max
        self._lock = threading.Lock()
        self._queues: OrderedDict[str, deque[_Piece]] = OrderedDict()
        # One True for each piece that was queued, one False for each thread that is to end.
        self._tickets: SimpleQueue[bool] = SimpleQueue()
        self._has_begun = False
        self._closed = False

    async def run(self, tenant_id: str, work: Callable[[], _Result]) -> _Result:
        """Have work done when it is the tenant's turn, and give what it gives. Not begun if the caller is cancelled.

        Raises:
            OverloadedError: its turn did not come in time, or too much of the tenant waits already.
            StoreClosedError: the pool was closed first.
        """
        # In no variable here: what the work raises keeps this frame, and would keep itself alive by it.
        return await self._enqueue(tenant_id, work)  # type: ignore[no-any-return]

    def _enqueue(self, tenant_id: str, work: Callable[[], Any]) -> asyncio.Future[Any]:
        waiter = loop_future()
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store was closed")
            queue = self._queues.setdefault(tenant_id, deque())
            if len(queue) >= _WAITING_MAX:
                raise OverloadedError(f"{_WAITING_MAX} appends of the tenant wait for a look-up already")
            queue.append(_Piece(waiter, work, time.monotonic() + self._seconds_max))
            if not self._has_begun:
                self._has_begun = True
                for thread in self._threads:
                    thread.start()
        self._tickets.put(True)
        return waiter[1]

    def _run(self) -> None:
        while self._tickets.get():
            piece = self._next()
            if piece is None:
                continue
            try:
                result = piece.work()
            except BaseException as error:
                complete([piece.waiter], error)
            else:
                complete([piece.waiter], result=result)
            # What was looked at must not be kept until the next piece comes.
            piece = result = None

    def _next(self) -> _Piece | None:
        """The piece whose turn it is. Those whose time is over are refused."""
        late: list[LoopFuture] = []
        found = None
        now = time.monotonic()
        with self._lock:
            for tenant_id, queue in list(self._queues.items()):
                while queue and (queue[0].deadline < now or queue[0].waiter[1].done()):
                    late.append(queue.popleft().waiter)
                if not queue:
                    del self._queues[tenant_id]
            if self._queues:
                tenant_id, queue = self._queues.popitem(last=False)
                found = queue.popleft()
                if queue:
                    # To the end of the round: others come first now.
                    self._queues[tenant_id] = queue
        complete(late, OverloadedError(f"the append could not be looked up within {self._seconds_max:g} s"))
        return found

    def close(self) -> None:
        """Refuse who waits, and who comes; return when what was begun is done."""
        with self._lock:
            self._closed = True
            waiting = [piece.waiter for queue in self._queues.values() for piece in queue]
            self._queues.clear()
        complete(waiting, StoreClosedError("the store is being closed"))
        if self._has_begun:
            for _ in self._threads:
                self._tickets.put(False)
            for thread in self._threads:
                thread.join()
