"""Stored events as they go over the wire."""

from __future__ import annotations

from msgspec import Raw

from allsource_core.engine import Event
from allsource_shared.wire.events import AppendedEvent, EventView
from allsource_shared.wire.times import format_instant

__all__ = ["appended_view", "event_view"]


def appended_view(event: Event) -> AppendedEvent:
    """Where an event was put. Costs about 2 µs, most of it for the times and the id."""
    recorded_at = format_instant(event.recorded_at)
    return AppendedEvent(
        event_id=event.id_text,
        timestamp=recorded_at if event.timestamp == event.recorded_at else format_instant(event.timestamp),
        recorded_at=recorded_at,
        version=event.version,
        position=event.position,
    )


def event_view(event: Event) -> EventView:
    """An event as it is read back; payload and metadata are the stored bytes, not encoded anew."""
    recorded_at = format_instant(event.recorded_at)
    return EventView(
        id=event.id_text,
        event_type=event.event_type,
        entity_id=event.entity_id,
        tenant_id=event.tenant_id,
        payload=Raw(event.payload),
        metadata=None if event.metadata is None else Raw(event.metadata),
        tags=event.tags,
        timestamp=recorded_at if event.timestamp == event.recorded_at else format_instant(event.timestamp),
        recorded_at=recorded_at,
        version=event.version,
        position=event.position,
    )
