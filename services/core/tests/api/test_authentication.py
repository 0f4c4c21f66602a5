"""Who may call what: credentials, roles by the matrix, tenants."""

from __future__ import annotations

import base64
import json
import re
import time
import uuid
from typing import Any

import httpx
import pytest

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role
from allsource_shared.routes import Access, Route

from .service import EVENTS, LOGIN, QUERY, SECRET, Core, bearer, last_position, refusal, token

EVENT = {"event_type": "a", "entity_id": "b", "payload": 1}
GUARDED = [pytest.param(row, id=row.operation) for row in CORE_ROUTES if isinstance(row.access, Permission)]
SIGNED_IN = [pytest.param(row, id=row.operation) for row in CORE_ROUTES if row.access in (Access.ANY, Access.USER)]
OPEN = [
    pytest.param(row, id=row.operation)
    for row in CORE_ROUTES
    # Who may register is looked at by the route itself.
    if row.access in (Access.PUBLIC, Access.CONFIGURED) and row.operation != "register"
]


def call(client: httpx.Client, row: Route, headers: dict[str, str]) -> httpx.Response:
    """Call a route with a body or a query that it refuses, so that it does nothing but let in or not."""
    path = re.sub(r"\{\w+\}", lambda _: str(uuid.uuid4()), row.path)
    content = b"[]" if row.request is not None else None
    if row.method != "GET" and content is None:
        path += "?unknown=1"
    return client.request(row.method, path, headers={"Content-Type": "application/json", **headers}, content=content)


@pytest.mark.parametrize("row", [*GUARDED, *SIGNED_IN])
def test_without_credentials_nothing_is_let_in(anonymous: httpx.Client, row: Route):
    refusal(call(anonymous, row, {}), 401, "unauthorized")


@pytest.mark.parametrize("row", OPEN)
def test_what_is_public_asks_for_none(anonymous: httpx.Client, row: Route):
    assert call(anonymous, row, {}).status_code in (200, 400)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("row", GUARDED)
def test_each_role_is_let_in_by_the_matrix(anonymous: httpx.Client, row: Route, role: Role):
    response = call(anonymous, row, bearer(role))
    if row.access in ROLE_PERMISSIONS[role]:
        assert response.status_code in (200, 400, 404)
    else:
        problem = refusal(response, 403, "forbidden")
        assert f"permission {row.access}" in problem["detail"]


@pytest.mark.parametrize(
    ("role", "writes", "reads"),
    [("admin", 201, 200), ("developer", 201, 200), ("serviceaccount", 201, 200), ("readonly", 403, 200)],
)
def test_reading_and_writing_of_each_role(anonymous: httpx.Client, role: str, writes: int, reads: int):
    before = last_position(anonymous)
    assert anonymous.post(EVENTS, json=EVENT, headers=bearer(role)).status_code == writes
    assert last_position(anonymous) - before == (writes == 201)
    assert anonymous.get(QUERY, params={"limit": 1}, headers=bearer(role)).status_code == reads


