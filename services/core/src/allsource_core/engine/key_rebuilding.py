"""Derived files that are missing or damaged: made anew from the segments when a store is opened."""

from __future__ import annotations

import logging
from collections.abc import Callable

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
from allsource_core.engine.segment_index import build_index
from allsource_core.engine.segment_reader import check_segment

__all__ = ["rebuild_derived_files"]

_log = logging.getLogger(__name__)


def rebuild_derived_files(directory: StoreDirectory, report: Callable[[RecoveryProgress], None]) -> None:
    """Make anew which of the indexes and key files are missing, or whose heads are damaged.

    Raises:
        CorruptionError: a segment is damaged.
        OSError: from the file system.
    """
    paths = directory.paths
    for entry in directory.manifest.segments:
        path = paths.segment_index(entry.file)
        if not path.exists() or path.stat().st_size != entry.index_bytes:
            _rebuild_index(directory, entry)
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


def _rebuild_index(directory: StoreDirectory, entry: SegmentEntry) -> None:
    """Make the index of a segment anew. It gets the bytes that it had, so the manifest stays true."""
    paths = directory.paths
    hasher = Hasher(bytes.fromhex(directory.manifest.hash_key))
    # Arrow may end the whole process over a damaged footer.
    check_segment(entry, paths.segment(entry.file))
    data = build_index(paths.segment(entry.file), hasher)
    path = paths.segment_index(entry.file)
    if google_crc32c.value(data) != entry.index_checksum:
        raise CorruptionError(paths.segment(entry.file), 0, "the index made of it is not the one that it had")
    _log.warning("the index of segment %d was missing or damaged, and was made anew", entry.file)
    aside = temporary(paths, path.name)
    directory.filesystem.write_new(aside, [data])
    directory.filesystem.rename(aside, path)
    directory.filesystem.sync_directory(path.parent)


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
