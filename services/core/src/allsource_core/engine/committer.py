"""Group commit: appends that wait at the same time share one write and one fdatasync.

Whoever needs a position to be durable and finds nobody committing commits for all that wait: a thread by itself, with
no hand-over; callers on an event loop through one thread of the committer, because they must not block.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import queue
import threading
from collections.abc import Callable

import structlog

from allsource_core.engine.errors import AppendUncertainError, StoreClosedError
from allsource_core.engine.log_writer import LogWriter

__all__ = ["Committer"]

_Future = asyncio.Future[None]


class Committer:
    """Makes enqueued records durable, in order.

    Args:
        writer: of the log.
        durable_position: of the last event on disk.
        on_durable: called with the new durable position, before any waiter learns of it.
        on_failure: called once, with the error, when writing or syncing failed. From then on nothing is written.
    """

    def __init__(
        self,
        writer: LogWriter,
        *,
        durable_position: int,
        on_durable: Callable[[int], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._writer = writer
        self._durable_position = durable_position
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._failure: Exception | None = None
        self._closed = False
        self._committing = threading.Lock()
        self._state = threading.Lock()
        self._pending: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._first_pending_position = durable_position + 1
        self._waiters: list[tuple[int, int, asyncio.AbstractEventLoop, _Future]] = []
        self._waiter_count = itertools.count()
        # A queue in C: waking the thread by a semaphore took a tenth of the time of a single append.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="allsource-committer", daemon=True)
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Bytes of records that were enqueued and are not durable."""
        return self._pending_bytes

    @property
    def durable_position(self) -> int:
        """The position of the last event that is on disk."""
        return self._durable_position

    def enqueue(self, last_position: int, body: bytes) -> None:
        """Queue a record; `last_position` is that of its last event. Called in the order of positions."""
        with self._state:
            self._pending.append((last_position, body))
            self._pending_bytes += len(body)

    def wait(self, position: int) -> None:
        """Block until the enqueued event at `position` is durable; commit if nobody else does.

        Raises:
            AppendUncertainError: if the disk failed first.
        """
        while self._durable_position < position:
            with self._committing:
                if self._durable_position < position:
                    self._commit()

    async def wait_async(self, position: int) -> None:
        """The same for a caller on an event loop, which is woken through its loop.

        A position that was not enqueued yet is waited for without limit.

        Raises:
            AppendUncertainError: if the disk failed first.
            StoreClosedError: if the store was closed first.
        """
        if self._durable_position >= position:
            return
        loop = asyncio.get_running_loop()
        future: _Future = loop.create_future()
        with self._state:
            self._raise_if_over()
            heapq.heappush(self._waiters, (position, next(self._waiter_count), loop, future))
        self._wake.put(None)
        # Between the first look and the entry into the heap the position may have become durable, with nobody left
        # to say so.
        if self._durable_position >= position:
            self._forget(future)
            return
        try:
            await future
        except asyncio.CancelledError:
            self._forget(future)
            raise

    def _forget(self, future: _Future) -> None:
        with self._state:
            self._waiters = [waiter for waiter in self._waiters if waiter[3] is not future]
            heapq.heapify(self._waiters)

    def _raise_if_over(self) -> None:
        if self._failure is not None:
            raise AppendUncertainError(str(self._failure)) from self._failure
        if self._closed:
            raise StoreClosedError("the store was closed")

    def _run(self) -> None:
        while True:
            self._wake.get()
            if self._closed:
                return
            while self._pending and self._failure is None:
                with self._committing:
                    try:
                        self._commit()
                    except AppendUncertainError:
                        break
                    except StoreClosedError:
                        return

    def _commit(self) -> None:
        """Write and sync everything that is enqueued. Called by whoever holds `_committing`."""
        with self._state:
            self._raise_if_over()
            records, self._pending = self._pending, []
        if not records:
            return
        first_position, last_position = self._first_pending_position, records[-1][0]
        try:
            self._writer.commit([body for _, body in records], first_position)
        except Exception as error:
            # Not only OSError: whatever it was, these records are on disk or not, and somebody waits for them.
            self._fail(error)
            raise AppendUncertainError(str(error)) from error
        self._first_pending_position = last_position + 1
        self._on_durable(last_position)
        with self._state:
            self._durable_position = last_position
            self._pending_bytes -= sum(len(body) for _, body in records)
            ready = self._take_waiters(last_position)
        _resolve(ready, None)

    def _take_waiters(self, position: int) -> list[tuple[asyncio.AbstractEventLoop, _Future]]:
        ready = []
        while self._waiters and self._waiters[0][0] <= position:
            _, _, loop, future = heapq.heappop(self._waiters)
            ready.append((loop, future))
        return ready

    def _fail(self, error: Exception) -> None:
        structlog.get_logger().error("log_write_failed", exc_info=error)
        with self._state:
            self._failure = error
            self._pending.clear()
            self._pending_bytes = 0
            ready = [(loop, future) for _, _, loop, future in self._waiters]
            self._waiters.clear()
        self._on_failure(error)
        _resolve(ready, AppendUncertainError(str(error)))

    def close(self) -> None:
        """Commit what is enqueued, end the thread, close the log. Waiters for positions to come are refused."""
        with self._committing:
            clean = self._failure is None
            if clean:
                try:
                    self._commit()
                except AppendUncertainError:
                    clean = False
            with self._state:
                self._closed = True
                ready = [(loop, future) for _, _, loop, future in self._waiters]
                self._waiters.clear()
            try:
                self._writer.close(clean=clean)
            except OSError as error:
                # Nothing that was acknowledged depends on the mark.
                structlog.get_logger().warning("closing_mark_failed", error=str(error))
        _resolve(ready, StoreClosedError("the store was closed"))
        self._wake.put(None)
        self._thread.join()


def _resolve(ready: list[tuple[asyncio.AbstractEventLoop, _Future]], error: Exception | None) -> None:
    """Complete futures on their own loops: one hand-over a loop, however many wait there."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Future]] = {}
    for loop, future in ready:
        by_loop.setdefault(loop, []).append(future)
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_complete, futures, error)
        except RuntimeError:
            # The loop was closed meanwhile, and with it went everybody who waited there.
            continue


def _complete(futures: list[_Future], error: Exception | None) -> None:
    for future in futures:
        if future.done():
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
