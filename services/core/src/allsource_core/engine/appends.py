"""From the events that an author gives to events that only lack a position: every check that needs no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from allsource_core.engine.errors import InvalidEventError
from allsource_core.engine.events import Event
from allsource_core.engine.limits import (
    BATCH_EVENTS_MAX,
    ENTITY_ID_BYTES_MAX,
    EVENT_TYPE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    POSITION_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
    TIMESTAMP_AHEAD_MAX_US,
)
from allsource_core.engine.names import name_fault, tenant_fault
from allsource_core.engine.payloads import take_bodies
from allsource_shared.wire.events import NewEvent
from allsource_shared.wire.times import MICROSECONDS_MAX, MICROSECONDS_MIN, to_microseconds

__all__ = ["NO_TIMESTAMP", "Expected", "PreparedAppend", "prepare"]

Expected = int | str
"""A version, ``none``, ``exists`` or ``any``."""

NO_TIMESTAMP = MICROSECONDS_MIN - 1
"""Stands for the time of recording, which is not known yet."""


class PreparedAppend(msgspec.Struct):
    """A checked append.

    Attributes:
        events: complete but for `timestamp` where none was given, `recorded_at`, `version` and `position`.
        expected_by_entity: what must hold of an entity before the append.
        expected_by_index: what must hold of an event's entity just before that event.
        with_client_ids: whether any event has an id from its author.
    """

    events: list[Event]
    expected_by_entity: dict[str, Expected]
    expected_by_index: dict[int, Expected]
    with_client_ids: bool


def prepare(
    tenant_id: str, new_events: Sequence[NewEvent], expected_versions: Mapping[str, Expected], now: int
) -> PreparedAppend:
    """Check an append and copy it out of the request that brought it.

    Args:
        tenant_id: whose events these are.
        new_events: 1 to 10,000 of them.
        expected_versions: by entity id.
        now: microseconds since the epoch.

    Raises:
        InvalidEventError: naming the first event at fault.
    """
    fault = tenant_fault(tenant_id)
    if fault is not None:
        raise InvalidEventError(None, "tenant_id", fault)
    if not new_events:
        raise InvalidEventError(None, "events", "must have at least one event")
    if len(new_events) > BATCH_EVENTS_MAX:
        raise InvalidEventError(None, "events", f"must have at most {BATCH_EVENTS_MAX} events, has {len(new_events)}")
    if len(expected_versions) > BATCH_EVENTS_MAX:
        raise InvalidEventError(None, "expected_versions", f"must name at most {BATCH_EVENTS_MAX} entities")
    latest = min(now + TIMESTAMP_AHEAD_MAX_US, MICROSECONDS_MAX)
    payloads = take_bodies("payload", [new.payload for new in new_events], PAYLOAD_BYTES_MAX)
    metadatas = _take_metadata(new_events)
    events = [
        _prepare_event(index, new, tenant_id, payload or b"", metadata, latest)
        for index, (new, payload, metadata) in enumerate(zip(new_events, payloads, metadatas, strict=True))
    ]
    return PreparedAppend(
        events=events,
        expected_by_entity={entity: _check_expected_entity(entity, e) for entity, e in expected_versions.items()},
        expected_by_index={
            index: _check_expected(index, "expected_version", new.expected_version)
            for index, new in enumerate(new_events)
            if new.expected_version is not None
        },
        with_client_ids=_check_client_ids(events),
    )


def _take_metadata(new_events: Sequence[NewEvent]) -> list[bytes | None]:
    raws = [new.metadata for new in new_events]
    if not any(raws):
        return [None] * len(raws)
    bodies = [None if body == b"null" else body for body in take_bodies("metadata", raws, METADATA_BYTES_MAX)]
    for index, body in enumerate(bodies):
        if body is not None and not body.startswith(b"{"):
            raise InvalidEventError(index, "metadata", "must be a JSON object or null")
    return bodies


def _prepare_event(
    index: int, new: NewEvent, tenant_id: str, payload: bytes, metadata: bytes | None, latest: int
) -> Event:
    fault = name_fault(new.event_type, EVENT_TYPE_BYTES_MAX)
    if fault is not None:
        raise InvalidEventError(index, "event_type", fault)
    fault = name_fault(new.entity_id, ENTITY_ID_BYTES_MAX)
    if fault is not None:
        raise InvalidEventError(index, "entity_id", fault)
    timestamp = NO_TIMESTAMP
    if new.timestamp is not None:
        if new.timestamp.tzinfo is None:
            raise InvalidEventError(index, "timestamp", "must say its offset from UTC")
        timestamp = to_microseconds(new.timestamp)
        if timestamp > latest:
            raise InvalidEventError(index, "timestamp", "must be at most 5 minutes ahead of the server's clock")
        if timestamp < MICROSECONDS_MIN:
            raise InvalidEventError(index, "timestamp", "must not be before the year 1 in UTC")
    return Event(
        event_type=new.event_type,
        entity_id=new.entity_id,
        tenant_id=tenant_id,
        payload=payload,
        metadata=metadata,
        tags=_check_tags(index, new.tags) if new.tags else (),
        timestamp=timestamp,
        recorded_at=0,
        version=0,
        position=0,
        client_id=None if new.event_id is None else new.event_id.bytes,
    )


def _check_tags(index: int, tags: Sequence[str]) -> tuple[str, ...]:
    if len(tags) > TAGS_MAX:
        raise InvalidEventError(index, "tags", f"must be at most {TAGS_MAX} tags, are {len(tags)}")
    for place, tag in enumerate(tags):
        fault = name_fault(tag, TAG_BYTES_MAX)
        if fault is not None:
            raise InvalidEventError(index, f"tags[{place}]", fault)
    return tuple(tags)


def _check_expected_entity(entity_id: str, expected: Expected) -> Expected:
    fault = name_fault(entity_id, ENTITY_ID_BYTES_MAX)
    if fault is not None:
        raise InvalidEventError(None, "expected_versions", f"an entity id {fault}")
    return _check_expected(None, "expected_versions", expected)


def _check_expected(index: int | None, field: str, expected: Expected) -> Expected:
    if isinstance(expected, str):
        if expected not in ("none", "exists", "any"):
            raise InvalidEventError(index, field, 'must be a version, "none", "exists" or "any"')
    elif not 0 <= expected <= POSITION_MAX:
        raise InvalidEventError(index, field, f"must be from 0 to {POSITION_MAX}")
    return expected


def _check_client_ids(events: Sequence[Event]) -> bool:
    seen: set[bytes] = set()
    for index, event in enumerate(events):
        if event.client_id is not None:
            if event.client_id in seen:
                raise InvalidEventError(index, "event_id", "must not be repeated within one append")
            seen.add(event.client_id)
    return bool(seen)
