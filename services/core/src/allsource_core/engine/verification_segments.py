"""Verification of one segment: its bytes, its pages, its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import google_crc32c
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.segment_columns import binaries, content_bytes, integers, one_chunk
from allsource_core.engine.segment_format import (
    FORMAT_VERSION,
    METADATA_KEY,
    ROW_GROUP_ROWS,
    SCHEMA,
    SegmentMetadata,
)
from allsource_core.engine.verification_bodies import faulty_bodies
from allsource_core.engine.verification_findings import Area, Finding, Reporter, first_ones
from allsource_core.engine.verification_places import UNREADABLE, chunk_offset, damaged_places, footer_offset
from allsource_core.engine.verification_rows import SegmentRows, faults_of_rows

__all__ = ["SegmentVerification"]

DROP: Final = "restore it from a backup, or give its events up with repair --drop-segment {}"
_PIECE_BYTES: Final = 1024 * 1024
_KEPT: Final = [name for name in SCHEMA.names if name not in ("payload", "metadata", "tags")]


class SegmentVerification:
    """Reads one segment whole, a row group at a time.

    Memory: a row group with its bodies, and about 100 bytes a row.

    Args:
        paths: of the store.
        entry: what the manifest says of the segment.
        tenants: number to id of all tenants that may have rows; None for an id that is not known any more.

    Attributes:
        rows: what is needed beyond the segment; None where it can't be trusted.
    """

    def __init__(self, paths: StorePaths, entry: SegmentEntry, tenants: dict[int, str | None]) -> None:
        self._path = paths.segment(entry.file)
        self._entry = entry
        self._tenants = tenants
        self._reporter = Reporter(paths)
        self.rows: SegmentRows | None = None

    def findings(self) -> Iterator[Finding]:
        """Everything that is wrong with it."""
        entry, path = self._entry, self._path
        try:
            size, checksum = _size_and_checksum(path)
        except FileNotFoundError:
            yield self._error("the file is missing")
            return
        if size != entry.bytes:
            yield self._error(f"it has {size} bytes, not {entry.bytes}", offset=min(size, entry.bytes))
            return
        if checksum != entry.checksum:
            for offset, text in damaged_places(path):
                yield self._error(f"the checksum of the file does not match: {text}", offset=offset)
            return
        try:
            yield from self._content()
        except MemoryError:
            raise
        except UNREADABLE as error:
            self.rows = None
            yield self._error(f"it can't be read: {_first_line(error)}")

    def _error(self, text: str, offset: int = 0) -> Finding:
        remedy = DROP.format(self._entry.file)
        return self._reporter.error(Area.SEGMENT, self._path, text, remedy, offset=offset, number=self._entry.file)

    def _content(self) -> Iterator[Finding]:
        entry = self._entry
        with pq.ParquetFile(self._path, page_checksum_verification=True, pre_buffer=False) as file:
            metadata: Any = file.metadata
            if not file.schema_arrow.remove_metadata().equals(SCHEMA):
                yield self._error("its columns are not those of a segment", offset=footer_offset(self._path))
                return
            text = _fault_of_metadata(metadata.metadata or {}, entry)
            if text is not None:
                yield self._error(text, offset=footer_offset(self._path))
            if metadata.num_rows != entry.rows:
                yield self._error(f"it has {metadata.num_rows} rows, not {entry.rows}")
            tables, offsets, starts, content = [], [], [0], 0
            for group in range(metadata.num_row_groups):
                offset = _group_offset(metadata.row_group(group))
                table = file.read_row_group(group, use_threads=False).cast(SCHEMA)
                if table.num_rows > ROW_GROUP_ROWS:
                    yield self._error(f"a row group has {table.num_rows} rows", offset=offset)
                table.validate(full=True)
                yield from self._bodies(table, starts[-1], offset)
                tables.append(table.select(_KEPT))
                offsets.append(offset)
                starts.append(starts[-1] + table.num_rows)
                content += content_bytes(table)
        if not tables:
            yield self._error("it has no rows")
            return
        if content != entry.content_bytes:
            yield self._error(f"its rows have {content} bytes, not {entry.content_bytes}")
        rows = SegmentRows(pa.concat_tables(tables))
        ends = np.array(starts[1:])

        def offset_of(row: int) -> int:
            return offsets[int(np.searchsorted(ends, row, side="right"))]

        faults = faults_of_rows(rows, entry, self._tenants)
        found = list(
            first_ones(
                faults,
                lambda fault: self._error(fault[1], offset=offset_of(fault[0])),
                lambda count: self._error(f"{count} more faults of its rows"),
            )
        )
        yield from found
        self.rows = rows

    def _bodies(self, table: pa.Table, first_row: int, offset: int) -> Iterator[Finding]:
        positions = integers(one_chunk(table["position"]))
        for name in ("payload", "metadata"):
            bodies = [body for chunk in table[name].chunks for body in binaries(chunk)]
            faults = ((name, *fault) for fault in faulty_bodies(bodies, objects=name == "metadata"))
            yield from first_ones(
                faults,
                lambda fault: self._error(
                    f"the {fault[0]} at position {positions[fault[1]]} is no JSON in one line: {fault[2]}",
                    offset=offset,
                ),
                lambda count: self._error(f"{count} more of these", offset=offset),
            )


def _size_and_checksum(path: Path) -> tuple[int, int]:
    size, checksum = 0, 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            size += len(piece)
            checksum = google_crc32c.extend(checksum, piece)
    return size, checksum


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _group_offset(group: Any) -> int:
    return min(chunk_offset(group.column(leaf)) for leaf in range(group.num_columns))


def _fault_of_metadata(metadata: dict[bytes, bytes], entry: SegmentEntry) -> str | None:
    """What is wrong with what the file says of itself."""
    data = metadata.get(METADATA_KEY)
    if data is None:
        return "it does not say which positions it stands for"
    try:
        said = msgspec.json.decode(data, type=SegmentMetadata)
    except msgspec.DecodeError as error:
        return f"what it says of itself can't be decoded: {error}"
    positions = said.first_position, said.last_position
    if said.format != FORMAT_VERSION or positions != (entry.first_position, entry.last_position):
        return f"it says that it has format {said.format} and positions {positions[0]} to {positions[1]}"
    if said.removals_through > entry.removals_through:
        return f"it says that removals up to {said.removals_through} were applied to it"
    return None
