"""Retention and removals while their tenant is being deleted: the next tenant of the id hears nothing of them."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from allsource_core.api.call import Call
from allsource_core.api.removals import RemovalRoutes
from allsource_core.api.retention import RetentionRoutes
from allsource_core.changes import Changes
from allsource_core.engine import EventStore, NotFoundError, system_clock
from allsource_core.facts import Facts
from allsource_core.identity.principals import Principal
from allsource_core.tenancy.errors import UnknownTenantError
from allsource_core.tenancy.metering import Metering
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.permissions import Permission, Role
from allsource_shared.routes import Match
from allsource_shared.wire.events import NewEvent
from allsource_shared.wire.tenants import Quotas

EVENT_ID = "01890a5d-ac96-774b-bcce-b302099a8057"


class Body:
    """Every request has it."""

    async def decode(self, _call: Call, decoder: msgspec.json.Decoder[Any]) -> Any:
        return decoder.decode(b'{"max_count": 1}')


class Service:
    """A tenant `acme`, and what changes something of it. To be made on an event loop.

    Attributes:
        begun, gate: the engine says that a change has begun, and waits before it does it.
        rechecked: how many calls asked whether they still may.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.facts, changes = Facts(store), Changes()
        self.tenants = TenantDirectory(self.facts, changes)
        self.ledger = UsageLedger(store, None, system_clock)
        self.metering = Metering(self.ledger, self.tenants, changes)
        self.begun = threading.Semaphore(0)
        self.gate = threading.Event()
        self.rechecked = 0
        requests = store.removals
        slow: Any = SimpleNamespace(
            removals=SimpleNamespace(
                policies=requests.policies,
                set_policy=self._slow(requests.set_policy),
                entity=self._slow(requests.entity),
                event=self._slow(requests.event),
            )
        )
        bodies: Any = Body()
        retention, removals = RetentionRoutes(slow, bodies, self.metering), RemovalRoutes(slow, self.metering)
        self.handlers = {**retention.handlers, **removals.handlers}

    def _slow(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.begun.release()
            assert self.gate.wait(60)
            return inner(*args, **named)

        return call

    async def create(self, quotas: Quotas | None = None) -> None:
        async with self.facts.changing:
            await self.tenants.create("acme", name="Acme", description="", quotas=quotas or Quotas(), limits=None)

    async def call(self, operation: str) -> int:
        """The status of the answer."""
        unused: Any = None
        request: Any = SimpleNamespace(headers={})
        principal = Principal("user", "u-1", "ann", Role.ADMIN, frozenset[Permission](), "acme", "default")
        route = next(row for row in CORE_ROUTES if row.operation == operation)
        match = Match(route, {"prefix": "e", "entity_id": "e-1", "event_id": EVENT_ID})
        answer = await self.handlers[operation](
            Call(request, 0.0, match, "", unused, principal, [], self._recheck, unused, 0)
        )
        return answer.status

    def _recheck(self, _call: Call) -> None:
        self.rechecked += 1

    async def begin_deletion(self) -> None:
        async with self.facts.changing:
            await self.tenants.begin_deletion("acme")

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=60)

    async def drained(self) -> bool:
        return await self.ledger.drained("acme", 60)


@pytest.fixture
def store() -> Iterator[EventStore]:
    with EventStore.in_memory() as store:
        yield store


def run(store: EventStore, scenario: Callable[[Service], Awaitable[None]]) -> None:
    async def go() -> None:
        service = Service(store)
        try:
            await scenario(service)
        finally:
            # Nothing is left that waits for it, whatever the test found.
            service.gate.set()

    asyncio.run(go())


CHANGES = ["put_retention", "delete_retention", "remove_entity", "erase_event"]


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("operation", CHANGES)
def test_a_deletion_waits_for_what_is_being_changed(store: EventStore, operation: str, cancelled: bool):
    async def scenario(service: Service) -> None:
        await service.create()
        store.removals.set_policy("acme", "e", max_count=9)
        store.append("acme", [NewEvent("a", "e-1", b"{}", event_id=uuid.UUID(EVENT_ID))])
        changing = asyncio.create_task(service.call(operation))
        await service.has_begun()
        await service.begin_deletion()
        if cancelled:
            changing.cancel()
            await asyncio.wait([changing])
        assert service.ledger.outstanding("acme") == 1
        before = store.last_position
        service.gate.set()
        assert await service.drained()
        assert store.last_position > before
        if not cancelled:
            assert await changing in (200, 202, 204)

    run(store, scenario)


@pytest.mark.parametrize("operation", ["put_retention", "delete_retention"])
def test_who_waited_for_another_change_changes_nothing_of_a_tenant_that_is_being_deleted(
    store: EventStore, operation: str
):
    async def scenario(service: Service) -> None:
        await service.create()
        first = asyncio.create_task(service.call("put_retention"))
        await service.has_begun()
        second = asyncio.create_task(service.call(operation))
        await asyncio.sleep(0)
        await service.begin_deletion()
        service.gate.set()
        assert await first == 200
        with pytest.raises(UnknownTenantError):
            await second
        assert service.rechecked == 2
        assert await service.drained()
        assert [policy.max_count for policy in store.removals.policies("acme")] == [1]

    run(store, scenario)


@pytest.mark.parametrize("operation", CHANGES)
def test_nothing_of_a_tenant_that_is_being_deleted_is_changed(store: EventStore, operation: str):
    async def scenario(service: Service) -> None:
        await service.create()
        store.removals.set_policy("acme", "e", max_count=9)
        await service.begin_deletion()
        service.gate.set()
        before = store.last_position
        with pytest.raises(UnknownTenantError):
            await service.call(operation)
        assert store.last_position == before

    run(store, scenario)


def test_who_has_more_than_allowed_may_remove_it(store: EventStore):
    async def scenario(service: Service) -> None:
        await service.create(Quotas(max_events_per_day=1, max_storage_bytes=1))
        service.gate.set()
        store.append("acme", [NewEvent("a", "e-1", b"{}") for _ in range(3)])
        assert await service.call("remove_entity") == 202
        assert service.ledger.outstanding("acme") == 0

    run(store, scenario)


def test_what_is_refused_by_the_engine_holds_up_nothing(store: EventStore):
    async def scenario(service: Service) -> None:
        await service.create()
        service.gate.set()
        with pytest.raises(NotFoundError):
            await service.call("remove_entity")
        assert service.ledger.outstanding("acme") == 0

    run(store, scenario)
