"""What a segment looks like inside. docs/storage-format.md, Segment."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pyarrow as pa

__all__ = [
    "COLUMN_BYTES_MAX",
    "ERASED",
    "EVENT",
    "FORMAT_VERSION",
    "METADATA_KEY",
    "OPTIONAL_COLUMNS",
    "REMOVED",
    "ROW_GROUP_BYTES_MAX",
    "ROW_GROUP_ROWS",
    "SCHEMA",
    "SEGMENT_CONTENT_BYTES",
    "SEGMENT_ROWS_MAX",
    "SHORTENED",
    "SORT_KEYS",
    "SegmentMetadata",
]

FORMAT_VERSION: Final = 2

EVENT: Final = 0
ERASED: Final = 1
SHORTENED: Final = 2
REMOVED: Final = 3

ROW_GROUP_ROWS: Final = 2048
"""At most so many rows in a row group: what has to be decoded to read one entity, 0.2 ms."""
ROW_GROUP_BYTES_MAX: Final = 8 * 1024 * 1024
"""At most so many bytes of payload, metadata and tags in a row group, unless it is one row."""
SEGMENT_ROWS_MAX: Final = 262_144
SEGMENT_CONTENT_BYTES: Final = 64 * 1024 * 1024
"""A memtable of more becomes a segment, and segments of more together are not merged: whoever reads in the order of
positions decodes a segment whole, and a job holds it a few times. How small zstd makes it says nothing about that."""
COLUMN_BYTES_MAX: Final = 2**31 - 1
"""Of payloads, of metadata and of tags in one segment: Arrow's strings have offsets of 32 bits."""

_TIME: Final = pa.timestamp("us", tz="UTC")

_FIELDS: Final[list[pa.Field[Any]]] = [
    pa.field("tenant", pa.int32(), nullable=False),
    pa.field("tenant_id", pa.string(), nullable=False),
    pa.field("entity_id", pa.string(), nullable=False),
    pa.field("version", pa.int64(), nullable=False),
    pa.field("position", pa.int64(), nullable=False),
    pa.field("kind", pa.int8(), nullable=False),
    pa.field("event_type", pa.string(), nullable=False),
    pa.field("payload", pa.string(), nullable=False),
    pa.field("metadata", pa.string()),
    pa.field("tags", pa.list_(pa.field("element", pa.string(), nullable=False))),
    pa.field("timestamp", _TIME),
    pa.field("recorded_at", _TIME, nullable=False),
    pa.field("event_id", pa.binary(16)),
]

SCHEMA: Final = pa.schema(_FIELDS)
"""The columns of a segment, and of the table that becomes one."""

OPTIONAL_COLUMNS: Final = ("metadata", "tags", "timestamp", "event_id")
"""Columns that are left unread where a segment's index says that all of their values are null."""

SORT_KEYS: Final = ("tenant", "entity_id", "version", "kind")

METADATA_KEY: Final = b"allsource"


class SegmentMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file says of itself, as JSON under `METADATA_KEY`. Positions are inclusive."""

    format: int
    first_position: int
    last_position: int
    removals_through: int
