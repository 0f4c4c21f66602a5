"""The event store: the facade of the engine."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import msgspec

from allsource_core.engine.appends import Expected, PreparedAppend, prepare
from allsource_core.engine.clock import Clock, system_clock
from allsource_core.engine.committer import Committer
from allsource_core.engine.directory import StoreDirectory
from allsource_core.engine.errors import OverloadedError, StoreClosedError, StoreReadOnlyError
from allsource_core.engine.events import Appended, Event
from allsource_core.engine.filesystem import Filesystem, LocalFilesystem
from allsource_core.engine.log_writer import LogWriter
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.recovery import LogEnd, RecoveryProgress, recover_log
from allsource_core.engine.sequencer import Refusal, Sequencer
from allsource_core.engine.table import EventTable
from allsource_core.engine.visibility import Visibility
from allsource_shared.wire.events import NewEvent

__all__ = ["EventStore", "StoreOptions", "StoreStats"]


class StoreOptions(msgspec.Struct, frozen=True):
    """How a store behaves.

    Attributes:
        log_file_bytes_max: a log file that has reached this size is followed by a new one.
        pending_bytes_max: appends are refused while more bytes than this wait for the disk.
    """

    log_file_bytes_max: int = 64 * 1024 * 1024
    pending_bytes_max: int = 128 * 1024 * 1024


class StoreStats(msgspec.Struct, frozen=True):
    """Figures of a store.

    Attributes:
        events, entities: stored, those of reserved tenants left out.
        last_position: of the last durable event, reserved tenants included.
        log_files, log_bytes: of the log.
        read_only_reason: why no appends are taken, or None.
    """

    events: int
    entities: int
    last_position: int
    log_files: int
    log_bytes: int
    recovery_seconds: float
    read_only_reason: str | None


class EventStore:
    """A durable, append-only, multi-tenant store of events in one data directory.

    `append` and the reads are safe to call from any thread; the ``_async`` forms from any event loop. The tenant is an
    argument of every call; nothing crosses tenants but the order of positions.

    Guarantees: an append is stored whole or not at all; when it returns, its events are on disk; events become visible
    in the order of their positions, so a reader that has seen position *n* never later sees a new event at or below
    *n*; versions of an entity have no gap.
    """

    def __init__(
        self, directory: StoreDirectory, table: EventTable, log_end: LogEnd, options: StoreOptions, clock: Clock
    ) -> None:
        """Use `open`."""
        self._directory = directory
        self._table = table
        self._log_end = log_end
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._closed = False
        self._read_only_reason: str | None = None
        self._visibility = Visibility(table.last_position)
        self._recovery_seconds = 0.0
        self._sequencer = Sequencer(table)
        self._writer = LogWriter(
            directory.log_directory,
            directory.filesystem,
            file_bytes_max=options.log_file_bytes_max,
            file_number=log_end.file_number,
            file_bytes=log_end.file_bytes,
        )
        self._committer = Committer(
            self._writer,
            durable_position=table.last_position,
            on_durable=self._visibility.advance,
            on_failure=self._stop_appends,
        )

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        options: StoreOptions | None = None,
        clock: Clock = system_clock,
        filesystem: Filesystem | None = None,
        progress: Callable[[RecoveryProgress], None] = lambda _progress: None,
    ) -> Self:
        """Open the store in a directory, making a new one in an empty or missing directory.

        Args:
            path: the data directory. One process at a time.
            options: see `StoreOptions`.
            clock: microseconds since the epoch.
            filesystem: below the store.
            progress: called from this thread after every log file, and about ten times a second while one is read.
                What it raises ends the opening, and nothing is left open; the next one begins anew.

        Raises:
            StoreLockedError: another process has it open.
            ForeignDirectoryError: it holds something else.
            CorruptionError: acknowledged bytes are damaged. They are left as they are.
            OSError: the directory can't be used.
        """
        started = time.monotonic()
        directory = StoreDirectory.open(path, filesystem or LocalFilesystem())
        try:
            table = EventTable()
            log_end = recover_log(directory.log_directory, directory.filesystem, table.add_recovered, progress)
            table.recovered()
            store = cls(directory, table, log_end, options or StoreOptions(), clock)
        except BaseException:
            directory.close()
            raise
        store._recovery_seconds = time.monotonic() - started
        return store

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make durable what is under way, then close. Every call but this one then raises StoreClosedError."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._visibility.end_waits()
        try:
            self._committer.close()
        finally:
            self._directory.close()

    # --- appending ---

    def append(
        self,
        tenant_id: str,
        events: Sequence[NewEvent],
        *,
        expected_versions: Mapping[str, Expected] | None = None,
        dry_run: bool = False,
    ) -> Appended:
        """Append events, all or nothing, and return when they are durable.

        Ids that authors gave are checked first: if all of them are known with the same content, this is a repetition,
        answered with the events of the first time. Then the expected versions: of `expected_versions` before the
        append, of an event's own ``expected_version`` just before that event.

        Args:
            tenant_id: whose events these are.
            events: 1 to 10,000. That a payload is JSON at all is the caller's word: a decoder that cut it out of a
                larger text has seen to it already.
            expected_versions: entity id to its last version, 0 or ``none``, ``exists``, ``any``.
            dry_run: check everything, store nothing.

        Raises:
            InvalidEventError, VersionConflictError, EventIdConflictError, OverloadedError, StoreReadOnlyError,
            StoreClosedError: nothing was stored.
            AppendUncertainError: the disk failed; unknown whether the events are stored.
        """
        prepared = prepare(tenant_id, events, expected_versions or {}, self._clock())
        outcome, durable_at = self._sequence(tenant_id, prepared, dry_run=dry_run)
        self._committer.wait(durable_at)
        return _result(outcome)

    async def append_async(
        self,
        tenant_id: str,
        events: Sequence[NewEvent],
        *,
        expected_versions: Mapping[str, Expected] | None = None,
        dry_run: bool = False,
    ) -> Appended:
        """`append` for a caller on an event loop. If the caller is cancelled, the events may be stored all the same."""
        prepared = prepare(tenant_id, events, expected_versions or {}, self._clock())
        outcome, durable_at = self._sequence(tenant_id, prepared, dry_run=dry_run)
        await self._committer.wait_async(durable_at)
        return _result(outcome)

    def _sequence(self, tenant_id: str, prepared: PreparedAppend, *, dry_run: bool) -> tuple[Appended | Refusal, int]:
        """Decide on an append; returns the decision and the position that must be durable before it is told."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store was closed")
            if self._read_only_reason is not None:
                raise StoreReadOnlyError(self._read_only_reason)
            if self._committer.pending_bytes > self._options.pending_bytes_max:
                raise OverloadedError("too many bytes wait for the disk")
            outcome = self._sequencer.decide(tenant_id, prepared, self._clock(), dry_run=dry_run)
            if outcome.record is not None:
                first_position = outcome.durable_at - len(prepared.events) + 1
                self._committer.enqueue(first_position, outcome.durable_at, outcome.record)
            return outcome.result, outcome.durable_at

    def _stop_appends(self, error: BaseException) -> None:
        cause = str(error) or type(error).__name__
        self._read_only_reason = f"the log could not be written ({cause}); restart the service"

    # --- reading ---

    @property
    def last_position(self) -> int:
        """The position of the last durable event of any tenant, 0 for none."""
        return self._visibility.position

    def read(self, tenant_id: str, query: EventQuery | None = None) -> Generator[Event, None, None]:
        """The durable events that a query selects, as they are when this is called, in the order of positions.

        Events that are appended while the caller iterates are not among them. Nothing is collected: memory does not
        grow with the number of events. An iterator that is left before its end should be closed
        (`contextlib.closing`): it may hold what it reads from.

        Raises:
            StoreClosedError: the store was closed.
            CorruptionError, OSError: while iterating, if stored bytes are damaged or can't be read.
        """
        self._check_open()
        return self._read(tenant_id, query or EventQuery(), self.last_position)

    def _read(self, tenant_id: str, query: EventQuery, up_to: int) -> Generator[Event, None, None]:
        for chunk in self._table.scan(tenant_id, query, up_to):
            yield from chunk

    def read_async(self, tenant_id: str, query: EventQuery | None = None) -> AsyncGenerator[list[Event], None]:
        """`read` for a caller on an event loop: lists of events, none empty; others run in between.

        To be closed like that one (`contextlib.aclosing`).
        """
        self._check_open()
        return self._read_async(tenant_id, query or EventQuery(), self.last_position)

    async def _read_async(self, tenant_id: str, query: EventQuery, up_to: int) -> AsyncGenerator[list[Event], None]:
        for chunk in self._table.scan(tenant_id, query, up_to):
            if chunk:
                yield chunk
            await asyncio.sleep(0)

    def get(self, tenant_id: str, event_id: UUID) -> Event | None:
        """The tenant's durable event of this id, whether its author gave the id or the engine.

        Raises: as `read`.
        """
        self._check_open()
        event = self._table.find(tenant_id, event_id)
        return event if event is not None and event.position <= self.last_position else None

    async def get_async(self, tenant_id: str, event_id: UUID) -> Event | None:
        """`get` for a caller on an event loop."""
        return self.get(tenant_id, event_id)

    async def wait_for_position_async(self, position: int, timeout_seconds: float) -> bool:
        """Wait until the event at `position` is durable, and so visible; False if it is not within the time.

        Raises:
            OverloadedError: too many wait already.
            StoreClosedError: the store was closed first, or `end_waits` called.
        """
        return await self._visibility.wait(position, timeout_seconds)

    def end_waits(self) -> None:
        """Refuse everybody who waits for a position, from now on: the first step of a shutdown that is not slow."""
        self._visibility.end_waits()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store was closed")

    def stats(self) -> StoreStats:
        """Figures as they are now. Cheap: counts what is counted already."""
        events, entities = self._table.counts()
        return StoreStats(
            events=events,
            entities=entities,
            last_position=self.last_position,
            log_files=self._writer.file_number,
            log_bytes=self._log_end.log_bytes + self._writer.bytes_written,
            recovery_seconds=self._recovery_seconds,
            read_only_reason=self._read_only_reason,
        )


def _result(outcome: Appended | Refusal) -> Appended:
    if isinstance(outcome, Refusal):
        raise outcome.error
    return outcome
