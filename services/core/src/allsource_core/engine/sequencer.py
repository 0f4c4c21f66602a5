"""The one place where positions and versions are assigned. It runs under the store's lock and touches no file.

What it must know of sealed events was looked up before, outside (`SealedFacts`); what is in memory it sees itself. If
memtables became segments in between, those facts are stale and are looked up again.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final
from uuid import UUID

from allsource_core.engine.appends import Expected, PreparedAppend
from allsource_core.engine.conditions import AppendCondition
from allsource_core.engine.decisions import Decision, Refusal, Repetition, SealedFacts, StaleFactsError
from allsource_core.engine.errors import (
    ConditionFailedError,
    EventIdConflictError,
    InvalidEventError,
    VersionConflictError,
)
from allsource_core.engine.event_columns import EventColumns, StoredEvents
from allsource_core.engine.events import Event, has_server_form, position_of_server_id
from allsource_core.engine.log_format import (
    AnyControlRecord,
    EntityRemoved,
    EntityShortened,
    EventErased,
    PolicySet,
    TenantRemoved,
)
from allsource_core.engine.manifest import Removal
from allsource_core.engine.memory import Memory
from allsource_core.engine.removals import Removed
from allsource_core.engine.tenants import TenantNumbers

__all__ = ["Sequencer"]


_POSITIONS_RESERVED: Final = 2**32
"""How far ahead nobody else may use the store's own ids. By chance a random UUIDv7 falls there once in 10¹²."""


