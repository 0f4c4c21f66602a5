"""Reading segments: one entity's rows, or everything at once. docs/storage-format.md, Segment."""

from __future__ import annotations

import errno
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq

from allsource_core.engine.decoded_segment import DecodedSegment
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.hashes import Hash, Hasher
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.row_group import COLUMNS, EntityRows, RowGroup
from allsource_core.engine.segment_format import OPTIONAL_COLUMNS, SCHEMA
from allsource_core.engine.segment_index import SegmentIndex, build_index
from allsource_core.engine.tenants import TenantKey

__all__ = ["OpenFiles", "SegmentReader", "check_segment"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_DICTIONARY_COLUMNS: Final = ["tenant_id", "event_type"]


class _OpenFile:
    """A segment whose footer is parsed. Its reads take turns: nobody promises that Arrow's reader allows others."""

    def __init__(self, mapped: pa.Buffer) -> None:
        self.lock = threading.Lock()
        self.parquet = _parquet(mapped)
        self.leaves = {path[0]: leaf for leaf, path in enumerate(self.parquet.reader.column_paths)}

    def read(self, number: int, names: Sequence[str]) -> pa.Table:
        leaves = self.leaves
        wanted = [leaves[name] for name in names]
        with self.lock:
            table: pa.Table = self.parquet.reader.read_row_groups([number], wanted, use_threads=False)
        return table


class OpenFiles:
    """The parsed footers of the segments that were read last: 1.3 MB of anonymous memory each, 0.8 ms to parse.

    Args:
        files_max: how many to keep.
    """

    def __init__(self, files_max: int = 64) -> None:
        self._files_max = files_max
        # Reentrant: a finaliser may run, and drop its file, wherever memory is allocated.
        self._lock = threading.RLock()
        self._files: OrderedDict[object, _OpenFile] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def get(self, owner: object, open_: Callable[[], _OpenFile]) -> _OpenFile:
        """The open file of an owner, opened if need be."""
        with self._lock:
            file = self._files.get(owner)
            if file is not None:
                self._files.move_to_end(owner)
                return file
        # Two threads may open the same file at once: one of the two is dropped, which costs no more than waiting.
        file = open_()
        with self._lock:
            self._files[owner] = file
            while len(self._files) > self._files_max:
                self._files.popitem(last=False)
        return file

    def drop(self, owner: object) -> None:
        """Forget the file of an owner. Whoever reads it goes on."""
        with self._lock:
            self._files.pop(owner, None)


class _Files:
    """The two files of a segment, and whether they go when the last reader does."""

    def __init__(self, segment: Path, index: Path, open_files: OpenFiles) -> None:
        self.segment = segment
        self.index = index
        self.open_files = open_files
        self.obsolete = False

    def release(self) -> None:
        self.open_files.drop(self)
        if self.obsolete:
            for path in (self.segment, self.index):
                try:
                    path.unlink(missing_ok=True)
                except OSError:
                    # No manifest names it, so the next start removes it.
                    continue


class SegmentReader:
    """Reads one segment. Nothing is opened before the first read, which verifies the checksums of both files; later
    reads verify those of the pages they decode. Every method may be called by several threads.

    Args:
        entry: of the manifest.
        paths: where the store is.
        hasher: of the store.
        open_files: shared by the readers of a store.

    Raises (each method that reads):
        CorruptionError: a file is damaged or missing.
        OSError: a file can't be opened or mapped at present: there are too many descriptors, say.
        MemoryError: there is not enough.
    """

    def __init__(self, entry: SegmentEntry, paths: StorePaths, hasher: Hasher, open_files: OpenFiles) -> None:
        self.entry = entry
        self._hasher = hasher
        self._files = _Files(paths.segment(entry.file), paths.segment_index(entry.file), open_files)
        self._open_files = open_files
        self._lock = threading.Lock()
        self._index: SegmentIndex | None = None
        self._mapped: pa.Buffer | None = None
        self._finalizer = weakref.finalize(self, self._files.release)

    @property
    def index(self) -> SegmentIndex:
        """The segment's index, verified and mapped."""
        index = self._index
        if index is None:
            with self._lock:
                if self._index is None:
                    self._index = self._read_index()
                index = self._index
        return index

    @property
    def has_index(self) -> bool:
        """Whether the index was read already."""
        return self._index is not None

    def _read_index(self) -> SegmentIndex:
        """Map the index; one that is damaged is made anew of the segment, in memory: 0.04 to 0.3 s."""
        path, entry = self._files.index, self.entry
        try:
            mapped = _map_verified(path, entry.index_bytes, entry.index_checksum)
            return SegmentIndex(memoryview(mapped), path)
        except CorruptionError as error:
            check_segment(entry, self._files.segment)
            data = build_index(self._files.segment, self._hasher)
            if google_crc32c.value(data) != entry.index_checksum:
                raise
            _log.warning("an index is made anew: %s", error)
            return SegmentIndex(data, path)

    def may_contain(self, hashed: Hash) -> bool:
        """Whether the entity, type or tag of this hash (`Hasher`) may be here; False is certain. 1 µs, no read."""
        return self.index.may_contain(hashed)

    def entity_rows(
        self, tenant: TenantKey, entity_id: str, min_version: int = 1, max_version: int | None = None
    ) -> EntityRows:
        """What is here of one entity: 0.3 ms if all is in one row group, a few µs if the filter knows of nothing.

        Args:
            tenant, entity_id: whose.
            min_version, max_version: bounds, inclusive, of events and of markers.
        """
        found = EntityRows([], [])
        if self.may_contain(self._hasher.entity(tenant.number, entity_id)):
            for number in self.index.row_groups(tenant.number, entity_id, min_version, max_version):
                rows = self.row_group(number).entity(tenant, entity_id, min_version, max_version)
                found.events.extend(rows.events)
                found.markers.extend(rows.markers)
        return found

    def row_group(self, number: int) -> RowGroup:
        """A row group, by its number. 0.3 ms; `DecodedCache` keeps them."""
        index = self.index
        tenant = index.tenant_of(number)
        names = [*COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in index.columns)]
        if tenant is None:
            names.append("tenant")
        return self._read(lambda: RowGroup(self._open().read(number, names), tenant))

    def decode(self) -> DecodedSegment:
        """All events, in the order of positions. 40 ms for 262,144 events; `DecodedCache` keeps them."""
        mapped = self.mapped()
        left_out = {name for name in OPTIONAL_COLUMNS if name not in self.index.columns}
        names = [name for name in SCHEMA.names if name not in left_out]

        # Not the file of the readers of entities: they would wait, and a footer that is used once would be kept.
        table: pa.Table = self._read(lambda: _parquet(mapped).read(columns=names, use_threads=False))
        if table.num_rows != self.entry.rows:
            raise CorruptionError(self._files.segment, 0, f"it has {table.num_rows} rows, not {self.entry.rows}")
        return DecodedSegment(table)

    def columns(self, *names: str) -> pa.Table:
        """These columns of all rows, in the order of the segment. Nothing of it is kept."""
        mapped = self.mapped()
        table: pa.Table = self._read(lambda: _parquet(mapped).read(columns=list(names), use_threads=False))
        return table

    @property
    def is_obsolete(self) -> bool:
        """Whether only those read it who did so before it was replaced."""
        return self._files.obsolete

    def mark_obsolete(self) -> None:
        """No manifest names the segment any more: its files go once this reader is closed or nobody has it."""
        self._files.obsolete = True
        if not self._finalizer.alive:
            self._files.release()

    def close(self) -> None:
        """Let go of the files. Reads under way end as they would have; others must not begin."""
        self._finalizer()

    def mapped(self) -> pa.Buffer:
        """The segment's file, verified. What is read from it opens nothing."""
        mapped = self._mapped
        if mapped is None:
            with self._lock:
                if self._mapped is None:
                    entry = self.entry
                    self._mapped = _map_verified(self._files.segment, entry.bytes, entry.checksum)
                mapped = self._mapped
        return mapped

    def _open(self) -> _OpenFile:
        mapped = self.mapped()
        return self._open_files.get(self._files, lambda: _OpenFile(mapped))

    def _read(self, read: Callable[[], T]) -> T:
        # First, since what goes wrong here may be of the moment.
        self.mapped()
        try:
            return read()
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, LookupError) as error:
            raise CorruptionError(self._files.segment, 0, f"it can't be read: {error}") from error


