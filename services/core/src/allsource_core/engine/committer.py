"""Group commit: appends that wait at the same time share one write and one fdatasync.

A thread that needs a position to be durable and finds nobody committing commits for all that wait, with no hand-over.
Everybody else waits for the committer's own thread: threads each on a lock of their own, so that one commit wakes just
those whose events it wrote; callers on an event loop through their loop.

Whatever goes wrong in between, nobody waits for ever and no gap reaches the disk: a commit that was begun and did not
end, for whatever reason, is the last one.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from allsource_core.engine.errors import AppendUncertainError, StoreClosedError
from allsource_core.engine.futures import LoopFuture, complete, loop_future
from allsource_core.engine.log_writer import LogWriter

__all__ = ["Committer"]

_log = logging.getLogger(__name__)


class Committer:
    """Makes enqueued records durable, in order.

    Args:
        writer: of the log.
        durable_position: of the last event on disk.
        on_durable: called with the new durable position, before any appender learns of it.
        on_failure: called with the error when a commit failed, or might have. From then on nothing is written.
    """

    def __init__(
        self,
        writer: LogWriter,
        *,
        durable_position: int,
        on_durable: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._writer = writer
        self._durable_position = durable_position
        self._enqueued_position = durable_position
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._failure: BaseException | None = None
        self._closed = False
        self._in_doubt = False
        self._committing = threading.Lock()
        self._state = threading.Lock()
        self._pending: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._waiters: list[tuple[int, LoopFuture]] = []
        self._threads: list[tuple[int, threading.Lock]] = []
        # A queue in C: waking the thread by a semaphore took a tenth of the time of a single append.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="allsource-committer", daemon=True)
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Bytes of records that were enqueued and are not durable."""
        return self._pending_bytes

    def enqueue(self, first_position: int, last_position: int, body: bytes) -> None:
        """Queue a record with the positions of its first and last event, which follow on the one before.

        If they don't, an append was broken off between getting its positions and coming here: nothing that follows
        may be written, or the log would have a gap.
        """
        with self._state:
            if first_position == self._enqueued_position + 1:
                self._pending.append((last_position, body))
                self._pending_bytes += len(body)
                self._enqueued_position = last_position
                return
        self._fail(RuntimeError(f"position {first_position} does not follow {self._enqueued_position}"))

    def wait(self, position: int) -> None:
        """Block until the enqueued event at `position` is durable; commit if nobody else does.

        Raises:
            AppendUncertainError: if the commit failed.
        """
        if self._durable_position >= position:
            return
        if self._committing.acquire(blocking=False):
            try:
                if self._durable_position < position:
                    self._commit()
            finally:
                self._committing.release()
            return
        woken = threading.Lock()
        woken.acquire()
        with self._state:
            self._raise_if_over()
            if self._durable_position >= position:
                return
            self._threads.append((position, woken))
        self._wake.put(None)
        woken.acquire()
        if self._durable_position < position:
            with self._state:
                self._raise_if_over()

    async def wait_async(self, position: int) -> None:
        """The same for a caller on an event loop, which is woken through its loop."""
        if self._durable_position >= position:
            return
        waiter = loop_future()
        with self._state:
            self._raise_if_over()
            # Durable meanwhile, perhaps, with nobody left to say so.
            if self._durable_position >= position:
                return
            self._waiters.append((position, waiter))
        self._wake.put(None)
        await waiter[1]

    def _raise_if_over(self) -> None:
        if self._failure is not None:
            raise AppendUncertainError(str(self._failure)) from self._failure
        if self._closed:
            raise StoreClosedError("the store was closed")

    def _run(self) -> None:
        while True:
            self._wake.get()
            try:
                while self._pending:
                    with self._committing:
                        self._commit()
            except Exception:
                # Everybody who waited was told by `_fail`; the thread stays to be ended by `close`.
                _log.debug("nothing more is written", exc_info=True)
            if self._closed:
                return

    def _commit(self) -> None:
        """Write and sync everything that is enqueued. Called by whoever holds `_committing`."""
        with self._state:
            self._raise_if_over()
            if not self._pending:
                return
            interrupted, self._in_doubt = self._in_doubt, True
            records, self._pending = self._pending, []
        try:
            self._write(records, interrupted=interrupted)
        except BaseException as error:
            # Not only OSError: whatever it was, these records are on disk or not, and somebody waits for them.
            self._fail(error)
            self._writer.abandon()
            if not isinstance(error, Exception):
                raise
            raise AppendUncertainError(str(error)) from error
        last_position = records[-1][0]
        self._on_durable(last_position)
        with self._state:
            self._durable_position = last_position
            self._in_doubt = False
            self._pending_bytes -= sum(len(body) for _, body in records)
            ready = [waiter for position, waiter in self._waiters if position <= last_position]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > last_position]
            woken = [lock for position, lock in self._threads if position <= last_position]
            self._threads = [waiter for waiter in self._threads if waiter[0] > last_position]
        for lock in woken:
            lock.release()
        complete(ready)

    def _write(self, records: list[tuple[int, bytes]], *, interrupted: bool) -> None:
        if interrupted:
            # A signal, say, broke off the commit before this one: what it left in the file is not known.
            raise RuntimeError("an earlier write was interrupted")
        self._writer.commit([body for _, body in records], self._durable_position + 1)

    def _fail(self, error: BaseException) -> None:
        """Nothing is written from now on; tell everybody, and only then the log, which may fail as well."""
        with self._state:
            self._failure = error
            self._pending.clear()
            self._pending_bytes = 0
            waiting = [waiter for _, waiter in self._waiters]
            self._waiters.clear()
            woken = [lock for _, lock in self._threads]
            self._threads.clear()
        self._on_failure(error)
        for lock in woken:
            lock.release()
        complete(waiting, AppendUncertainError(str(error)))
        _log.error("the log could not be written; no appends are taken from now on", exc_info=error)

    def close(self) -> None:
        """Commit what is enqueued, end the thread, close the log."""
        with self._committing:
            try:
                self._commit()
                clean = True
            except (AppendUncertainError, StoreClosedError):
                clean = False
            finally:
                with self._state:
                    self._closed = True
            try:
                self._writer.close(clean=clean)
            except OSError as error:
                # Nothing that was acknowledged depends on the mark.
                _log.warning("the mark of a clean shutdown could not be written: %s", error)
        self._wake.put(None)
        self._thread.join()
