"""The engine against a model that is a list: whatever is done to both, they agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from uuid import UUID

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from allsource_core.engine import (
    Event,
    EventIdConflictError,
    EventQuery,
    EventStore,
    NewEvent,
    Raw,
    VersionConflictError,
)

from .stores import TurnableClock, open_store

TENANTS = st.sampled_from(["a", "b"])
ENTITIES = st.sampled_from(["x", "y", "z/é"])
TYPES = st.sampled_from(["placed", "paid"])
TAGS = st.lists(st.sampled_from(["red", "blue"]), max_size=2, unique=True)
IDS = st.none() | st.integers(1, 6).map(lambda number: UUID(int=number))
EXPECTED = st.none() | st.sampled_from(["any", "none", "exists", 0, 1, 2, 3])
EVENTS = st.builds(
    lambda kind, entity, payload, tags, event_id, expected: NewEvent(
        kind, entity, Raw(b"%d" % payload), tags=tags, event_id=event_id, expected_version=expected
    ),
    TYPES,
    ENTITIES,
    st.integers(0, 2),
    TAGS,
    IDS,
    EXPECTED,
)
BATCHES = st.lists(EVENTS, min_size=1, max_size=4, unique_by=lambda event: event.event_id or object())


def content(event: Event | NewEvent) -> tuple[object, ...]:
    return event.event_type, event.entity_id, bytes(event.payload), tuple(event.tags)


def holds(expected: object, version: int) -> bool:
    return {"any": True, "none": version == 0, "exists": version > 0}.get(str(expected), version == expected)


class Model:
    """Every stored event in a list; all questions are answered by going through it."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.appends: list[int] = []

    def version(self, tenant: str, entity: str) -> int:
        return sum(event.tenant_id == tenant and event.entity_id == entity for event in self.events)

    def by_id(self, tenant: str, event_id: UUID | None) -> Event | None:
        found = [event for event in self.events if event.tenant_id == tenant and event.id == event_id]
        return found[0] if found else None

    def judge(self, tenant: str, batch: list[NewEvent], expected: dict[str, int | str]) -> str:
        """``stored``, ``duplicate``, ``id_conflict`` or ``version_conflict``."""
        known = [self.by_id(tenant, event.event_id) if event.event_id else None for event in batch]
        if any(known):
            first = next(index for index, event in enumerate(known) if event)
            base = known[first].position - first  # type: ignore[union-attr]
            for index, (event, stored) in enumerate(zip(batch, known, strict=True)):
                if event.event_id is None:
                    place = base + index
                    candidate = self.events[place - 1] if 1 <= place <= len(self.events) else None
                    together = candidate is not None and self.appends[place - 1] == self.appends[base + first - 1]
                    if candidate and together and candidate.client_id is None:
                        stored = candidate
                if stored is None or content(stored) != content(event):
                    return "id_conflict"
            return "duplicate"
        if not all(holds(e, self.version(tenant, entity)) for entity, e in expected.items()):
            return "version_conflict"
        seen: dict[str, int] = {}
        for event in batch:
            version = self.version(tenant, event.entity_id) + seen.get(event.entity_id, 0)
            if event.expected_version is not None and not holds(event.expected_version, version):
                return "version_conflict"
            seen[event.entity_id] = seen.get(event.entity_id, 0) + 1
        return "stored"

    def read(self, tenant: str, query: EventQuery) -> list[Event]:
        before = query.before_position or 2**60
        found = [
            event
            for event in self.events
            if event.tenant_id == tenant
            and query.after_position < event.position < before
            and query.entity_id in (None, event.entity_id)
            and query.event_type in (None, event.event_type)
            and set(query.tags) <= set(event.tags)
            and (query.since is None or event.timestamp >= query.since)
            and (query.until is None or event.timestamp <= query.until)
        ]
        return (found[::-1] if query.descending else found)[: query.limit]


class EngineAgainstModel(RuleBasedStateMachine):
    """Appends, refusals, repetitions, reads of every kind, clean and unclean reopenings."""

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.clock = TurnableClock()
        self.store: EventStore = open_store(self.directory / "s", clock=self.clock)
        self.model = Model()

    @rule(tenant=TENANTS, batch=BATCHES, expected=st.dictionaries(ENTITIES, EXPECTED.filter(bool), max_size=1))
    def append(self, tenant: str, batch: list[NewEvent], expected: dict[str, int | str]) -> None:
        verdict = self.model.judge(tenant, batch, expected)
        try:
            appended = self.store.append(tenant, batch, expected_versions=expected)
        except VersionConflictError:
            assert verdict == "version_conflict"
        except EventIdConflictError:
            assert verdict == "id_conflict"
        else:
            assert verdict == ("duplicate" if appended.duplicate else "stored")
            assert [content(event) for event in appended.events] == [content(event) for event in batch]
            if not appended.duplicate:
                for event in appended.events:
                    assert event.version == self.model.version(tenant, event.entity_id) + 1
                    assert event.position == len(self.model.events) + 1
                    self.model.events.append(msgspec.structs.replace(event))
                    self.model.appends.append(appended.events[0].position)

    @rule(microseconds=st.integers(-5_000, 5_000))
    def turn_the_clock(self, microseconds: int) -> None:
        self.clock.now += microseconds

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.directory / "s", clock=self.clock)

    @rule()
    def crash_and_reopen(self) -> None:
        shutil.rmtree(self.directory / "copy", ignore_errors=True)
        shutil.copytree(self.directory / "s", self.directory / "copy")
        self.store.close()
        shutil.rmtree(self.directory / "s")
        (self.directory / "copy").rename(self.directory / "s")
        self.store = open_store(self.directory / "s", clock=self.clock)

    @rule(
        tenant=TENANTS,
        entity=st.none() | ENTITIES,
        kind=st.none() | TYPES,
        tags=TAGS,
        bounds=st.tuples(st.integers(0, 12), st.none() | st.integers(1, 15)),
        times=st.tuples(st.none() | st.integers(-6_000, 6_000), st.none() | st.integers(-6_000, 6_000)),
        descending=st.booleans(),
        limit=st.none() | st.integers(1, 5),
    )
    def read(
        self,
        tenant: str,
        entity: str | None,
        kind: str | None,
        tags: list[str],
        bounds: tuple[int, int | None],
        times: tuple[int | None, int | None],
        descending: bool,
        limit: int | None,
    ) -> None:
        since, until = (None if offset is None else self.clock.now + offset for offset in times)
        query = EventQuery(
            entity_id=entity,
            event_type=kind,
            tags=tuple(tags),
            since=since,
            until=until,
            after_position=bounds[0],
            before_position=bounds[1],
            descending=descending,
            limit=limit,
        )
        assert list(self.store.read(tenant, query)) == self.model.read(tenant, query)

    @rule(tenant=TENANTS, event_id=IDS.filter(bool))
    def get(self, tenant: str, event_id: UUID) -> None:
        assert self.store.get(tenant, event_id) == self.model.by_id(tenant, event_id)

    @invariant()
    def positions_agree(self) -> None:
        if hasattr(self, "store"):
            assert self.store.last_position == len(self.model.events)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.directory)


EngineAgainstModel.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEngineAgainstModel = EngineAgainstModel.TestCase
