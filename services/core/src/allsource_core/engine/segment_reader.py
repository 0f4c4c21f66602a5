"""Reading segments: one entity's rows, or everything at once. docs/storage-format.md, Segment."""

from __future__ import annotations

import logging
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Final

import google_crc32c
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from allsource_core.engine import segment_columns as columns
from allsource_core.engine.decoded_segment import DecodedSegment
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.events import Event
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.segment_format import ERASED, OPTIONAL_COLUMNS, SCHEMA, SHORTENED
from allsource_core.engine.segment_index import SegmentIndex, build_index

__all__ = ["EntityRows", "Marker", "OpenFiles", "SegmentReader", "check_segment"]

_log = logging.getLogger(__name__)

_ENTITY_COLUMNS: Final = ("entity_id", "version", "position", "kind", "event_type", "payload", "recorded_at")
_DICTIONARY_COLUMNS: Final = ["tenant_id", "event_type"]


class Marker(msgspec.Struct, frozen=True, gc=False):
    """That all events of an entity up to `version` are removed.

    Attributes:
        version: the last one that is removed, and must not be assigned again.
        position: of the record that says so.
        kind: `SHORTENED` or `REMOVED`.
        payload: for `SHORTENED` the state that the removed events made.
        recorded_at: microseconds since the epoch.
    """

    version: int
    position: int
    kind: int
    payload: bytes
    recorded_at: int


class EntityRows(msgspec.Struct, frozen=True, gc=False):
    """What a segment has of an entity: events, and markers of removals; both by ascending version."""

    events: list[Event]
    markers: list[Marker]


_NOTHING: Final = EntityRows([], [])


class _OpenFile:
    """A segment whose footer is parsed. Its reads take turns: nobody promises that Arrow's reader allows others."""

    def __init__(self, mapped: pa.Buffer) -> None:
        self.lock = threading.Lock()
        self.parquet = _parquet(mapped)
        self.leaves = {path[0]: leaf for leaf, path in enumerate(self.parquet.reader.column_paths)}

    def read(self, groups: range, names: Sequence[str]) -> pa.Table:
        leaves = self.leaves
        wanted = [leaves[name] for name in names]
        with self.lock:
            table: pa.Table = self.parquet.reader.read_row_groups(list(groups), wanted, use_threads=False)
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

    def verify(self) -> None:
        """Compare the checksums of both files. Raises CorruptionError, also where the index could be made anew."""
        self._map()
        _map_verified(self._files.index, self.entry.index_bytes, self.entry.index_checksum)

    def may_contain(self, hash16: bytes) -> bool:
        """Whether the entity, type or tag of this hash (`Hasher`) may be here; False is certain. 1 µs, no read."""
        return self.index.may_contain(hash16)

    def may_match(self, tenant: int, query: EventQuery) -> bool:
        """Whether an event of a tenant that the query selects may be here; False is certain. No read."""
        after, before = query.after_position, query.before_position
        if self.entry.last_position <= after or (before is not None and self.entry.first_position >= before):
            return False
        index, hasher = self.index, self._hasher
        return (
            index.may_reach(query.since, query.until)
            and (query.entity_id is None or index.may_contain(hasher.entity(tenant, query.entity_id)))
            and (query.event_type is None or index.may_contain(hasher.event_type(tenant, query.event_type)))
            and all(index.may_contain(hasher.tag(tenant, tag)) for tag in query.tags)
        )

    def entity_rows(
        self, tenant: int, tenant_id: str, entity_id: str, min_version: int = 1, max_version: int | None = None
    ) -> EntityRows:
        """What is here of one entity: 0.3 ms if all is in one row group, a few µs if the filter knows of nothing.

        Args:
            tenant, tenant_id: number and id of the tenant.
            min_version, max_version: bounds, inclusive, of events and of markers.
        """
        index = self.index
        if not index.may_contain(self._hasher.entity(tenant, entity_id)):
            return _NOTHING
        groups = index.row_groups(tenant, entity_id, min_version, max_version)
        if not groups:
            return _NOTHING
        names = [*_ENTITY_COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in index.columns)]
        if not index.is_of_one_tenant(tenant, groups):
            names.append("tenant")
        table = self._read(lambda: self._open().read(groups, names))
        chunks = dict(zip(table.column_names, map(columns.one_chunk, table.columns), strict=True))
        low, high = 0, table.num_rows
        if "tenant" in chunks:
            tenants = columns.integers(chunks["tenant"])
            low, high = np.searchsorted(tenants, (tenant, tenant + 1)).tolist()
        low, high = columns.entity_range(chunks["entity_id"], entity_id, low, high)
        versions = columns.integers(chunks["version"])[low:high]
        high = low + int(versions.size if max_version is None else np.searchsorted(versions, max_version, "right"))
        low += int(np.searchsorted(versions, min_version))
        if low >= high:
            return _NOTHING
        rows = {name: chunk.slice(low, high - low) for name, chunk in chunks.items()}
        return _entity_rows(rows, tenant_id, entity_id)

    def event_at(self, tenant: int, tenant_id: str, position: int) -> Event | None:
        """The event at a position, if it is this tenant's; without decoding the segment, 2 ms."""
        starts = self.index.row_group_rows
        table = self._read(lambda: self._open().read(range(len(starts)), ["position"]))
        found = np.flatnonzero(columns.integers(columns.one_chunk(table["position"])) == position)
        # A marker of a removal has a position too: that of its record, which is no event's.
        if not found.size:
            return None
        row = int(found[0])
        group = bisect_right(starts, row) - 1
        names = [*_ENTITY_COLUMNS, "tenant", *(name for name in OPTIONAL_COLUMNS if name in self.index.columns)]
        table = self._read(lambda: self._open().read(range(group, group + 1), names)).slice(row - starts[group], 1)
        if table["tenant"][0].as_py() != tenant:
            return None
        rows = {name: columns.one_chunk(table[name]) for name in names}
        events = _entity_rows(rows, tenant_id, rows["entity_id"][0].as_py()).events
        return events[0] if events else None

    def decode(self) -> DecodedSegment:
        """All events, in the order of positions. 40 ms for 262,144 events; `DecodedCache` keeps them."""
        mapped = self._map()
        left_out = {name for name in OPTIONAL_COLUMNS if name not in self.index.columns}
        names = [name for name in SCHEMA.names if name not in left_out]

        def read() -> pa.Table:
            # Not the file of the readers of entities: they would wait, and a footer that is used once would be kept.
            table: pa.Table = _parquet(mapped).read(columns=names, use_threads=False)
            return table

        table = self._read(read)
        if table.num_rows != self.entry.rows:
            raise CorruptionError(self._files.segment, 0, f"it has {table.num_rows} rows, not {self.entry.rows}")
        return DecodedSegment(table)

    def mark_obsolete(self) -> None:
        """No manifest names the segment any more: its files go once this reader is closed or nobody has it."""
        self._files.obsolete = True
        if not self._finalizer.alive:
            self._files.release()

    def close(self) -> None:
        """Let go of the files. Reads under way end as they would have; others must not begin."""
        self._finalizer()

    def _map(self) -> pa.Buffer:
        mapped = self._mapped
        if mapped is None:
            with self._lock:
                if self._mapped is None:
                    entry = self.entry
                    self._mapped = _map_verified(self._files.segment, entry.bytes, entry.checksum)
                mapped = self._mapped
        return mapped

    def _open(self) -> _OpenFile:
        mapped = self._map()
        return self._open_files.get(self._files, lambda: _OpenFile(mapped))

    def _read(self, read: Callable[[], pa.Table]) -> pa.Table:
        try:
            return read()
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, LookupError) as error:
            raise CorruptionError(self._files.segment, 0, f"it can't be read: {error}") from error


