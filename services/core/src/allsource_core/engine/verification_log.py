"""Verification of the log, record by record, and what segments can't tell without it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from allsource_core.engine.catalog import removal_of
from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.limits import POSITION_MAX
from allsource_core.engine.log_format import (
    FILE_HEADER_BYTES,
    AnyControlRecord,
    PolicySet,
    Record,
    TenantRemoved,
)
from allsource_core.engine.manifest import Manifest, Policy, Removal
from allsource_core.engine.recovery import positions_of, read_header, read_log_file
from allsource_core.engine.tenants import TenantNumbers
from allsource_core.engine.verification_bodies import faulty_bodies
from allsource_core.engine.verification_findings import Area, Finding, ProgressMeter, Reporter, first_ones

__all__ = ["CUT_LOG", "LogRun", "LogVerification"]

CUT_LOG: Final = "repair --cut-log gives up everything behind this place"


class LogRun:
    """Versions of an entity that follow on each other in the unsealed part of the log."""

    __slots__ = ("first_position", "first_version", "last_position", "last_version")

    def __init__(self, version: int, position: int) -> None:
        self.first_version = self.last_version = version
        self.first_position = self.last_position = position


class LogVerification:
    """Reads the log as a start does, but goes on behind what is wrong.

    Memory: about 300 bytes for each entity of the records that are not in segments yet; the store itself needs more for
    them when it is opened.

    Args:
        paths: of the store.
        manifest: of the store.
        progress: is told of every file.

    Attributes:
        numbers: of tenants, as of the end of the log.
        runs: by (tenant, entity id), for the records that are not in segments.
        removals: that the unsealed part tells of.
        policies: of retention, by (tenant, prefix), as of the end of the log.
        tenant_events: how many events each tenant has in the unsealed part, by its id.
        times: the lowest and the highest `recorded_at` there, or None.
        next_position: that the next record gets; None where damage hides it.
        damaged_at: (number of the file, offset) of the first damage that keeps the store from opening, or None.
        kept_through: the last position before it, or that segments have.
        is_foreign: a file is of another release, which may be able to read what this one can't.
        holes: (first, last) positions that can't be read.
    """

    def __init__(self, paths: StorePaths, manifest: Manifest, progress: ProgressMeter) -> None:
        self._paths = paths
        self._manifest = manifest
        self._progress = progress
        self._reporter = Reporter(paths)
        self.numbers = TenantNumbers(manifest.tenants, manifest.next_tenant)
        self.runs: dict[tuple[int, str], list[LogRun]] = {}
        self.removals: list[Removal] = []
        self.policies = {(policy.tenant, policy.prefix): policy for policy in manifest.policies}
        self.tenant_events: dict[str, int] = {}
        self.times: tuple[int, int] | None = None
        self.next_position: int | None = None
        self.damaged_at: tuple[int, int] | None = None
        self.is_foreign = False
        self.kept_through = manifest.sealed_through
        self.holes: list[tuple[int, int]] = []
        self._recorded_at = 0
        self._read_through = 0

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong, file by file."""
        paths, manifest = self._paths, self._manifest
        files = [item for item in paths.numbered(paths.log, "log") if item[0] >= manifest.first_log_file]
        if not files:
            yield self._damage(manifest.first_log_file, 0, "the file is missing", CUT_LOG)
            return
        for index, (number, path) in enumerate(files):
            yield from self._file(number, path, is_first=index == 0, is_last=index == len(files) - 1)
            self._progress.add("log", path.stat().st_size)
        number, path = files[-1]
        if number < manifest.newest_log_file:
            yield self._damage(manifest.newest_log_file, 0, "the file is missing", CUT_LOG)
            self.next_position = None
        if self.next_position is not None and self.next_position <= manifest.sealed_through:
            text = (
                f"the log ends at position {self.next_position - 1}, segments at {manifest.sealed_through}: power "
                "failed before the log was synced, or a newer file is missing"
            )
            yield self._reporter.information(Area.LOG, path, text, offset=path.stat().st_size, number=number)
        if self.next_position is None:
            self._end_hole(None)
        lost_through = max((loss.last_position for loss in manifest.losses), default=0)
        if lost_through > manifest.sealed_through and self.damaged_at is None:
            # A log that was cut begins anew behind what was lost, which makes `sealed_through` the end of that.
            text = "cutting the log was broken off: lost positions would be assigned again"
            yield self._damage(number, path.stat().st_size, text, "repair --cut-log goes on with it")

    def _damage(self, number: int, offset: int, text: str, remedy: str) -> Finding:
        if self.damaged_at is None:
            self.damaged_at = number, offset
            self.kept_through = max(self._manifest.sealed_through, self._read_through)
        path = self._paths.log_file(number)
        return self._reporter.error(Area.LOG, path, text, remedy, offset=offset, number=number)

    def _file(self, number: int, path: Path, *, is_first: bool, is_last: bool) -> Iterator[Finding]:
        try:
            header = read_header(path, number)
        except ForeignDirectoryError as error:
            text = str(error).partition(": ")[2]
            yield self._reporter.error(Area.LOG, path, text, "use the release that wrote it", number=number)
            self.is_foreign, self.next_position = True, None
            return
        except CorruptionError as error:
            yield self._damage(number, error.offset, error.reason, CUT_LOG)
            self.next_position = None
            return
        first = header.first_position
        if is_first and first > self._manifest.sealed_through + 1:
            text = f"it begins at position {first}, but segments end at {self._manifest.sealed_through}"
            yield self._damage(number, 0, f"{text}: an older file is missing", CUT_LOG)
            self.holes.append((self._manifest.sealed_through + 1, first - 1))
        elif self.next_position is not None and not is_first and not self._may_follow(first):
            text = f"it begins at position {first}, expected was {self.next_position}: a file is missing"
            yield self._damage(number, 0, text, CUT_LOG)
            self._end_hole(first)
        elif self.next_position is None and not is_first:
            self._end_hole(first)
        self.next_position = first
        self._read_through = max(self._read_through, first - 1)
        end = FILE_HEADER_BYTES
        try:
            for record, end_of_record in read_log_file(path, header, is_last=is_last):
                begin, end = end, end_of_record
                if record is not None:
                    yield from self._record(number, begin, record)
        except CorruptionError as error:
            yield self._damage(number, error.offset, error.reason, CUT_LOG)
            self.next_position = None
            return
        if is_last and (unfinished := _unfinished_bytes(path, end)):
            text = f"an unfinished write of {unfinished} bytes, which the next start cuts"
            yield self._reporter.information(Area.LOG, path, text, offset=end, number=number)

    def _may_follow(self, first: int) -> bool:
        """Whether a file may begin at a position: the next one, or a later one if segments have all between.

        Power that failed may have taken unsynced records from the log which segments have.
        """
        assert self.next_position is not None
        return first == self.next_position or self.next_position < first <= self._manifest.sealed_through + 1

    def _end_hole(self, next_position: int | None) -> None:
        """Positions from the last that could be read up to the next one are unknown."""
        last = POSITION_MAX if next_position is None else next_position - 1
        self.holes.append((self._read_through + 1, last))

    def _record(self, number: int, offset: int, record: Record) -> Iterator[Finding]:
        first, last = positions_of(record)
        if first != self.next_position:
            text = f"position {first} follows {(self.next_position or 1) - 1}"
            yield self._damage(number, offset, text, CUT_LOG)
            if self.next_position is not None and first > self.next_position:
                self.holes.append((self.next_position, first - 1))
        self.next_position = last + 1
        self._read_through = last
        if record.recorded_at < self._recorded_at:
            text = "it was recorded before the record before it"
            yield self._reporter.error(Area.LOG, self._paths.log_file(number), text, offset=offset, number=number)
        self._recorded_at = record.recorded_at
        if last <= self._manifest.sealed_through:
            return
        low, _ = self.times or (record.recorded_at, 0)
        self.times = low, record.recorded_at
        if isinstance(record, StoredEvents):
            yield from self._events(number, offset, record)
        else:
            self._note(record)

    def _note(self, record: AnyControlRecord) -> None:
        if isinstance(record, PolicySet):
            key = record.tenant, record.prefix
            self.policies.pop(key, None)
            if record.max_age_us is not None or record.max_count is not None:
                self.policies[key] = Policy(*key, record.max_age_us, record.max_count)
            return
        self.removals.append(removal_of(record))
        if isinstance(record, TenantRemoved):
            tenant_id = self.numbers.retire(record.tenant)
            if tenant_id is not None:
                self.tenant_events.pop(tenant_id, None)

    def _events(self, number: int, offset: int, stored: StoredEvents) -> Iterator[Finding]:
        tenant = self.numbers.learn(stored.tenant_id, stored.tenant)
        self.tenant_events[stored.tenant_id] = self.tenant_events.get(stored.tenant_id, 0) + len(stored)
        columns = stored.columns
        for index, (entity_id, version) in enumerate(zip(columns.entity_ids, stored.versions, strict=True)):
            position = stored.first_position + index
            runs = self.runs.setdefault((tenant, entity_id), [])
            if runs and runs[-1].last_version + 1 == version:
                runs[-1].last_version, runs[-1].last_position = version, position
            else:
                runs.append(LogRun(version, position))
        for what, bodies in (("payload", columns.payloads), ("metadata", columns.metadatas)):
            faults = faulty_bodies(bodies or [], objects=what == "metadata")
            yield from first_ones(
                ((what, *fault) for fault in faults),
                lambda fault: self._reporter.error(
                    Area.LOG,
                    self._paths.log_file(number),
                    f"the {fault[0]} at position {stored.first_position + fault[1]} is no JSON in one line: {fault[2]}",
                    offset=offset,
                    number=number,
                ),
                lambda count: self._reporter.error(
                    Area.LOG, self._paths.log_file(number), f"{count} more of these", offset=offset, number=number
                ),
            )


def _unfinished_bytes(path: Path, end: int) -> int:
    """How many bytes stand behind the last record, zeros at the end aside."""
    with path.open("rb") as file:
        file.seek(end)
        return len(file.read().rstrip(b"\0"))
