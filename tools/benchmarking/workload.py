"""The event that every benchmark uses."""

from __future__ import annotations

from allsource_core.engine import NewEvent, Raw

__all__ = ["EVENT_TYPE", "batch_body", "entity", "event_body", "new_events"]

EVENT_TYPE = "benchmark.event"
ENTITIES = 100


def entity(index: int) -> str:
    """The entity of the event of this index."""
    return f"entity-{index % ENTITIES}"


def new_events(first: int, count: int) -> list[NewEvent]:
    """Events as an embedding program gives them."""
    return [
        NewEvent(EVENT_TYPE, entity(index), Raw(b'{"index":%d,"data":"payload"}' % index))
        for index in range(first, first + count)
    ]


def event_body(index: int) -> bytes:
    """The same as the body of ``POST events``."""
    return b'{"event_type":"%s","entity_id":"%s","payload":{"index":%d,"data":"payload"}}' % (
        EVENT_TYPE.encode(),
        entity(index).encode(),
        index,
    )


def batch_body(first: int, count: int) -> bytes:
    """The same as the body of ``POST events/batch``."""
    return b'{"events":[' + b",".join(event_body(index) for index in range(first, first + count)) + b"]}"
