"""How an append becomes durable: prepared, looked up, sequenced, committed; and removals, which go the same way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from allsource_core.engine.admission import Admission
from allsource_core.engine.appended import Appended
from allsource_core.engine.appends import PreparedAppend, columns_of_one
from allsource_core.engine.clock import Clock
from allsource_core.engine.committer import Committer
from allsource_core.engine.decisions import (
    NO_FACTS,
    Decision,
    Refusal,
    Repetition,
    SealedFacts,
    StaleFactsError,
)
from allsource_core.engine.errors import StoreReadOnlyError
from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.events import Event
from allsource_core.engine.fair_pool import FairPool
from allsource_core.engine.log_format import AnyControlRecord, encode_control, encode_event, encode_events
from allsource_core.engine.log_writer import LogRecord, LogWriter
from allsource_core.engine.memory import Memory
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.sequencer import Sequencer
from allsource_core.engine.undurable_records import UndurableRecords
from allsource_core.engine.view import View
from allsource_core.engine.visibility import Visibility
from allsource_core.engine.writability import Writability

__all__ = ["AppendPath"]

_STALE_RETRIES: Final = 20


class AppendPath:
    """Takes appends and removals, one after the other, and makes them durable together.

    Args:
        sequencer: with the memory that it puts events into.
        writer: of the log; None for a store that is in memory alone.
        visibility: told of what is durable.
        options, clock: of the store.
        on_durable: called for each control record once it is durable, before anybody is told.
        on_frozen: called when a memtable is complete, or memory was rolled back: views must be made anew. It runs under
            the lock.
        view: the present view.
    """

    def __init__(
        self,
        sequencer: Sequencer,
        writer: LogWriter | None,
        visibility: Visibility,
        options: StoreOptions,
        clock: Clock,
        *,
        on_durable: Callable[[AnyControlRecord], None],
        on_frozen: Callable[[], None],
        view: Callable[[], View],
    ) -> None:
        self.lock = threading.Lock()
        self.writability = Writability()
        self._sequencer = sequencer
        self._memory: Memory = sequencer.memory
        self._writer = writer
        self._visibility = visibility
        self._options = options
        self._clock = clock
        self._on_frozen = on_frozen
        self._view = view
        self._begin_file = False
        self._freeze_bytes = options.freeze_bytes
        # Called when a complete memtable may be durable: it can be sealed.
        self.on_sealable: Callable[[], None] = lambda: None
        self._undurable = UndurableRecords(sequencer, on_durable)
        # Apart from each other: a look at keys takes less than a millisecond, one for a condition up to seconds.
        self._lookups = FairPool(2, "allsource-lookup", seconds_max=options.wait_seconds_max)
        self._conditions = FairPool(2, "allsource-condition", seconds_max=options.wait_seconds_max)
        self._committer: Committer | None = None
        if writer is not None:
            self._committer = Committer(
                writer,
                durable_position=self._memory.next_position - 1,
                on_durable=self._durable,
                on_failure=self._commit_failed,
            )
        self.admission = Admission(self._memory, self._committer, self.writability, options)

    @property
    def durable_position(self) -> int:
        """Of the last record that is durable."""
        return self._visibility.position

    def _must_sync(self, tenant_id: str) -> bool:
        """Whether what a tenant appends is answered only once it is on the disk."""
        return self._options.durability == "fsync" or tenant_id.startswith("_")

    # --- appending ---

    def append(self, prepared: PreparedAppend | Event, dry_run: bool) -> Appended:
        """Append, and return when it is durable. Raises as `EventStore.append`."""
        if self._committer is None and type(prepared) is Event and not dry_run:
            # In memory alone there is nothing to look up and nothing to wait for.
            with self.lock:
                if not self.writability.is_unlimited:
                    self.writability.check(prepared.tenant_id)
                self._sequencer.put_event(prepared, NO_FACTS, self._clock())
                self._memory.active.held_bytes += len(prepared.payload)
                self._visibility.advance(prepared.position)
            return Appended(prepared, None, False, False)
        content = b"" if type(prepared) is Event else self._content(prepared)
        if not self.admission.everybody.is_open:
            self.admission.enter(prepared.tenant_id)
        for _ in range(_STALE_RETRIES):
            rollbacks = self._memory.rollbacks
            facts = self._look_up(prepared)
            try:
                outcome, durable_at, epoch = self._decide(prepared, content, facts, rollbacks, dry_run=dry_run)
            except StaleFactsError:
                continue
            if self._committer is not None:
                self._committer.wait(durable_at, epoch)
            return self._answer(outcome, prepared.tenant_id, dry_run)
        raise _restless()

    async def append_async(self, prepared: PreparedAppend | Event, dry_run: bool) -> Appended:
        """The same for a caller on an event loop."""
        content = self._content(prepared)
        if not self.admission.everybody.is_open:
            await self.admission.enter_async(prepared.tenant_id)
        for _ in range(_STALE_RETRIES):
            rollbacks = self._memory.rollbacks
            facts = await self._look_up_async(prepared)
            try:
                outcome, durable_at, epoch = self._decide(prepared, content, facts, rollbacks, dry_run=dry_run)
            except StaleFactsError:
                continue
            if self._committer is not None:
                await self._committer.wait_async(durable_at, epoch)
            return self._answer(outcome, prepared.tenant_id, dry_run)
        raise _restless()

    def _answer(self, outcome: StoredEvents | Event | Refusal | Repetition, tenant_id: str, dry_run: bool) -> Appended:
        """What the author is told. Raises the error of a refusal."""
        if isinstance(outcome, Refusal):
            raise outcome.error
        durable = self._committer is not None and self._must_sync(tenant_id)
        if isinstance(outcome, Repetition):
            return Appended(None, outcome.events, False, durable)
        return Appended(outcome, None, dry_run, durable and not dry_run)

    # An error keeps the frames that it went through, for as long as anybody keeps the error: a view is in none of those
    # that raise refusals, or it would keep files that are to go.

    def _look_up(self, prepared: PreparedAppend | Event) -> SealedFacts:
        view = self._view()
        if not view.segments and (type(prepared) is Event or prepared.condition is None):  # type: ignore[union-attr]
            return view.no_facts
        return self._facts(view, prepared)

    async def _look_up_async(self, prepared: PreparedAppend | Event) -> SealedFacts:
        view = self._view()
        if view.is_in_memory(self._sequencer.numbers.key(prepared.tenant_id), prepared):
            return view.no_facts
        has_condition = isinstance(prepared, PreparedAppend) and prepared.condition is not None
        pool = self._conditions if has_condition else self._lookups
        return await pool.run(prepared.tenant_id, partial(self._facts, view, prepared))

    def _facts(self, view: View, prepared: PreparedAppend | Event) -> SealedFacts:
        """What files know of an append. Raises as `View.facts`."""
        # What is in a memtable newer than the view is for the sequencer to look at, durable or not.
        up_to = min(self.durable_position, view.tables[-1].next_position - 1)
        return view.facts(self._sequencer.numbers.key(prepared.tenant_id), prepared, up_to)

    def _content(self, prepared: PreparedAppend | Event) -> bytes:
        """What will stand in the log: encoded here, before the sequencer, which then only adds where it is put."""
        if self._committer is None or isinstance(prepared, Event):
            return b""
        return prepared.content()

    def _decide(
        self, prepared: PreparedAppend | Event, content: bytes, facts: SealedFacts, rollbacks: int, *, dry_run: bool
    ) -> tuple[StoredEvents | Event | Refusal | Repetition, int, int]:
        """Decide on an append, and hand its record over.

        Returns:
            What was stored, or else the decision; the position that must be durable before it is told; the epoch.
        """
        committer, sequencer = self._committer, self._sequencer
        tenant_id = prepared.tenant_id
        with self.lock:
            if not self.writability.is_unlimited:
                self.writability.check(tenant_id)
            if rollbacks != self._memory.rollbacks:
                raise StaleFactsError
            if type(prepared) is Event and not dry_run:
                if committer is not None and self._memory.would_pass(1, self._options.segment_rows_max):
                    self._freeze()
                tenant = sequencer.put_event(prepared, facts, self._clock())
                first = last = prepared.position
                stored: StoredEvents | Event = prepared
                body = b"" if committer is None else encode_event(tenant, prepared)
            else:
                append = prepared if isinstance(prepared, PreparedAppend) else columns_of_one(prepared)
                if committer is not None and self._memory.would_pass(
                    len(append.columns), self._options.segment_rows_max
                ):
                    self._freeze()
                decision = sequencer.decide(append, facts, self._clock(), dry_run=dry_run)
                epoch = 0 if committer is None else committer.epoch
                if not isinstance(decision, Decision):
                    return decision, decision.durable_at, epoch
                stored, last = decision.stored, decision.durable_at
                if dry_run:
                    return stored, last, epoch
                first = stored.first_position
                body = b"" if committer is None else encode_events(stored, content)
            if committer is None:
                # There is no record that says how much it is, and nothing depends on it.
                held = len(prepared.payload) if isinstance(prepared, Event) else prepared.body_bytes
                self._memory.active.held_bytes += held
                self._visibility.advance(last)
                return stored, last, 0
            must_sync = self._must_sync(tenant_id)
            self._hand_over(committer, LogRecord(body, first, last, self._begin_file, must_sync))
            return stored, last, committer.epoch

    def _hand_over(self, committer: Committer, record: LogRecord) -> None:
        """Give a record that is in memory to the committer. Under the lock."""
        committer.enqueue(record)
        self._begin_file = False
        table = self._memory.active
        table.held_bytes += len(record.body)
        if table.held_bytes > self._freeze_bytes:
            self._freeze()

    def _freeze(self) -> None:
        if not len(self._memory.active):
            return
        self._memory.freeze()
        # What belongs to different segments is in different files, so that a file goes when its segment is there.
        self._begin_file = True
        self._on_frozen()

    def freeze(self) -> None:
        """Have what is in memory become a segment soon."""
        with self.lock:
            self._freeze()

    def commit(self) -> None:
        """Make durable what was sequenced. Raises nothing: those who wait for it are told."""
        if self._committer is not None:
            self._committer.commit()

    def begin_log_file(self) -> None:
        """Have the log go on in a new file, so that the ones before can go. Raises OSError: nothing has changed."""
        if self._committer is not None:
            self._committer.begin_file()

    # --- removals and policies ---

    def append_controls(self, makes: Iterable[Callable[[int, int], AnyControlRecord | None]]) -> None:
        """Append records that hold no events, one by one, and return when all are durable; they share their syncs.

        Args:
            makes: each gives the record for its position and `recorded_at`, or none. It runs under the lock: what it
                checks holds.

        Raises:
            StoreClosedError, StoreReadOnlyError, OverloadedError: this one and the rest were not stored.
            AppendUncertainError: a commit failed.
        """
        ends: dict[int, int] = {}
        try:
            for make in makes:
                with self.lock:
                    position = self._append_control(make)
                    if self._committer is not None and position:
                        ends[self._committer.epoch] = position
        finally:
            for epoch, position in ends.items():
                assert self._committer is not None
                self._committer.wait(position, epoch)

    def _append_control(self, make: Callable[[int, int], AnyControlRecord | None]) -> int:
        """The position of the record; 0 if there is none. Under the lock."""
        # Removing makes room: it goes on where tenants' appends don't.
        self.writability.check("_")
        self.admission.check_control()
        memory = self._memory
        if self._committer is not None and memory.would_pass(1, self._options.segment_rows_max):
            # What it says of an entity becomes a row of a segment too.
            self._freeze()
        recorded_at = max(self._clock(), memory.recorded_at)
        record = make(memory.next_position, recorded_at)
        if record is None:
            return 0
        self._sequencer.apply(record)
        memory.active.add_control(recorded_at)
        memory.recorded_at = recorded_at
        self._undurable.add(record)
        position = record.position
        if self._committer is None:
            self._undurable.durable(position)
            self._visibility.advance(position)
        else:
            self._hand_over(self._committer, LogRecord(encode_control(record), position, position, self._begin_file))
        return position

    # --- durability ---

    def _durable(self, position: int) -> None:
        """Called by the committer, before anybody is told."""
        self._undurable.durable(position)
        self._visibility.advance(position)
        self.admission.let_in()
        if self._memory.frozen:
            self.on_sealable()

    def _commit_failed(self, error: BaseException) -> None:
        """Forget what did not reach the disk, cut it from the log, and go on in a new file, or not at all."""
        assert self._committer is not None
        assert self._writer is not None
        with self.lock:
            durable = self._committer.written_position
            try:
                self._undurable.durable(durable)
                self._visibility.advance(durable)
            finally:
                self._committer.end_epoch(error)
            self._memory.roll_back(durable + 1)
            self._undurable.undo()
            self._begin_file = False
            try:
                self._writer.repair()
                self._begin_log_file(durable + 1)
            except BaseException as repair_error:
                self._writer.abandon()
                cause = str(error) or type(error).__name__
                reason = f"the log could not be written ({cause}), nor repaired; restart the service"
                self.writability.forbid("log_failed", reason)
                if not isinstance(repair_error, Exception):
                    raise
            finally:
                self._on_frozen()
        if self._memory.frozen:
            self.on_sealable()

    def _begin_log_file(self, first_position: int) -> None:
        """Begin a log file, or take no appends until one can be begun: better certainly refused than uncertain."""
        assert self._writer is not None
        try:
            self._writer.begin_file(first_position)
        except OSError as error:
            self.writability.forbid("log_blocked", f"no new log file can be made ({error}); it is tried again")
        else:
            self.writability.allow("log_blocked")

    def resume(self) -> None:
        """Begin the log file for which appends wait, if they do for one."""
        if self.writability.forbids("log_blocked"):
            with self.lock:
                self._begin_log_file(self._memory.next_position)

    def close(self) -> None:
        """Make durable what is under way; then every append raises StoreClosedError."""
        with self.lock:
            self.writability.close()
        self.admission.close()
        self._lookups.close()
        self._conditions.close()
        if self._committer is not None:
            self._committer.close()


def _restless() -> StoreReadOnlyError:
    return StoreReadOnlyError("segments changed faster than the append could be checked against them; try again")