def unsigned(algorithm: Any, **claims: Any) -> str:
    def encode(part: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    now = int(time.time())
    good = {"sub": "u", "username": "n", "tenant_id": "default", "role": "admin", "exp": now + 600, "iat": now}
    kid = json.loads(base64.urlsafe_b64decode(token().partition(".")[0] + "=="))["kid"]
    header = {"alg": algorithm, "typ": "JWT", "kid": kid}
    return f"{encode(header)}.{encode({**good, 'iss': 'allsource', 'aud': 'allsource', 'jti': 'j', **claims})}."


BAD_CREDENTIALS: dict[str, dict[str, str]] = {
    "expired": {"Authorization": f"Bearer {token(now=lambda: time.time() - 3600, lifetime_seconds=900)}"},
    "not yet": {"Authorization": f"Bearer {token(now=lambda: time.time() + 7 * 24 * 3600)}"},
    "another key": {"Authorization": f"Bearer {token(secret='x' * 48)}"},
    "another issuer": {"Authorization": f"Bearer {token(issuer='x')}"},
    "another audience": {"Authorization": f"Bearer {token(audience='x')}"},
    "none": {"Authorization": f"Bearer {unsigned('none')}"},
    "None": {"Authorization": f"Bearer {unsigned('None')}"},
    "RS256": {"Authorization": f"Bearer {unsigned('RS256')}"},
    "basic": {"Authorization": "Basic " + base64.b64encode(b"root@example.org:x").decode()},
    "digest": {"Authorization": f"Digest {token()}"},
    "empty": {"Authorization": ""},
    "scheme alone": {"Authorization": "Bearer"},
    "two tokens": {"Authorization": f"Bearer {token()} {token()}"},
    "two in one": {"Authorization": f"Bearer {token()}, Bearer {token()}"},
    "the secret itself": {"Authorization": f"Bearer {SECRET}"},
    "garbage": {"Authorization": "Bearer garbage"},
    "garbage key": {"X-API-Key": "garbage"},
    "api key": {"X-API-Key": "ask_0123456789abcdef.secretsecret"},
    "empty key": {"X-API-Key": ""},
    "cookie": {"Cookie": f"token={token()}"},
    "wrong and right": {"Authorization": "Bearer garbage", "X-API-Key": token()},
    "giant": {"Authorization": "Bearer " + "x" * 7000},
}


@pytest.mark.parametrize("headers", BAD_CREDENTIALS.values(), ids=list(BAD_CREDENTIALS))
def test_bad_credentials_are_refused_and_nothing_is_stored(anonymous: httpx.Client, headers: dict[str, str]):
    before = last_position(anonymous)
    problem = refusal(anonymous.post(EVENTS, json=EVENT, headers=headers), 401, "unauthorized")
    assert last_position(anonymous) == before
    for value in headers.values():
        assert not value or value.split(" ")[-1] not in problem["detail"]


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR    ", ""])
def test_the_scheme_may_be_in_any_case_or_missing(anonymous: httpx.Client, scheme: str):
    assert anonymous.get(QUERY, headers={"Authorization": scheme + token()}).status_code == 200


def test_a_token_may_stand_in_x_api_key(anonymous: httpx.Client):
    assert anonymous.get(QUERY, headers={"X-API-Key": token()}).status_code == 200


def test_a_header_that_is_remembered_is_no_credential_by_itself(anonymous: httpx.Client):
    header = bearer("developer")["Authorization"]
    assert anonymous.get(QUERY, headers={"Authorization": header}).status_code == 200
    refusal(anonymous.get(QUERY, headers={"X-API-Key": header}), 401, "unauthorized")


def test_two_authorization_headers_are_refused(anonymous: httpx.Client):
    good = f"Bearer {token()}"
    response = anonymous.get(QUERY, headers=[("Authorization", good), ("authorization", good)])
    refusal(response, 401, "unauthorized")


@pytest.mark.parametrize("name", ["token", "access_token", "api_key", "ticket", "authorization"])
def test_a_credential_in_the_query_string_is_none(anonymous: httpx.Client, name: str):
    refusal(anonymous.get(QUERY, params={name: token()}), 401, "unauthorized")


@pytest.mark.parametrize("value", [b"Bearer \xff\xfe", b"Bearer \xc3\xa4", b"\xf0\x9f\x98\x80", b"Bearer\t" + b"x"])
def test_credentials_of_any_bytes_are_refused(core: Core, value: bytes):
    response = core.send(b"GET " + QUERY.encode() + b" HTTP/1.1\r\nHost: x\r\nAuthorization: " + value + b"\r\n\r\n")
    refusal(response, 401, "unauthorized")


class TestTenant:
    def test_the_own_one_may_be_named(self, anonymous: httpx.Client):
        for role in Role:
            headers = {**bearer(role), "X-Tenant-ID": "default"}
            assert anonymous.get(QUERY, params={"limit": 1}, headers=headers).status_code == 200

    @pytest.mark.parametrize("name", ["nobodys", "Default", "default ", "", "..", "a/b", "x" * 5000])
    def test_another_is_not_there_for_an_admin_and_forbidden_for_others(self, anonymous: httpx.Client, name: str):
        if name.strip() == "default":
            name = "default2"
        refusal(anonymous.get(QUERY, headers={**bearer("admin"), "X-Tenant-ID": name}), 404, "not_found")
        for role in ("developer", "readonly", "serviceaccount"):
            refusal(anonymous.get(QUERY, headers={**bearer(role), "X-Tenant-ID": name}), 403, "forbidden")

    @pytest.mark.parametrize("name", ["_system", "_", "_anything", "__"])
    @pytest.mark.parametrize("role", list(Role))
    def test_a_reserved_one_is_refused_for_everybody(self, anonymous: httpx.Client, name: str, role: Role):
        headers = {**bearer(role), "X-Tenant-ID": name}
        refusal(anonymous.get(QUERY, headers=headers), 400, "reserved_tenant")
        before = last_position(anonymous)
        refusal(anonymous.post(EVENTS, json=EVENT, headers=headers), 400, "reserved_tenant")
        assert last_position(anonymous) == before

    def test_a_token_for_a_reserved_one_is_refused(self, anonymous: httpx.Client):
        for role in Role:
            refusal(anonymous.get(QUERY, headers=bearer(role, tenant="_system")), 400, "reserved_tenant")

    def test_naming_two_is_refused(self, anonymous: httpx.Client):
        headers = [*bearer().items(), ("X-Tenant-ID", "default"), ("X-Tenant-ID", "_system")]
        refusal(anonymous.get(QUERY, headers=headers), 400, "bad_header")

    def test_the_header_does_not_replace_a_credential(self, anonymous: httpx.Client):
        refusal(anonymous.get(QUERY, headers={"X-Tenant-ID": "default"}), 401, "unauthorized")
        refusal(anonymous.get(QUERY, headers={"X-Tenant-ID": "_system"}), 401, "unauthorized")

    def test_tenants_do_not_see_each_other(self, anonymous: httpx.Client, entity: str):
        event_id = str(uuid.uuid4())
        event = {"event_type": "a", "entity_id": entity, "payload": 1, "event_id": event_id}
        here, there = bearer("developer"), bearer("developer", tenant="other")
        first = anonymous.post(EVENTS, json=event, headers=here).json()
        refusal(anonymous.get(f"{EVENTS}/{event_id}", headers=there), 404, "not_found")
        assert anonymous.get(QUERY, params={"entity_id": entity}, headers=there).json()["count"] == 0
        second = anonymous.post(EVENTS, json={**event, "expected_version": 0, "payload": 2}, headers=there)
        assert (second.status_code, second.json()["version"], second.json()["event_id"]) == (201, 1, event_id)
        assert anonymous.get(f"{EVENTS}/{event_id}", headers=here).json()["position"] == first["position"]
        assert anonymous.get(f"{EVENTS}/{event_id}", headers=there).json()["tenant_id"] == "other"

    def test_a_server_id_of_another_tenant_is_not_found(self, anonymous: httpx.Client, entity: str):
        event = {"event_type": "a", "entity_id": entity, "payload": 1}
        answer = anonymous.post(EVENTS, json=event, headers=bearer("developer", tenant="other")).json()
        refusal(anonymous.get(f"{EVENTS}/{answer['event_id']}", headers=bearer()), 404, "not_found")

    def test_a_cursor_leads_into_no_other_tenant(self, anonymous: httpx.Client, entity: str):
        for _ in range(3):
            event = {"event_type": "a", "entity_id": entity, "payload": 1}
            anonymous.post(EVENTS, json=event, headers=bearer("developer", tenant="other"))
        query: dict[str, Any] = {"entity_id": entity, "limit": 1}
        page = anonymous.get(QUERY, params=query, headers=bearer("readonly", tenant="other")).json()
        query["cursor"] = page["next_cursor"]
        assert anonymous.get(QUERY, params=query, headers=bearer()).json()["events"] == []


def test_login_needs_no_credentials_and_ignores_bad_ones(anonymous: httpx.Client):
    body = {"username": "nobody", "password": "nothing"}
    for headers in ({}, {"Authorization": "Bearer garbage"}, {"X-Tenant-ID": "nobodys"}):
        refusal(anonymous.post(LOGIN, json=body, headers=headers), 401, "invalid_credentials")


def test_what_is_public_refuses_reserved_tenants_as_well(anonymous: httpx.Client):
    for row in CORE_ROUTES:
        if row.access in (Access.PUBLIC, Access.CONFIGURED):
            answer = anonymous.request(row.method, row.path, headers={"X-Tenant-ID": "_system"})
            refusal(answer, 400, "reserved_tenant")
