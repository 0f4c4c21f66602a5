"""The one place where positions and versions are assigned. It runs under the store's lock and touches no file."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from allsource_core.engine.appends import NO_TIMESTAMP, Expected, PreparedAppend
from allsource_core.engine.errors import EngineError, EventIdConflictError, InvalidEventError, VersionConflictError
from allsource_core.engine.events import Appended, Event, has_server_form, position_of_server_id
from allsource_core.engine.limits import RECORD_BYTES_MAX
from allsource_core.engine.log_format import encode_record
from allsource_core.engine.table import EventTable

__all__ = ["Outcome", "Refusal", "Sequencer"]


_POSITIONS_RESERVED: Final = 2**32
"""How far ahead nobody else may use the store's own ids. By chance a random UUIDv7 falls there once in 10¹²."""


class Refusal(msgspec.Struct, frozen=True):
    """The append is refused with this error."""

    error: EngineError


class Outcome(msgspec.Struct, frozen=True):
    """A decision on an append.

    Attributes:
        result: what to answer.
        durable_at: the position that must be durable before it is answered: that of the last event appended, or of
            the newest event that the decision rests on. An answer never rests on what a crash could take back.
        record: the body to write, or None where nothing is stored.
    """

    result: Appended | Refusal
    durable_at: int
    record: bytes | None = None


class Sequencer:
    """Decides on appends, one after the other.

    Args:
        table: of all events, which it alone adds to.
    """

    def __init__(self, table: EventTable) -> None:
        self._table = table

    def decide(self, tenant_id: str, prepared: PreparedAppend, now: int, *, dry_run: bool) -> Outcome:
        """Check an append against all before it and, if it holds, put it behind them.

        Args:
            tenant_id: whose events these are.
            prepared: the append.
            now: microseconds since the epoch; `recorded_at` is this, or that of the last event if it is later.
            dry_run: change nothing.
        """
        events = prepared.events
        if prepared.with_client_ids:
            repeated = self._repetition(tenant_id, events)
            if repeated is not None:
                return repeated
        versions: dict[str, tuple[int, int]] = {}
        newest = 0
        for entity_id, expected in prepared.expected_by_entity.items():
            version, position = self._table.version(tenant_id, entity_id)
            if not _holds(expected, version):
                return Outcome(Refusal(VersionConflictError(entity_id, expected, version)), position)
            newest = max(newest, position)
        recorded_at = max(now, self._table.last_recorded_at)
        last_position = self._table.last_position
        for index, event in enumerate(events):
            entity_id = event.entity_id
            known = versions.get(entity_id)
            version, position = self._table.version(tenant_id, entity_id) if known is None else known
            expected_here = prepared.expected_by_index.get(index)
            if expected_here is not None and not _holds(expected_here, version):
                return Outcome(Refusal(VersionConflictError(entity_id, expected_here, version)), position)
            versions[entity_id] = version + 1, position
            event.version = version + 1
            event.position = last_position + 1 + index
            event.recorded_at = recorded_at
            if event.timestamp == NO_TIMESTAMP:
                event.timestamp = recorded_at
        if dry_run:
            newest = max(newest, *(position for _, position in versions.values()))
            return Outcome(Appended(events, dry_run=True), newest)
        # Encode before adding: if it raised, nothing would have changed.
        record = encode_record(tenant_id, recorded_at, events)
        if len(record) > RECORD_BYTES_MAX:
            message = f"must be at most {RECORD_BYTES_MAX} bytes in the log together, are {len(record)}"
            return Outcome(Refusal(InvalidEventError(None, "events", message)), 0)
        self._table.add(tenant_id, events)
        return Outcome(Appended(events), self._table.last_position, record)

    def _repetition(self, tenant_id: str, events: list[Event]) -> Outcome | None:
        """The answer to an append of which some client id is known; None where none is.

        An event without an id belongs to a repetition if the event that stands where it stood, counted from the first
        event with an id, came with the same append and has the same content.
        """
        known = [
            self._table.find(tenant_id, UUID(bytes=event.client_id)) if event.client_id is not None else None
            for event in events
        ]
        conflicts = [
            (index, UUID(bytes=event.client_id))
            for index, (event, stored) in enumerate(zip(events, known, strict=True))
            if stored is not None and event.client_id is not None
        ]
        if not conflicts:
            return self._squatting(events)
        first_index = conflicts[0][0]
        first_known = known[first_index]
        assert first_known is not None
        originals: list[Event] = []
        changed: list[tuple[int, UUID]] = []
        for index, (event, stored) in enumerate(zip(events, known, strict=True)):
            if stored is None and event.client_id is None:
                stored = self._without_id(first_known, index - first_index)
            if stored is not None and _same_content(event, stored):
                originals.append(stored)
            elif stored is not None and event.client_id is not None:
                changed.append((index, UUID(bytes=event.client_id)))
        if len(originals) == len(events):
            newest = max(event.position for event in originals)
            return Outcome(Appended(originals, duplicate=True), newest)
        newest = max(stored.position for stored in known if stored is not None)
        error = EventIdConflictError(changed or conflicts, changed=bool(changed))
        return Outcome(Refusal(error), newest)

    def _squatting(self, events: list[Event]) -> Outcome | None:
        """The refusal of ids that the store itself would give to events soon; None where there are none.

        An id of that form for a position that is past, or far away, belongs to nobody and stays allowed.
        """
        last_position = self._table.last_position
        for index, event in enumerate(events):
            if event.client_id is not None and has_server_form(event.client_id):
                ahead = position_of_server_id(UUID(bytes=event.client_id)) - last_position
                if 0 < ahead <= _POSITIONS_RESERVED:
                    message = "has the form of the ids that the store assigns, for an event that is yet to come"
                    return Outcome(Refusal(InvalidEventError(index, "event_id", message)), 0)
        return None

    def _without_id(self, known: Event, distance: int) -> Event | None:
        """The event without a client id so many positions behind a known one, if both came with one append."""
        position = known.position + distance
        if not self._table.were_appended_together(known.position, position):
            return None
        event = self._table.at(position)
        return event if event.client_id is None else None


def _holds(expected: Expected, version: int) -> bool:
    match expected:
        case "any":
            return True
        case "exists":
            return version > 0
        case "none":
            return version == 0
        case _:
            return version == expected


def _same_content(event: Event, stored: Event) -> bool:
    timestamp = stored.recorded_at if event.timestamp == NO_TIMESTAMP else event.timestamp
    return (
        event.event_type == stored.event_type
        and event.entity_id == stored.entity_id
        and event.payload == stored.payload
        and event.metadata == stored.metadata
        and event.tags == stored.tags
        and timestamp == stored.timestamp
    )
