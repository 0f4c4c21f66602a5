"""A model of the engine out of lists and dicts: slow, and simple enough to be right."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from allsource_core.engine import AppendCondition, EntityState, Event, EventQuery, NewEvent, Raw

from .stores import TurnableClock

__all__ = ["ENTITY_IDS", "START", "TENANT_IDS", "Author", "Model", "as_tuple"]

TENANT_IDS = ("a", "b", "_own")
ENTITY_IDS = ("x", "y", "z/é")
START = TurnableClock().now
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Author(msgspec.Struct, frozen=True):
    """What the author of an event gives; the time as its distance from the clock's beginning."""

    event_type: str
    entity_id: str
    payload: bytes
    tags: tuple[str, ...] = ()
    metadata: bytes | None = None
    time: int | None = None
    event_id: UUID | None = None
    expected: int | str | None = None

    @property
    def timestamp(self) -> int | None:
        return None if self.time is None else START + self.time

    def new_event(self) -> NewEvent:
        happened = None if self.timestamp is None else EPOCH + timedelta(microseconds=self.timestamp)
        return NewEvent(
            self.event_type,
            self.entity_id,
            Raw(self.payload),
            None if self.metadata is None else Raw(self.metadata),
            list(self.tags),
            happened,
            self.event_id,
            self.expected,
        )

    def is_content_of(self, event: Event) -> bool:
        timestamp = event.recorded_at if self.timestamp is None else self.timestamp
        stored = event.event_type, event.entity_id, event.payload, event.tags, event.metadata, event.timestamp
        return stored == (self.event_type, self.entity_id, self.payload, self.tags, self.metadata, timestamp)


class Kept(msgspec.Struct, frozen=True):
    """What events amount to; the numbers are of the last one, but for the count and the newest timestamp."""

    version: int = 0
    count: int = 0
    position: int = 0
    recorded_at: int = 0
    timestamp: int = 0
    newest: int = 0
    members: dict[str, Any] = {}

    def and_event(self, event: Event) -> Kept:
        payload = msgspec.json.decode(event.payload)
        members = {**self.members, **(payload if isinstance(payload, dict) else {})}
        newest = max(self.newest, event.timestamp)
        return Kept(event.version, self.count + 1, event.position, event.recorded_at, event.timestamp, newest, members)


