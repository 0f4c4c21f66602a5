"""What an append is judged by, and the judgements."""

from __future__ import annotations

from typing import Final

import msgspec

from allsource_core.engine.errors import EngineError
from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.events import Event
from allsource_core.engine.key_directory import EntityHead

__all__ = ["NO_FACTS", "Decision", "Refusal", "Repetition", "SealedFacts", "StaleFactsError"]


class StaleFactsError(Exception):
    """What was looked up before is not enough any more: look it up again."""


class SealedFacts(msgspec.Struct, gc=False):
    """What was looked up for an append in segments and key files.

    Attributes:
        sealed_through: everything up to this position was looked at.
        tenant: the number that it had; 0 where nothing was looked up.
        entities: those that have events there.
        by_client_id: the events of known client ids.
        at: further events, by position: those without an id that may be part of a repetition.
        matched: an event that the append's condition excludes, or None.
        checked_through: up to where the condition was checked.
    """

    sealed_through: int = 0
    tenant: int = 0
    entities: dict[str, EntityHead] = {}
    by_client_id: dict[bytes, Event] = {}
    at: dict[int, Event] = {}
    matched: Event | None = None
    checked_through: int = 0


NO_FACTS: Final = SealedFacts()


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """The append is refused with this error, once what the refusal rests on is durable."""

    error: EngineError
    durable_at: int


class Repetition(msgspec.Struct, frozen=True, gc=False):
    """The append was made before: these are its events."""

    events: list[Event]
    durable_at: int


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The append was put behind all before it, or would be.

    Attributes:
        stored: its events.
        durable_at: the position that must be durable before it is answered.
    """

    stored: StoredEvents
    durable_at: int
