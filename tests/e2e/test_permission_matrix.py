"""Every kind of caller against every route of both services: the status is the one that was agreed, each time.

What was agreed is written down here once more, by hand: a route that asks for something else than before must change
this file too, and so must a new one.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from allsource_control_plane.routes import GATEWAY_ROUTES, REACHABLE_ROUTES
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.permissions import Permission
from allsource_shared.routes import Access, Route, RouteTable
from tools.stack import Stack

from .callers import Headers, every_caller
from .conftest import GATEWAY_KEY, SECRET

EVERYBODY: Final = "everybody"
GATEWAY: Final = "gateway"

READERS: Final = {"admin", "developer", "readonly", "serviceaccount"}
WRITERS: Final = {"admin", "developer", "serviceaccount"}
ADMINS: Final = {"admin"}
USERS_ONLY: Final = "no key"

AGREED: Final[dict[str, str | set[str]]] = {
    **dict.fromkeys(("health", "health_live", "health_ready", "metrics", "openapi", "jwks"), EVERYBODY),
    **dict.fromkeys(("login", "refresh"), EVERYBODY),
    # Public while there is no user; there is one.
    "register": ADMINS,
    **dict.fromkeys(("logout", "list_sessions", "end_session", "change_password"), READERS | {USERS_ONLY}),
    "me": READERS,
    **dict.fromkeys(("create_api_key", "list_api_keys", "revoke_api_key", "rotate_api_key"), READERS | {USERS_ONLY}),
    **dict.fromkeys(("list_users", "get_user", "change_user", "delete_user"), ADMINS),
    **dict.fromkeys(("rotate_signing_key", "list_signing_keys"), ADMINS),
    **dict.fromkeys(("append_event", "append_batch"), WRITERS),
    **dict.fromkeys(("query_events", "get_event"), READERS),
    **dict.fromkeys(("erase_event", "remove_entity", "remove_entity_by_query"), ADMINS),
    **dict.fromkeys(
        (
            "list_retention",
            "get_retention",
            "put_retention",
            "put_retention_by_query",
            "delete_retention",
            "delete_retention_by_query",
        ),
        ADMINS,
    ),
    **dict.fromkeys(("list_operations", "get_operation"), ADMINS),
    **dict.fromkeys(("create_tenant", "list_tenants", "put_tenant", "delete_tenant"), ADMINS),
    **dict.fromkeys(("put_tenant_quotas", "put_tenant_limits", "activate_tenant", "deactivate_tenant"), ADMINS),
    **dict.fromkeys(("get_tenant", "get_tenant_stats"), READERS),
    **dict.fromkeys(("introspect", "changes"), GATEWAY),
}
"""Operation to the roles that may call it."""

SERVICES: Final[dict[str, RouteTable]] = {"core": CORE_ROUTES, "gateway": REACHABLE_ROUTES}


@pytest.fixture(scope="module")
def callers(stack: Stack, token: str) -> Iterator[tuple[dict[str, Headers], dict[str, Headers]]]:
    with every_caller(stack.gateway_url, token, SECRET) as callers:
        yield callers


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Iterator[dict[str, httpx.Client]]:
    urls = {"core": stack.core_url, "gateway": stack.gateway_url}
    opened = {name: httpx.Client(base_url=url, timeout=30) for name, url in urls.items()}
    yield opened
    for client in opened.values():
        client.close()


def call(client: httpx.Client, row: Route, headers: Headers) -> httpx.Response:
    """Call a route so that it lets in or not, and then refuses what it is asked for: nothing is changed by it.

    It gets a parameter that no route has, a body of the wrong shape, and ids that nothing has.
    """
    path = row.path.replace("{tenant_id}", "acme")
    path = re.sub(r"\{\w+\}", lambda _: str(uuid.uuid4()), path)
    content = b"[]" if row.request is not None else None
    headers = {"Content-Type": "application/json", **headers}
    return client.request(row.method, path, params={"no_such": "1"}, headers=headers, content=content)


def is_agreed(row: Route, caller: str) -> bool:
    agreed = AGREED[row.operation]
    if isinstance(agreed, str):
        return agreed is EVERYBODY
    return caller.removesuffix("-key") in agreed and not (USERS_ONLY in agreed and caller.endswith("-key"))


def rows(service: str) -> list[Route]:
    return list(SERVICES[service])


def test_every_route_is_agreed_on_and_every_agreement_has_its_route():
    operations = {row.operation for row in (*CORE_ROUTES, *REACHABLE_ROUTES)}
    assert operations == set(AGREED)


@pytest.mark.parametrize("table", [CORE_ROUTES, GATEWAY_ROUTES, REACHABLE_ROUTES])
def test_every_route_declares_what_it_needs(table: RouteTable):
    for row in table:
        assert isinstance(row.access, Permission | Access), row.operation


@pytest.mark.parametrize("service", SERVICES)
def test_good_credentials_open_what_their_role_may_and_nothing_else(
    service: str, clients: dict[str, httpx.Client], callers: tuple[dict[str, Headers], dict[str, Headers]]
):
    good, _ = callers
    assert len(good) == 8
    for row in rows(service):
        for caller, headers in good.items():
            response = call(clients[service], row, headers)
            told = f"{row.method} {row.path} as {caller}: {response.status_code} {response.text}"
            if is_agreed(row, caller):
                assert response.status_code in (200, 400, 404), told
            else:
                assert (response.status_code, response.json()["error"]) == (403, "forbidden"), told


@pytest.mark.parametrize("service", SERVICES)
def test_bad_credentials_open_nothing(
    service: str, clients: dict[str, httpx.Client], callers: tuple[dict[str, Headers], dict[str, Headers]]
):
    _, bad = callers
    assert len(bad) >= 13
    for row in rows(service):
        if AGREED[row.operation] is EVERYBODY:
            continue
        for caller, headers in bad.items():
            response = call(clients[service], row, headers)
            expected = (403, "tenant_inactive") if caller.startswith("inactive-tenant") else (401, "unauthorized")
            told = f"{row.method} {row.path} as {caller}: {response.status_code} {response.text}"
            assert (response.status_code, response.json()["error"]) == expected, told
            assert ("WWW-Authenticate" in response.headers) == (response.status_code == 401), told


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_public_asks_for_no_credential(
    service: str, clients: dict[str, httpx.Client], callers: tuple[dict[str, Headers], dict[str, Headers]]
):
    for row in rows(service):
        if AGREED[row.operation] is EVERYBODY:
            for headers in ({}, *callers[0].values(), *callers[1].values()):
                response = call(clients[service], row, headers)
                assert response.status_code in (200, 400, 404), f"{row.path}: {response.text}"


def test_the_key_of_gateways_opens_the_internal_routes_and_nothing_else(clients: dict[str, httpx.Client]):
    for row in CORE_ROUTES:
        response = call(clients["core"], row, {"X-Gateway-Key": GATEWAY_KEY})
        if AGREED[row.operation] == GATEWAY:
            assert response.status_code == 400, f"{row.path}: {response.text}"
        elif AGREED[row.operation] is not EVERYBODY:
            assert (response.status_code, response.json()["error"]) == (401, "unauthorized"), row.path


def test_the_internal_routes_can_not_be_reached_through_the_gateway(
    clients: dict[str, httpx.Client], callers: tuple[dict[str, Headers], dict[str, Headers]]
):
    for row in CORE_ROUTES:
        if AGREED[row.operation] == GATEWAY:
            for headers in ({}, {"X-Gateway-Key": GATEWAY_KEY}, *callers[0].values()):
                response = call(clients["gateway"], row, headers)
                assert (response.status_code, response.json()["error"]) == (404, "not_found"), row.path
