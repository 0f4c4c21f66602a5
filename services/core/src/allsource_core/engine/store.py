"""The event store: the facade of the engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

from allsource_core.engine.appended import Appended
from allsource_core.engine.appends import Expected, prepare
from allsource_core.engine.clock import Clock, system_clock
from allsource_core.engine.conditions import AppendCondition
from allsource_core.engine.errors import StoreClosedError
from allsource_core.engine.events import Event
from allsource_core.engine.filesystem import Filesystem, LocalFilesystem
from allsource_core.engine.opening import OpenStore, open_in_memory, open_store
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.reading import in_thread, limited, limited_async
from allsource_core.engine.recovery import RecoveryProgress
from allsource_core.engine.removal_requests import RemovalRequests
from allsource_core.engine.state_reader import StateReader
from allsource_core.engine.states import EntityState
from allsource_core.engine.stats import StoreStats, store_stats
from allsource_core.engine.subscriptions import CaughtUp, subscribe, subscribe_async
from allsource_core.engine.usage import Appends, TenantUsage, appends_since, usage_of
from allsource_shared.wire.events import NewEvent

__all__ = ["EventStore"]

_EVERYTHING = EventQuery()


class EventStore:
    """A durable, append-only, multi-tenant store of events in one data directory.

    `append` and the reads are safe to call from any thread; the ``_async`` forms from any event loop. The tenant is an
    argument of every call; nothing crosses tenants but the order of positions.

    Guarantees: an append is stored whole or not at all; when it returns, its events are on disk; events become visible
    in the order of their positions, so a reader that has seen position *n* never later sees a new event at or below
    *n*; versions of an entity have no gap and are never assigned twice, whatever is removed.

    Attributes:
        removals: what removes events: entities, single events' bodies, tenants; and retention.
    """

    def __init__(self, parts: OpenStore, clock: Clock) -> None:
        """Use `open` or `in_memory`."""
        self._parts = parts
        self._path = parts.path
        self._catalog = parts.catalog
        self._visibility = parts.visibility
        self._numbers = parts.sequencer.numbers
        self._clock = clock
        self._closed = False
        self._states = StateReader(lambda: self._catalog.view)
        self._readers = ThreadPoolExecutor(4, thread_name_prefix="allsource-reader")
        self.removals = RemovalRequests(parts, on_removed=self._states.clear)

    @classmethod
    def open(
        cls,
        path: Path | str,
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
            filesystem: below the store; sealing and compaction use it only with ``maintenance = "thread"``.
            progress: called from this thread after every log file, and about ten times a second while one is read.
                What it raises ends the opening, and nothing is left open; the next one begins anew.

        Raises:
            StoreLockedError: another process has it open.
            ForeignDirectoryError: it holds something else.
            CorruptionError: acknowledged bytes are damaged. They are left as they are.
            OSError: the directory can't be used.
        """
        parts = open_store(Path(path), filesystem or LocalFilesystem(), options or StoreOptions(), clock, progress)
        return cls(parts, clock)

    @classmethod
    def in_memory(cls, *, options: StoreOptions | None = None, clock: Clock = system_clock) -> Self:
        """A store that is gone when it is closed, for tests of programs that embed it. Nothing touches a file.

        So nothing is sealed, and policies of retention remove nothing.
        """
        return cls(open_in_memory(options or StoreOptions(), clock), clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make durable what is under way, then close.

        Whatever appends, reads, removes or maintains then raises StoreClosedError; `last_position`, `stats` and
        `is_closed` tell how it ended. Subscriptions end.
        """
        if self._closed:
            return
        self._closed = True
        self._visibility.end_waits()
        self._readers.shutdown()
        self._parts.close()

    # --- appending ---

    def append(
        self,
        tenant_id: str,
        events: Sequence[NewEvent],
        *,
        expected_versions: Mapping[str, Expected] | None = None,
        condition: AppendCondition | None = None,
        dry_run: bool = False,
        decoded: bool = False,
    ) -> Appended:
        """Append events, all or nothing, and return when they are durable.

        Ids that authors gave are checked first: if all of them are known with the same content, this is a repetition,
        answered with the events of the first time. Then the expected versions: of `expected_versions` before the
        append, of an event's own ``expected_version`` just before that event. Then the condition.

        Args:
            tenant_id: whose events these are.
            events: 1 to 10,000. Payloads and metadata are JSON, as bytes or as `Raw`.
            expected_versions: entity id to its last version (0 for none), ``none`` (nothing can be read), ``exists``,
                ``any``.
            condition: over queries: refuse if any event matches.
            dry_run: check everything, store nothing.
            decoded: the payloads are `Raw` that a decoder cut out of a larger text, all of which it has checked to be
                JSON: they are not parsed again. What is no JSON is stored then, and makes its entity's state
                unreadable.

        Raises:
            InvalidEventError, VersionConflictError, ConditionFailedError, ConditionTooBroadError,
            EventIdConflictError, OverloadedError, StoreReadOnlyError, KeysDamagedError, StoreClosedError: nothing was
                stored.
            AppendUncertainError: the disk failed; unknown whether the events are stored. This store forgets them; the
                next that opens the directory may have them.
            CorruptionError: what had to be looked up is damaged; nothing was stored.
        """
        prepared = prepare(tenant_id, events, expected_versions, condition, self._clock, decoded)
        return self._path.append(prepared, dry_run)

    async def append_async(
        self,
        tenant_id: str,
        events: Sequence[NewEvent],
        *,
        expected_versions: Mapping[str, Expected] | None = None,
        condition: AppendCondition | None = None,
        dry_run: bool = False,
        decoded: bool = False,
    ) -> Appended:
        """`append` for a caller on an event loop. If the caller is cancelled, the events may be stored all the same."""
        prepared = prepare(tenant_id, events, expected_versions, condition, self._clock, decoded)
        return await self._path.append_async(prepared, dry_run)

    # --- reading ---

    @property
    def last_position(self) -> int:
        """The position of the last durable record of any tenant, 0 for none."""
        return self._visibility.position

    def read(self, tenant_id: str, query: EventQuery | None = None) -> Iterator[Event]:
        """The durable events that a query selects, as they are when this is called, in the order of positions.

        Events that are appended while the caller iterates are not among them. Nothing is collected: memory does not
        grow with the number of events. An iterator holds what it reads from until it is let go of.

        Raises:
            StoreClosedError: the store was closed.
            CorruptionError, OSError: while iterating, if stored bytes are damaged or can't be read. What the iterator
                gives after that, if anything, is not the rest.
        """
        return chain.from_iterable(self.read_chunks(tenant_id, query))

    def read_chunks(
        self, tenant_id: str, query: EventQuery | None = None, *, up_to: int | None = None
    ) -> Iterator[list[Event]]:
        """`read`, as lists of events, none empty: for those who go through many.

        Args:
            tenant_id: whose events.
            query: what to select; everything by default.
            up_to: the last position to look at, at most `last_position`.
        """
        query = query or _EVERYTHING
        return limited(self._chunks(tenant_id, query, up_to), query.limit)

    def read_async(
        self, tenant_id: str, query: EventQuery | None = None, *, up_to: int | None = None
    ) -> AsyncGenerator[list[Event], None]:
        """`read_chunks` for a caller on an event loop: files are read in other threads, and others run in between.

        To be closed (`contextlib.aclosing`) if it is left before its end.
        """
        query = query or _EVERYTHING
        return limited_async(self._chunks(tenant_id, query, up_to), query.limit, self._readers)

    def _chunks(self, tenant_id: str, query: EventQuery, up_to: int | None) -> Iterator[list[Event]]:
        self._check_open()
        bound = self.last_position if up_to is None else min(up_to, self.last_position)
        view, tenant = self._catalog.view, self._numbers.key(tenant_id)
        return view.read(tenant, query, bound) if view.segments else view.warm(tenant, query, bound)

    def get(self, tenant_id: str, event_id: UUID) -> Event | None:
        """The tenant's durable event of this id, whether its author gave the id or the engine.

        Raises: KeysDamagedError: try again soon; else as `read`.
        """
        self._check_open()
        return self._catalog.view.get(self._numbers.key(tenant_id), event_id, self.last_position)

    async def get_async(self, tenant_id: str, event_id: UUID) -> Event | None:
        """`get` for a caller on an event loop."""
        self._check_open()
        view, tenant = self._catalog.view, self._numbers.key(tenant_id)
        if not view.segments or view.in_memory(tenant, event_id) is not None:
            return self.get(tenant_id, event_id)
        return await in_thread(self._readers, self.get, tenant_id, event_id)

    def version(self, tenant_id: str, entity_id: str) -> int:
        """The last version of an entity that was ever assigned; 0 for one that never had an event.

        Appends that are not durable yet count. Raises: as `get`.
        """
        self._check_open()
        head = self._catalog.view.head(self._numbers.key(tenant_id), entity_id)
        return 0 if head is None else head.version

    def state(
        self,
        tenant_id: str,
        entity_id: str,
        *,
        as_of: int | None = None,
        as_of_position: int | None = None,
        as_of_version: int | None = None,
    ) -> EntityState:
        """What an entity's events amount to: their payload objects merged in the order of versions.

        Args:
            tenant_id, entity_id: whose state.
            as_of: only events whose `timestamp` is not after this count; microseconds since the epoch.
            as_of_position, as_of_version: only events up to these count.

        Returns:
            The state, exactly; ``version`` 0 where no event counts. Those that retention removed count, those of an
            entity that was removed don't. 0.4 µs an event the first time, then only what is new.

        Raises:
            ValueError: for a position or version below 0.
            StateNotKeptError: the moment asked for lies among events that retention removed, or before them.
            KeysDamagedError, StoreClosedError, CorruptionError, OSError: as `get`.
        """
        self._check_open()
        # The position first: a view has everything up to what was visible before it was taken.
        up_to = self.last_position
        tenant = self._numbers.key(tenant_id)
        if as_of is None and as_of_position is None and as_of_version is None:
            return self._states.present(tenant, entity_id, up_to)
        return self._states.as_of(
            tenant, entity_id, up_to, timestamp=as_of, position=as_of_position, version=as_of_version
        )

    def first_version(self, tenant_id: str, entity_id: str) -> int:
        """From which version on events of an entity can be read, if there are any: 1, or the one behind what retention
        or a removal took.

        1 µs a segment that knows of removals; reads those of them that know of this entity's. Raises: as `read`.
        """
        self._check_open()
        marker = self._catalog.view.marker(self._numbers.key(tenant_id), entity_id)
        return 1 if marker is None else marker.version + 1

    async def first_version_async(self, tenant_id: str, entity_id: str) -> int:
        """`first_version` for a caller on an event loop."""
        self._check_open()
        view, tenant = self._catalog.view, self._numbers.key(tenant_id)
        if not view.marking_segments(tenant, entity_id):
            return self.first_version(tenant_id, entity_id)
        return await in_thread(self._readers, self.first_version, tenant_id, entity_id)

    def subscribe(
        self, tenant_id: str, query: EventQuery | None = None, *, poll_seconds: float = 0.005
    ) -> Generator[Event | CaughtUp, None, None]:
        """The events that a query selects behind its `after_position`, and then those that come, for ever.

        Each exactly once, in the order of positions, with no gap between what was stored and what is new. `CaughtUp`
        comes when everything that there was has been given out, on an empty store at once, and again after each run of
        new events. To go on elsewhere, subscribe again behind the last position seen; one that the store has not
        reached is waited for. Ends when the store is closed.

        Args:
            tenant_id: whose events.
            query: what to select; `limit`, `descending` and `before_position` have no place here.
            poll_seconds: how often this thread looks for new events once it has caught up.

        Raises:
            ValueError: at once, if the query has what has no place here.
            StoreClosedError, CorruptionError, OSError: as `read`.
        """
        self._check_open()
        return subscribe(self, tenant_id, query or _EVERYTHING, poll_seconds=poll_seconds)

    def subscribe_async(
        self, tenant_id: str, query: EventQuery | None = None
    ) -> AsyncGenerator[list[Event] | CaughtUp, None]:
        """`subscribe` for a caller on an event loop: lists of events, none empty. It waits without polling.

        To be closed (`contextlib.aclosing`) when it is left. Too many that wait at once raise OverloadedError.
        """
        self._check_open()
        return subscribe_async(self, tenant_id, query or _EVERYTHING)

    async def wait_for_position_async(self, position: int, timeout_seconds: float) -> bool:
        """Wait until the record at `position` is durable, and so visible; False if it is not within the time.

        Raises:
            OverloadedError: too many wait already.
            StoreClosedError: the store was closed first, or `end_waits` called.
        """
        return await self._visibility.wait(position, timeout_seconds)

    def end_waits(self) -> None:
        """Refuse everybody who waits for a position, from now on: the first step of a shutdown that is not slow."""
        self._visibility.end_waits()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("the store was closed")

    # --- looking after it ---

    def stats(self) -> StoreStats:
        """Figures as they are now. Cheap: counts what is counted already."""
        return store_stats(self._parts)

    def tenant_usage(self, tenant_id: str) -> TenantUsage:
        """How many durable events of a tenant are kept, and their bytes: see `usage.usage_of`. Raises: as `read`."""
        self._check_open()
        up_to = self.last_position
        return usage_of(self._catalog.view, self._numbers.key(tenant_id), up_to)

    def appended_since(self, position: int, *, up_to: int | None = None, recorded_since: int = 0) -> Iterator[Appends]:
        """What tenants appended behind a position, by day: see `usage.appends_since`. Raises: as `read`."""
        self._check_open()
        bound = self.last_position if up_to is None else min(up_to, self.last_position)
        return appends_since(self._catalog.view, self._numbers.names(), position, bound, recorded_since)

    @property
    def maintenance_pid(self) -> int | None:
        """The process in which maintenance runs, if there is one at present: its memory is this store's too."""
        return self._parts.maintenance_pid

    def seal(self) -> None:
        """Make segments of everything that is in memory, and return when it is done.

        Raises:
            CorruptionError, OSError, JobFailedError: it failed; nothing is lost, and it is tried again by itself.
        """
        self._check_open()
        self._parts.seal()

    def compact(self) -> None:
        """Do now what maintenance would do some time: apply removals, merge small segments and key files.

        Raises: as `seal`.
        """
        self._check_open()
        self._parts.compact()
