"""Deleting tenants: nothing of them is left, nothing of others is touched, and a crash at any step does no harm."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from allsource_core.changes import Changes
from allsource_core.engine import AppendUncertainError, EventStore, Removal, StoreOptions, StoreReadOnlyError
from allsource_core.engine import Event as StoredEvent
from allsource_core.facts import DEFAULT_TENANT, SYSTEM_TENANT, Fact, Facts
from allsource_core.identity.users import UserDirectory
from allsource_core.tenancy import deletion
from allsource_core.tenancy.deletion import TenantContents, TenantDeletions
from allsource_core.tenancy.errors import DefaultTenantError, DeletionPendingError, UnknownTenantError
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_shared.permissions import Role
from allsource_shared.wire.events import NewEvent
from allsource_shared.wire.tenants import Quotas

EVENTS = 5
OPTIONS = StoreOptions(log_file_bytes_max=1024 * 1024)  # each store fills a log file ahead


class Service:
    """What a process has over a store. To be made on an event loop."""

    def __init__(self, store: EventStore, *, answer_seconds: float = 100.0) -> None:
        self.store = store
        self.facts = Facts(store)
        self.changes = Changes()
        self.users = UserDirectory(self.facts, self.changes)
        self.tenants = TenantDirectory(self.facts, self.changes)
        self.drain = asyncio.Event()
        self.drain.set()
        self.told: list[str] = []
        contents = TenantContents(
            drained=(self._drained,),
            ended=(self._note("ended"),),
            personal_events=(self.users.personal_events,),
            facts_of_removal=(self.users.facts_of_removal,),
            erased=(self.facts.erase_owed,),
            forgotten=(self._note("forgotten"),),
        )
        self.deletions = TenantDeletions(
            store, self.facts, self.tenants, self.changes, contents, answer_seconds=answer_seconds
        )
        self.facts.fold()

    async def _drained(self, tenant_id: str) -> None:
        await self.drain.wait()
        self.told.append(f"drained {tenant_id}")

    def _note(self, what: str) -> Callable[[str], Awaitable[None]]:
        async def note(tenant_id: str) -> None:
            self.told.append(f"{what} {tenant_id}")

        return note

    async def create(self, tenant_id: str, *, events: int = EVENTS) -> None:
        async with self.facts.changing:
            await self.create_locked(tenant_id, events=events)

    async def create_locked(self, tenant_id: str, *, events: int = EVENTS) -> None:
        """The same where `Facts.changing` is held."""
        # As getting the lock does: here it is held since before what was uncertain.
        self.facts.fold()
        await self.tenants.create(tenant_id, name=f"Ann of {tenant_id}", description="", quotas=Quotas(), limits=None)
        for user in ("ann", "bob"):
            await self.users.create_async(
                username=f"{user} of {tenant_id}",
                email=f"{user}@{tenant_id}",
                password_hash="$hash",
                role=Role.DEVELOPER,
                tenant_id=tenant_id,
            )
        for _ in range(events):
            self.store.append(tenant_id, [NewEvent("created", "entity", b"{}")])

    async def inactive(self, tenant_id: str) -> None:
        """Wait until its deletion has begun, a minute at most."""
        async with asyncio.timeout(60):
            while self.tenants.find(tenant_id).active:
                await asyncio.sleep(0.005)

    async def gone(self, tenant_id: str) -> None:
        """Wait until there is no such tenant, a minute at most."""
        async with asyncio.timeout(60):
            while self.tenants.get(tenant_id) is not None:
                await asyncio.sleep(0.005)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "data", options=OPTIONS) as store:
        yield store


def stored_facts(store: EventStore) -> bytes:
    return b"".join(event.payload for event in store.read(SYSTEM_TENANT))


def removals(store: EventStore) -> list[Removal]:
    """The removals of whole tenants."""
    found = store.removals.latest(DEFAULT_TENANT, limit=100, tenants=True)
    assert {removal.kind for removal in found} <= {"tenant"}
    return found


async def check_gone(service: Service, tenant_id: str) -> None:
    """Nothing of a tenant is left, and what comes after it begins from nothing."""
    store = service.store
    assert list(store.read(tenant_id)) == []
    assert store.removals.policies(tenant_id) == []
    assert not [user for user in service.users.all() if user.tenant_id == tenant_id]
    facts = stored_facts(store)
    assert f"Ann of {tenant_id}".encode() not in facts
    assert f"@{tenant_id}".encode() not in facts
    await service.create(tenant_id, events=1)
    (event,) = store.read(tenant_id)
    assert event.version == 1


def check_kept(service: Service, tenant_id: str) -> None:
    assert len(list(service.store.read(tenant_id))) == EVENTS
    assert len([user for user in service.users.all() if user.tenant_id == tenant_id]) == 2
    assert f"Ann of {tenant_id}".encode() in stored_facts(service.store)
    assert service.tenants.find(tenant_id).active


def test_a_deleted_tenant_leaves_nothing_and_its_id_may_be_used_again(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        await service.create("other")
        store.removals.set_policy("acme", "e", max_count=3)
        revision = service.changes.revision
        removal = await service.deletions.delete("acme")
        assert (removal.kind, removal.events_removed) == ("tenant", EVENTS)
        assert service.told == ["drained acme", "ended acme", "forgotten acme"]
        told = service.changes.since(revision)
        assert told
        assert (told[0].kind, told[0].id) == ("tenant", "acme")
        assert service.tenants.removed_by(removal.position) == "acme"
        with pytest.raises(UnknownTenantError):
            await service.deletions.delete("acme")
        await check_gone(service, "acme")
        check_kept(service, "other")
        assert removals(store) == [removal]

    asyncio.run(scenario())


def test_a_tenant_that_never_had_an_event_is_removed_like_any_other(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        for _ in range(2):
            await service.create("acme", events=0)
            assert (await service.deletions.delete("acme")).events_removed == 0
        assert len(removals(store)) == 2
        await check_gone(service, "acme")

    asyncio.run(scenario())


def test_who_asks_again_meanwhile_gets_the_same_removal(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        service.drain.clear()
        asked = [asyncio.create_task(service.deletions.delete("acme")) for _ in range(5)]
        await service.inactive("acme")
        assert not any(task.done() for task in asked)
        assert len(list(store.read("acme"))) == EVENTS
        service.drain.set()
        answers = await asyncio.gather(*asked)
        assert [answer.position for answer in answers] == [answers[0].position] * 5
        assert len(removals(store)) == 1

    asyncio.run(scenario())


def test_nobody_waits_longer_than_may_be_and_it_goes_on(store: EventStore):
    async def scenario() -> None:
        service = Service(store, answer_seconds=0.05)
        service.deletions.start()
        await service.create("acme")
        service.drain.clear()
        with pytest.raises(DeletionPendingError, match="goes on by itself"):
            await service.deletions.delete("acme")
        service.drain.set()
        await service.gone("acme")
        await check_gone(service, "acme")

    asyncio.run(scenario())


def test_what_fails_is_said_and_tried_again(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        remove = store.removals.tenant
        failures = iter([StoreReadOnlyError("full", "disk_full"), OSError(5, "broken")])

        def fail_twice(tenant_id: str) -> Removal:
            for error in failures:
                raise error
            return remove(tenant_id)

        monkeypatch.setattr(store.removals, "tenant", fail_twice)
        with pytest.raises(DeletionPendingError):
            await service.deletions.delete("acme")
        assert not service.tenants.find("acme").active
        await service.gone("acme")
        await check_gone(service, "acme")

    asyncio.run(scenario())


def test_what_failed_is_let_go_of_before_it_is_tried_again(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    class Looked:
        """What the frames of an error have."""

        def fail(self) -> Removal:
            raise OSError(5, "broken")

    looked: list[weakref.ref[Looked]] = []

    def fail(_tenant_id: str) -> Removal:
        one = Looked()
        looked.append(weakref.ref(one))
        return one.fail()

    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        monkeypatch.setattr(store.removals, "tenant", fail)
        with pytest.raises(DeletionPendingError):
            await service.deletions.delete("acme")
        async with asyncio.timeout(60):
            while looked[0]() is not None:
                await asyncio.sleep(0.001)
        await service.deletions.close()

    monkeypatch.setattr(deletion, "_PAUSE_SECONDS", 100.0)
    gc.collect()
    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_the_default_tenant_and_those_that_are_not_there_are_left_alone(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        position = store.last_position
        with pytest.raises(DefaultTenantError):
            await service.deletions.delete(DEFAULT_TENANT)
        with pytest.raises(UnknownTenantError):
            await service.deletions.delete("acme")
        assert store.last_position == position

    asyncio.run(scenario())


def test_a_service_that_stops_leaves_the_deletion_to_the_next_one(store: EventStore):
    async def scenario() -> None:
        first = Service(store)
        first.deletions.start()
        await first.create("acme")
        first.drain.clear()
        asked = asyncio.create_task(first.deletions.delete("acme"))
        await first.inactive("acme")
        await first.deletions.close()
        with pytest.raises(DeletionPendingError):
            await asked
        second = Service(store)
        second.deletions.start()
        await second.gone("acme")
        await check_gone(second, "acme")

    asyncio.run(scenario())


def test_what_names_people_is_erased_however_late_it_was_stored(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        ann = service.users.named("ann of acme")
        assert ann is not None
        erase = service.facts.erase

        async def erase_and_change(events: Sequence[StoredEvent]) -> None:
            service.facts.erase = erase  # type: ignore[method-assign]
            await erase(events)
            async with service.facts.changing:
                await service.users.change(ann.id, email="late@acme")

        service.facts.erase = erase_and_change  # type: ignore[method-assign]
        await service.deletions.delete("acme")
        assert b"late@acme" not in stored_facts(store)
        await check_gone(service, "acme")

    asyncio.run(scenario())


def fail_the_end_once(service: Service, meanwhile: Callable[[], Awaitable[None]]) -> None:
    """The fact that a tenant is deleted is stored, but who stores it is not told so; something happens at once."""
    append = service.facts.append_async

    async def fail(facts: Sequence[Fact]) -> None:
        if facts[-1].type != "tenant.deleted":
            await append(facts)
            return
        service.facts.append_async = append  # type: ignore[method-assign]
        events = [NewEvent(fact.type, fact.subject, Raw(msgspec.json.encode(fact.body))) for fact in facts]
        await service.store.append_async(SYSTEM_TENANT, events)
        await meanwhile()
        raise AppendUncertainError("the disk failed")

    service.facts.append_async = fail  # type: ignore[method-assign]


async def nothing_goes_on() -> None:
    """Wait until no deletion is under way, a minute at most."""
    async with asyncio.timeout(60):
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


def test_a_deletion_whose_end_was_uncertain_leaves_the_next_tenant_of_the_id_alone(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        fail_the_end_once(service, lambda: service.create_locked("acme"))
        with pytest.raises(DeletionPendingError):
            await service.deletions.delete("acme")
        await nothing_goes_on()
        check_kept(service, "acme")
        assert service.told == ["drained acme", "ended acme", "forgotten acme"]
        assert len(removals(store)) == 1
        # It is deleted like any other, too.
        await service.deletions.delete("acme")
        await check_gone(service, "acme")
        assert len(removals(store)) == 2

    asyncio.run(scenario())


def test_the_next_tenant_of_the_id_may_be_deleted_before_the_first_deletion_knows_its_end(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        fail_the_end_once(service, lambda: service.create_locked("acme", events=1))
        with pytest.raises(DeletionPendingError):
            await service.deletions.delete("acme")
        removal = await service.deletions.delete("acme")
        assert removal.events_removed == 1
        await nothing_goes_on()
        assert [one.events_removed for one in removals(store)] == [1, EVENTS]
        await check_gone(service, "acme")

    asyncio.run(scenario())


def test_a_deletion_whose_end_was_uncertain_ends_where_the_id_stays_free(store: EventStore):
    async def scenario() -> None:
        service = Service(store)
        service.deletions.start()
        await service.create("acme")
        fail_the_end_once(service, lambda: asyncio.sleep(0))
        with pytest.raises(DeletionPendingError):
            await service.deletions.delete("acme")
        await nothing_goes_on()
        (removal,) = removals(store)
        assert service.tenants.removed_by(removal.position) == "acme"
        assert service.told == ["drained acme", "ended acme", "forgotten acme"]
        await check_gone(service, "acme")

    asyncio.run(scenario())


class Steps:
    """Counts what a deletion writes, and ends it before or after one of them, for good, as a crash does."""

    def __init__(self, service: Service, crash_at: int, *, after: bool) -> None:
        self._crash_at = crash_at
        self._after = after
        self.taken = 0
        facts, requests = service.facts, service.store.removals
        self._wrap_async(facts, "append_async")
        self._wrap_async(facts, "erase")
        self._wrap(requests, "number")
        self._wrap(requests, "tenant")

    def _begin(self) -> bool:
        self.taken += 1
        if self.taken > self._crash_at or (self.taken == self._crash_at and not self._after):
            raise asyncio.CancelledError
        return self.taken == self._crash_at

    def _wrap_async(self, what: Any, name: str) -> None:
        inner = getattr(what, name)

        async def step(*args: Any) -> None:
            crash = self._begin()
            await inner(*args)
            if crash:
                raise asyncio.CancelledError

        setattr(what, name, step)

    def _wrap(self, what: Any, name: str) -> None:
        inner = getattr(what, name)

        def step(*args: Any) -> Any:
            crash = self._begin()
            result = inner(*args)
            if crash:
                raise asyncio.CancelledError
            return result

        setattr(what, name, step)


async def _crash(store: EventStore, crash_at: int, *, after: bool) -> bool:
    """Delete until the crash; returns whether there was one."""
    service = Service(store)
    service.deletions.start()
    await service.create("acme")
    await service.create("empty", events=0)
    await service.create("other")
    steps = Steps(service, crash_at, after=after)
    outcomes = await asyncio.gather(
        service.deletions.delete("acme"), service.deletions.delete("empty"), return_exceptions=True
    )
    assert all(isinstance(outcome, Removal | DeletionPendingError | asyncio.CancelledError) for outcome in outcomes)
    return steps.taken >= crash_at


async def _go_on(store: EventStore) -> None:
    service = Service(store)
    service.deletions.start()
    for tenant_id in ("acme", "empty"):
        tenant = service.tenants.get(tenant_id)
        if tenant is not None and not tenant.deleting:
            # The crash came before the deletion was taken on: nothing has happened.
            assert tenant.active
            assert len(list(store.read(tenant_id))) == (EVENTS if tenant_id == "acme" else 0)
            await service.deletions.delete(tenant_id)
        await service.gone(tenant_id)
    found = {service.tenants.removed_by(removal.position): removal.events_removed for removal in removals(store)}
    assert found == {"acme": EVENTS, "empty": 0}
    assert len(removals(store)) == 2
    await check_gone(service, "acme")
    await check_gone(service, "empty")
    check_kept(service, "other")


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_step_does_no_harm(tmp_path: Path, after: bool):
    crash_at = 0
    crashed = True
    while crashed:
        crash_at += 1
        directory = tmp_path / str(crash_at)
        with EventStore.open(directory, options=OPTIONS) as store:
            crashed = asyncio.run(_crash(store, crash_at, after=after))
        with EventStore.open(directory, options=OPTIONS) as store:
            asyncio.run(_go_on(store))
    # Two deletions, of each: the fact that it begins, two erasures, users, number, its fact, removal, the last fact.
    assert crash_at > 16
