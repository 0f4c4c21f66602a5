"""Whoever is gone is named nowhere any more: what was not erased at once is later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import pytest

from allsource_core import facts as facts_module
from allsource_core.changes import Changes
from allsource_core.engine import Event, EventQuery, EventStore
from allsource_core.facts import SYSTEM_TENANT
from allsource_core.services import Services
from allsource_core.settings import CoreSettings
from allsource_shared.configuration import load_settings
from allsource_shared.permissions import Role
from allsource_shared.tokens import TokenVerifier

from ..engine.data_directory import contents_of
from .service import MASTER_KEY, PASSWORD, SECRET, Core, bearer


def services_over(store: EventStore, directory: Path) -> Services:
    environ = {
        "ALLSOURCE_AUTH__MASTER_KEY": MASTER_KEY,
        "ALLSOURCE_AUTH__JWT_SECRET": SECRET,
        "ALLSOURCE_STORAGE__DATA_DIR": str(directory),
    }
    settings = load_settings(CoreSettings, config_path=None, environ=environ, flags=[])
    verifier = TokenVerifier([], issuer="allsource", audience="allsource")
    return Services(settings, store, verifier, Changes(), first_user="anybody")


def names_left(store: EventStore, name: str) -> int:
    """How many facts have a name in them."""
    return sum(name.encode() in event.payload for event in store.read(SYSTEM_TENANT, EventQuery()))


def test_what_could_not_be_erased_is_while_the_service_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(facts_module, "_ERASE_SECONDS", 0.001)
    failures = [OSError("the disk fails")] * 3

    async def delete(services: Services) -> None:
        erase = services.facts.erase

        async def erase_or_fail(events: Sequence[Event]) -> None:
            if failures:
                raise failures.pop()
            await erase(events)

        monkeypatch.setattr(services.facts, "erase", erase_or_fail)
        await services.start()
        ann = services.users.create(
            username="ada", email="ada@example.org", password_hash="$", role=Role.DEVELOPER, tenant_id="default"
        )
        async with services.facts.changing:
            await services.users.delete(ann.id)
        await services.facts.try_to_erase()
        async with asyncio.timeout(60):
            while names_left(services.store, "ada@example.org"):
                await asyncio.sleep(0.001)
        assert failures == []
        await services.deletions.close()
        await services.close()

    with EventStore.open(tmp_path / "data") as store:
        asyncio.run(delete(services_over(store, tmp_path / "data")))


REGISTER = "/api/v1/auth/register"
KEYS = "/api/v1/auth/api-keys"


@pytest.mark.parametrize("gone", ["user", "tenant"])
def test_what_is_known_of_sessions_goes_with_user_and_tenant(start: Callable[..., Core], gone: str):
    core = start().ready()

    def kept() -> list[str]:
        files = contents_of(core.data / "derived")
        return [file.name for file, content in files if b"Lovelace's browser" in content]

    with core.client() as admin:
        admin.post("/api/v1/tenants", json={"id": "acme", "name": "Acme"}).raise_for_status()
        body = {"username": "ada", "password": PASSWORD}
        user = admin.post(REGISTER, json={**body, "tenant_id": "acme"}).json()["user_id"]
        with core.client({"User-Agent": "Lovelace's browser"}) as client:
            client.post("/api/v1/auth/login", json=body).raise_for_status()
        assert kept()
        admin.delete("/api/v1/" + {"user": f"auth/users/{user}", "tenant": "tenants/acme"}[gone]).raise_for_status()
        assert kept() == []


def key_of(core: Core, admin: httpx.Client, username: str, tenant: str) -> tuple[str, str]:
    """A new user of a tenant, and a key of theirs that bears a name: the ids of both."""
    user = admin.post(REGISTER, json={"username": username, "password": PASSWORD, "tenant_id": tenant}).json()
    with core.client({}) as client:
        login = client.post("/api/v1/auth/login", json={"username": username, "password": PASSWORD}).json()
        own = {"Authorization": f"Bearer {login['token']}"}
        key = client.post(KEYS, json={"name": "Lovelace's laptop"}, headers=own)
    assert key.status_code == 201, key.text
    return user["user_id"], key.json()["id"]


@pytest.mark.parametrize("gone", ["key", "user", "tenant"])
def test_the_name_of_a_key_goes_with_key_user_and_tenant(start: Callable[..., Core], gone: str):
    core = start().ready()
    with core.client() as admin:
        admin.post("/api/v1/tenants", json={"id": "acme", "name": "Acme"}, headers=bearer()).raise_for_status()
        user, key = key_of(core, admin, "ada", "acme")
        path = {"key": f"auth/api-keys/{key}", "user": f"auth/users/{user}", "tenant": "tenants/acme"}[gone]
        admin.delete(f"/api/v1/{path}").raise_for_status()
    assert core.stop() == 0
    with EventStore.open(core.data) as store:
        assert names_left(store, "Lovelace") == 0
        assert [event.erased for event in store.read(SYSTEM_TENANT, EventQuery(event_type="api-key.named"))] == [True]
