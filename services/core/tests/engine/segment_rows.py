"""Rows of segments as a test thinks of them, and segments that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from allsource_core.engine.events import Event
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.markers import Marker
from allsource_core.engine.segment_format import ERASED, EVENT, SCHEMA, SHORTENED
from allsource_core.engine.segment_reader import OpenFiles, SegmentReader
from allsource_core.engine.segment_writer import write_segment
from allsource_core.engine.tenants import TenantKey

HASHER = Hasher(b"k" * 32)
TENANT = TenantKey(1, "tenant-1")
START = 1_700_000_000_000_000


class Row(msgspec.Struct, frozen=True):
    """A row of a segment as a test thinks of it."""

    tenant: int
    entity_id: str
    version: int
    position: int
    kind: int = EVENT
    event_type: str = "order.placed"
    payload: str = "{}"
    metadata: str | None = None
    tags: tuple[str, ...] = ()
    timestamp: int | None = None
    recorded_at: int = START
    event_id: bytes | None = None

    @property
    def tenant_id(self) -> str:
        return f"tenant-{self.tenant}"

    def event(self) -> Event:
        return Event(
            self.event_type,
            self.entity_id,
            self.tenant_id,
            self.payload.encode(),
            None if self.metadata is None else self.metadata.encode(),
            self.tags,
            self.recorded_at if self.timestamp is None else self.timestamp,
            self.recorded_at,
            self.version,
            self.position,
            self.event_id,
            self.kind == ERASED,
        )

    def marker(self) -> Marker:
        return Marker(self.version, self.position, self.kind, self.payload.encode(), self.recorded_at)


def table_of(rows: Sequence[Row]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [getattr(row, name) for row in rows] for name in SCHEMA.names if name != "tags"
    }
    columns["tags"] = [list(row.tags) or None for row in rows]
    return pa.table(columns, schema=SCHEMA)


class Segment:
    """A segment in a directory, with the rows that it was made from."""

    def __init__(self, root: Path, rows: Sequence[Row], file: int = 1, open_files: OpenFiles | None = None) -> None:
        self.paths = StorePaths(root)
        self.paths.segments.mkdir(exist_ok=True)
        self.path, self.index_path = self.paths.segment(file), self.paths.segment_index(file)
        self.rows = sorted(rows, key=lambda row: (row.tenant, row.entity_id.encode(), row.version, row.kind))
        self.by_position = sorted((row for row in rows if row.kind < SHORTENED), key=lambda row: row.position)
        self.open_files = OpenFiles() if open_files is None else open_files
        self.entry = write_segment(
            table_of(rows),
            file=file,
            segment_path=self.path,
            index_path=self.index_path,
            filesystem=LocalFilesystem(),
            hasher=HASHER,
            first_position=min(row.position for row in rows),
            last_position=max(row.position for row in rows),
            removals_through=7,
        )

    def reader(self) -> SegmentReader:
        return SegmentReader(self.entry, self.paths, HASHER, self.open_files)


def usual_rows(count: int, entities: int = 7, tenants: int = 2) -> list[Row]:
    """Events as they arrive: each entity has a version after the other; every third one has all that is optional."""
    versions: dict[tuple[int, str], int] = {}
    rows = []
    for number in range(count):
        key = (number % tenants + 1, f"entity-{number % entities}")
        versions[key] = versions.get(key, 0) + 1
        optional: dict[str, Any] = {}
        if number % 3 == 0:
            optional = {
                "metadata": f'{{"user":{number}}}',
                "tags": ("third", f"tag-{number % 5}"),
                "timestamp": START - number,
                "event_id": number.to_bytes(16, "big"),
            }
        rows.append(
            Row(
                *key,
                versions[key],
                number + 1,
                event_type=f"type-{number % 4}",
                payload=f'{{"n":{number}}}',
                recorded_at=START + number // 10,
                **optional,
            )
        )
    return rows
