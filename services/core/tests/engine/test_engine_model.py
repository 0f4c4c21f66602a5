"""The engine against a model of lists and dicts: whatever is done to both, they agree after every step."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import aclosing
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from allsource_core.engine import (
    AppendCondition,
    ConditionFailedError,
    ConditionItem,
    Event,
    EventIdConflictError,
    EventQuery,
    EventStore,
    InvalidEventError,
    NotFoundError,
    StateNotKeptError,
    StoreOptions,
    VersionConflictError,
    view,
)
from allsource_core.engine.events import server_id

from .data_directory import errors_of
from .engine_model import ENTITY_IDS, START, TENANT_IDS, Author, Model, as_tuple
from .stores import TurnableClock, without_background_work

EXAMPLES = int(os.environ.get("ALLSOURCE_MODEL_EXAMPLES", "80"))
OPTIONS = StoreOptions(
    maintenance="thread",
    segment_rows_max=10,
    log_file_bytes_max=4096,
    removal_seconds=0,
    retention_seconds=0,
    reserve_bytes=0,
)
# Nothing here is about what a disk does, and in memory a sync costs nothing.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

TENANTS = st.sampled_from(TENANT_IDS)
ENTITIES = st.sampled_from(ENTITY_IDS)
TYPES = st.sampled_from(["placed", "paid"])
TAGS = st.lists(st.sampled_from(["red", "blue"]), max_size=2, unique=True)
IDS = st.integers(1, 8).map(lambda number: UUID(int=number))
EXPECTED = st.sampled_from(["any", "any", "exists", "none", 0, 1, 2, 3, 5])
PAYLOADS = st.sampled_from([b"1", b'{"n":1}', b'{"n":2,"m":[]}', b'{"m":null}'])
TIMES = st.none() | st.integers(-9_000, 9_000)

AUTHORS = st.builds(
    Author,
    TYPES,
    ENTITIES,
    PAYLOADS,
    TAGS.map(tuple),
    st.sampled_from([None, None, b'{"by":"me"}']),
    st.none() | TIMES,
    st.none() | IDS,
    st.none() | st.none() | EXPECTED,
)
BATCHES = st.lists(AUTHORS, min_size=1, max_size=5, unique_by=lambda author: author.event_id or object())
VERSIONS = st.dictionaries(ENTITIES, EXPECTED, max_size=2)
ITEMS = st.builds(
    ConditionItem, st.lists(TYPES, max_size=2).map(tuple), TAGS.map(tuple), st.lists(ENTITIES, max_size=2).map(tuple)
).filter(lambda item: item.event_types or item.tags or item.entity_ids)


async def read_async(store: EventStore, tenant: str, query: EventQuery) -> list[Event]:
    async with aclosing(store.read_async(tenant, query)) as chunks:
        return [event async for chunk in chunks for event in chunk]


class EngineAgainstModel(RuleBasedStateMachine):
    """Appends, refusals, repetitions, removals, retention, reads of every kind, sealing, compaction, reopenings."""

    store: EventStore

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        # Maintenance happens in the steps that say so: a copy of the directory is then what a crash would leave.
        without_background_work(self.patch)
        # However long a look takes, the model knows nothing of time.
        self.patch.setattr(view, "_CONDITION_SECONDS_MAX", 600)
        self.directory = Path(tempfile.mkdtemp(prefix="allsource-model-", dir=IN_MEMORY))
        self.clock = TurnableClock()
        self.model = Model()
        self.batches: list[tuple[str, list[Author]]] = []
        self.open()

    def open(self) -> None:
        self.store = EventStore.open(self.directory / "s", options=OPTIONS, clock=self.clock)

    # --- appending ---

    def offer(
        self, tenant: str, batch: list[Author], verdict: set[str], *, dry_run: bool = False, **conditions: Any
    ) -> None:
        """Append to the engine, and to the model what the engine stored."""
        preview = self.model.preview(tenant, batch, self.clock.now)
        events = [author.new_event() for author in batch]
        if verdict in ({"versions"}, {"condition"}):
            with pytest.raises((VersionConflictError, ConditionFailedError)) as refusal:
                self.store.append(tenant, events, dry_run=dry_run, **conditions)
            self.check_refusal(tenant, refusal.value, verdict, conditions.get("condition"))
            return
        try:
            appended = self.store.append(tenant, events, dry_run=dry_run, **conditions)
        except EventIdConflictError:
            appended = None
        if appended is None:
            assert "ids" in verdict
        elif appended.duplicate:
            assert "duplicate" in verdict
            assert all(author.is_content_of(event) for author, event in zip(batch, appended.events, strict=True))
            assert all(self.model.slots[event.position] == event for event in appended.events)
        else:
            assert "stored" in verdict
            assert (appended.events, appended.dry_run) == (preview, dry_run)
            if not dry_run:
                self.model.append(tenant, batch, self.clock.now)
                self.batches.append((tenant, batch))

    def check_refusal(
        self, tenant: str, refusal: Exception, verdict: set[str], condition: AppendCondition | None
    ) -> None:
        if isinstance(refusal, ConditionFailedError):
            assert verdict == {"condition"}
            assert condition is not None
            named = [(event.position, event.id) for event in self.model.matching(tenant, condition)]
            assert (refusal.position, refusal.event_id) in named
        else:
            assert verdict == {"versions"}

    @rule(tenant=TENANTS, batch=BATCHES)
    def append(self, tenant: str, batch: list[Author]) -> None:
        batch = [msgspec.structs.replace(author, expected=None) for author in batch]
        self.offer(tenant, batch, self.model.judge(tenant, batch))

    @rule(tenant=TENANTS, count=st.integers(6, 24), author=AUTHORS)
    def append_many(self, tenant: str, count: int, author: Author) -> None:
        author = msgspec.structs.replace(author, event_id=None, expected=None)
        batch = [
            msgspec.structs.replace(author, entity_id=ENTITY_IDS[number * number % 3], payload=b'{"n":%d}' % number)
            for number in range(count)
        ]
        self.offer(tenant, batch, {"stored"})

    @rule(tenant=TENANTS, batch=BATCHES, expected=VERSIONS, dry_run=st.booleans())
    def append_expecting(self, tenant: str, batch: list[Author], expected: dict[str, int | str], dry_run: bool) -> None:
        verdict = self.model.judge(tenant, batch, expected)
        self.offer(tenant, batch, verdict, expected_versions=expected, dry_run=dry_run)

    @rule(tenant=TENANTS, entity=ENTITIES, author=AUTHORS, ahead=st.sampled_from([0, 0, 0, 1, -1]))
    def append_at_version(self, tenant: str, entity: str, author: Author, ahead: int) -> None:
        version = max(self.model.version(tenant, entity) + ahead, 0)
        batch = [msgspec.structs.replace(author, entity_id=entity, expected=version)]
        self.offer(tenant, batch, self.model.judge(tenant, batch))

    @rule(
        tenant=TENANTS,
        batch=BATCHES,
        items=st.lists(ITEMS, min_size=1, max_size=2),
        behind=st.none() | st.integers(0, 12),
        dry_run=st.booleans(),
    )
    def append_on_condition(
        self, tenant: str, batch: list[Author], items: list[ConditionItem], behind: int | None, dry_run: bool
    ) -> None:
        after = 0 if behind is None else max(self.model.last_position - behind, 0)
        condition = AppendCondition(tuple(items), after)
        verdict = self.model.judge(tenant, batch, condition=condition)
        self.offer(tenant, batch, verdict, condition=condition, dry_run=dry_run)

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 1000), tenant=st.none() | TENANTS, part=st.booleans())
    def append_again(self, which: int, tenant: str | None, part: bool) -> None:
        """The answer was lost, perhaps: the same once more, or a part of it, or for another tenant."""
        of, batch = self.batches[which % len(self.batches)]
        batch = batch[which % len(batch) :] if part else batch
        tenant = of if tenant is None else tenant
        self.offer(tenant, batch, self.model.judge(tenant, batch))

    @rule(tenant=TENANTS, author=AUTHORS, back=st.integers(-3, 30))
    def append_with_an_id_of_the_stores_form(self, tenant: str, author: Author, back: int) -> None:
        position = max(self.model.last_position - back, 1)
        event = self.model.slots[position] if position <= self.model.last_position else None
        event_id = server_id(self.model.recorded_at, position) if event is None else event.id
        batch = [msgspec.structs.replace(author, event_id=event_id, expected=None)]
        if position > self.model.last_position:
            with pytest.raises(InvalidEventError):
                self.store.append(tenant, [batch[0].new_event()])
        else:
            self.offer(tenant, batch, self.model.judge(tenant, batch))

    # --- removing ---

    @rule(tenant=TENANTS, entity=ENTITIES)
    def remove_entity(self, tenant: str, entity: str) -> None:
        events = self.model.of_entity(tenant, entity)
        if not events and (tenant, entity) not in self.model.kept:
            with pytest.raises(NotFoundError):
                self.store.removals.entity(tenant, entity)
            return
        removal = self.store.removals.entity(tenant, entity)
        assert (removal.version, removal.events_removed) == (self.model.version(tenant, entity), len(events))
        self.model.remove_entity(tenant, entity, self.clock.now)

    @precondition(lambda self: self.model.last_position)
    @rule(back=st.integers(0, 30))
    def erase_event(self, back: int) -> None:
        event = self.model.slots[max(self.model.last_position - back, 1)]
        if event is None:
            return
        if event.erased:
            with pytest.raises(NotFoundError):
                self.store.removals.event(event.tenant_id, event.id)
            return
        other = next(tenant for tenant in TENANT_IDS if tenant != event.tenant_id)
        if self.model.by_id(other, event.id) is None:
            with pytest.raises(NotFoundError):
                self.store.removals.event(other, event.id)
        assert self.store.removals.event(event.tenant_id, event.id).event_position == event.position
        self.model.erase(event, self.clock.now)

    @rule(tenant=TENANTS, really=st.sampled_from([True, False, False]))
    def remove_tenant(self, tenant: str, really: bool) -> None:
        if really and self.model.events(tenant):
            self.store.removals.tenant(tenant)
            self.model.remove_tenant(tenant, self.clock.now)

    @rule(
        tenant=TENANTS,
        prefix=st.sampled_from(["", "", "z", "z/é"]),
        age=st.none() | st.sampled_from([1, 1_000, 90_000_000_000]),
        count=st.none() | st.sampled_from([0, 1, 2, 3, 5]),
    )
    def set_policy(self, tenant: str, prefix: str, age: int | None, count: int | None) -> None:
        self.store.removals.set_policy(tenant, prefix, max_age_us=age, max_count=count)
        self.model.set_policy(tenant, prefix, age, count, self.clock.now)

    # --- what must change nothing that retention leaves ---

    @rule(microseconds=st.sampled_from([1, 700, 5_000, -1, -5_000, 86_400_000_000, -86_400_000_000]))
    def turn_the_clock(self, microseconds: int) -> None:
        # Times that authors gave before must not be too far ahead when they are given again.
        self.clock.now = max(self.clock.now + microseconds, START - 60_000_000)

    @rule()
    def seal(self) -> None:
        self.store.seal()
        self.model.retain(self.clock.now)

    @rule()
    def compact(self) -> None:
        self.store.compact()
        self.model.retain(self.clock.now)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.verify()
        self.open()

    def verify(self) -> None:
        errors = errors_of(self.directory / "s")
        assert not errors, errors

    @rule()
    def crash_and_reopen(self) -> None:
        shutil.copytree(self.directory / "s", self.directory / "copy")
        self.store.close()
        shutil.rmtree(self.directory / "s")
        (self.directory / "copy").rename(self.directory / "s")
        self.open()

    # --- reading ---

    @rule(
        tenant=TENANTS,
        entity=st.none() | ENTITIES,
        kind=st.none() | TYPES,
        tags=TAGS,
        bounds=st.tuples(st.integers(0, 80), st.none() | st.integers(1, 80)),
        versions=st.none() | st.tuples(st.integers(1, 6), st.none() | st.integers(1, 12)),
        times=st.tuples(TIMES, TIMES),
        descending=st.booleans(),
        limit=st.none() | st.integers(1, 5),
        up_to=st.integers(0, 80),
    )
    def read(
        self,
        tenant: str,
        entity: str | None,
        kind: str | None,
        tags: list[str],
        bounds: tuple[int, int | None],
        versions: tuple[int, int | None] | None,
        times: tuple[int | None, int | None],
        descending: bool,
        limit: int | None,
        up_to: int,
    ) -> None:
        since, until = (None if offset is None else START + offset for offset in times)
        # Bounds of versions are for reads of one entity.
        from_version, to_version = versions if versions and entity else (1, None)
        query = EventQuery(
            entity_id=entity,
            event_type=kind,
            tags=tuple(tags),
            since=since,
            until=until,
            after_position=bounds[0] if bounds[0] < 60 else 0,
            before_position=bounds[1],
            from_version=from_version,
            to_version=to_version,
            descending=descending,
            limit=limit,
        )
        expected = self.model.read(tenant, query)
        assert list(self.store.read(tenant, query)) == expected
        assert asyncio.run(read_async(self.store, tenant, query)) == expected
        bound = up_to + 1 if bounds[1] is None else min(up_to + 1, bounds[1])
        expected = self.model.read(tenant, msgspec.structs.replace(query, before_position=bound))
        chunks = list(self.store.read_chunks(tenant, query, up_to=up_to))
        assert list(chain.from_iterable(chunks)) == expected
        assert all(chunks)

    @rule(tenant=TENANTS, event_id=IDS, position=st.integers(1, 80))
    def get(self, tenant: str, event_id: UUID, position: int) -> None:
        assert self.store.get(tenant, event_id) == self.model.by_id(tenant, event_id)
        event = self.model.slots[position] if position <= self.model.last_position else None
        if event is not None:
            assert self.store.get(event.tenant_id, event.id) == event
            assert asyncio.run(self.store.get_async(tenant, event.id)) == self.model.by_id(tenant, event.id)

    @rule(tenant=TENANTS, entity=ENTITIES, time=st.integers(-9_000, 9_000), bound=st.integers(1, 60))
    def states(self, tenant: str, entity: str, time: int, bound: int) -> None:
        for as_of in ({}, {"as_of": START + time}, {"as_of_position": bound}, {"as_of_version": bound % 7 + 1}):
            expected = self.model.state(tenant, entity, **as_of)
            if expected is None:
                with pytest.raises(StateNotKeptError):
                    self.store.state(tenant, entity, **as_of)
            else:
                assert as_tuple(self.store.state(tenant, entity, **as_of)) == expected, as_of

    @invariant()
    def everything_agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        if len(self.store._parts.sequencer.memory.frozen) > 1:
            # Appends would wait for sealing, which nobody does by himself here.
            self.compact()
        assert self.store.last_position == self.model.last_position
        for tenant in TENANT_IDS:
            assert list(self.store.read(tenant)) == self.model.events(tenant)
            for entity in ENTITY_IDS:
                assert self.store.version(tenant, entity) == self.model.version(tenant, entity)
                assert as_tuple(self.store.state(tenant, entity)) == self.model.state(tenant, entity)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.patch.undo()
            self.store.close()
            try:
                self.verify()
            finally:
                shutil.rmtree(self.directory)


EngineAgainstModel.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestEngineAgainstModel = pytest.mark.timeout(300 + 15 * EXAMPLES)(EngineAgainstModel.TestCase)
