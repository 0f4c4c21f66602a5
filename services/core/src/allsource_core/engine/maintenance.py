"""What goes on beside serving: sealing, compaction, merging of key files, applying removals.

One thread orders the work and puts the results in place; the work itself is done by a `JobRunner`. Everything here can
be broken off at any moment: what is not in a manifest does not count.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from allsource_core.engine.append_path import AppendPath
from allsource_core.engine.catalog import Catalog
from allsource_core.engine.clock import Clock
from allsource_core.engine.compaction import CompactionPlan, plan_compaction
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.job_runners import JobRunner
from allsource_core.engine.key_merging import files_to_merge, files_worth_one
from allsource_core.engine.log_writer import LogWriter
from allsource_core.engine.maintenance_jobs import CompactJob, MergeKeysJob, RekeyJob, SealJob
from allsource_core.engine.manifest import KeyFileEntry
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.retention_looks import RetentionLooks
from allsource_core.engine.retired_tables import RetiredTables
from allsource_core.engine.sequencer import Sequencer
from allsource_core.engine.stats import MaintenanceFigures
from allsource_core.engine.work_steps import Step, WorkSteps

__all__ = ["Maintenance"]

_log = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 1.0
_QUIET_SECONDS: Final = 60.0
"""Without a new segment: then key files are merged that take more space than they must."""


class Maintenance:
    """Does one piece of work after the other, in a thread of its own once `start` was called.

    Args:
        path: whose memory is sealed.
        catalog: of files.
        sequencer: that is told when a removal needs not be remembered any more.
        writer: of the log.
        runner, options, clock: of the store.
    """

    def __init__(
        self,
        path: AppendPath,
        catalog: Catalog,
        sequencer: Sequencer,
        writer: LogWriter,
        *,
        runner: JobRunner,
        options: StoreOptions,
        clock: Clock,
    ) -> None:
        self._path = path
        self._catalog = catalog
        self._sequencer = sequencer
        self._writer = writer
        self._runner = runner
        self._options = options
        self._clock = clock
        # What every job is told.
        root, run = str(catalog.paths.root), catalog.paths.run
        self._where: dict[str, Any] = {"root": root, "run": run, "hash_key": catalog.manifest.hash_key}
        self._wake = threading.Event()
        self._stop = False
        # One round at a time, whoever asks for it.
        self._working = threading.RLock()
        self.figures = MaintenanceFigures()
        self._thread: threading.Thread | None = None
        self._quiet_at = time.monotonic() + _QUIET_SECONDS
        self._retention = RetentionLooks(path, catalog, sequencer, runner=runner, options=options, clock=clock)
        self._retired = RetiredTables(catalog.is_read)
        steps: tuple[Step, ...] = (
            partial(catalog.remove_abandoned, path.lock),
            self._rebuild_keys,
            self._seal,
            self._retention.look,
            self._merge_keys,
            self._compact,
            self._tidy_keys,
            self._drop_log_files,
            self._finish_removals,
            self.name_newest_log_file,
        )
        self._steps = WorkSteps(steps, lambda: self._stop)

    def on_removed(self, call: Callable[[], None]) -> None:
        """Have this called when retention has removed something."""
        self._retention.on_removed = call

    @property
    def pid(self) -> int | None:
        """Of the process that does the jobs, if there is one at present."""
        return self._runner.pid

    def start(self) -> None:
        """Work in the background from now on."""
        self._path.on_sealable = self.wake
        self._thread = threading.Thread(target=self._run, name="allsource-maintenance", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def stop(self) -> None:
        """Break off what is under way and end the thread."""
        self._stop = True
        self._wake.set()
        self._runner.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop:
            self._wake.wait(_ROUND_SECONDS)
            self._wake.clear()
            self._round()

    def _round(self) -> None:
        try:
            if self._stop:
                return
            self._catalog.in_use.trim()
            if not self._path.writability.forbids("disk_space_low"):
                self._writer.prepare_next()
            self.work(patiently=True)
            if not self._steps.is_failing:
                self.figures.failure = None
        except CorruptionError as error:
            self._failed(error)
            if not self._catalog.note_damage(error):
                self._path.writability.forbid("storage_damaged", f"stored data is damaged: {error}")
        except Exception as error:
            # What is broken off at the end fails.
            if not self._stop:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.figures.failures += 1
        self.figures.failure = str(error)
        _log.error("maintenance failed; it is tried again", exc_info=error)

    # --- one piece after the other ---

    def work(self, *, patiently: bool = False, tidy: bool = False) -> None:
        """Do everything that there is to do now.

        Args:
            patiently: leave for a while what failed.
            tidy: also what may be done in quiet times.

        Raises:
            CorruptionError, OSError, JobFailedError: a job failed; nothing has changed by it, and the others are done.
        """
        with self._working:
            self._path.resume()
            if tidy:
                self._quiet_at = 0.0
            try:
                self._steps.run(patiently=patiently)
            finally:
                if not self._stop:
                    self._retired.dispose()

    def _seal(self) -> bool:
        """Make a segment of the oldest complete memtable; False if there is none that is durable."""
        memory = self._sequencer.memory
        if not memory.frozen:
            return False
        table = memory.frozen[0]
        first, last = table.first_position, table.next_position - 1
        if self._path.durable_position < last:
            return False
        through = self._path.durable_position
        numbers = self._sequencer.numbers
        # Before what is to be applied: a tenant that is removed in between is named, or nothing of it is left.
        tenants = numbers.durable_items()
        files = self._writer.files
        behind = [file.first_position for file in files[1:]] + [last + 1]
        result = self._runner.run(
            SealJob(
                **self._where,
                **self._to_apply(),
                removals_through=through,
                log_files=[
                    file.number
                    for file, next_first in zip(files, behind, strict=True)
                    if file.first_position <= last and next_first > first
                ],
                first_position=first,
                last_position=last,
                tenants=tenants,
                files=self._catalog.take_numbers(3),  # type: ignore[arg-type]
            )
        )
        with self._path.lock:
            tenants, next_tenant = numbers.durable_items(), numbers.next_number
        self._catalog.install(
            lock=self._path.lock,
            add_segment=result.segment,
            add_keys=result.key_files,
            on_installed=lambda: memory.drop_sealed(last),
            sealed_through=last,
            recorded_at=table.recorded_at,
            first_log_file=self._writer.first_needed(last),
            newest_log_file=self._writer.newest_file_number,
            tenants=tenants,
            next_tenant=next_tenant,
        )
        self.figures.segments_sealed += 1
        self._quiet_at = time.monotonic() + _QUIET_SECONDS
        self.figures.rows_removed += result.rows_removed
        self._path.admission.let_in()
        self._drop_log_files()
        self._retired.add(table)
        del table
        self._retired.dispose()
        return True

    def _rebuild_keys(self) -> bool:
        """Make damaged key files anew from the segments; False if none is known to be damaged."""
        if not self._catalog.keys_damage:
            return False
        _log.warning("the key directory is made anew: %s", self._catalog.keys_damage)
        manifest = self._catalog.manifest
        made: list[KeyFileEntry] = []
        for segment in manifest.segments:
            files = self._catalog.take_numbers(2)
            job = RekeyJob(**self._where, segment=segment, files=(files[0], files[1]))
            made += self._runner.run(job).key_files
        self._catalog.install(lock=self._path.lock, add_keys=made, drop_keys=manifest.key_files)
        self._catalog.keys_damage = ""
        return True

    def _merge_keys(self, choose: Callable[[Sequence[KeyFileEntry]], list[KeyFileEntry]] = files_to_merge) -> bool:
        for kind in ("entities", "ids"):
            merged = choose([entry for entry in self._catalog.manifest.key_files if entry.kind == kind])
            if merged:
                (file,) = self._catalog.take_numbers(1)
                result = self._runner.run(
                    MergeKeysJob(
                        **self._where,
                        key_files=merged,
                        file=file,
                    )
                )
                self._catalog.install(lock=self._path.lock, add_keys=result.key_files, drop_keys=merged)
                self.figures.key_merges += 1
                return True
        return False

    def _tidy_keys(self) -> bool:
        """In quiet times, merge key files that take more space than they must."""
        return time.monotonic() >= self._quiet_at and self._merge_keys(files_worth_one)

    def _compact(self) -> bool:
        """Rewrite segments that removals touch, or merge small neighbours; False if there are none."""
        # Taken before the removals themselves: whatever comes in between is applied, and applied again later.
        through = min(self._path.durable_position, self._catalog.manifest.sealed_through)
        plan = plan_compaction(
            self._catalog.segments, self._catalog.pending_removals(), through, self._catalog.hasher, self._options
        )
        if plan.untouched:
            self._catalog.install(lock=self._path.lock, applied=(plan.untouched, through))
        if not plan.segments:
            return bool(plan.untouched)
        self._run_compaction(plan, through)
        return True

    def _run_compaction(self, plan: CompactionPlan, through: int) -> None:
        (file,) = self._catalog.take_numbers(1)
        result = self._runner.run(
            CompactJob(
                **self._where,
                **self._to_apply(),
                removals_through=through,
                segments=plan.segments,
                file=file,
            )
        )
        self._catalog.install(lock=self._path.lock, add_segment=result.segment, drop_segments=plan.segments)
        self.figures.compactions += 1
        self.figures.segments_compacted += len(plan.segments)
        self.figures.rows_removed += result.rows_removed

    def retain_now(self) -> None:
        """Look for what retention removes in the next round, whenever the last look was."""
        self._retention.be_due()
        self._wake.set()

    def _to_apply(self) -> dict[str, Any]:
        """What a job is told of removals: all that is not applied everywhere."""
        removed, pending = self._catalog.removed, self._catalog.pending_removals()
        return {
            "floors": [(*key, version) for key, version in removed.floors.copy().items()],
            "deleted": [(one.tenant, one.entity_id, one.version) for one in pending if one.kind == "entity"],
            "erased": list(removed.erased.copy()),
            "removed_tenants": [one.tenant for one in pending if one.kind == "tenant"],
        }

    def empty_log(self) -> None:
        """If all is in segments, begin a log file in which nothing is, and remove the ones before. Raises OSError."""
        with self._working:
            if self._path.durable_position == self._catalog.manifest.sealed_through:
                self._path.begin_log_file()
                self._drop_log_files()
                self.name_newest_log_file()

    def name_newest_log_file(self) -> None:
        """Have the manifest name the newest log file, so that it is missed if it is lost. Raises OSError."""
        newest = self._writer.newest_file_number
        if newest != self._catalog.manifest.newest_log_file:
            self._catalog.install(lock=self._path.lock, newest_log_file=newest)

    def _drop_log_files(self) -> None:
        self._writer.drop_through(self._catalog.manifest.sealed_through)

    def _finish_removals(self) -> None:
        """Get the bytes of removed events out of the log too, and note which removals are done."""
        self._catalog.forget_old_removals(self._clock())
        pending = self._catalog.pending_removals()
        if not pending:
            return
        oldest = pending[0]
        if oldest.position > self._catalog.manifest.sealed_through:
            age_us = self._clock() - oldest.recorded_at
            is_waiting = 0 <= age_us < self._options.removal_seconds * 1_000_000
            # Removals that come together are applied together. Where sealing is behind, it comes to them anyway.
            if not is_waiting and not self._sequencer.memory.frozen:
                self._path.freeze()
                self._wake.set()
            return
        if self._writer.files[0].first_position <= oldest.position:
            self._path.begin_log_file()
            self._drop_log_files()
        log_begins_at = self._writer.files[0].first_position
        if log_begins_at <= oldest.position and not self._sequencer.memory.frozen:
            # After a crash a file may hold records of two segments: it goes when both are there.
            self._path.freeze()
        self._catalog.finish_removals(
            self._clock(), log_begins_at, lock=self._path.lock, on_finished=self._sequencer.forget
        )
