"""From the events that an author gives to columns that only lack their places: every check that needs no state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Raw

from allsource_core.engine.clock import Clock
from allsource_core.engine.conditions import AppendCondition, check_condition
from allsource_core.engine.errors import InvalidEventError
from allsource_core.engine.event_columns import EventColumns
from allsource_core.engine.events import Event
from allsource_core.engine.limits import (
    BATCH_EVENTS_MAX,
    ENTITY_ID_BYTES_MAX,
    EVENT_TYPE_BYTES_MAX,
    METADATA_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    POSITION_MAX,
    RECORD_BYTES_MAX,
    TAG_BYTES_MAX,
    TAGS_MAX,
    TIMESTAMP_AHEAD_MAX_US,
)
from allsource_core.engine.log_format import encode_content
from allsource_core.engine.names import are_plain, name_fault, tenant_fault
from allsource_core.engine.payloads import take_bodies, take_body
from allsource_shared.wire.events import NewEvent
from allsource_shared.wire.times import MICROSECONDS_MAX, MICROSECONDS_MIN, to_microseconds

__all__ = ["Expected", "PreparedAppend", "columns_of_one", "prepare"]

Expected = int | str
"""A version, ``none``, ``exists`` or ``any``."""

_HEAD_BYTES_EACH: Final = 9
_HEAD_BYTES: Final = 1024
"""An upper bound of what the head of a record adds: a version an event, and the rest."""


class PreparedAppend(msgspec.Struct, gc=False):
    """A checked append.

    Attributes:
        columns: of its events.
        body_bytes: of its payloads and metadata.
        expected_by_entity: what must hold of an entity before the append.
        expected_by_index: what must hold of an event's entity just before that event.
        condition: what must not exist.
    """

    tenant_id: str
    columns: EventColumns
    body_bytes: int
    expected_by_entity: Mapping[str, Expected] = {}
    expected_by_index: dict[int, Expected] | None = None
    condition: AppendCondition | None = None

    def content(self) -> bytes:
        """The events as they will stand in the log.

        Raises:
            InvalidEventError: they are too long together.
        """
        content = encode_content(self.columns)
        size = len(content) + _HEAD_BYTES_EACH * len(self.columns.entity_ids) + _HEAD_BYTES
        if size > RECORD_BYTES_MAX:
            message = f"must be at most {RECORD_BYTES_MAX} bytes in the log together, may be {size}"
            raise InvalidEventError(None, "events", message)
        return content


def prepare(
    tenant_id: str,
    new_events: Sequence[NewEvent],
    expected_versions: Mapping[str, Expected] | None,
    condition: AppendCondition | None,
    clock: Clock,
    decoded: bool = False,
) -> PreparedAppend | Event:
    """Check an append and copy it out of the request that brought it. 0.25 µs an event in batches, 0.6 µs for one.

    One event of which nothing is expected and that brings neither id nor time, tags or metadata, is the most frequent
    append of all. It becomes an `Event` that only lacks its places: a third of the time and memory of columns of one.

    Args:
        tenant_id: whose events these are.
        new_events: 1 to 10,000 of them.
        expected_versions: by entity id.
        condition: over queries.
        clock: microseconds since the epoch; asked where events bring times.
        decoded: a decoder has checked that the payloads are JSON.

    Raises:
        InvalidEventError: naming the first event at fault.
    """
    if tenant_id not in _known_tenants:
        _check_tenant(tenant_id)
    if len(new_events) == 1 and not expected_versions and condition is None:
        new = new_events[0]
        if not (new.tags or new.metadata or new.timestamp or new.event_id or new.expected_version is not None):
            # The same checks in the same order, without the lists.
            event_type, entity_id = new.event_type, new.entity_id
            if event_type not in _known_types:
                _check_names("event_type", (event_type,), EVENT_TYPE_BYTES_MAX, _known_types)
            if entity_id not in _known_entities:
                _check_names("entity_id", (entity_id,), ENTITY_ID_BYTES_MAX, _known_entities)
            payload = take_body("payload", new.payload, PAYLOAD_BYTES_MAX, decoded)
            return Event(event_type, entity_id, tenant_id, payload, None, (), 0, 0, 0, 0, None)
    prepared = _prepare_many(tenant_id, new_events, clock, decoded)
    if expected_versions:
        prepared.expected_by_entity = _check_expected_versions(expected_versions)
    if condition is not None:
        check_condition(condition)
        prepared.condition = condition
    return prepared


def _prepare_many(tenant_id: str, new_events: Sequence[NewEvent], clock: Clock, decoded: bool) -> PreparedAppend:
    if not 1 <= len(new_events) <= BATCH_EVENTS_MAX:
        raise InvalidEventError(None, "events", f"must have 1 to {BATCH_EVENTS_MAX} events, has {len(new_events)}")
    # A comprehension a field and one for all that most leave empty: nothing in C reads attributes as fast.
    types = {new.event_type for new in new_events}
    event_types: str | list[str] = [new.event_type for new in new_events] if len(types) > 1 else next(iter(types))
    if not types <= _known_types:
        names = [event_types] if isinstance(event_types, str) else event_types
        _check_names("event_type", names, EVENT_TYPE_BYTES_MAX, _known_types)
    entity_ids = [new.entity_id for new in new_events]
    if not _known_entities.issuperset(entity_ids):
        _check_names("entity_id", entity_ids, ENTITY_ID_BYTES_MAX, _known_entities)
    payloads, body_bytes = take_bodies(
        "payload", [new.payload for new in new_events], PAYLOAD_BYTES_MAX, decoded=decoded
    )
    columns = EventColumns(event_types, entity_ids, payloads)  # type: ignore[arg-type] # no payload is None
    prepared = PreparedAppend(tenant_id, columns, body_bytes)
    if [
        None
        for new in new_events
        if new.metadata or new.tags or new.timestamp or new.event_id or new.expected_version is not None
    ]:
        _take_options(prepared, new_events, clock)
    return prepared


def columns_of_one(event: Event) -> PreparedAppend:
    """The long form of an append of one event that `prepare` gave the short one."""
    columns = EventColumns(event.event_type, [event.entity_id], [event.payload])
    return PreparedAppend(event.tenant_id, columns, len(event.payload))


_KNOWN_NAMES_MAX: Final = 65_536
_known_tenants: set[str] = set()
_known_types: set[str] = set()
_known_entities: set[str] = set()
"""Names that were looked at and are in order: they come again and again."""


def _check_tenant(tenant_id: str) -> None:
    fault = tenant_fault(tenant_id)
    if fault is not None:
        raise InvalidEventError(None, "tenant_id", fault)
    _remember(_known_tenants, (tenant_id,))


def _check_names(field: str, names: Sequence[str], bytes_max: int, known: set[str]) -> None:
    unknown = list(set(names).difference(known))
    if not are_plain(unknown, bytes_max):
        for index, name in enumerate(names):
            fault = name_fault(name, bytes_max)
            if fault is not None:
                raise InvalidEventError(index, field, fault)
    _remember(known, unknown)


def _remember(known: set[str], names: Iterable[str]) -> None:
    if len(known) >= _KNOWN_NAMES_MAX:
        known.clear()
    known.update(names)


def _take_options(prepared: PreparedAppend, new_events: Sequence[NewEvent], clock: Clock) -> None:
    """Fill what most appends leave empty."""
    columns = prepared.columns
    metadatas = [new.metadata for new in new_events]
    if any(metadatas):
        columns.metadatas = _take_metadata(metadatas)
        if columns.metadatas is not None:
            prepared.body_bytes += sum(len(metadata) for metadata in columns.metadatas if metadata is not None)
    tags = [new.tags for new in new_events]
    if any(tags):
        columns.tags = [_check_tags(index, given) if given else () for index, given in enumerate(tags)]
    times = [new.timestamp for new in new_events]
    if any(times):
        latest = min(clock() + TIMESTAMP_AHEAD_MAX_US, MICROSECONDS_MAX)
        columns.timestamps = [
            None if time is None else _check_timestamp(index, time, latest) for index, time in enumerate(times)
        ]
    ids = [new.event_id for new in new_events]
    if any(ids):
        columns.client_ids = [None if event_id is None else event_id.bytes for event_id in ids]
        _check_client_ids(columns.client_ids)
    expected = [new.expected_version for new in new_events]
    if expected.count(None) < len(expected):
        prepared.expected_by_index = {
            index: _check_expected(index, "expected_version", version)
            for index, version in enumerate(expected)
            if version is not None
        }


def _take_metadata(raws: Sequence[bytes | Raw | None]) -> list[bytes | None] | None:
    taken, _ = take_bodies("metadata", raws, METADATA_BYTES_MAX, optional=True)
    bodies = [None if body == b"null" else body for body in taken]
    for index, body in enumerate(bodies):
        if body is not None and not body.startswith(b"{"):
            raise InvalidEventError(index, "metadata", "must be a JSON object or null")
    return bodies if any(bodies) else None


def _check_timestamp(index: int, given: datetime, latest: int) -> int:
    if given.tzinfo is None:
        raise InvalidEventError(index, "timestamp", "must say its offset from UTC")
    timestamp = to_microseconds(given)
    if timestamp > latest:
        raise InvalidEventError(index, "timestamp", "must be at most 5 minutes ahead of the server's clock")
    if timestamp < MICROSECONDS_MIN:
        raise InvalidEventError(index, "timestamp", "must not be before the year 1 in UTC")
    return timestamp


def _check_tags(index: int, tags: Sequence[str]) -> tuple[str, ...]:
    if len(tags) > TAGS_MAX:
        raise InvalidEventError(index, "tags", f"must be at most {TAGS_MAX} tags, are {len(tags)}")
    for place, tag in enumerate(tags):
        fault = name_fault(tag, TAG_BYTES_MAX)
        if fault is not None:
            raise InvalidEventError(index, f"tags[{place}]", fault)
    return tuple(tags)


def _check_expected_versions(expected_versions: Mapping[str, Expected]) -> dict[str, Expected]:
    if len(expected_versions) > BATCH_EVENTS_MAX:
        raise InvalidEventError(None, "expected_versions", f"must name at most {BATCH_EVENTS_MAX} entities")
    checked = {}
    for entity_id, expected in expected_versions.items():
        fault = name_fault(entity_id, ENTITY_ID_BYTES_MAX)
        if fault is not None:
            raise InvalidEventError(None, "expected_versions", f"an entity id {fault}")
        checked[entity_id] = _check_expected(None, "expected_versions", expected)
    return checked


def _check_expected(index: int | None, field: str, expected: Expected) -> Expected:
    if isinstance(expected, str):
        if expected not in ("none", "exists", "any"):
            raise InvalidEventError(index, field, 'must be a version, "none", "exists" or "any"')
    elif not 0 <= expected <= POSITION_MAX:
        raise InvalidEventError(index, field, f"must be from 0 to {POSITION_MAX}")
    return expected


def _check_client_ids(client_ids: Sequence[bytes | None]) -> None:
    given = [client_id for client_id in client_ids if client_id is not None]
    if len(set(given)) == len(given):
        return
    seen: set[bytes] = set()
    for index, client_id in enumerate(client_ids):
        if client_id is not None and client_id in seen:
            raise InvalidEventError(index, "event_id", "must not be repeated within one append")
        if client_id is not None:
            seen.add(client_id)
