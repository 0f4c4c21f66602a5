"""Retention in a store that serves: it looks now and then for what is too old or too much, and has it removed."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from typing import Final

from allsource_core.engine.append_path import AppendPath
from allsource_core.engine.catalog import Catalog
from allsource_core.engine.clock import Clock
from allsource_core.engine.errors import OverloadedError
from allsource_core.engine.job_runners import JobRunner
from allsource_core.engine.log_format import EntityShortened
from allsource_core.engine.maintenance_jobs import RetentionJob
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.retention import RetentionRule, RetentionRules, Shortening, Unsealed
from allsource_core.engine.sequencer import Sequencer

__all__ = ["RetentionLooks"]

_log = logging.getLogger(__name__)

_TOGETHER: Final = 1000
"""Records that share a sync. Appends that come meanwhile wait for it too."""

_RETRY_SECONDS: Final = 1.0
"""Where there is no room for a single record."""


class RetentionLooks:
    """One look after the other. For the thread that orders maintenance alone.

    Args:
        path, catalog, sequencer, runner, options, clock: of the store.

    Attributes:
        on_removed: called when something was removed.
    """

    def __init__(
        self,
        path: AppendPath,
        catalog: Catalog,
        sequencer: Sequencer,
        *,
        runner: JobRunner,
        options: StoreOptions,
        clock: Clock,
    ) -> None:
        self._path = path
        self._catalog = catalog
        self._sequencer = sequencer
        self._runner = runner
        self._options = options
        self._clock = clock
        self.on_removed: Callable[[], None] = lambda: None
        self._due_at = 0.0
        self._is_cut = False
        self._has_frozen = False

    def be_due(self) -> None:
        """Look the next time, whenever the last look was. From any thread."""
        self._due_at = 0.0

    def look(self) -> bool:
        """Remove what policies say, if the time for it has come; False if there was nothing to do.

        Raises:
            CorruptionError, OSError, JobFailedError: reading segments failed; nothing was removed.
            StoreReadOnlyError, AppendUncertainError: not all of it was removed; the next look finds the rest.
        """
        if not self._catalog.policies or time.monotonic() < self._due_at:
            return False
        if self._is_cut and any(removal.kind == "shortened" for removal in self._catalog.pending_removals()):
            # What the last look found is to leave memory and manifest before there is more.
            return False
        # Not at the end: a policy that is set meanwhile makes it due again.
        due_at, self._due_at = self._due_at, time.monotonic() + self._options.retention_seconds
        try:
            return self._look()
        except BaseException:
            self._due_at = due_at
            raise

    def _look(self) -> bool:
        # From here on, what is removed and what policies are changed is known when the records are made; what was
        # before is durable after the commit, so the rules and the job are told of it.
        with self._path.lock:
            self._sequencer.touched = set()
        try:
            self._path.commit()
            rules = self._rules()
            if not rules:
                return False
            must_seal, heads = self._in_memory(RetentionRules(rules))
            if must_seal and not self._has_frozen:
                # Segments are what events are removed from. Once a look: there may always be new ones in memory.
                self._has_frozen = True
                self._path.freeze()
                self._path.commit()
                self.be_due()
                return True
            self._has_frozen = False
            return self._remove(rules, heads)
        finally:
            self._sequencer.touched = None

    def _remove(self, rules: list[RetentionRule], heads: list[tuple[int, str, int]]) -> bool:
        removed = self._catalog.removed
        known = Unsealed(
            [(*key, version) for key, version in removed.floors.copy().items()],
            list(removed.erased.copy()),
            [(*key, marker) for key, marker in removed.markers.copy().items()],
            heads,
        )
        paths, manifest = self._catalog.paths, self._catalog.manifest
        result = self._runner.run(
            RetentionJob(
                root=str(paths.root),
                run=paths.run,
                hash_key=manifest.hash_key,
                segments=manifest.segments,
                rules=rules,
                known=known,
            )
        ).shortenings
        if result.too_large:
            _log.warning("retention leaves entities as they are whose states are too large: %s", result.too_large[:10])
        last_position = self._path.durable_position
        try:
            for start in range(0, len(result.found), _TOGETHER):
                found = result.found[start : start + _TOGETHER]
                self._path.append_controls(partial(self._shortened, one) for one in found)
        except OverloadedError:
            # The rest is found again, once this thread has sealed what there is.
            has_begun = self._path.durable_position > last_position
            self._due_at = 0.0 if has_begun else time.monotonic() + _RETRY_SECONDS
        finally:
            self.on_removed()
        self._is_cut = result.is_cut and bool(result.found)
        if self._is_cut:
            self.be_due()
        return bool(result.found) and self._path.durable_position > last_position

    def _shortened(self, found: Shortening, position: int, recorded_at: int) -> EntityShortened | None:
        """The record, unless something came in between that the look did not know of: the next one does."""
        touched = self._sequencer.touched
        if touched is None or found.tenant in touched or (found.tenant, found.entity_id) in touched:
            return None
        return EntityShortened(
            found.tenant,
            position,
            recorded_at,
            found.entity_id,
            found.version,
            found.events_removed,
            found.snapshot,
            found.summary,
        )

    def _rules(self) -> list[RetentionRule]:
        tenants = {number for number, _ in self._sequencer.numbers.items()}
        now = self._clock()
        return [
            RetentionRule(
                policy.tenant,
                policy.prefix,
                None if policy.max_age_us is None else now - policy.max_age_us,
                policy.max_count,
            )
            for policy in list(self._catalog.policies.values())
            if policy.tenant in tenants
        ]

    def _in_memory(self, rules: RetentionRules) -> tuple[bool, list[tuple[int, str, int]]]:
        """Of durable events in memory: whether rules remove any, and the last version of each entity under a count.

        0.5 µs an entity in memory.
        """
        firsts: dict[tuple[int, str], int] = {}
        heads: dict[tuple[int, str], int] = {}
        removed, durable = self._catalog.removed, self._path.durable_position
        any_old = False
        for table in self._sequencer.memory.tables:
            for tenant in rules.tenants:
                index = table.find_tenant(tenant)
                for entity_id, stream in index.streams.copy().items() if index is not None else ():
                    rule = rules.find(tenant, entity_id)
                    if rule is None:
                        continue
                    # The place of version v stands at v minus the number before the first one.
                    below = stream[0]
                    last = below + bisect_right(stream, durable - table.first_position, 1) - 1
                    first = max(below, removed.floor(tenant, entity_id)) + 1
                    if first > last:
                        continue
                    heads[tenant, entity_id] = last
                    firsts.setdefault((tenant, entity_id), first)
                    if rule.recorded_before is not None and not any_old:
                        any_old = table.at_place(stream[first - below]).recorded_at < rule.recorded_before
        counted = []
        too_many = False
        for (tenant, entity_id), last in heads.items():
            rule = rules.find(tenant, entity_id)
            if rule is not None and rule.max_count is not None:
                counted.append((tenant, entity_id, last))
                too_many = too_many or last - rule.max_count >= firsts[tenant, entity_id]
        return any_old or too_many, counted
