"""What is done beside serving: sealing, compaction, merging of key files. Each job reads files and makes files.

Files are made under temporary names and on disk when a job returns; whoever ordered it renames them and replaces the
manifest. A job that dies has changed nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.hashes import Hasher, Hashes
from allsource_core.engine.key_columns import Entities, columns_from_segment_rows, entities_of_rows
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.key_file_format import write_key_file
from allsource_core.engine.key_merging import merge_key_files
from allsource_core.engine.manifest import KeyFileEntry, SegmentEntry
from allsource_core.engine.record_rows import table_of_records
from allsource_core.engine.retention import RetentionRule, Shortenings, Unsealed, find_shortenings
from allsource_core.engine.sealing import RemovalSet, apply_removals, read_records, temporary
from allsource_core.engine.segment_columns import integers, one_chunk
from allsource_core.engine.segment_format import SCHEMA
from allsource_core.engine.segment_reader import check_segment
from allsource_core.engine.segment_writer import sort_rows, write_segment

__all__ = ["CompactJob", "Job", "JobResult", "MergeKeysJob", "RekeyJob", "RetentionJob", "SealJob", "run_job"]


class _Job(msgspec.Struct, kw_only=True, frozen=True):
    """What every job is told.

    Attributes:
        root: the data directory.
        hash_key: of the store, in hex.
        run: of `StorePaths`.
    """

    root: str
    hash_key: str
    run: str = ""


class _Removing(_Job, kw_only=True, frozen=True):
    """A job that applies removals: every one up to the position `removals_through`."""

    floors: list[tuple[int, str, int]] = []
    deleted: list[tuple[int, str, int]] = []
    erased: list[int] = []
    removed_tenants: list[int] = []
    removals_through: int


class SealJob(_Removing, tag="seal", kw_only=True, frozen=True):
    """Make a segment of the records from `first_position` to `last_position`, and what key files need of it.

    Attributes:
        log_files: numbers of the files that hold these records.
        tenants: (number, id), of all of them.
        files: numbers for the segment, its entities and its ids.
    """

    log_files: list[int]
    first_position: int
    last_position: int
    tenants: list[tuple[int, str]]
    files: tuple[int, int, int]


class CompactJob(_Removing, tag="compact", kw_only=True, frozen=True):
    """Make one segment of neighbouring ones, with removals applied. `file` is its number."""

    segments: list[SegmentEntry]
    file: int


class MergeKeysJob(_Job, tag="merge_keys", kw_only=True, frozen=True):
    """Make one key file of several. `file` is its number."""

    key_files: list[KeyFileEntry]
    file: int


class RekeyJob(_Job, tag="rekey", kw_only=True, frozen=True):
    """Make the key files of a segment anew. `files` are the numbers for entities and ids."""

    segment: SegmentEntry
    files: tuple[int, int]


class RetentionJob(_Job, tag="retention", kw_only=True, frozen=True):
    """Find what retention removes of events in segments. Makes no file."""

    segments: list[SegmentEntry]
    rules: list[RetentionRule]
    known: Unsealed


Job = SealJob | CompactJob | MergeKeysJob | RekeyJob | RetentionJob


class JobResult(msgspec.Struct, kw_only=True):
    """The files that a job made.

    Attributes:
        segment: None where no row was left.
        rows_removed: rows of events that removals took.
        shortenings: what retention asks for.
    """

    segment: SegmentEntry | None = None
    key_files: list[KeyFileEntry] = []
    rows_removed: int = 0
    shortenings: Shortenings = msgspec.field(default_factory=Shortenings)


def run_job(job: Job, filesystem: Filesystem) -> JobResult:
    """Do a job.

    Raises:
        CorruptionError: what it reads is damaged.
        OSError: from the file system.
    """
    match job:
        case SealJob():
            return _seal(job, filesystem)
        case CompactJob():
            return _compact(job, filesystem)
        case MergeKeysJob():
            return _merge_keys(job, filesystem)
        case RekeyJob():
            return _rekey(job, filesystem)
        case RetentionJob():
            return _find_shortenings(job)


def _seal(job: SealJob, filesystem: Filesystem) -> JobResult:
    paths = StorePaths(Path(job.root), job.run)
    records = read_records(paths, job.log_files, job.first_position, job.last_position)
    numbers = {tenant_id: number for number, tenant_id in job.tenants}
    table = table_of_records(records, numbers, dict(job.tenants))
    before = table.num_rows
    table = sort_rows(apply_removals(table, _removals(job)))
    if not table.num_rows:
        return JobResult(rows_removed=before)
    hasher = _hasher(job)
    # The filter and the key file know the same entities.
    entities = _entities(table, hasher)
    file, *key_numbers = job.files
    positions = job.first_position, job.last_position
    segment = _write(table, job, hasher, file, positions, filesystem, entities.hashes)
    key_files = _write_keys(table, entities, paths, hasher, key_numbers, filesystem)
    return JobResult(segment=segment, key_files=key_files, rows_removed=before - table.num_rows)


def _compact(job: CompactJob, filesystem: Filesystem) -> JobResult:
    paths = StorePaths(Path(job.root), job.run)
    table = pa.concat_tables([_read(paths, segment) for segment in job.segments])
    before = table.num_rows
    table = sort_rows(apply_removals(table, _removals(job)))
    if not table.num_rows:
        return JobResult(rows_removed=before)
    positions = job.segments[0].first_position, job.segments[-1].last_position
    segment = _write(table, job, _hasher(job), job.file, positions, filesystem)
    return JobResult(segment=segment, rows_removed=before - table.num_rows)


def _write(
    table: pa.Table,
    job: _Removing,
    hasher: Hasher,
    file: int,
    positions: tuple[int, int],
    filesystem: Filesystem,
    entities: Hashes | None = None,
) -> SegmentEntry:
    paths = StorePaths(Path(job.root), job.run)
    return write_segment(
        table,
        file=file,
        segment_path=temporary(paths, paths.segment(file).name),
        index_path=temporary(paths, paths.segment_index(file).name),
        filesystem=filesystem,
        hasher=hasher,
        first_position=positions[0],
        last_position=positions[1],
        removals_through=job.removals_through,
        entities=entities,
    )


def _read(paths: StorePaths, segment: SegmentEntry) -> pa.Table:
    """All rows of a segment, after a look at its checksum."""
    path = paths.segment(segment.file)
    check_segment(segment, path)
    return pq.read_table(path, memory_map=True, use_threads=False, page_checksum_verification=True).cast(SCHEMA)


def _entities(table: pa.Table, hasher: Hasher) -> Entities:
    return entities_of_rows(integers(one_chunk(table["tenant"])), table["entity_id"], hasher)


def _write_keys(
    table: pa.Table,
    entities_of_table: Entities,
    paths: StorePaths,
    hasher: Hasher,
    files: Sequence[int],
    filesystem: Filesystem,
) -> list[KeyFileEntry]:
    columns: dict[str, Any] = {
        name: integers(one_chunk(table[name])) for name in ("tenant", "version", "kind", "position")
    }
    entities, ids = columns_from_segment_rows(entities_of_table, event_id=table["event_id"], hasher=hasher, **columns)
    entities_file, ids_file = files
    path = temporary(paths, paths.key_file(entities_file, "entities").name)
    entries = [write_key_file(path, "entities", entities, file=entities_file, filesystem=filesystem)]
    if len(ids):
        path = temporary(paths, paths.key_file(ids_file, "ids").name)
        entries.append(write_key_file(path, "ids", ids, file=ids_file, filesystem=filesystem))
    return entries


def _merge_keys(job: MergeKeysJob, filesystem: Filesystem) -> JobResult:
    paths = StorePaths(Path(job.root), job.run)
    kind = job.key_files[0].kind
    files = [KeyFile(entry, paths.key_file(entry.file, kind)) for entry in job.key_files]
    path = temporary(paths, paths.key_file(job.file, kind).name)
    return JobResult(key_files=[merge_key_files(files, path, file=job.file, filesystem=filesystem)])


def _rekey(job: RekeyJob, filesystem: Filesystem) -> JobResult:
    paths = StorePaths(Path(job.root), job.run)
    table = sort_rows(_read(paths, job.segment))
    hasher = _hasher(job)
    return JobResult(key_files=_write_keys(table, _entities(table, hasher), paths, hasher, job.files, filesystem))


def _find_shortenings(job: RetentionJob) -> JobResult:
    paths = StorePaths(Path(job.root), job.run)
    return JobResult(shortenings=find_shortenings(paths, _hasher(job), job.segments, job.rules, job.known))


def _removals(job: _Removing) -> RemovalSet:
    return RemovalSet(job.floors, job.deleted, job.erased, job.removed_tenants)


def _hasher(job: _Job) -> Hasher:
    return Hasher(bytes.fromhex(job.hash_key))
