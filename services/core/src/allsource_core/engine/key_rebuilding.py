"""Derived files that are missing or damaged: made anew from the segments when a store is opened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import msgspec

from allsource_core.engine.directory import StoreDirectory
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.maintenance_jobs import RekeyJob, run_job
from allsource_core.engine.manifest import KeyFileEntry, SegmentEntry, write_manifest
from allsource_core.engine.recovery import RecoveryProgress
from allsource_core.engine.sealing import temporary
from allsource_core.engine.segment_index import FIRST_INDEX_FORMAT, INDEX_FORMAT, build_index, index_format_of
from allsource_core.engine.segment_reader import check_segment

__all__ = ["rebuild_derived_files"]

_log = logging.getLogger(__name__)


def rebuild_derived_files(directory: StoreDirectory, report: Callable[[RecoveryProgress], None]) -> None:
    """Make anew which of the indexes and key files are missing, or whose heads are damaged; and indexes of the format
    before this one, which the manifest then knows by their new checksums.

    Raises:
        CorruptionError: a segment is damaged.
        OSError: from the file system.
    """
    paths = directory.paths
    _rebuild_indexes(directory, report)
    for key_entry in directory.manifest.key_files:
        file = KeyFile(key_entry, paths.key_file(key_entry.file, key_entry.kind))
        try:
            file.fence()
        except CorruptionError as error:
            _log.warning("the key directory is made anew: %s", error)
            rebuild_keys(directory, report)
            return
        finally:
            file.close()


def _rebuild_indexes(directory: StoreDirectory, report: Callable[[RecoveryProgress], None]) -> None:
    paths, manifest = directory.paths, directory.manifest
    wrong = [entry for entry in manifest.segments if not _has_index(paths.segment_index(entry.file), entry)]
    total, done = sum(entry.bytes for entry in wrong), 0
    changed: dict[int, SegmentEntry] = {}
    for entry in wrong:
        report(RecoveryProgress("rebuilding_indexes", done, total, None))
        made = _rebuild_index(directory, entry)
        if made != entry:
            changed[entry.file] = made
        done += entry.bytes
    if changed:
        # Up to here a crash leaves new indexes under the old manifest. The next start makes them again.
        directory.manifest = msgspec.structs.replace(
            manifest,
            generation=manifest.generation + 1,
            segments=[changed.get(entry.file, entry) for entry in manifest.segments],
        )
        write_manifest(paths.manifest, directory.manifest, directory.filesystem)


def _has_index(path: Path, entry: SegmentEntry) -> bool:
    """Whether an index is there, in its size, and of this release's format."""
    try:
        if path.stat().st_size != entry.index_bytes:
            return False
        with path.open("rb") as file:
            # One that is no index at all is damaged: whoever reads it makes it anew.
            return index_format_of(file.read(12)) != FIRST_INDEX_FORMAT
    except FileNotFoundError:
        return False


def _rebuild_index(directory: StoreDirectory, entry: SegmentEntry) -> SegmentEntry:
    """Make the index of a segment anew. It gets the bytes that it had, or those of this release's format if what it had
    was of the one before.

    Returns:
        The entry that is true of it.
    """
    paths = directory.paths
    hasher = Hasher(bytes.fromhex(directory.manifest.hash_key))
    segment, path = paths.segment(entry.file), paths.segment_index(entry.file)
    # Arrow may end the whole process over a damaged footer.
    check_segment(entry, segment)
    data = build_index(segment, hasher)
    is_the_same = google_crc32c.value(data) == entry.index_checksum
    if not is_the_same:
        before = build_index(segment, hasher, index_format=FIRST_INDEX_FORMAT)
        if google_crc32c.value(before) != entry.index_checksum:
            raise CorruptionError(segment, 0, "the index made of it is not the one that it had")
    aside = temporary(paths, path.name)
    directory.filesystem.write_new(aside, [data])
    directory.filesystem.rename(aside, path)
    directory.filesystem.sync_directory(path.parent)
    if is_the_same:
        _log.warning("the index of segment %d was missing or damaged, and was made anew", entry.file)
        return entry
    _log.info("the index of segment %d was made anew, in format %d", entry.file, INDEX_FORMAT)
    return msgspec.structs.replace(entry, index_bytes=len(data), index_checksum=google_crc32c.value(data))


def rebuild_keys(directory: StoreDirectory, report: Callable[[RecoveryProgress], None]) -> None:
    """Make all key files anew, one or two a segment; merging makes fewer of them later."""
    manifest, paths, filesystem = directory.manifest, directory.paths, directory.filesystem
    total, done, number = sum(entry.bytes for entry in manifest.segments), 0, manifest.next_file
    made: list[KeyFileEntry] = []
    for entry in manifest.segments:
        report(RecoveryProgress("rebuilding_keys", done, total, None))
        job = RekeyJob(
            root=str(paths.root),
            hash_key=manifest.hash_key,
            run=paths.run,
            segment=entry,
            files=(number, number + 1),
        )
        number += 2
        for key_entry in run_job(job, filesystem).key_files:
            path = paths.key_file(key_entry.file, key_entry.kind)
            filesystem.rename(temporary(paths, path.name), path)
            made.append(key_entry)
        done += entry.bytes
    filesystem.sync_directory(paths.keys)
    old = manifest.key_files
    directory.manifest = msgspec.structs.replace(
        manifest, generation=manifest.generation + 1, key_files=made, next_file=number
    )
    write_manifest(paths.manifest, directory.manifest, filesystem)
    for key_entry in old:
        filesystem.remove(paths.key_file(key_entry.file, key_entry.kind))