class Model:
    """Every record in a list; all questions are answered by going through it.

    Attributes:
        slots: by position; None where no event is, or one that was removed.
        appends: the number of the append that each position came with.
        versions: the last one ever assigned, by tenant and entity.
        kept: what retention left of an entity's events, by tenant and entity.
        first_versions: from which on events can be read, where something was removed, by tenant and entity.
        policies: (greatest age, greatest count) by tenant and prefix.
    """

    def __init__(self) -> None:
        self.slots: list[Event | None] = [None]
        self.appends = [0]
        self.versions: dict[tuple[str, str], int] = {}
        self.kept: dict[tuple[str, str], Kept] = {}
        self.first_versions: dict[tuple[str, str], int] = {}
        self.policies: dict[tuple[str, str], tuple[int | None, int | None]] = {}
        self.recorded_at = 0

    @property
    def last_position(self) -> int:
        return len(self.slots) - 1

    def events(self, tenant: str) -> list[Event]:
        return [event for event in self.slots if event is not None and event.tenant_id == tenant]

    def of_entity(self, tenant: str, entity: str) -> list[Event]:
        return [event for event in self.events(tenant) if event.entity_id == entity]

    def version(self, tenant: str, entity: str) -> int:
        return self.versions.get((tenant, entity), 0)

    def by_id(self, tenant: str, event_id: UUID | None) -> Event | None:
        return next((event for event in self.events(tenant) if event.id == event_id), None)

    # --- appending ---

    def judge(
        self,
        tenant: str,
        batch: Sequence[Author],
        expected: dict[str, int | str] | None = None,
        condition: AppendCondition | None = None,
    ) -> set[str]:
        """What may come of an append: one of ``stored``, ``duplicate``, ``ids``, ``versions``, ``condition``; two
        of them only where a repetition is none, but happens to look like one.
        """
        verdict = self._judge_ids(tenant, batch)
        if verdict:
            return verdict
        heads = {entity: (self.version(tenant, entity), bool(self.of_entity(tenant, entity))) for entity in ENTITY_IDS}
        if not all(holds(wanted, *heads[entity]) for entity, wanted in (expected or {}).items()):
            return {"versions"}
        for author in batch:
            if author.expected is not None and not holds(author.expected, *heads[author.entity_id]):
                return {"versions"}
            heads[author.entity_id] = heads[author.entity_id][0] + 1, True
        if condition is not None and self.matching(tenant, condition):
            return {"condition"}
        return {"stored"}

    def _judge_ids(self, tenant: str, batch: Sequence[Author]) -> set[str]:
        known = [self.by_id(tenant, author.event_id) if author.event_id else None for author in batch]
        first = next((index for index, event in enumerate(known) if event is not None), None)
        if first is None:
            return set()
        start = known[first]
        assert start is not None
        same_append = True
        for index, (author, event) in enumerate(zip(batch, known, strict=True)):
            if author.event_id is None:
                position = start.position + index - first
                event = self.slots[position] if 0 < position <= self.last_position else None
                if event is None or event.client_id is not None or event.tenant_id != tenant:
                    return {"ids"}
                if event.recorded_at != start.recorded_at:
                    return {"ids"}
                same_append = same_append and self.appends[position] == self.appends[start.position]
            if event is None or not author.is_content_of(event):
                return {"ids"}
        return {"duplicate"} if same_append else {"duplicate", "ids"}

    def matching(self, tenant: str, condition: AppendCondition) -> list[Event]:
        return [
            event
            for event in self.events(tenant)
            if event.position > condition.after and any(item.selects(event) for item in condition.fail_if_events_match)
        ]

    def preview(self, tenant: str, batch: Sequence[Author], now: int) -> list[Event]:
        recorded_at = max(now, self.recorded_at)
        versions = dict(self.versions)
        events = []
        for position, author in enumerate(batch, self.last_position + 1):
            key = tenant, author.entity_id
            versions[key] = versions.get(key, 0) + 1
            events.append(
                Event(
                    author.event_type,
                    author.entity_id,
                    tenant,
                    author.payload,
                    author.metadata,
                    author.tags,
                    recorded_at if author.timestamp is None else author.timestamp,
                    recorded_at,
                    versions[key],
                    position,
                    None if author.event_id is None else author.event_id.bytes,
                )
            )
        return events

    def append(self, tenant: str, batch: Sequence[Author], now: int) -> list[Event]:
        events = self.preview(tenant, batch, now)
        number = self.appends[-1] + 1
        for event in events:
            self.slots.append(event)
            self.appends.append(number)
            self.versions[tenant, event.entity_id] = event.version
        self.recorded_at = events[0].recorded_at
        return events

    # --- removing ---

    def _control(self, now: int) -> None:
        self.slots.append(None)
        self.appends.append(self.appends[-1] + 1)
        self.recorded_at = max(now, self.recorded_at)

    def remove_entity(self, tenant: str, entity: str, now: int) -> None:
        for event in self.of_entity(tenant, entity):
            self.slots[event.position] = None
        self.kept.pop((tenant, entity), None)
        self.first_versions[tenant, entity] = self.version(tenant, entity) + 1
        self._control(now)

    def set_policy(self, tenant: str, prefix: str, age: int | None, count: int | None, now: int) -> None:
        self.policies[tenant, prefix] = age, count
        if age is None and count is None:
            del self.policies[tenant, prefix]
        self._control(now)

    def retain(self, now: int) -> None:
        """What a look for what is too old or too much removes."""
        for tenant in TENANT_IDS:
            for entity in ENTITY_IDS:
                prefixes = [prefix for of, prefix in self.policies if of == tenant and entity.startswith(prefix)]
                if prefixes:
                    self._shorten(tenant, entity, *self.policies[tenant, max(prefixes, key=len)], now)

    def _shorten(self, tenant: str, entity: str, age: int | None, count: int | None, now: int) -> None:
        events = self.of_entity(tenant, entity)
        through = 0
        for event in events:
            is_old = age is not None and event.recorded_at < now - age
            if is_old or (count is not None and event.version <= events[-1].version - count):
                through = event.version
        if not through:
            return
        kept = self.kept.get((tenant, entity), Kept())
        for event in events:
            if event.version <= through:
                kept = kept.and_event(event)
                self.slots[event.position] = None
        self.kept[tenant, entity] = kept
        self.first_versions[tenant, entity] = through + 1
        self._control(now)

    def erase(self, event: Event, now: int) -> None:
        erased = msgspec.structs.replace(event, payload=b"null", metadata=None, tags=(), erased=True)
        self.slots[event.position] = erased
        self._control(now)

    def remove_tenant(self, tenant: str, now: int) -> None:
        for event in self.events(tenant):
            self.slots[event.position] = None
        for of_entities in (self.versions, self.kept, self.first_versions, self.policies):
            for key in [key for key in of_entities if key[0] == tenant]:
                del of_entities[key]
        self._control(now)

    # --- reading ---

    def read(self, tenant: str, query: EventQuery) -> list[Event]:
        before = 2**60 if query.before_position is None else query.before_position
        found = [
            event
            for event in self.events(tenant)
            if query.after_position < event.position < before
            and query.entity_id in (None, event.entity_id)
            and query.event_type in (None, event.event_type)
            and set(query.tags) <= set(event.tags)
            and (query.since is None or event.timestamp >= query.since)
            and (query.until is None or event.timestamp <= query.until)
            and query.from_version <= event.version
            and (query.to_version is None or event.version <= query.to_version)
        ]
        return (found[::-1] if query.descending else found)[: query.limit]

    def state(
        self,
        tenant: str,
        entity: str,
        *,
        as_of: int | None = None,
        as_of_position: int | None = None,
        as_of_version: int | None = None,
    ) -> tuple[Any, ...] | None:
        """None where it can't be known."""
        state = self.kept.get((tenant, entity), Kept())
        if (
            (as_of is not None and as_of < state.newest)
            or (as_of_position is not None and as_of_position < state.position)
            or (as_of_version is not None and as_of_version < state.version)
        ):
            return None
        for event in self.of_entity(tenant, entity):
            if (
                (as_of is None or event.timestamp <= as_of)
                and (as_of_position is None or event.position <= as_of_position)
                and (as_of_version is None or event.version <= as_of_version)
            ):
                state = state.and_event(event)
        first = self.first_versions.get((tenant, entity), 1)
        numbers = state.version, state.count, state.position, state.recorded_at, state.timestamp, state.newest
        return *numbers, first, state.members


def holds(expected: int | str, version: int, readable: bool) -> bool:
    return {"any": True, "none": not readable, "exists": readable}.get(str(expected), version == expected)


def as_tuple(state: EntityState) -> tuple[Any, ...]:
    numbers = state.version, state.event_count, state.last_position, state.last_recorded_at, state.last_timestamp
    return *numbers, state.newest_timestamp, state.first_version, state.value()
