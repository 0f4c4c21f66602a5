"""Which files make up the store, and what is known beside the events. docs/storage-format.md, Manifest."""

from __future__ import annotations

import secrets
import struct
from pathlib import Path
from typing import Final, Literal

import google_crc32c
import msgspec

from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.hashes import HASH_KEY_BYTES

__all__ = ["KeyFileEntry", "Loss", "Manifest", "Policy", "Removal", "SegmentEntry", "read_manifest", "write_manifest"]

MAGIC: Final = b"ALLSRCMF"
FORMAT_VERSION: Final = 2

# magic, format version, reserved, length of the body; then the checksum of these and the body.
_HEADER: Final = struct.Struct("<8sHHQ")
_CHECKSUM: Final = struct.Struct("<I")
_BODY_OFFSET: Final = _HEADER.size + _CHECKSUM.size


class SegmentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A segment and its index. Positions are inclusive; checksums are of whole files.

    `events` leaves out rows that are no events, and those of reserved tenants. `content_bytes` is what names, bodies
    and tags of all rows take before they are compressed.
    """

    file: int
    first_position: int
    last_position: int
    rows: int
    events: int
    content_bytes: int
    bytes: int
    checksum: int
    index_bytes: int
    index_checksum: int
    removals_through: int


class KeyFileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key file. The checksum is that of its header and block table."""

    file: int
    kind: Literal["entities", "ids"]
    entries: int
    bytes: int
    checksum: int


class Removal(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """Something that was removed, and whether its bytes are gone.

    Attributes:
        position: of the record in the log; names the removal.
        kind: ``entity`` (its events up to `version`), ``shortened`` (likewise, by retention), ``event``, ``tenant``.
        tenant: number of the tenant.
        version: of the entity: the last one that is removed; of the event, for ``event``.
        event_position: of an erased event.
        recorded_at, finished_at: microseconds since the epoch; `finished_at` is 0 until the bytes are gone.
        events_removed: how many events it made unreadable.
    """

    position: int
    kind: Literal["entity", "shortened", "event", "tenant"]
    tenant: int
    entity_id: str = ""
    version: int = 0
    event_position: int = 0
    recorded_at: int
    finished_at: int = 0
    events_removed: int = 0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Retention of a tenant's entities whose ids begin with `prefix`: by age in microseconds, by count of events."""

    tenant: int
    prefix: str
    max_age_us: int | None = None
    max_count: int | None = None


class Loss(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Positions that a repair gave up, inclusive: whatever was there can't be read any more, and is not asked after.

    `repaired_at` is in microseconds since the epoch.
    """

    first_position: int
    last_position: int
    repaired_at: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of the manifest; see docs/storage-format.md for every member."""

    generation: int = 0
    sealed_through: int = 0
    recorded_at: int = 0
    first_log_file: int = 1
    newest_log_file: int = 0
    next_file: int = 1
    next_tenant: int = 1
    hash_key: str
    tenants: list[tuple[int, str]] = []
    segments: list[SegmentEntry] = []
    key_files: list[KeyFileEntry] = []
    removals: list[Removal] = []
    policies: list[Policy] = []
    losses: list[Loss] = []

    @classmethod
    def new(cls) -> Manifest:
        """That of an empty store, with a fresh key."""
        return cls(newest_log_file=1, hash_key=secrets.token_hex(HASH_KEY_BYTES))


_decoder: Final = msgspec.json.Decoder(Manifest)


def encode_manifest(manifest: Manifest) -> bytes:
    body = msgspec.json.encode(manifest)
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, 0, len(body))
    return header + _CHECKSUM.pack(google_crc32c.value(header + body)) + body


def write_manifest(path: Path, manifest: Manifest, filesystem: Filesystem) -> None:
    """Replace the manifest, durably and at once. Raises OSError: then the old one or the new one stands."""
    filesystem.create(path, encode_manifest(manifest))


def read_manifest(path: Path) -> Manifest:
    """Read the manifest.

    Raises:
        ForeignDirectoryError: its format is of another release.
        CorruptionError: it is damaged, or missing.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CorruptionError(path, 0, "the manifest is missing") from None
    if len(data) < _BODY_OFFSET:
        raise CorruptionError(path, 0, "the file is shorter than its header")
    header, body = data[: _HEADER.size], data[_BODY_OFFSET:]
    magic, version, _, length = _HEADER.unpack(header)
    if magic != MAGIC:
        raise CorruptionError(path, 0, "it does not begin like a manifest of AllSource")
    if length != len(body) or _CHECKSUM.unpack_from(data, _HEADER.size)[0] != google_crc32c.value(header + body):
        raise CorruptionError(path, 0, "its checksum does not match")
    if version != FORMAT_VERSION:
        raise ForeignDirectoryError(f"{path}: manifest format {version}; this release reads format {FORMAT_VERSION}")
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise CorruptionError(path, _BODY_OFFSET, f"it can't be decoded: {error}") from error