def check_segment(entry: SegmentEntry, path: Path) -> None:
    """Compare the checksum of a segment's file. Raises CorruptionError: it is damaged or missing; OSError."""
    _map_verified(path, entry.bytes, entry.checksum)


def _map_verified(path: Path, size: int, checksum: int) -> pa.Buffer:
    """Map a file of this size and checksum into memory. The mapping lasts as long as the buffer; no descriptor does.

    Raises:
        CorruptionError: it is missing, or another one.
        OSError: the system refuses it at present, which says nothing of the file.
    """
    try:
        with pa.memory_map(str(path)) as file:
            mapped = file.read_buffer()
    except FileNotFoundError:
        raise CorruptionError(path, 0, "the file is missing") from None
    except OSError as error:
        # Arrow names no number where mapping fails.
        number = error.errno or errno.ENOMEM
        raise OSError(number, os.strerror(number), str(path)) from error
    if mapped.size != size:
        raise CorruptionError(path, 0, f"it has {mapped.size} bytes, not {size}")
    if google_crc32c.value(mapped) != checksum:
        raise CorruptionError(path, 0, "its checksum does not match")
    return mapped


def _parquet(mapped: pa.Buffer) -> Any:
    # Over a buffer a row group takes 0.2 ms, over Arrow's own mapped file 0.1 ms more: that advises the kernel of every
    # column.
    return pq.ParquetFile(
        pa.BufferReader(mapped),
        read_dictionary=_DICTIONARY_COLUMNS,
        page_checksum_verification=True,
        pre_buffer=False,
    )
