"""``auth/users``, ``auth/password`` and ``auth/me`` at the real service."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from allsource_core.api.call import Call
from allsource_core.api.users import UserRoutes
from allsource_core.identity.principals import Principal
from allsource_shared.permissions import ROLE_PERMISSIONS, Role
from allsource_shared.wire.api_keys import ApiKeyView
from allsource_shared.wire.users import Me

from ..engine.data_directory import contents_of
from .service import ADMIN, JSON, LOGIN, PASSWORD, Core, last_position, places, refusal, until

REGISTER = "/api/v1/auth/register"
USERS = "/api/v1/auth/users"
ME = "/api/v1/auth/me"
OWN_PASSWORD = "/api/v1/auth/password"
NEW = "another horse, another battery"


def try_to_sign_in(core: Core, username: str, password: str) -> httpx.Response:
    with core.client({}) as client:
        return client.post(LOGIN, json={"username": username, "password": password})


def sign_in(core: Core, username: str = ADMIN, password: str = PASSWORD) -> dict[str, str]:
    """The header of a user who signs in."""
    answer = try_to_sign_in(core, username, password)
    assert answer.status_code == 200, answer.text
    return {"Authorization": f"Bearer {answer.json()['token']}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("users")).ready()
    yield core
    assert core.stop() == 0


@pytest.fixture(scope="module")
def root(service: Core) -> Iterator[httpx.Client]:
    with service.client(sign_in(service)) as client:
        yield client


def add(client: httpx.Client, role: str = "developer", **fields: Any) -> dict[str, Any]:
    """A new user, as it is shown."""
    body = {"username": f"user-{uuid.uuid4()}", "password": NEW, "role": role, **fields}
    response = client.post(REGISTER, json=body)
    assert response.status_code == 201, response.text
    shown: dict[str, Any] = client.get(f"{USERS}/{response.json()['user_id']}").json()
    return shown


class TestMe:
    @pytest.mark.parametrize("role", list(Role))
    def test_everybody_sees_themselves(self, service: Core, root: httpx.Client, role: Role):
        user = add(root, role.value, email="ann@example.org")
        with service.client(sign_in(service, user["username"], NEW)) as client:
            assert client.get(ME).json() == {
                "kind": "user",
                "id": user["id"],
                "user_id": user["id"],
                "username": user["username"],
                "email": "ann@example.org",
                "role": role.value,
                "tenant_id": "default",
                "permissions": sorted(ROLE_PERMISSIONS[role]),
                "must_change_password": False,
                "key": None,
            }

    def test_nobody_is_nobody(self, service: Core, root: httpx.Client):
        with service.client({}) as client:
            refusal(client.get(ME), 401, "unauthorized")
        refusal(root.get(ME, params={"user_id": "x"}), 400, "bad_query")

    def test_a_key_sees_what_it_is_and_whose(self):
        described = ApiKeyView(
            id="0123456789abcdef0123",
            name="ci",
            user_id="u-1",
            role=Role.DEVELOPER,
            tenant_id="acme",
            created_at="2026-01-01T00:00:00.000000Z",
            expires_at=None,
            last_used_at=None,
        )
        permissions = ROLE_PERMISSIONS[Role.READONLY]
        key = Principal("api_key", "u-1", "ann", Role.DEVELOPER, permissions, "acme", "acme", key_id=described.id)
        nobody: Any = SimpleNamespace(get=lambda user_id: None)
        unused: Any = None
        routes = UserRoutes(nobody, unused, unused, describe_key={described.id: described}.get, address=unused)
        answer: Any = asyncio.run(routes.me(Call(unused, 0.0, unused, "", unused, key, [], unused, unused, 0)))
        me = msgspec.json.decode(answer.body, type=Me)
        assert (me.kind, me.id, me.user_id, me.username, me.tenant_id) == (
            "api_key",
            described.id,
            "u-1",
            "ann",
            "acme",
        )
        assert me.permissions == sorted(permissions)
        assert me.key == described


class TestListing:
    def test_pages_show_everybody_once_and_no_secret(self, root: httpx.Client):
        made = [add(root)["id"] for _ in range(5)]
        seen: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = root.get(USERS, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
            assert page["count"] == len(page["users"]) <= 2
            seen += page["users"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        assert seen == root.get(USERS).json()["users"]
        assert [user["id"] for user in seen][-5:] == made
        assert "argon2" not in str(seen)
        assert list(seen[0]) == [
            "id",
            "username",
            "email",
            "role",
            "tenant_id",
            "active",
            "created_at",
            "permissions",
            "must_change_password",
        ]

    def test_a_deleted_user_does_not_break_the_pages_behind_it(self, root: httpx.Client):
        made = [add(root)["id"] for _ in range(3)]
        everybody = root.get(USERS).json()["users"]
        limit = [user["id"] for user in everybody].index(made[0]) + 1
        cursor = root.get(USERS, params={"limit": limit}).json()["next_cursor"]
        assert root.delete(f"{USERS}/{made[0]}").status_code == 204
        page = root.get(USERS, params={"cursor": cursor}).json()
        assert [user["id"] for user in page["users"]] == made[1:]

    def test_a_tenant_selects(self, root: httpx.Client):
        everybody = root.get(USERS).json()["users"]
        for tenant_id in ("default", "other"):
            users = root.get(USERS, params={"tenant_id": tenant_id}).json()["users"]
            assert users == [user for user in everybody if user["tenant_id"] == tenant_id] != []
        assert root.get(USERS, params={"tenant_id": "nobodys"}).json() == {"users": [], "count": 0, "next_cursor": None}

    @pytest.mark.parametrize(
        ("parameters", "code"),
        [
            ({"limit": 0}, "bad_query"),
            ({"limit": 10_001}, "bad_query"),
            ({"limit": "x"}, "bad_query"),
            ({"name": "x"}, "bad_query"),
            ({"cursor": "x"}, "invalid_cursor"),
            ({"cursor": "user-0"}, "invalid_cursor"),
            ({"cursor": ""}, "invalid_cursor"),
        ],
    )
    def test_bad_parameters_are_refused(self, root: httpx.Client, parameters: dict[str, Any], code: str):
        refusal(root.get(USERS, params=parameters), 400, code)


class TestChanging:
    def test_a_password_that_an_administrator_sets_is_to_be_changed(self, service: Core, root: httpx.Client):
        user = add(root)
        changed = root.patch(f"{USERS}/{user['id']}", json={"password": "set by somebody else"})
        assert changed.json() == {**user, "must_change_password": True}
        refusal(try_to_sign_in(service, user["username"], NEW), 401, "invalid_credentials")
        answer = try_to_sign_in(service, user["username"], "set by somebody else").json()
        assert answer["user"]["must_change_password"]
        with service.client({"Authorization": f"Bearer {answer['token']}"}) as client:
            response = client.post(OWN_PASSWORD, json={"current": "set by somebody else", "new": PASSWORD})
            assert (response.status_code, response.content) == (204, b"")
        assert not try_to_sign_in(service, user["username"], PASSWORD).json()["user"]["must_change_password"]

    @pytest.mark.parametrize("role", ["Admin", "read_only", "ServiceAccount", "developer"])
    def test_a_role_in_any_spelling(self, root: httpx.Client, role: str):
        user = add(root, "readonly")
        changed = root.patch(f"{USERS}/{user['id']}", json={"role": role}).json()
        assert changed["role"] == role.lower().replace("_", "")
        assert changed["permissions"] == sorted(ROLE_PERMISSIONS[Role(changed["role"])])
        assert root.get(f"{USERS}/{user['id']}").json() == changed

    @pytest.mark.parametrize(
        ("body", "code", "place"),
        [
            (b"", "malformed_json", None),
            (b"[]", "invalid_body", "$"),
            (b"{}", "invalid_body", "$"),
            (b'{"role":null}', "invalid_body", "role"),
            (b'{"role":"king"}', "invalid_body", "role"),
            (b'{"active":"no"}', "invalid_body", "active"),
            (b'{"active":null}', "invalid_body", "active"),
            (b'{"email":"nowhere"}', "invalid_body", "email"),
            (b'{"password":"hunter2"}', "weak_password", "password"),
            (b'{"username":"other"}', "invalid_body", "$"),
            (b'{"tenant_id":"other"}', "invalid_body", "$"),
            (b'{"active":false,"permissions":["admin"]}', "invalid_body", "$"),
            (b"[" * 50_000, "invalid_body", "$"),
        ],
    )
    def test_a_bad_body_changes_nothing(
        self, service: Core, root: httpx.Client, body: bytes, code: str, place: str | None
    ):
        user = add(root)
        before = last_position(root)
        response = root.patch(f"{USERS}/{user['id']}", content=body, headers=JSON)
        assert places(refusal(response, 400, code)) == ([] if place is None else [place])
        assert last_position(root) == before
        assert "hunter2" not in response.text + service.log

    def test_who_is_not_there_is_not_found(self, root: httpx.Client):
        for user_id in (str(uuid.uuid4()), "x", "user:x"):
            refusal(root.get(f"{USERS}/{user_id}"), 404, "not_found")
            refusal(root.patch(f"{USERS}/{user_id}", json={"active": False}), 404, "not_found")
            refusal(root.delete(f"{USERS}/{user_id}"), 404, "not_found")


class TestTheLastAdministrator:
    def test_stays(self, start: Callable[..., Core]):
        core = start(seeded=False).ready()
        with core.client(sign_in(core)) as client:
            me = client.get(ME).json()["id"]
            for change in ({"role": "developer"}, {"active": False}):
                refusal(client.patch(f"{USERS}/{me}", json=change), 409, "last_admin")
            refusal(client.delete(f"{USERS}/{me}"), 403, "forbidden")
            other = add(client, "admin")
            with core.client(sign_in(core, other["username"], NEW)) as second:
                refusal(second.delete(f"{USERS}/{other['id']}"), 403, "forbidden")
                assert second.delete(f"{USERS}/{me}").status_code == 204
                refusal(second.patch(f"{USERS}/{other['id']}", json={"active": False}), 409, "last_admin")


class TestOnesOwnPassword:
    def test_it_needs_the_current_one(self, service: Core, root: httpx.Client):
        user = add(root)
        with service.client(sign_in(service, user["username"], NEW)) as client:
            for current in ("wrong", NEW + "x", PASSWORD):
                response = client.post(OWN_PASSWORD, json={"current": current, "new": "a third one, long enough"})
                refusal(response, 401, "invalid_credentials")
            for new in ("short", user["username"], NEW):
                problem = refusal(client.post(OWN_PASSWORD, json={"current": NEW, "new": new}), 400, "weak_password")
                assert places(problem) == ["new"]
            for body in ({}, {"current": NEW}, {"current": NEW, "new": PASSWORD, "username": "x"}, {"current": 1}):
                refusal(client.post(OWN_PASSWORD, json=body), 400, "invalid_body")
            assert client.post(OWN_PASSWORD, json={"current": NEW, "new": PASSWORD}).status_code == 204
        refusal(try_to_sign_in(service, user["username"], NEW), 401, "invalid_credentials")
        sign_in(service, user["username"], PASSWORD)


@pytest.mark.parametrize("role", ["developer", "readonly", "serviceaccount"])
def test_nobody_but_an_administrator_gets_at_users(service: Core, root: httpx.Client, role: str):
    user, other = add(root, role), add(root)
    before = last_position(root)
    with service.client(sign_in(service, user["username"], NEW)) as client:
        for headers in ({}, {"X-Tenant-ID": "default"}):
            for answer in (
                client.get(USERS, headers=headers),
                client.get(f"{USERS}/{user['id']}", headers=headers),
                client.get(f"{USERS}/{other['id']}", headers=headers),
                client.patch(f"{USERS}/{user['id']}", json={"role": "admin"}, headers=headers),
                client.patch(f"{USERS}/{other['id']}", json={"password": NEW}, headers=headers),
                client.delete(f"{USERS}/{other['id']}", headers=headers),
                client.delete(f"{USERS}/{user['id']}", headers=headers),
                client.post(REGISTER, json={"username": "x", "password": NEW, "role": "admin"}, headers=headers),
                client.post(REGISTER, json={"username": "x", "password": NEW, "role": role}, headers=headers),
            ):
                refusal(answer, 403, "forbidden")
    assert last_position(root) == before


def test_a_deleted_user_leaves_no_name_and_the_others_stay(start: Callable[..., Core]):
    environ = {"ALLSOURCE_STORAGE__REMOVAL_SECONDS": "0"}
    core = start(environ=environ).ready()
    with core.client(sign_in(core)) as client:
        gone = add(client, username="Gone With The Wind", email="gone@example.org")
        kept = add(client, username="kept", email="kept@example.org")
        client.patch(f"{USERS}/{gone['id']}", json={"email": "still.gone@example.org"})
        assert client.delete(f"{USERS}/{gone['id']}").status_code == 204
        refusal(client.get(f"{USERS}/{gone['id']}"), 404, "not_found")
        refusal(client.delete(f"{USERS}/{gone['id']}"), 404, "not_found")
        users = client.get(USERS).json()
    refusal(try_to_sign_in(core, "Gone With The Wind", NEW), 401, "invalid_credentials")

    def is_stored(text: bytes) -> bool:
        return any(text in content for _, content in contents_of(core.data))

    def is_forgotten() -> bool:
        try:
            return not is_stored(b"gone@example.org") and not is_stored(b"Gone With")
        except FileNotFoundError:
            return False

    until(is_forgotten)
    assert core.stop() == 0
    assert "Gone" not in core.log
    assert "gone@" not in core.log
    core = start(environ=environ).ready()
    with core.client(sign_in(core)) as client:
        assert client.get(USERS).json() == users
        refusal(client.get(f"{USERS}/{gone['id']}"), 404, "not_found")
    sign_in(core, kept["username"], NEW)
    assert is_forgotten()


def test_the_keys_of_a_deleted_user_are_gone(service: Core, root: httpx.Client):
    user = add(root)
    with service.client(sign_in(service, user["username"], NEW)) as client:
        made = client.post("/api/v1/auth/api-keys", json={"name": "ci"}).json()
    listed = root.get("/api/v1/auth/api-keys", params={"user_id": user["id"]}).json()["api_keys"]
    assert [key["id"] for key in listed] == [made["id"]]
    assert root.delete(f"{USERS}/{user['id']}").status_code == 204
    assert root.get("/api/v1/auth/api-keys", params={"user_id": user["id"]}).json()["count"] == 0
