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


class Model:
    """Every record in a list; all questions are answered by going through it.

    Attributes:
        slots: by position; None where no event is, or one that was removed.
        appends: the number of the append that each position came with.
        versions: the last one ever assigned, by tenant and entity.
    """

    def __init__(self) -> None:
        self.slots: list[Event | None] = [None]
        self.appends = [0]
        self.versions: dict[tuple[str, str], int] = {}
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
        self._control(now)

    def erase(self, event: Event, now: int) -> None:
        erased = msgspec.structs.replace(event, payload=b"null", metadata=None, tags=(), erased=True)
        self.slots[event.position] = erased
        self._control(now)

    def remove_tenant(self, tenant: str, now: int) -> None:
        for event in self.events(tenant):
            self.slots[event.position] = None
        self.versions = {key: version for key, version in self.versions.items() if key[0] != tenant}
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
    ) -> tuple[Any, ...]:
        members: dict[str, Any] = {}
        last: Event | None = None
        count = 0
        for event in self.of_entity(tenant, entity):
            if (
                (as_of is None or event.timestamp <= as_of)
                and (as_of_position is None or event.position <= as_of_position)
                and (as_of_version is None or event.version <= as_of_version)
            ):
                payload = msgspec.json.decode(event.payload)
                members.update(payload if isinstance(payload, dict) else {})
                last, count = event, count + 1
        if last is None:
            return 0, 0, 0, 0, 0, {}
        return last.version, count, last.position, last.recorded_at, last.timestamp, members


def holds(expected: int | str, version: int, readable: bool) -> bool:
    return {"any": True, "none": not readable, "exists": readable}.get(str(expected), version == expected)


def as_tuple(state: EntityState) -> tuple[Any, ...]:
    numbers = state.version, state.event_count, state.last_position, state.last_recorded_at, state.last_timestamp
    return *numbers, state.value()
