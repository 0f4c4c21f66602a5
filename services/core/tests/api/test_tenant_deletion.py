"""Deleting a tenant over HTTP: nothing of it is left, whenever the service is killed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import httpx
import pytest

from ..engine.data_directory import contents_of
from .service import ADMIN, BATCH, EVENTS, LOGIN, PASSWORD, QUERY, Core, bearer, refusal, until

TENANTS = "/api/v1/tenants"
KEYS = "/api/v1/auth/api-keys"
OPERATIONS = "/api/v1/operations"


@pytest.fixture
def tenant() -> str:
    """A tenant id that no other test has."""
    return f"t-{uuid.uuid4().hex}"


def fill(admin: httpx.Client, tenant: str, count: int = 30) -> None:
    """Make a tenant, with events and a retention policy."""
    admin.post(TENANTS, json={"id": tenant, "name": f"secret name of {tenant}"}).raise_for_status()
    own = bearer(tenant=tenant)
    events = [{"event_type": "a", "entity_id": f"e-{number % 3}", "payload": {}} for number in range(count)]
    admin.post(BATCH, json={"events": events}, headers=own).raise_for_status()
    admin.put("/api/v1/retention/e", json={"max_count": 1_000}, headers=own).raise_for_status()


def check_nothing_of_before(admin: httpx.Client, tenant: str) -> None:
    """The id can be used again, and what has it then begins from nothing."""
    made = admin.post(TENANTS, json={"id": tenant, "name": "next"})
    assert made.status_code == 201, made.text
    usage = admin.get(f"{TENANTS}/{tenant}/stats").json()["usage"]
    assert {name: one["used"] for name, one in usage.items()} == dict.fromkeys(usage, 0)
    own = bearer(tenant=tenant)
    assert admin.get(QUERY, headers=own).json()["events"] == []
    assert admin.get("/api/v1/retention", headers=own).json()["count"] == 0
    event = {"event_type": "a", "entity_id": "e-0", "payload": {}}
    assert admin.post(EVENTS, json=event, headers=own).json()["version"] == 1
    assert admin.get(f"{TENANTS}/{tenant}").json()["name"] == "next"


def test_a_deleted_tenant_is_gone_and_its_removal_can_be_followed(admin: httpx.Client, tenant: str):
    fill(admin, tenant)
    deleted = admin.delete(f"{TENANTS}/{tenant}")
    body = deleted.json()
    assert (deleted.status_code, body["events_removed"], body["kind"]) == (202, 30, "remove_tenant")
    assert body["operation_id"] == f"removal-{body['position']}"
    assert body["result"] == {"tenant_id": tenant, "events_removed": 30}
    refusal(admin.get(f"{TENANTS}/{tenant}"), 404, "not_found")
    refusal(admin.delete(f"{TENANTS}/{tenant}"), 404, "not_found")
    path = f"{OPERATIONS}/{body['operation_id']}"
    until(lambda: admin.get(path).json()["status"] == "done")
    operation = admin.get(path).json()
    assert operation["result"] == body["result"]
    listed = admin.get(OPERATIONS, params={"limit": 1_000}).json()["operations"]
    assert [one for one in listed if one["operation_id"] == body["operation_id"]] == [operation]
    check_nothing_of_before(admin, tenant)
    assert admin.get(path).json() == operation


def test_keys_count_against_the_quota_and_end_with_the_tenant(start: Callable[..., Core], tenant: str):
    core = start().ready()
    with core.client({}) as client:
        signed_in = client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD}).json()
        client.headers["Authorization"] = f"Bearer {signed_in['token']}"
        for _ in range(2):
            client.post(TENANTS, json={"id": tenant, "name": "x", "tier": "free"}).raise_for_status()
            made = [client.post(KEYS, json={"name": "k", "tenant_id": tenant}) for _ in range(3)]
            assert [one.status_code for one in made] == [201, 201, 403]
            problem = made[2].json()
            assert (problem["error"], problem["expected"], problem["actual"]) == ("quota_exceeded", 2, 2)
            assert "max_api_keys" in problem["detail"]
            usage = client.get(f"{TENANTS}/{tenant}/stats").json()["usage"]["api_keys"]
            assert (usage["used"], usage["percent"]) == (2, 100.0)
            assert client.get(KEYS, params={"tenant_id": tenant}).json()["count"] == 2
            client.delete(f"{TENANTS}/{tenant}").raise_for_status()
            assert client.get(KEYS, params={"tenant_id": tenant}).json()["count"] == 0
            refusal(client.post(KEYS, json={"name": "k", "tenant_id": tenant}), 404, "not_found")


def test_a_tenant_without_events_is_deleted_like_any_other(admin: httpx.Client, tenant: str):
    admin.post(TENANTS, json={"id": tenant, "name": "x"}).raise_for_status()
    body = admin.delete(f"{TENANTS}/{tenant}").json()
    assert body["events_removed"] == 0
    assert admin.get(f"{OPERATIONS}/{body['operation_id']}").status_code == 200
    check_nothing_of_before(admin, tenant)


def test_names_of_a_deleted_tenant_are_gone_from_the_disk(start: Callable[..., Core], tenant: str):
    core = start().ready()
    with core.client() as admin:
        fill(admin, tenant)
        admin.put(f"{TENANTS}/{tenant}", json={"name": "other secret name", "description": "x"}).raise_for_status()
        path = f"{OPERATIONS}/{admin.delete(f'{TENANTS}/{tenant}').json()['operation_id']}"
        until(lambda: admin.get(path).json()["status"] == "done")

    def found() -> list[str]:
        return [path.name for path, content in contents_of(core.data) if b"secret name" in content]

    until(lambda: not found())


@pytest.mark.parametrize("delay_ms", [0, 1, 2, 4, 7, 11, 16, 25])
def test_a_service_that_is_killed_meanwhile_goes_on_with_it(start: Callable[..., Core], tenant: str, delay_ms: int):
    core = start().ready()
    with core.client() as admin:
        fill(admin, tenant)
        fill(admin, f"{tenant}-other")

        def delete() -> None:
            # It may be killed meanwhile.
            with suppress(httpx.HTTPError):
                admin.delete(f"{TENANTS}/{tenant}")

        asking = threading.Thread(target=delete)
        asking.start()
        time.sleep(delay_ms / 1000)
        core.kill()
        asking.join()
    core = start().ready()
    with core.client() as admin:
        found = admin.get(f"{TENANTS}/{tenant}")
        if found.status_code == 200 and not found.json()["deleting"]:
            # It was killed before it took the request.
            assert len(admin.get(QUERY, headers=bearer(tenant=tenant)).json()["events"]) == 30
            admin.delete(f"{TENANTS}/{tenant}").raise_for_status()
        until(lambda: admin.get(f"{TENANTS}/{tenant}").status_code == 404)
        operations = admin.get(OPERATIONS).json()["operations"]
        removals = [one["result"] for one in operations if one["kind"] == "remove_tenant"]
        assert removals == [{"tenant_id": tenant, "events_removed": 30}]
        check_nothing_of_before(admin, tenant)
        assert len(admin.get(QUERY, headers=bearer(tenant=f"{tenant}-other")).json()["events"]) == 30
