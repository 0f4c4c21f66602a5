"""The bytes of the write-ahead log. docs/storage-format.md describes them for other implementations."""

from __future__ import annotations

import struct
from typing import Final

import google_crc32c
import msgspec

from allsource_core.engine.event_columns import EventColumns, StoredEvents
from allsource_core.engine.events import Event
from allsource_core.engine.limits import RECORD_BYTES_MAX

__all__ = [
    "CLOSING_MARK",
    "FILE_HEADER_BYTES",
    "FRAME_HEADER_BYTES",
    "AnyControlRecord",
    "ControlRecord",
    "EntityRemoved",
    "EntityShortened",
    "EventErased",
    "LogFileHeader",
    "PolicySet",
    "Record",
    "TenantRemoved",
    "decode_body",
    "decode_file_header",
    "encode_content",
    "encode_control",
    "encode_event",
    "encode_events",
    "encode_file_header",
    "frame",
    "read_frame",
]

MAGIC: Final = b"ALLSRCLG"
FORMAT_VERSION: Final = 2
_READABLE_VERSIONS: Final = (1, 2)

# magic, format version, reserved, file number, first position; then the checksum of all of that.
_FILE_HEADER: Final = struct.Struct("<8sHHQQ")
_CHECKSUM: Final = struct.Struct("<I")
FILE_HEADER_BYTES: Final = _FILE_HEADER.size + _CHECKSUM.size

# checksum, body length, durable offset. The checksum covers the two others and the body.
_FRAME_HEADER: Final = struct.Struct("<IIQ")
_FRAME_COVERED: Final = struct.Struct("<IQ")
FRAME_HEADER_BYTES: Final = _FRAME_HEADER.size

_HEAD_LENGTH: Final = struct.Struct("<I")

CLOSING_MARK: Final = b"\xc0"
"""The body of the frame that a clean shutdown leaves: MessagePack nil. It vouches for all before it."""


class LogFileHeader(msgspec.Struct, frozen=True):
    """What the first bytes of a log file say: its number, and the position of the next record when it was begun."""

    file_number: int
    first_position: int
    format_version: int = FORMAT_VERSION


class _EventsHead(msgspec.Struct, array_like=True, tag=1, gc=False, forbid_unknown_fields=True):
    tenant: int
    first_position: int
    recorded_at: int
    tenant_id: str
    versions: list[int]


