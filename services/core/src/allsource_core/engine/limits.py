"""The limits of an event and of an append, from the design of the engine."""

from __future__ import annotations

from typing import Final

from allsource_shared.wire.events import BATCH_EVENTS_MAX

__all__ = [
    "BATCH_EVENTS_MAX",
    "CHUNK_BYTES",
    "ENTITY_ID_BYTES_MAX",
    "EVENT_BYTES",
    "EVENT_TYPE_BYTES_MAX",
    "METADATA_BYTES_MAX",
    "NESTING_MAX",
    "PAYLOAD_BYTES_MAX",
    "POSITION_MAX",
    "RECORD_BYTES_MAX",
    "TAGS_MAX",
    "TAG_BYTES_MAX",
    "TIMESTAMP_AHEAD_MAX_US",
]

EVENT_TYPE_BYTES_MAX: Final = 256
ENTITY_ID_BYTES_MAX: Final = 512
TAG_BYTES_MAX: Final = 256
TAGS_MAX: Final = 32
PAYLOAD_BYTES_MAX: Final = 1024 * 1024
METADATA_BYTES_MAX: Final = 16 * 1024
NESTING_MAX: Final = 64
"""Levels of arrays and objects in a payload or metadata."""
TIMESTAMP_AHEAD_MAX_US: Final = 5 * 60 * 1_000_000
"""How far a client's `timestamp` may lie ahead of the clock, in microseconds."""
CHUNK_BYTES: Final = 1024 * 1024
"""Of events that are made of segments at a time: a reader who stalls holds them. One event may be more."""
EVENT_BYTES: Final = 300
"""What an event takes in memory beside its body, about."""

RECORD_BYTES_MAX: Final = 64 * 1024 * 1024
"""One append as it stands in the log: a request of 16 MiB, and what the engine adds to 10,000 events."""
POSITION_MAX: Final = 2**53 - 1
"""Every position is exact in a JSON number read as a double."""
