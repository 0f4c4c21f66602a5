"""A developer, signed in or with a key, gets no further than developers get; by the same requests administrators do."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import pytest

from allsource_control_plane.routes import REACHABLE_ROUTES
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access, Route, RouteTable
from tools.stack import Stack

from .callers import API, PASSWORD, Headers, People, bearer
from .valid_requests import EVENT, Ask, Targets, in_order

SERVICES: Final[dict[str, RouteTable]] = {"core": CORE_ROUTES, "gateway": REACHABLE_ROUTES}
NDJSON: Final = {"Content-Type": "application/x-ndjson"}

Call = tuple[str, str, Any]


class World(NamedTuple):
    """Two tenants with a developer each, and what is in the other one.

    Attributes:
        callers: the developer of the first tenant, signed in and with a key.
        mine: the caller's tenant, user id and key id.
        other: what there is in the other tenant.
    """

    clients: dict[str, httpx.Client]
    admin: Headers
    callers: dict[str, Headers]
    mine: dict[str, str]
    other: dict[str, str]
    targets: Targets


@pytest.fixture(scope="module")
def world(stack: Stack, token: str) -> Iterator[World]:
    people = People(stack.core_url, token)
    sides: list[dict[str, str]] = []
    with people.client:
        for side in ("mine", "other"):
            tenant = people.tenant(f"{side}-{uuid.uuid4().hex[:8]}")
            user = people.user(f"dev-{tenant}", "developer", tenant)
            signed_in = people.sign_in(f"dev-{tenant}")
            key = people.key(signed_in["token"], "developer")
            event = people.client.post(
                "/events", json={**EVENT, "entity_id": f"of-{tenant}"}, headers=bearer(signed_in["token"])
            ).json()["event_id"]
            sides.append(
                {
                    "tenant": tenant,
                    "name": f"dev-{tenant}",
                    "user": user,
                    "token": signed_in["token"],
                    "refresh": signed_in["refresh_token"],
                    "key": key["key"],
                    "key_id": key["id"],
                    "event": event,
                }
            )
    mine, other = sides
    callers = {"user": bearer(mine["token"]), "key": {"X-API-Key": mine["key"]}}
    urls = {"core": stack.core_url, "gateway": stack.gateway_url}
    clients = {name: httpx.Client(base_url=url, timeout=30) for name, url in urls.items()}
    yield World(clients, bearer(token), callers, mine, other, Targets(stack.core_url, token))
    for client in clients.values():
        client.close()


def send(client: httpx.Client, call: Call, headers: Headers) -> httpx.Response:
    method, path, body = call
    return client.request(method, f"{API}{path}", json=body, headers=headers)


def rights(world: World) -> Any:
    """Who may do what, as an administrator sees it."""
    client = world.clients["core"]
    users, keys, tenants = (
        client.get(f"{API}/{path}", headers=world.admin).json() for path in ("auth/users", "auth/api-keys", "tenants")
    )
    for key in keys["api_keys"]:
        del key["last_used_at"]
    return users, keys, tenants


def climbs(world: World) -> dict[str, Call]:
    """Ways to more than one has."""
    mine, other = world.mine, world.other
    user = f"/auth/users/{mine['user']}"
    registration = {"username": f"climber-{uuid.uuid4().hex[:8]}", "password": PASSWORD}
    return {
        "an admin key": ("POST", "/auth/api-keys", {"name": "x", "role": "admin"}),
        "an Admin key": ("POST", "/auth/api-keys", {"name": "x", "role": "Admin"}),
        "an admin key in default": ("POST", "/auth/api-keys", {"name": "x", "role": "admin", "tenant_id": "default"}),
        "a key of another tenant": ("POST", "/auth/api-keys", {"name": "x", "tenant_id": other["tenant"]}),
        "register an admin": ("POST", "/auth/register", {**registration, "role": "admin", "tenant_id": "default"}),
        "register an equal": ("POST", "/auth/register", {**registration, "username": "equal", "role": "developer"}),
        "one's own role": ("PATCH", user, {"role": "admin"}),
        "another's role": ("PATCH", f"/auth/users/{other['user']}", {"role": "readonly"}),
        "another's password": ("PATCH", f"/auth/users/{other['user']}", {"password": PASSWORD}),
        "delete another": ("DELETE", f"/auth/users/{other['user']}", None),
        "another signing key": ("POST", "/auth/keys/rotate", None),
        "a tenant of one's own": ("POST", "/tenants", {"id": f"c-{uuid.uuid4().hex[:8]}", "name": "x"}),
        "one's own limits": ("PUT", f"/tenants/{mine['tenant']}/limits", {"requests_per_minute": 0, "burst": 0}),
    }


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("caller", ["user", "key"])
def test_a_developer_climbs_nowhere(world: World, service: str, caller: str) -> None:
    before = rights(world)
    for what, call in climbs(world).items():
        answer = send(world.clients[service], call, world.callers[caller])
        assert (answer.status_code, answer.json()["error"]) == (403, "forbidden"), f"{what}: {answer.text}"
    assert rights(world) == before


@pytest.mark.parametrize("service", SERVICES)
def test_what_asks_for_no_permission_gives_none(world: World, service: str) -> None:
    """Fields that would say more of the caller, where the caller says who it is or what it wants."""
    mine, client = world.mine, world.clients[service]
    more = {"role": "admin", "permissions": ["admin"], "user_id": world.other["user"]}
    signed_in = send(
        client, ("POST", "/auth/login", {"username": mine["name"], "password": PASSWORD, **more}), {}
    ).json()
    assert signed_in["user"]["role"] == "developer"
    assert send(client, ("GET", "/auth/users", None), bearer(signed_in["token"])).status_code == 403
    refresh = {"refresh_token": signed_in["refresh_token"]}
    refused = send(client, ("POST", "/auth/refresh", {**refresh, "role": "admin"}), {})
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_body")
    again = send(client, ("POST", "/auth/refresh", refresh), {}).json()
    assert again["user"]["role"] == "developer"
    change = {"current": PASSWORD, "new": PASSWORD + "!", "role": "admin"}
    refused = send(client, ("POST", "/auth/password", change), bearer(signed_in["token"]))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_body")
    made = send(client, ("POST", "/auth/api-keys", {"name": "x", **more, "role": "readonly"}), world.callers["user"])
    assert (made.status_code, made.json()["role"]) == (201, "readonly")
    me = client.get(f"{API}/auth/me", headers={"X-API-Key": made.json()["key"]}).json()
    assert (me["role"], me["user_id"], me["tenant_id"]) == ("readonly", mine["user"], mine["tenant"])


@pytest.mark.parametrize("service", SERVICES)
def test_a_key_makes_rotates_lists_and_revokes_no_keys(world: World, service: str) -> None:
    before = rights(world)
    client = world.clients[service]
    made = send(client, ("POST", "/auth/api-keys", {"name": "a", "role": "admin"}), world.admin)
    admin_key = {"X-API-Key": made.json()["key"]}
    for headers in (world.callers["key"], admin_key):
        for method, path, body in (
            ("POST", "/auth/api-keys", {"name": "x"}),
            ("POST", "/auth/api-keys", {"name": "x", "role": "readonly"}),
            ("POST", f"/auth/api-keys/{world.mine['key_id']}/rotate", None),
            ("DELETE", f"/auth/api-keys/{world.mine['key_id']}", None),
            ("GET", "/auth/api-keys", None),
            ("POST", "/auth/password", {"current": PASSWORD, "new": PASSWORD + "!"}),
        ):
            answer = send(client, (method, path, body), headers)
            assert (answer.status_code, answer.json()["error"]) == (403, "forbidden"), path
    assert client.get(f"{API}/auth/me", headers=world.callers["key"]).status_code == 200
    users, keys, tenants = rights(world)
    assert (users, len(keys["api_keys"]), tenants) == (before[0], len(before[1]["api_keys"]) + 1, before[2])


def namings(row: Route, ask: Ask, tenant: str) -> Iterator[tuple[str, Ask, Headers]]:
    """The request with another tenant in every place where one can be named."""
    yield "header", ask, {"X-Tenant-ID": tenant}
    yield "query", ask._replace(query={**ask.query, "tenant_id": tenant}), {}
    if "tenant_id" in ask.segments:
        yield "path", ask._replace(segments={**ask.segments, "tenant_id": tenant}), {}
    if isinstance(ask.body, dict):
        yield "body", ask._replace(body={**ask.body, "tenant_id": tenant}), {}
    if row.operation == "append_batch":
        yield "event of a batch", ask._replace(body={"events": [EVENT, {**EVENT, "tenant_id": tenant}]}), {}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("caller", ["user", "key"])
def test_another_tenant_is_out_of_reach_on_every_route(world: World, service: str, caller: str) -> None:
    before = rights(world)
    for row in in_order(SERVICES[service]):
        if row.access in (Access.PUBLIC, Access.CONFIGURED, Access.GATEWAY):
            continue
        # Where a list can be narrowed down to a tenant, it has only what the caller may see: see below.
        narrowed = row.operation == "list_api_keys"
        for place, ask, headers in namings(row, world.targets.ask(row), world.other["tenant"]):
            answer = ask.send(world.clients[service], row, {**world.callers[caller], **headers})
            told = f"{row.operation}, {place}: {answer.status_code} {answer.text}"
            if narrowed and place == "query" and caller == "user":
                assert (answer.status_code, answer.json()["count"]) == (200, 0), told
            else:
                assert answer.status_code in ((403,) if place == "header" else (400, 403, 404)), told
    assert rights(world) == before
    for name in ("mine", "other"):
        side = getattr(world, name)
        page = world.clients["core"].get(f"{API}/events/query", headers=bearer(side["token"])).json()
        assert [event["id"] for event in page["events"]] == [side["event"]]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("caller", ["user", "key"])
def test_what_belongs_to_others_is_not_there(world: World, service: str, caller: str) -> None:
    client, headers, other = world.clients[service], world.callers[caller], world.other
    tenant = quote(other["tenant"])
    for path in (f"/events/{other['event']}", f"/tenants/{tenant}", f"/tenants/{tenant}/stats"):
        answer = send(client, ("GET", path, None), headers)
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), path
        assert send(client, ("GET", path, None), bearer(other["token"])).status_code == 200
    page = client.get(f"{API}/events/query", params={"entity_id": f"of-{other['tenant']}"}, headers=headers)
    assert page.json()["count"] == 0
    if caller == "user":
        for method, path in (("POST", "/rotate"), ("DELETE", "")):
            answer = send(client, (method, f"/auth/api-keys/{other['key_id']}{path}", None), headers)
            assert (answer.status_code, answer.json()["error"]) == (404, "not_found")
        listed = send(client, ("GET", f"/auth/api-keys?user_id={other['user']}", None), headers).json()
        assert listed["api_keys"] == []
    assert client.get(f"{API}/auth/me", headers={"X-API-Key": other["key"]}).status_code == 200


@pytest.mark.parametrize("service", SERVICES)
def test_a_line_of_a_batch_reaches_no_other_tenant(world: World, service: str) -> None:
    lines = [EVENT, {**EVENT, "tenant_id": world.other["tenant"]}]
    content = "\n".join(map(json.dumps, lines))
    for headers in world.callers.values():
        answer = world.clients[service].post(f"{API}/events/batch", content=content, headers={**headers, **NDJSON})
        assert answer.status_code in (400, 403)


@pytest.mark.parametrize("service", SERVICES)
def test_of_two_headers_none_wins(world: World, service: str) -> None:
    client, mine, other = world.clients[service], world.mine, world.other
    tokens = [("Authorization", f"Bearer {mine['token']}"), ("Authorization", f"Bearer {other['token']}")]
    for fields in (tokens, tokens[::-1]):
        assert client.get(f"{API}/auth/me", headers=fields).status_code == 401
    tenants = [("X-Tenant-ID", mine["tenant"]), ("X-Tenant-ID", other["tenant"])]
    for fields in (tenants, tenants[::-1]):
        assert client.get(f"{API}/auth/me", headers=[tokens[0], *fields]).status_code == 400
    hidden = [tokens[0], ("X-Tenant-ID", other["tenant"]), ("Connection", "X-Tenant-ID, close")]
    assert client.get(f"{API}/auth/me", headers=hidden).status_code == 403


def test_the_same_requests_are_good_for_administrators(world: World) -> None:
    """What was refused above was refused for who asked. Comes last: it changes what the others look at."""
    client = world.clients["gateway"]
    for what, call in climbs(world).items():
        # Administrators of another tenant than `default` there are none; other tests sign with the key that there is.
        if what not in ("one's own role", "another signing key", "delete another"):
            assert send(client, call, world.admin).is_success, what
    other = {**world.admin, "X-Tenant-ID": world.other["tenant"]}
    page = client.get(f"{API}/events/query", headers=other).json()
    assert [event["id"] for event in page["events"]] == [world.other["event"]]
