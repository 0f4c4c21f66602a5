"""Whoever waited for others to change something is looked at again before anything is changed for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from allsource_core.api.admission import Admission
from allsource_core.api.authentication import Authenticator
from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call
from allsource_core.api.handlers import handlers_of
from allsource_core.api.metrics import CoreMetrics
from allsource_core.changes import Changes
from allsource_core.engine import EventStore
from allsource_core.identity.errors import UnknownKeyError
from allsource_core.identity.principals import Principal
from allsource_core.services import Services
from allsource_core.settings import CoreSettings
from allsource_shared.configuration import load_settings
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.permissions import ROLE_PERMISSIONS, Role
from allsource_shared.problems import ApiError
from allsource_shared.tokens import TokenVerifier

from .service import MASTER_KEY, SECRET

pytestmark = pytest.mark.asyncio

QUOTAS = b'{"max_events_per_day":1,"max_storage_bytes":1,"max_queries_per_hour":1,"max_api_keys":1,"max_projections":1,'
BODIES = {
    "create_api_key": b'{"name":"ci"}',
    "rotate_api_key": b"",
    "revoke_api_key": b"",
    "create_tenant": b'{"id":"new","name":"New"}',
    "put_tenant": b'{"name":"Other","description":""}',
    "put_tenant_quotas": QUOTAS + b'"max_pipelines":1}',
    "put_tenant_limits": b'{"requests_per_minute":1,"burst":1}',
    "deactivate_tenant": b"",
    "activate_tenant": b"",
    "delete_tenant": b"",
    "rotate_signing_key": b"",
    "change_user": b'{"role":"readonly"}',
    "delete_user": b"",
}


class World:
    """The services over a store, without a server: an administrator, a key of theirs, another user and a tenant."""

    def __init__(self, store: EventStore, directory: Path) -> None:
        environ = {
            "ALLSOURCE_AUTH__MASTER_KEY": MASTER_KEY,
            "ALLSOURCE_AUTH__JWT_SECRET": SECRET,
            "ALLSOURCE_STORAGE__DATA_DIR": str(directory),
        }
        settings = load_settings(CoreSettings, config_path=None, environ=environ, flags=[])
        changes = Changes()
        verifier = TokenVerifier([], issuer="allsource", audience="allsource")
        self.services = Services(settings, store, verifier, changes, first_user="anybody")
        authenticator = Authenticator(metrics_public=False, gateway_key="")
        admission = Admission(authenticator, changes)
        self.handlers = handlers_of(self.services, authenticator, admission, CoreMetrics())

    async def fill(self) -> None:
        users = self.services.users
        root, ann = (
            users.create(username=role.value, email="", password_hash="$", role=role, tenant_id="default")
            for role in (Role.ADMIN, Role.DEVELOPER)
        )
        key, _ = await self.services.issuer.create(root.id, name="ci", tenant_id="default")
        permissions = ROLE_PERMISSIONS[Role.ADMIN]
        self.root = Principal("user", root.id, root.username, Role.ADMIN, permissions, "default", "default")
        self.parameters = {"user_id": ann.id, "key_id": key.id, "tenant_id": "acme"}
        async with self.services.facts.changing:
            tenants = self.services.tenants
            await tenants.create(
                "acme", name="Acme", description="", quotas=tenants.find("default").quotas, limits=None
            )

    def call(self, operation: str, recheck: Any) -> Call:
        route = next(route for route in CORE_ROUTES if route.operation == operation)
        match: Any = SimpleNamespace(route=route, parameters=self.parameters)
        request: Any = SimpleNamespace(headers={}, body=BODIES[operation])
        nothing: Any = None
        return Call(request, 0.0, match, "", nothing, self.root, [], recheck, nothing, 0)


@pytest_asyncio.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def read(_bodies: Bodies, call: Call, _bytes_max: int | None = None) -> bytes:
        body: bytes = call.request.body  # type: ignore[attr-defined]
        return body

    monkeypatch.setattr(Bodies, "read", read)
    with EventStore.open(tmp_path / "data") as store:
        world = World(store, tmp_path / "data")
        await world.fill()
        yield world
        await world.services.close()


@pytest.mark.parametrize("operation", list(BODIES))
async def test_who_may_not_any_more_after_the_wait_changes_nothing(world: World, operation: str):
    rechecks: list[bool] = []

    def refuse(_call: Call) -> None:
        rechecks.append(world.services.facts.changing.locked())
        raise ApiError("unauthorized", "not any more")

    before = world.services.store.last_position
    async with world.services.facts.changing:
        answer = asyncio.ensure_future(world.handlers[operation](world.call(operation, refuse)))
        done, _ = await asyncio.wait([answer], timeout=0)
        assert not done
    with pytest.raises(ApiError, match="not any more"):
        await answer
    assert rechecks == [True]
    assert world.services.store.last_position == before


async def test_who_was_an_administrator_before_the_wait_revokes_no_key_of_others(world: World):
    key = world.parameters["key_id"]
    other = world.services.users.named("developer")
    assert other is not None

    def demote(call: Call) -> None:
        role = Role.DEVELOPER
        call.caller = Principal("user", other.id, other.username, role, ROLE_PERMISSIONS[role], "default", "default")

    call = world.call("revoke_api_key", demote)
    call.caller = msgspec.structs.replace(world.root, user_id=other.id)
    with pytest.raises(UnknownKeyError):
        await world.handlers["revoke_api_key"](call)
    assert world.services.keys.get(key) is not None
