"""``auth/api-keys``: what a signed-in user can do with keys; their secrets are told once and kept nowhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from allsource_core.changes import Changes
from allsource_core.engine import EventStore
from allsource_core.facts import Facts
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.users import UserDirectory
from allsource_shared.permissions import Role

from ..engine.data_directory import contents_of
from .service import ADMIN, JSON, LOGIN, PASSWORD, Core, places, refusal, until_refused

KEYS = "/api/v1/auth/api-keys"
USERS = {ADMIN: Role.ADMIN, "dev": Role.DEVELOPER, "dan": Role.DEVELOPER, "rea": Role.READONLY}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    directory = tmp_path_factory.mktemp("keys")
    passwords = Passwords(1)
    encoded = passwords.hash(PASSWORD)
    passwords.close()
    with EventStore.open(directory / "data") as store:
        users = UserDirectory(Facts(store), Changes())
        for name, role in USERS.items():
            users.create(username=name, email="", password_hash=encoded, role=role, tenant_id="default")
    service = Core(directory, seeded=False)
    yield service.ready()
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.log.splitlines()]
    assert [line for line in lines if line["level"] in ("error", "critical")] == []


def signed_in(core: Core, username: str) -> httpx.Client:
    with core.client({}) as client:
        token = client.post(LOGIN, json={"username": username, "password": PASSWORD}).json()["token"]
    return core.client({"Authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def root(core: Core) -> Iterator[httpx.Client]:
    with signed_in(core, ADMIN) as client:
        yield client


@pytest.fixture(scope="module")
def dev(core: Core) -> Iterator[httpx.Client]:
    with signed_in(core, "dev") as client:
        yield client


@pytest.fixture(scope="module")
def dan(core: Core) -> Iterator[httpx.Client]:
    with signed_in(core, "dan") as client:
        yield client


def make(client: httpx.Client, **wanted: Any) -> dict[str, Any]:
    response = client.post(KEYS, json={"name": "ci", **wanted})
    assert response.status_code == 201, response.text
    assert response.headers["Cache-Control"] == "no-store"
    body: dict[str, Any] = response.json()
    assert list(body) == ["id", "name", "key", "role", "tenant_id", "expires_at"]
    assert body["key"].startswith(f"ask_{body['id']}_")
    return body


def listed(client: httpx.Client, **parameters: Any) -> list[dict[str, Any]]:
    response = client.get(KEYS, params={"limit": 10_000, **parameters})
    assert response.status_code == 200, response.text
    page = response.json()
    assert (page["count"], page["next_cursor"]) == (len(page["api_keys"]), None)
    return list(page["api_keys"])


def test_a_key_is_made_and_described_without_its_secret(dev: httpx.Client):
    begun = datetime.now(UTC)
    made = make(dev, name="Ärger ✓", role="ReadOnly", expires_in_days=3)
    ended = datetime.now(UTC)
    assert (made["name"], made["role"], made["tenant_id"]) == ("Ärger ✓", "readonly", "default")
    assert begun + timedelta(days=3) <= datetime.fromisoformat(made["expires_at"]) <= ended + timedelta(days=3)
    [view] = [view for view in listed(dev) if view["id"] == made["id"]]
    assert view == {
        "id": made["id"],
        "name": "Ärger ✓",
        "user_id": view["user_id"],
        "role": "readonly",
        "tenant_id": "default",
        "created_at": view["created_at"],
        "expires_at": made["expires_at"],
        "last_used_at": None,
    }


@pytest.mark.parametrize(
    ("username", "role"), [(ADMIN, "serviceaccount"), ("dev", "serviceaccount"), ("rea", "readonly")]
)
def test_without_a_role_a_key_gets_no_more_than_its_owner_has(core: Core, username: str, role: str):
    with signed_in(core, username) as client:
        made = make(client)
    assert (made["role"], made["expires_at"]) == (role, None)


@pytest.mark.parametrize(
    ("username", "role"),
    [("dev", "admin"), ("rea", "admin"), ("rea", "developer"), ("rea", "serviceaccount"), ("dev", "Admin")],
)
def test_nobody_grants_what_they_do_not_hold(core: Core, username: str, role: str):
    with signed_in(core, username) as client:
        before = listed(client)
        problem = refusal(client.post(KEYS, json={"name": "x", "role": role}), 403, "forbidden")
        assert "you don't hold" in problem["detail"]
        assert listed(client) == before


@pytest.mark.parametrize(
    ("username", "body", "status", "code"),
    [
        ("dev", {"tenant_id": "acme"}, 403, "forbidden"),
        ("dev", {"tenant_id": "_system"}, 400, "reserved_tenant"),
        (ADMIN, {"tenant_id": "_system"}, 400, "reserved_tenant"),
        (ADMIN, {"tenant_id": "_audit", "role": "admin"}, 400, "reserved_tenant"),
        (ADMIN, {"tenant_id": "no such"}, 404, "not_found"),
        (ADMIN, {"tenant_id": "acme", "role": "admin"}, 400, "admin_outside_default"),
    ],
)
def test_a_tenant_is_named_by_those_who_may(core: Core, username: str, body: dict[str, Any], status: int, code: str):
    with signed_in(core, username) as client:
        before = listed(client)
        refusal(client.post(KEYS, json={"name": "x", **body}), status, code)
        assert listed(client) == before


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "$"),
        ({"name": ""}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\0"}, "name"),
        ({"name": "\u202e"}, "name"),
        ({"name": None}, "name"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x", "role": ""}, "role"),
        ({"name": "x", "role": "x" * 65}, "role"),
        ({"name": "x", "role": 1}, "role"),
        ({"name": "x", "tenant_id": ""}, "tenant_id"),
        ({"name": "x", "tenant_id": "x" * 129}, "tenant_id"),
        ({"name": "x", "expires_in_days": 0}, "expires_in_days"),
        ({"name": "x", "expires_in_days": -1}, "expires_in_days"),
        ({"name": "x", "expires_in_days": 3651}, "expires_in_days"),
        ({"name": "x", "expires_in_days": 1.5}, "expires_in_days"),
        ({"name": "x", "expires_in_days": "1"}, "expires_in_days"),
    ],
)
def test_a_malformed_key_is_refused_with_the_place(dev: httpx.Client, body: dict[str, Any], place: str):
    before = listed(dev)
    assert places(refusal(dev.post(KEYS, json=body), 400, "invalid_body")) == [place]
    assert listed(dev) == before


def test_deep_and_large_bodies_are_refused(dev: httpx.Client):
    refusal(dev.post(KEYS, content=b'{"name":"x","y":' + b"[" * 50_000, headers=JSON), 400, "invalid_body")
    refusal(dev.post(KEYS, content=b'{"name":"x"' + b" " * 70_000 + b"}", headers=JSON), 413, "body_too_large")


def test_unknown_fields_are_ignored_and_named(dev: httpx.Client):
    response = dev.post(KEYS, json={"name": "x", "description": "of v1.0"})
    assert (response.status_code, response.headers["Warning"]) == (201, '299 allsource "ignored unknown: description"')


def test_a_name_may_be_given_twice(dev: httpx.Client):
    assert make(dev, name="twice")["id"] != make(dev, name="twice")["id"]
    assert make(dev, name="n" * 128)["name"] == "n" * 128


def test_users_see_their_own_keys_and_administrators_all(dev: httpx.Client, dan: httpx.Client, root: httpx.Client):
    of_dev, of_dan, of_root = make(dev), make(dan), make(root)

    def ids(client: httpx.Client, **parameters: Any) -> set[str]:
        return {view["id"] for view in listed(client, **parameters)}

    assert ids(dev) & {of_dev["id"], of_dan["id"], of_root["id"]} == {of_dev["id"]}
    assert ids(root) >= {of_dev["id"], of_dan["id"], of_root["id"]}
    [user_of_dan] = {view["user_id"] for view in listed(dan)}
    assert ids(root, user_id=user_of_dan) == ids(dan) == ids(dan, user_id=user_of_dan)
    assert ids(dev, user_id=user_of_dan) == set()
    assert ids(root, tenant_id="default") == ids(root)
    assert ids(root, tenant_id="acme") == ids(root, user_id="nobody") == set()


def test_pages_show_every_key_once(root: httpx.Client, dev: httpx.Client):
    for _ in range(5):
        make(dev)
    for client in (root, dev):
        whole = listed(client)
        seen, cursor = [], None
        while True:
            page = client.get(KEYS, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            seen += page["api_keys"]
            # The key that a cursor stands at may be gone by the next page.
            cursor = page["next_cursor"]
            if cursor is None:
                break
            assert page["count"] == 2
        assert seen == whole
    for cursor in ("0", "x", "-1", "1" * 17, "²"):
        refusal(dev.get(KEYS, params={"cursor": cursor}), 400, "invalid_cursor")
    for limit in ("0", "10001", "x"):
        refusal(dev.get(KEYS, params={"limit": limit}), 400, "bad_query")


def test_a_cursor_outlives_its_key(dan: httpx.Client):
    made = [make(dan)["id"] for _ in range(3)]
    before = len(listed(dan)) - 3
    page = dan.get(KEYS, params={"limit": before + 1}).json()
    assert page["api_keys"][-1]["id"] == made[0]
    assert dan.delete(f"{KEYS}/{made[0]}").status_code == 204
    rest = dan.get(KEYS, params={"cursor": page["next_cursor"]}).json()
    assert [view["id"] for view in rest["api_keys"]] == made[1:]


def test_rotating_tells_a_new_key_once(dev: httpx.Client):
    made = make(dev, expires_in_days=5)
    response = dev.post(f"{KEYS}/{made['id']}/rotate")
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    rotated = response.json()
    assert {**rotated, "key": made["key"]} == made
    assert rotated["key"] != made["key"]
    assert rotated["key"].startswith(f"ask_{made['id']}_")


def test_keys_of_others_are_unknown(dev: httpx.Client, dan: httpx.Client, root: httpx.Client):
    made = make(dev)
    unknown = refusal(dan.delete(f"{KEYS}/{'0' * 20}"), 404, "not_found")["detail"]
    assert refusal(dan.delete(f"{KEYS}/{made['id']}"), 404, "not_found")["detail"] == unknown
    for client in (dan, root):
        refusal(client.post(f"{KEYS}/{made['id']}/rotate"), 404, "not_found")
    assert made["id"] in {view["id"] for view in listed(dev)}
    assert root.delete(f"{KEYS}/{made['id']}").status_code == 204
    refusal(dev.delete(f"{KEYS}/{made['id']}"), 404, "not_found")
    refusal(dev.post(f"{KEYS}/{made['id']}/rotate"), 404, "not_found")


def test_revoked_and_rotated_keys_stay_so_after_a_restart(tmp_path: Path):
    core = Core(tmp_path).ready()
    try:
        with signed_in(core, ADMIN) as client:
            kept, gone = make(client, expires_in_days=9), make(client)
            client.post(f"{KEYS}/{kept['id']}/rotate")
            assert client.delete(f"{KEYS}/{gone['id']}").status_code == 204
            before = listed(client)
            assert [view["id"] for view in before] == [kept["id"]]
        core.kill()
        core = Core(tmp_path).ready()
        with signed_in(core, ADMIN) as client:
            assert listed(client) == before
    finally:
        core.stop()


def test_secrets_are_told_once_and_kept_nowhere(core: Core, dev: httpx.Client, root: httpx.Client):
    made = make(dev, name="secret keeper")
    rotated = dev.post(f"{KEYS}/{made['id']}/rotate").json()
    secrets = [key["key"][-64:] for key in (made, rotated)]
    for key in (made, rotated):
        # Sent where it doesn't belong, a key is not repeated either.
        for answer in (
            dev.delete(f"{KEYS}/{key['key']}"),
            dev.post(f"{KEYS}/{key['key']}/rotate"),
            dev.post(KEYS, json={"name": "x", "role": key["key"][-64:]}),
            dev.get(KEYS, params={"cursor": key["key"]}),
            root.get(KEYS, params={"limit": 10_000}),
        ):
            assert not any(secret in answer.text for secret in secrets)
    kept = b"".join(content for _, content in contents_of(core.data))
    assert made["id"].encode() in kept
    for secret in secrets:
        assert secret.encode() not in kept
        assert bytes.fromhex(secret) not in kept
        assert secret not in core.log


def test_a_user_makes_only_so_many_in_a_minute(core: Core):
    with signed_in(core, "rea") as client:
        *_, limited = until_refused(lambda: client.post(KEYS, json={"name": "many", "role": "readonly"}))
    assert int(refusal(limited, 429, "rate_limited") and limited.headers["Retry-After"]) >= 1
    assert f"wait {limited.headers['Retry-After']} s" in limited.json()["detail"]
