"""Group commit: appends that wait at the same time share one write and one fdatasync.

A thread that needs a position to be durable and finds nobody committing commits for all that wait, with no hand-over.
Everybody else waits for the committer's own thread: threads each on a lock of their own, so that one commit wakes just
those whose events it wrote; callers on an event loop through their loop.

Whatever goes wrong in between, nobody waits for ever and no gap reaches the disk. A commit that failed ends an epoch:
all that was not durable then is uncertain, and forgotten; positions behind the durable one are given out again.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from allsource_core.engine.errors import AppendUncertainError, StoreClosedError
from allsource_core.engine.futures import LoopFuture, complete, loop_future
from allsource_core.engine.log_writer import LogRecord, LogWriter

__all__ = ["Committer"]

_log = logging.getLogger(__name__)


class Committer:
    """Makes enqueued records durable, in order.

    Args:
        writer: of the log.
        durable_position: of the last record on disk.
        on_durable: called with the new durable position, before any appender learns of it.
        on_failure: called with the error when a commit failed, or might have, before anybody who waits is told. It
            repairs the log and calls `end_epoch`, or sees to it that nothing is enqueued any more.

    Attributes:
        durable_position: of the last record on disk.
        epoch: how many commits failed.
        pending_bytes: of records that were enqueued and are not durable.
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
        self.durable_position = durable_position
        self.epoch = 0
        self._enqueued_position = durable_position
        self._on_durable = on_durable
        self._on_failure = on_failure
        # What was durable in spite of each, and why it was, in words: an exception would keep the frames that it went
        # through, and what they read from, for ever.
        self._failures: list[tuple[int, str]] = []
        self._closed = False
        self._in_doubt = False
        self._committing = threading.RLock()
        self._state = threading.Lock()
        self._pending: list[LogRecord] = []
        self.pending_bytes = 0
        self._waiters: list[tuple[int, LoopFuture]] = []
        self._threads: list[tuple[int, threading.Lock]] = []
        # A queue in C: waking the thread by a semaphore took a tenth of the time of a single append.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="allsource-committer", daemon=True)
        self._thread.start()

    def enqueue(self, record: LogRecord) -> None:
        """Queue a record whose positions follow on the one before.

        If they don't, an append was broken off between getting its positions and coming here: the next commit fails,
        or the log would have a gap.
        """
        with self._state:
            if record.first_position != self._enqueued_position + 1:
                self._in_doubt = True
            self._pending.append(record)
            self.pending_bytes += len(record.body)
            self._enqueued_position = record.last_position

    def wait(self, position: int, epoch: int) -> None:
        """Block until the record at `position` is durable; commit if nobody else does.

        Args:
            position: of an enqueued record.
            epoch: when it was enqueued.

        Raises:
            AppendUncertainError: if the commit failed.
        """
        if self.durable_position >= position and self.epoch == epoch:
            return
        if self._committing.acquire(blocking=False):
            try:
                if self.epoch == epoch and self.durable_position < position:
                    self._commit()
            finally:
                self._committing.release()
            if self.epoch != epoch:
                self._raise_if_over(epoch, position)
            return
        woken = threading.Lock()
        woken.acquire()
        with self._state:
            self._raise_if_over(epoch, position)
            if self.durable_position >= position:
                return
            self._raise_if_closed()
            self._threads.append((position, woken))
        self._wake.put(None)
        woken.acquire()
        self._raise_if_over(epoch, position)
        if self.durable_position < position:
            self._raise_if_closed()

    async def wait_async(self, position: int, epoch: int) -> None:
        """The same for a caller on an event loop, which is woken through its loop."""
        if self.durable_position >= position and self.epoch == epoch:
            return
        waiter = loop_future()
        with self._state:
            self._raise_if_over(epoch, position)
            # Durable meanwhile, perhaps, with nobody left to say so.
            if self.durable_position >= position:
                return
            self._raise_if_closed()
            self._waiters.append((position, waiter))
        self._wake.put(None)
        await waiter[1]
        self._raise_if_over(epoch, position)

    def _raise_if_over(self, epoch: int, position: int) -> None:
        if self.epoch != epoch:
            durable, reason = self._failures[epoch]
            if position > durable:
                raise AppendUncertainError(reason)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the store was closed")

    def _run(self) -> None:
        while True:
            self._wake.get()
            while self._pending:
                with self._committing:
                    try:
                        self._commit()
                    except Exception:
                        # Everybody who waited was told by `_fail`; the thread stays for those who come next.
                        _log.debug("a commit failed", exc_info=True)
            if self._closed:
                return

    def commit(self) -> None:
        """Write what is enqueued, if anything is. For those who wait for no position of their own."""
        with self._committing:
            self._commit()

    def begin_file(self) -> None:
        """Go on in a new log file, behind what is durable now.

        Raises:
            OSError: the log goes on in the old one, or in a new one at the next commit.
        """
        with self._committing:
            self._commit()
            if self._closed or self._in_doubt:
                return
            try:
                self._writer.begin_file(self.durable_position + 1)
            except BaseException as error:
                # The old one may have been synced in vain, and must not be synced again.
                self._fail(error)
                raise

    def _commit(self) -> None:
        """Write and sync everything that is enqueued. Called by whoever holds `_committing`."""
        with self._state:
            if not self._pending:
                return
            interrupted, self._in_doubt = self._in_doubt, True
            records, self._pending = self._pending, []
        try:
            self._write(records, interrupted=interrupted)
        except BaseException as error:
            # Not only OSError: whatever it was, these records are on disk or not, and somebody waits for them.
            self._fail(error)
            if not isinstance(error, Exception):
                raise
            return
        last_position = records[-1].last_position
        self._on_durable(last_position)
        with self._state:
            self.durable_position = last_position
            self._in_doubt = False
            for record in records:
                self.pending_bytes -= len(record.body)
            if not self._waiters and not self._threads:
                return
            ready = [waiter for position, waiter in self._waiters if position <= last_position]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > last_position]
            woken = [lock for position, lock in self._threads if position <= last_position]
            self._threads = [waiter for waiter in self._threads if waiter[0] > last_position]
        for lock in woken:
            lock.release()
        complete(ready)

    def _write(self, records: list[LogRecord], *, interrupted: bool) -> None:
        if interrupted:
            # A signal, say, broke off the commit before this one: what it left in the file is not known.
            raise RuntimeError("an earlier append or write was interrupted")
        self._writer.commit(records)

    def _fail(self, error: BaseException) -> None:
        _log.error("the log could not be written; what was not durable is uncertain", exc_info=error)
        with self._committing:
            self._on_failure(error)

    @property
    def written_position(self) -> int:
        """Of the last record on disk, those included that a commit had written when it failed."""
        return max(self.durable_position, self._writer.good_position)

    def end_epoch(self, error: BaseException) -> None:
        """Forget everything that is not durable, and tell those who wait for it that it is uncertain.

        Called by `on_failure`, while nobody else can enqueue, once everybody can see up to `written_position`: what the
        writer finished before the failure is durable, and its authors are told so. Nothing else of the epoch is ever
        durable while this process lives; the next one may find it in the log if that could not be repaired.
        """
        reason = str(error) or type(error).__name__
        with self._state:
            durable = self.durable_position = self._enqueued_position = self.written_position
            self._failures.append((durable, reason))
            self.epoch += 1
            self._pending.clear()
            self.pending_bytes = 0
            self._in_doubt = False
            ready = [waiter for position, waiter in self._waiters if position <= durable]
            lost = [waiter for position, waiter in self._waiters if position > durable]
            self._waiters.clear()
            woken = [lock for _, lock in self._threads]
            self._threads.clear()
        for lock in woken:
            lock.release()
        complete(ready)
        complete(lost, AppendUncertainError(reason))

    def close(self) -> None:
        """Commit what is enqueued, end the thread, close the log."""
        with self._committing:
            epoch = self.epoch
            self._commit()
            clean = self.epoch == epoch and not self._in_doubt
            with self._state:
                self._closed = True
            try:
                self._writer.close(clean=clean)
            except OSError as error:
                # Nothing that was acknowledged depends on the mark.
                _log.warning("the mark of a clean shutdown could not be written: %s", error)
        self._wake.put(None)
        self._thread.join()