def check_segment(entry: SegmentEntry, path: Path) -> None:
    """Compare the checksum of a segment's file. Raises CorruptionError: it is damaged or missing."""
    _map_verified(path, entry.bytes, entry.checksum)


def _map_verified(path: Path, size: int, checksum: int) -> pa.Buffer:
    """Map a file of this size and checksum into memory. The mapping lasts as long as the buffer; no descriptor does."""
    try:
        with pa.memory_map(str(path)) as file:
            mapped = file.read_buffer()
    except FileNotFoundError:
        raise CorruptionError(path, 0, "the file is missing") from None
    except (pa.ArrowException, OSError) as error:
        raise CorruptionError(path, 0, f"it can't be read: {error}") from error
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


def _entity_rows(rows: dict[str, Any], tenant_id: str, entity_id: str) -> EntityRows:
    kinds = columns.integers(rows["kind"])
    if not kinds.any():
        return EntityRows(_events(rows, tenant_id, entity_id, repeat(False)), [])
    is_event = kinds < SHORTENED
    markers = _markers({name: array.filter(pa.array(~is_event)) for name, array in rows.items()})
    events = {name: array.filter(pa.array(is_event)) for name, array in rows.items()}
    return EntityRows(_events(events, tenant_id, entity_id, (kinds[is_event] == ERASED).tolist()), markers)


def _events(rows: dict[str, Any], tenant_id: str, entity_id: str, erased: Any) -> list[Event]:
    recorded_at = times = columns.integers(rows["recorded_at"]).tolist()
    if "timestamp" in rows:
        times = columns.timestamps(rows["timestamp"], rows["recorded_at"]).tolist()
    return list(
        map(
            Event,
            columns.types(rows["event_type"]),
            repeat(entity_id),
            repeat(tenant_id),
            columns.binaries(rows["payload"]),
            columns.binaries(rows["metadata"]) if "metadata" in rows else columns.NONE,
            columns.tag_tuples(rows["tags"]) if "tags" in rows else columns.NO_TAGS,
            times,
            recorded_at,
            columns.integers(rows["version"]).tolist(),
            columns.integers(rows["position"]).tolist(),
            columns.texts(rows["event_id"]) if "event_id" in rows else columns.NONE,
            erased,
        )
    )


def _markers(rows: dict[str, Any]) -> list[Marker]:
    return list(
        map(
            Marker,
            columns.integers(rows["version"]).tolist(),
            columns.integers(rows["position"]).tolist(),
            columns.integers(rows["kind"]).tolist(),
            columns.binaries(rows["payload"]),
            columns.integers(rows["recorded_at"]).tolist(),
        )
    )
