"""Opening a store: what is on disk becomes the parts that serve, and a crash's leavings go."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from allsource_core.engine.append_path import AppendPath
from allsource_core.engine.catalog import Catalog
from allsource_core.engine.clock import Clock
from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.engine.directory import DIRECTORY_FORMAT, StoreDirectory
from allsource_core.engine.disk_watch import DiskWatch
from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem, LocalFilesystem
from allsource_core.engine.job_runners import InlineRunner, JobRunner, ProcessRunner
from allsource_core.engine.key_rebuilding import rebuild_derived_files
from allsource_core.engine.log_format import Record
from allsource_core.engine.log_writer import LogWriter
from allsource_core.engine.maintenance import Maintenance
from allsource_core.engine.manifest import Manifest
from allsource_core.engine.memory import Memory
from allsource_core.engine.options import StoreOptions
from allsource_core.engine.recovery import RecoveryProgress, recover_log
from allsource_core.engine.removals import Removed
from allsource_core.engine.segments_in_use import SegmentsInUse
from allsource_core.engine.sequencer import Sequencer
from allsource_core.engine.tenants import TenantNumbers
from allsource_core.engine.visibility import Visibility

__all__ = ["OpenStore", "open_in_memory", "open_store"]

_log = logging.getLogger(__name__)


class OpenStore(msgspec.Struct, kw_only=True):
    """The parts of an open store.

    Attributes:
        directory, writer, maintenance, disk_watch: None for a store that is in memory alone; of one of an older format,
            which can only be read, the last two are None.
    """

    path: AppendPath
    catalog: Catalog
    sequencer: Sequencer
    visibility: Visibility
    cache: DecodedCache
    in_use: SegmentsInUse
    options: StoreOptions
    directory: StoreDirectory | None = None
    writer: LogWriter | None = None
    maintenance: Maintenance | None = None
    disk_watch: DiskWatch | None = None
    recovery_seconds: float = 0.0

    @property
    def maintenance_pid(self) -> int | None:
        """Of the process in which maintenance runs, if there is one at present."""
        return None if self.maintenance is None else self.maintenance.pid

    def seal(self) -> None:
        """Make segments of everything that is in memory."""
        if self.maintenance is not None:
            self.path.freeze()
            self.path.commit()
            self.maintenance.work()
            self.maintenance.empty_log()

    def compact(self) -> None:
        """Do what maintenance finds to do, now or when there is nothing else."""
        if self.maintenance is not None:
            self.maintenance.work(tidy=True)

    def close(self) -> None:
        """Make durable what is under way, and let go of everything."""
        try:
            if self.disk_watch is not None:
                self.disk_watch.stop()
            if self.maintenance is not None:
                self.maintenance.stop()
            self.path.close()
            if self.maintenance is not None:
                self.maintenance.name_newest_log_file()
        except OSError as error:
            # The next start does without, as after a crash.
            _log.warning("the manifest could not be replaced: %s", error)
        finally:
            self.cache.close()
            self.catalog.close()
            if self.directory is not None:
                self.directory.close()


def open_store(
    path: Path,
    filesystem: Filesystem,
    options: StoreOptions,
    clock: Clock,
    report: Callable[[RecoveryProgress], None],
) -> OpenStore:
    """Open the store in a directory. See `EventStore.open`."""
    started = time.monotonic()
    directory = StoreDirectory.open(path, filesystem)
    try:
        directory.check_files()
        writable = directory.format == DIRECTORY_FORMAT
        if writable:
            directory.make_missing_directories()
            rebuild_derived_files(directory, report)
        parts = _assemble(directory, filesystem, options, clock, report, writable=writable)
    except BaseException:
        directory.close()
        raise
    parts.recovery_seconds = time.monotonic() - started
    if parts.disk_watch is not None:
        parts.disk_watch.start()
    if parts.maintenance is not None:
        parts.maintenance.start()
    return parts


def _assemble(
    directory: StoreDirectory,
    filesystem: Filesystem,
    options: StoreOptions,
    clock: Clock,
    report: Callable[[RecoveryProgress], None],
    *,
    writable: bool,
) -> OpenStore:
    manifest, paths = directory.manifest, directory.paths
    memory = Memory(manifest.sealed_through + 1, manifest.recorded_at)
    numbers = TenantNumbers(manifest.tenants, manifest.next_tenant)
    pending = [removal for removal in manifest.removals if not removal.finished_at]
    sequencer = Sequencer(memory, numbers, Removed(pending))
    cache = DecodedCache(options.cache_bytes_max)
    in_use = SegmentsInUse(cache, options.in_use_bytes_max)
    catalog = Catalog(manifest, paths, filesystem, memory, cache, in_use)
    end = recover_log(
        paths,
        filesystem,
        first_file=manifest.first_log_file,
        newest_file=manifest.newest_log_file,
        sealed_through=manifest.sealed_through,
        accept=_acceptor(memory, sequencer, catalog, options),
        report=report,
        writable=writable,
    )
    if writable:
        # Not before: where the log is damaged, nothing is changed.
        directory.remove_stray_files()
    catalog.renew_view()
    visibility = Visibility(memory.next_position - 1)
    writer = LogWriter(
        paths,
        filesystem,
        file_bytes_max=options.log_file_bytes_max,
        files=end.files,
        next_number=end.next_number,
    )
    append_path = _append_path(sequencer, catalog, visibility, options, clock, writer)
    parts = OpenStore(
        path=append_path,
        catalog=catalog,
        sequencer=sequencer,
        visibility=visibility,
        cache=cache,
        in_use=in_use,
        options=options,
        directory=directory,
        writer=writer,
    )
    if not writable:
        append_path.writability.forbid(
            "old_format",
            f"the data directory has format {directory.format}; upgrade it with: allsource-admin store upgrade",
        )
        return parts
    parts.disk_watch = DiskWatch(paths.root, filesystem, append_path.writability, options.reserve_bytes)
    runner: JobRunner = ProcessRunner() if options.maintenance == "process" else InlineRunner(filesystem)
    parts.maintenance = Maintenance(
        append_path,
        catalog,
        sequencer,
        writer,
        runner=runner,
        options=options,
        clock=clock,
    )
    return parts


def _append_path(
    sequencer: Sequencer,
    catalog: Catalog,
    visibility: Visibility,
    options: StoreOptions,
    clock: Clock,
    writer: LogWriter | None,
) -> AppendPath:
    return AppendPath(
        sequencer,
        writer,
        visibility,
        options,
        clock,
        on_durable=catalog.note,
        on_frozen=catalog.renew_view,
        view=lambda: catalog.view,
    )


def _acceptor(
    memory: Memory, sequencer: Sequencer, catalog: Catalog, options: StoreOptions
) -> Callable[[Record, int], None]:
    """What takes the records of the log, one after the other."""
    names: dict[str, str] = {}
    share = names.setdefault

    def accept(record: Record, size: int) -> None:
        count = len(record) if isinstance(record, StoredEvents) else 1
        # As it was when the record was appended, so that memtables have the log files that were begun for them.
        if memory.would_pass(count, options.segment_rows_max) or memory.active.held_bytes > options.freeze_bytes:
            memory.freeze()
        if not isinstance(record, StoredEvents):
            sequencer.apply(record)
            sequencer.forget_undo(record)
            catalog.note(record)
            memory.active.add_control(record.recorded_at)
        else:
            if not record.tenant:
                memory.unnumbered_through = record.first_position + len(record) - 1
            record.tenant = sequencer.numbers.learn(record.tenant_id, record.tenant)
            # A decoder makes each name anew; equal ones are shared here.
            columns = record.columns
            record.tenant_id = share(record.tenant_id, record.tenant_id)
            columns.entity_ids = list(map(share, columns.entity_ids, columns.entity_ids))
            memory.active.add_recovered(record)
        memory.active.held_bytes += size
        memory.recorded_at = max(memory.recorded_at, record.recorded_at)

    return accept


def open_in_memory(options: StoreOptions, clock: Clock) -> OpenStore:
    """A store without files."""
    memory = Memory(1, 0)
    sequencer = Sequencer(memory, TenantNumbers(), Removed())
    visibility = Visibility(0)
    cache = DecodedCache(options.cache_bytes_max)
    in_use = SegmentsInUse(cache, options.in_use_bytes_max)
    # No file is ever made, so there is nothing that these would be asked for.
    catalog = Catalog(Manifest.new(), StorePaths(Path()), LocalFilesystem(), memory, cache, in_use)
    return OpenStore(
        path=_append_path(sequencer, catalog, visibility, options, clock, None),
        catalog=catalog,
        sequencer=sequencer,
        visibility=visibility,
        cache=cache,
        in_use=in_use,
        options=options,
    )