class ControlRecord(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A record that holds no events. It takes one position.

    Attributes:
        tenant: internal number of the tenant that it is about.
        recorded_at: microseconds since the epoch.
    """

    tenant: int
    position: int
    recorded_at: int


class EntityRemoved(ControlRecord, tag=2, frozen=True):
    """All events of an entity up to `version` are removed; `events_removed` of them could be read before."""

    entity_id: str
    version: int
    events_removed: int


class EntityShortened(ControlRecord, tag=3, frozen=True):
    """Retention removed an entity's events up to `version`.

    `snapshot` is the state that they made, as JSON; `summary` what else is to be known of them, as JSON too.
    """

    entity_id: str
    version: int
    events_removed: int
    snapshot: bytes
    summary: bytes


class EventErased(ControlRecord, tag=4, frozen=True):
    """Payload, metadata and tags of the event at `event_position` are removed."""

    entity_id: str
    version: int
    event_position: int


class TenantRemoved(ControlRecord, tag=5, frozen=True):
    """Everything of a tenant is removed, `events_removed` events, and its number retired."""

    events_removed: int


class PolicySet(ControlRecord, tag=6, frozen=True):
    """The retention of entities with a prefix; None for both bounds removes it. It may be the first record of its
    tenant, so it names the id.
    """

    tenant_id: str
    prefix: str
    max_age_us: int | None
    max_count: int | None


AnyControlRecord = EntityRemoved | EntityShortened | EventErased | TenantRemoved | PolicySet
Record = StoredEvents | AnyControlRecord


class _FirstFormatEvent(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    event_type: str
    entity_id: str
    payload: bytes
    metadata: bytes | None
    tags: tuple[str, ...]
    timestamp: int | None
    client_id: bytes | None
    version: int


class _FirstFormatRecord(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    tenant_id: str
    first_position: int
    recorded_at: int
    events: list[_FirstFormatEvent]


_head_decoder: Final = msgspec.msgpack.Decoder(_EventsHead | AnyControlRecord)
_columns_decoder: Final = msgspec.msgpack.Decoder(EventColumns)
_first_format_decoder: Final = msgspec.msgpack.Decoder(_FirstFormatRecord)
_encoder: Final = msgspec.msgpack.Encoder()


def encode_file_header(header: LogFileHeader) -> bytes:
    fields = _FILE_HEADER.pack(MAGIC, header.format_version, 0, header.file_number, header.first_position)
    return fields + _CHECKSUM.pack(google_crc32c.value(fields))


def decode_file_header(data: bytes) -> LogFileHeader:
    """Read a file's header.

    Raises:
        ValueError: saying what is wrong: the length, the magic, the checksum or the format version.
    """
    if len(data) < FILE_HEADER_BYTES:
        raise ValueError("the file is shorter than its header")
    fields = bytes(data[: _FILE_HEADER.size])
    magic, version, _, file_number, first_position = _FILE_HEADER.unpack(fields)
    if magic != MAGIC:
        raise ValueError("it does not begin like a log file of AllSource")
    if _CHECKSUM.unpack_from(data, _FILE_HEADER.size)[0] != google_crc32c.value(fields):
        raise ValueError("the checksum of the file's header does not match")
    if version not in _READABLE_VERSIONS:
        raise ValueError(f"log format version {version}; this release reads versions 1 and {FORMAT_VERSION}")
    return LogFileHeader(file_number, first_position, version)


def encode_content(columns: EventColumns) -> bytes:
    """The part of a record of events that does not depend on where they are put."""
    return _encoder.encode(columns)


def encode_events(stored: StoredEvents, content: bytes) -> bytes:
    """The body of a record of events, of which `encode_content` made the content."""
    head = _encoder.encode(
        (1, stored.tenant, stored.first_position, stored.recorded_at, stored.tenant_id, stored.versions)
    )
    return b"".join((_HEAD_LENGTH.pack(len(head)), head, content))


def encode_event(tenant: int, event: Event) -> bytes:
    """The body of a record of one event that has nothing optional: the same bytes, with no columns made first."""
    head = _encoder.encode((1, tenant, event.position, event.recorded_at, event.tenant_id, (event.version,)))
    content = _encoder.encode((event.event_type, (event.entity_id,), (event.payload,), None, None, None, None))
    return b"".join((_HEAD_LENGTH.pack(len(head)), head, content))


def encode_control(record: ControlRecord) -> bytes:
    """The body of a record that holds no events."""
    head = _encoder.encode(record)
    return _HEAD_LENGTH.pack(len(head)) + head


def decode_body(body: memoryview, format_version: int = FORMAT_VERSION) -> Record | None:
    """What a record says; None for the mark of a clean shutdown.

    Raises:
        ValueError: for a body that the functions above do not make.
    """
    if len(body) == 1 and body[0] == CLOSING_MARK[0]:
        return None
    if format_version == 1:
        return _decode_first_format(body)
    if len(body) < _HEAD_LENGTH.size:
        raise ValueError("shorter than the length of its head")
    head_end = _HEAD_LENGTH.size + _HEAD_LENGTH.unpack_from(body)[0]
    if head_end > len(body):
        raise ValueError("shorter than its head")
    head = _head_decoder.decode(body[_HEAD_LENGTH.size : head_end])
    if not isinstance(head, _EventsHead):
        if head_end != len(body):
            raise ValueError("something follows its head")
        control: AnyControlRecord = head
        return control
    columns = _columns_decoder.decode(body[head_end:])
    _check_lengths(columns, len(head.versions))
    return StoredEvents(head.tenant, head.tenant_id, head.first_position, head.recorded_at, head.versions, columns)


def _check_lengths(columns: EventColumns, count: int) -> None:
    optional = (columns.metadatas, columns.tags, columns.timestamps, columns.client_ids)
    lists = [columns.entity_ids, columns.payloads, *(column for column in optional if column is not None)]
    if not isinstance(columns.event_types, str):
        lists.append(columns.event_types)
    if not count or any(len(column) != count for column in lists):
        raise ValueError("its columns are of different lengths")


def _decode_first_format(body: memoryview) -> StoredEvents:
    """A record of format 1, whose tenant had no number: it is 0 here."""
    record = _first_format_decoder.decode(body)
    rows = record.events
    columns = EventColumns(
        [row.event_type for row in rows],
        [row.entity_id for row in rows],
        [row.payload for row in rows],
        [row.metadata for row in rows],
        [row.tags for row in rows],
        [row.timestamp for row in rows],
        [row.client_id for row in rows],
    )
    versions = [row.version for row in rows]
    _check_lengths(columns, len(versions))
    return StoredEvents(0, record.tenant_id, record.first_position, record.recorded_at, versions, columns)


def frame(body: bytes, durable_offset: int) -> bytes:
    """A record as it stands in the file.

    Args:
        body: of the record.
        durable_offset: how far this file was on disk for certain when the record was written. A whole record that
            vouches for bytes before it tells damage from the end of an unfinished write.
    """
    covered = _FRAME_COVERED.pack(len(body), durable_offset)
    checksum = google_crc32c.extend(google_crc32c.value(covered), body)
    return b"".join((_CHECKSUM.pack(checksum), covered, body))


def read_frame(data: memoryview, offset: int) -> tuple[memoryview, int, int] | None:
    """The record at `offset` as (body, offset behind it, durable offset); None if no whole record is there."""
    start = offset + FRAME_HEADER_BYTES
    if start > len(data):
        return None
    checksum, length, durable_offset = _FRAME_HEADER.unpack_from(data, offset)
    end = start + length
    if not 0 < length <= RECORD_BYTES_MAX or end > len(data) or durable_offset > offset:
        return None
    covered = google_crc32c.value(bytes(data[offset + _CHECKSUM.size : start]))
    if google_crc32c.extend(covered, bytes(data[start:end])) != checksum:
        return None
    return data[start:end], end, durable_offset