class Sequencer:
    """Decides on appends, one after the other.

    Args:
        memory: of the events that are not sealed, which it alone adds to.
        numbers: of tenants.
        removed: removals as sequenced, durable or not.

    Attributes:
        touched: where it is a set, what control records are about from then on: (tenant, entity id) of which something
            was removed, and tenants that were removed or whose retention was changed.
    """

    def __init__(self, memory: Memory, numbers: TenantNumbers, removed: Removed) -> None:
        self.memory = memory
        self.numbers = numbers
        self.removed = removed
        # By position of the record that raised a floor: what it was, to be able to take it back until it is durable.
        self._floors_before: dict[int, int | None] = {}
        self.touched: set[tuple[int, str] | int] | None = None

    def apply(self, record: AnyControlRecord) -> None:
        """Take note of a removal: what comes behind it is judged by it."""
        removed = self.removed
        if self.touched is not None:
            if isinstance(record, EntityRemoved | EventErased):
                self.touched.add((record.tenant, record.entity_id))
            elif not isinstance(record, EntityShortened):
                self.touched.add(record.tenant)
        match record:
            case EntityRemoved() | EntityShortened():
                key = record.tenant, record.entity_id
                self._floors_before[record.position] = removed.floors.get(key)
                removed.floors[key] = max(removed.floors.get(key, 0), record.version)
            case EventErased():
                removed.erased.add(record.event_position)
            case TenantRemoved():
                self.numbers.retire(record.tenant)
            case PolicySet():
                self.numbers.learn(record.tenant_id, record.tenant)

    def forget(self, finished: Sequence[Removal]) -> None:
        """These removals need not be known any more: what they removed is nowhere."""
        for removal in finished:
            key = removal.tenant, removal.entity_id
            if self.removed.floors.get(key) == removal.version:
                del self.removed.floors[key]
            self.removed.erased.discard(removal.event_position)

    def forget_undo(self, record: AnyControlRecord) -> None:
        """A record is durable: `undo` will not be asked for it."""
        self._floors_before.pop(record.position, None)
        if isinstance(record, TenantRemoved):
            self.numbers.forget_retired(record.tenant)

    def undo(self, record: AnyControlRecord) -> None:
        """Take a removal back that did not reach the disk. The newest first."""
        match record:
            case EntityRemoved() | EntityShortened():
                key = record.tenant, record.entity_id
                before = self._floors_before.pop(record.position, None)
                if before is None:
                    self.removed.floors.pop(key, None)
                else:
                    self.removed.floors[key] = before
            case EventErased():
                self.removed.erased.discard(record.event_position)
            case TenantRemoved():
                self.numbers.restore(record.tenant)

    def decide(
        self, prepared: PreparedAppend, facts: SealedFacts, now: int, *, dry_run: bool = False
    ) -> Decision | Refusal | Repetition:
        """Check an append against all before it and, if it holds, put it behind them.

        Args:
            prepared: the append.
            facts: what segments know of it.
            now: microseconds since the epoch; `recorded_at` is this, or that of the last record if it is later.
            dry_run: change nothing.

        Raises:
            StaleFactsError: look up the facts anew.
        """
        memory = self.memory
        if facts.sealed_through != memory.sealed_through:
            raise StaleFactsError
        recorded_at = now if now > memory.recorded_at else memory.recorded_at
        tenant = self.numbers.get(prepared.tenant_id)
        if facts.tenant and facts.tenant != tenant:
            # Removed in between, and perhaps there again: it has nothing in common with its predecessor.
            raise StaleFactsError
        columns = prepared.columns
        if columns.client_ids is not None:
            repeated = self._repetition(tenant, columns, columns.client_ids, facts)
            if repeated is not None:
                return repeated
        newest = 0
        if prepared.expected_by_entity or prepared.expected_by_index:
            checked = self._check_versions(tenant, prepared, facts)
            if not isinstance(checked, int):
                return checked
            newest = checked
        if prepared.condition is not None:
            matched = self._find_match(tenant, prepared.condition, facts)
            if matched is not None:
                error = ConditionFailedError(matched.position, matched.id, prepared.condition.after)
                return Refusal(error, matched.position)
        if dry_run:
            return Decision(self._preview(tenant, prepared, facts, recorded_at), newest)
        return self._put(prepared, facts, recorded_at)

    def put_event(self, event: Event, facts: SealedFacts, now: int) -> int:
        """`decide` for one event that nothing can refuse: put it behind all before it; returns its tenant's number.

        Raises:
            StaleFactsError: look up the facts anew.
        """
        memory = self.memory
        if facts.sealed_through != memory.sealed_through:
            raise StaleFactsError
        table = memory.active
        numbers = self.numbers
        tenant = numbers.by_id.get(event.tenant_id) or numbers.assign(event.tenant_id)
        if facts.tenant and facts.tenant != tenant:
            raise StaleFactsError
        index = table.tenants.get(tenant) or table.tenant(tenant)
        recorded_at = now if now > memory.recorded_at else memory.recorded_at
        position = table.next_position
        try:
            stream = index.streams.get(event.entity_id)
            if stream is None:
                below = self._version_below(tenant, event.entity_id, facts)
                stream = index.streams[event.entity_id] = array("Q", (below,))
            table.add_event(index, stream, event, recorded_at)
        except BaseException:
            table.roll_back(position, event)
            memory.rollbacks += 1
            raise
        memory.recorded_at = recorded_at
        return tenant

    def _put(self, prepared: PreparedAppend, facts: SealedFacts, recorded_at: int) -> Decision:
        """Assign positions and versions, and take the events into memory. 0.15 µs an event."""
        memory = self.memory
        table = memory.active
        tenant_id, columns = prepared.tenant_id, prepared.columns
        tenant = self.numbers.assign(tenant_id)
        streams = table.tenant(tenant).streams
        get = streams.get
        first = table.next_position
        versions: list[int] = []
        stored = StoredEvents(tenant, tenant_id, first, recorded_at, versions, columns, prepared.body_bytes)
        try:
            for place, entity_id in enumerate(columns.entity_ids, first - table.first_position):
                stream = get(entity_id)
                if stream is None:
                    stream = streams[entity_id] = array("Q", (self._version_below(tenant, entity_id, facts),))
                stream.append(place)
                versions.append(stream[0] + len(stream) - 1)
            table.add(stored)
        except BaseException:
            # Whatever broke this off, memory must be as it was: nobody will write the record.
            table.roll_back(first, stored)
            memory.rollbacks += 1
            raise
        memory.recorded_at = recorded_at
        return Decision(stored, first + len(versions) - 1)

    def _version_below(self, tenant: int, entity_id: str, facts: SealedFacts) -> int:
        """The last version of an entity that has none in the growing memtable."""
        for table in reversed(self.memory.frozen):
            found = table.last_version(tenant, entity_id)
            if found is not None:
                return found[0]
        fact = facts.entities.get(entity_id)
        version = 0 if fact is None else fact.version
        if not self.removed.floors:
            return version
        # What was removed may be gone from every file before the record that removed it is in a segment.
        return max(version, self.removed.floor(tenant, entity_id))

    def head(self, tenant: int, entity_id: str, facts: SealedFacts) -> tuple[int, int, bool]:
        """(last version assigned, last position, whether anything can be read) of an entity."""
        found = self.memory.last_version(tenant, entity_id)
        fact = facts.entities.get(entity_id)
        if found is not None:
            version, position, readable = *found, True
        elif fact is not None:
            version, position, readable = fact.version, fact.position, not fact.removed
        else:
            version, position, readable = 0, 0, False
        floor = self.removed.floor(tenant, entity_id)
        if floor and floor >= version:
            # By a record that may not be durable yet; and what it removed may be gone from every file already.
            return floor, self.memory.next_position - 1, False
        return version, position, readable

    def _check_versions(self, tenant: int, prepared: PreparedAppend, facts: SealedFacts) -> int | Refusal:
        """The newest position that the answer rests on, or a refusal."""
        newest = 0
        for entity_id, expected in prepared.expected_by_entity.items():
            version, position, readable = self.head(tenant, entity_id, facts)
            if not _holds(expected, version, readable):
                return Refusal(VersionConflictError(entity_id, expected, version), position)
            newest = max(newest, position)
        if prepared.expected_by_index is None:
            return newest
        heads: dict[str, tuple[int, int, bool]] = {}
        for index, entity_id in enumerate(prepared.columns.entity_ids):
            version, position, readable = heads.get(entity_id) or self.head(tenant, entity_id, facts)
            expected_here = prepared.expected_by_index.get(index)
            if expected_here is not None and not _holds(expected_here, version, readable):
                return Refusal(VersionConflictError(entity_id, expected_here, version), position)
            newest = max(newest, position)
            heads[entity_id] = version + 1, position, True
        return newest

    def _preview(self, tenant: int, prepared: PreparedAppend, facts: SealedFacts, recorded_at: int) -> StoredEvents:
        heads: dict[str, int] = {}
        versions = []
        for entity_id in prepared.columns.entity_ids:
            version = heads.get(entity_id)
            if version is None:
                version = self.head(tenant, entity_id, facts)[0]
            heads[entity_id] = version + 1
            versions.append(version + 1)
        first = self.memory.next_position
        return StoredEvents(tenant, prepared.tenant_id, first, recorded_at, versions, prepared.columns)

    def _find_match(self, tenant: int, condition: AppendCondition, facts: SealedFacts) -> Event | None:
        """An event that the condition excludes: one found before, or one that came since and is in memory."""
        if facts.matched is not None:
            return facts.matched
        after = max(condition.after, facts.checked_through)
        for table in self.memory.since(after):
            for item in condition.fail_if_events_match:
                for query in item.queries(after):
                    for events in table.scan(tenant, query, self.memory.next_position):
                        for event in self.removed.apply(tenant, events) if self.removed else events:
                            if item.selects(event):
                                return event
        return None

    def _repetition(
        self, tenant: int, columns: EventColumns, client_ids: list[bytes | None], facts: SealedFacts
    ) -> Repetition | Refusal | None:
        """The answer to an append of which some client id is known; None where none is.

        An event without an id belongs to a repetition if the event that stands where it stood, counted from the first
        event with an id, was recorded with it and has the same content.
        """
        known = [None if client_id is None else self._find(tenant, client_id, facts) for client_id in client_ids]
        first_index = next((index for index, stored in enumerate(known) if stored is not None), None)
        if first_index is None:
            return self._squatting(client_ids)
        first_known = known[first_index]
        assert first_known is not None
        originals: list[Event] = []
        changed: list[tuple[int, UUID]] = []
        for index, (client_id, stored) in enumerate(zip(client_ids, known, strict=True)):
            if client_id is None:
                stored = self._without_id(tenant, first_known, index - first_index, facts)
            if stored is not None and _same_content(columns, index, stored):
                originals.append(stored)
            elif stored is not None and client_id is not None:
                changed.append((index, UUID(bytes=client_id)))
        if len(originals) == len(columns):
            return Repetition(originals, max([event.position for event in originals]))
        conflicts = [
            (index, UUID(bytes=client_id))
            for index, (client_id, stored) in enumerate(zip(client_ids, known, strict=True))
            if client_id is not None and stored is not None
        ]
        newest = max([stored.position for stored in known if stored is not None])
        return Refusal(EventIdConflictError(changed or conflicts, changed=bool(changed)), newest)

    def _find(self, tenant: int, client_id: bytes, facts: SealedFacts) -> Event | None:
        """The tenant's event of a client id, or of an id of the store's own, that can be read."""
        position = self.memory.position_of(tenant, client_id)
        event = facts.by_client_id.get(client_id) if position is None else self.memory.at(position)
        if event is None and has_server_form(client_id):
            event_id = UUID(bytes=client_id)
            event = self.memory.event_of(tenant, position_of_server_id(event_id))
            if event is not None and event.id != event_id:
                event = None
        if event is None or not self.removed:
            return event
        return next(iter(self.removed.apply(tenant, [event])), None)

    def _squatting(self, client_ids: list[bytes | None]) -> Refusal | None:
        """The refusal of ids that the store itself would give to events soon; None where there are none.

        An id of that form for a position that is past, or far away, belongs to nobody and stays allowed.
        """
        last_position = self.memory.next_position - 1
        for index, client_id in enumerate(client_ids):
            if client_id is not None and has_server_form(client_id):
                ahead = position_of_server_id(UUID(bytes=client_id)) - last_position
                if 0 < ahead <= _POSITIONS_RESERVED:
                    message = "has the form of the ids that the store assigns, for an event that is yet to come"
                    return Refusal(InvalidEventError(index, "event_id", message), 0)
        return None

    def _without_id(self, tenant: int, known: Event, distance: int, facts: SealedFacts) -> Event | None:
        """The event without a client id so many positions behind a known one, if both were recorded together."""
        position = known.position + distance
        event = facts.at.get(position) or self.memory.event_of(tenant, position)
        if event is None or event.client_id is not None or event.recorded_at != known.recorded_at:
            return None
        return next(iter(self.removed.apply(tenant, [event])), None)


def _holds(expected: Expected, version: int, readable: bool) -> bool:
    """Whether an expectation holds: numbers compare with the last version assigned, words with what can be read."""
    match expected:
        case "any":
            return True
        case "exists":
            return readable
        case "none":
            return not readable
        case _:
            return version == expected


def _same_content(columns: EventColumns, index: int, stored: Event) -> bool:
    timestamp = columns.timestamps[index] if columns.timestamps is not None else None
    return (
        columns.event_type(index) == stored.event_type
        and columns.entity_ids[index] == stored.entity_id
        and columns.payloads[index] == stored.payload
        and (columns.metadatas[index] if columns.metadatas is not None else None) == stored.metadata
        and (columns.tags[index] if columns.tags is not None else ()) == stored.tags
        and (stored.recorded_at if timestamp is None else timestamp) == stored.timestamp
    )
