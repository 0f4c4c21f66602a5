"""Events inside the engine, and their ids."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from allsource_shared.wire.events import NewEvent

__all__ = ["Event", "NewEvent", "has_server_form", "position_of_server_id", "server_id"]

_POSITION_BITS: Final = 62
_POSITION_MASK: Final = (1 << _POSITION_BITS) - 1
_VERSION_7: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
_MILLISECONDS_MAX: Final = 1 << 48


def server_id(recorded_at: int, position: int) -> UUID:
    """The id of an event to which its author gave none: a UUIDv7 (RFC 9562, section 5.7).

    The 48 bits of time are the milliseconds of `recorded_at`, ``rand_a`` is 0 and the 62 bits of ``rand_b`` are the
    position; so the id is a function of two stored fields, and looking it up needs no index.
    """
    return UUID(int=_server_id(recorded_at, position))


def _server_id(recorded_at: int, position: int) -> int:
    return (recorded_at // 1000 % _MILLISECONDS_MAX) << 80 | _VERSION_7 | _VARIANT | position


def has_server_form(client_id: bytes) -> bool:
    """Whether 16 bytes are a UUID of the form that `server_id` makes: version 7 with ``rand_a`` = 0."""
    return client_id[6:8] == b"\x70\x00" and client_id[8] & 0xC0 == 0x80


def position_of_server_id(event_id: UUID) -> int:
    """The position that an id carries if `server_id` made it. Any UUID gives some number: compare the event there."""
    return event_id.int & _POSITION_MASK


class Event(msgspec.Struct, gc=False):
    """A stored event. Treat it as immutable: memory gives the same one to every reader.

    Not frozen, because an append makes it before it knows its places, and another one would cost as much again.

    Attributes:
        event_type, entity_id, tenant_id: as appended.
        payload: JSON, the bytes that came, in one line.
        metadata: JSON object or None.
        tags: in the order given.
        timestamp: when it happened; microseconds since the epoch, UTC.
        recorded_at: when the engine took it, likewise; never decreases with `position`.
        version: of the entity, from 1, without a gap.
        position: global order of the store, from 1.
        client_id: the 16 bytes of the id that its author gave, or None.
        erased: payload, metadata and tags were removed; what stands there now is null and nothing.
    """

    event_type: str
    entity_id: str
    tenant_id: str
    payload: bytes
    metadata: bytes | None
    tags: tuple[str, ...]
    timestamp: int
    recorded_at: int
    version: int
    position: int
    client_id: bytes | None
    erased: bool = False

    @property
    def content_bytes(self) -> int:
        """What its author gave: entity id, event type, payload, metadata and tags, as UTF-8."""
        names = self.entity_id + self.event_type
        size = (len(names) if names.isascii() else len(names.encode())) + len(self.payload)
        if self.tags:
            size += len("".join(self.tags).encode())
        return size if self.metadata is None else size + len(self.metadata)

    @property
    def id(self) -> UUID:
        """The author's id, or the one that `server_id` makes."""
        if self.client_id is not None:
            return UUID(bytes=self.client_id)
        return server_id(self.recorded_at, self.position)

    def has_id(self, id_bytes: bytes) -> bool:
        """``event.id.bytes == id_bytes``, at a tenth of its price where the author gave the id."""
        return self.client_id == id_bytes if self.client_id is not None else self.id.bytes == id_bytes

    @property
    def id_text(self) -> str:
        """``str(event.id)``, at a third of its price: no UUID is made on the way."""
        if self.client_id is not None:
            digits = self.client_id.hex()
        else:
            digits = f"{_server_id(self.recorded_at, self.position):032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
