"""The bytes of the write-ahead log. docs/storage-format.md describes them for other implementations."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import google_crc32c
import msgspec

from allsource_core.engine.events import Event
from allsource_core.engine.limits import RECORD_BYTES_MAX

__all__ = [
    "CLOSING_MARK",
    "FILE_HEADER_BYTES",
    "FRAME_HEADER_BYTES",
    "LogFileHeader",
    "decode_file_header",
    "decode_record",
    "encode_file_header",
    "encode_record",
    "file_name",
    "frame",
    "list_log_files",
    "read_frame",
]

MAGIC: Final = b"ALLSRCLG"
FORMAT_VERSION: Final = 1

# magic, format version, reserved, file number, first position; then the checksum of all of that.
_FILE_HEADER: Final = struct.Struct("<8sHHQQ")
_CHECKSUM: Final = struct.Struct("<I")
FILE_HEADER_BYTES: Final = _FILE_HEADER.size + _CHECKSUM.size

# checksum, body length, durable offset. The checksum covers the two others and the body.
_FRAME_HEADER: Final = struct.Struct("<IIQ")
_FRAME_COVERED: Final = struct.Struct("<IQ")
FRAME_HEADER_BYTES: Final = _FRAME_HEADER.size

CLOSING_MARK: Final = b"\xc0"
"""The body of the frame that a clean shutdown leaves: MessagePack nil. It vouches for all before it."""

_FILE_NAME: Final = re.compile(r"(\d{12})\.log\Z")


class LogFileHeader(msgspec.Struct, frozen=True):
    """What the first bytes of a log file say: its number, and the position of the next event when it was begun."""

    file_number: int
    first_position: int


class _LoggedEvent(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    event_type: str
    entity_id: str
    payload: bytes
    metadata: bytes | None
    tags: tuple[str, ...]
    timestamp: int | None
    client_id: bytes | None
    version: int


class _Record(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    tenant_id: str
    first_position: int
    recorded_at: int
    events: list[_LoggedEvent]


_record_decoder: Final = msgspec.msgpack.Decoder(_Record | None)
_encoder: Final = msgspec.msgpack.Encoder()


def file_name(file_number: int) -> str:
    """``1`` gives ``000000000001.log``, so that names sort as numbers."""
    return f"{file_number:012d}.log"


def list_log_files(directory: Path) -> list[tuple[int, Path]]:
    """The log files of a directory as (number, path), oldest first. Other files are passed over."""
    found = []
    for path in directory.iterdir():
        match = _FILE_NAME.match(path.name)
        if match is not None:
            found.append((int(match[1]), path))
    return sorted(found)


def encode_file_header(header: LogFileHeader) -> bytes:
    fields = _FILE_HEADER.pack(MAGIC, FORMAT_VERSION, 0, header.file_number, header.first_position)
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
    if version != FORMAT_VERSION:
        raise ValueError(f"log format version {version}; this release reads version {FORMAT_VERSION}")
    return LogFileHeader(file_number, first_position)


def encode_record(tenant_id: str, recorded_at: int, events: Sequence[Event]) -> bytes:
    """The body of one record: the events of one append, of which there is at least one."""
    rows = [
        (
            event.event_type,
            event.entity_id,
            event.payload,
            event.metadata,
            event.tags,
            None if event.timestamp == recorded_at else event.timestamp,
            event.client_id,
            event.version,
        )
        for event in events
    ]
    return _encoder.encode((tenant_id, events[0].position, recorded_at, rows))


def decode_record(body: bytes | memoryview) -> list[Event]:
    """The events of a record, in order; none for the mark of a clean shutdown.

    Raises:
        ValueError: for a body that `encode_record` does not make.
    """
    record = _record_decoder.decode(body)
    if record is None:
        return []
    recorded_at = record.recorded_at
    return [
        Event(
            event_type=row.event_type,
            entity_id=row.entity_id,
            tenant_id=record.tenant_id,
            payload=row.payload,
            metadata=row.metadata,
            tags=row.tags,
            timestamp=recorded_at if row.timestamp is None else row.timestamp,
            recorded_at=recorded_at,
            version=row.version,
            position=position,
            client_id=row.client_id,
        )
        for position, row in enumerate(record.events, record.first_position)
    ]


def frame(body: bytes, durable_offset: int) -> bytes:
    """A record as it stands in the file.

    Args:
        body: of the record.
        durable_offset: how far this file was on disk for certain when the record was written. A whole record that
            vouches for bytes before it tells damage from the end of an unfinished write.
    """
    covered = _FRAME_COVERED.pack(len(body), durable_offset)
    checksum = google_crc32c.extend(google_crc32c.value(covered), body)
    return _CHECKSUM.pack(checksum) + covered + body


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
