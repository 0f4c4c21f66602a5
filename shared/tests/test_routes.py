"""A path means the same route however it is escaped; a table says what it allows."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.paths import encode_segment
from allsource_shared.permissions import Permission
from allsource_shared.problems import PROBLEMS, ApiError
from allsource_shared.routes import Access, Route, RouteTable


def route(operation: str, method: str, path: str) -> Route:
    return Route(operation=operation, method=method, path=path, access=Access.PUBLIC, summary="A route")


TABLE = RouteTable(
    [
        route("get_thing", "GET", "/things/{id}"),
        route("put_thing", "PUT", "/things/{id}"),
        route("search", "POST", "/things/search"),
        route("part", "GET", "/things/{id}/parts/{part}"),
        route("special_part", "GET", "/things/{id}/parts/special"),
        route("special_thing_part", "DELETE", "/things/special/parts/{part}"),
    ]
)


def refusal(method: str, raw_path: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        TABLE.match(method, raw_path)
    return caught.value


def escaped(text: str, seed: int) -> bytes:
    """The text with some of its characters escaped that need not be."""
    chance = random.Random(seed)
    return "".join(
        "".join(f"%{byte:02X}" for byte in character.encode()) if chance.random() < 0.5 else encode_segment(character)
        for character in text
    ).encode("ascii")


@given(st.sampled_from(list(CORE_ROUTES)), st.text(min_size=1), st.integers())
def test_one_route_is_found_however_its_path_is_escaped(row: Route, variable: str, seed: int):
    if variable in (".", "..", "query", "batch") or "\0" in variable or not variable.isprintable():
        variable = "a"
    parts = [variable if part.startswith("{") else part for part in row.path[1:].split("/")]
    match = CORE_ROUTES.match(row.method, b"".join(b"/" + escaped(part, seed) for part in parts))
    assert match.route is row
    assert set(match.parameters.values()) <= {variable}


def test_a_variable_is_decoded_once():
    assert TABLE.match("GET", b"/things/a%2Fb%2520c").parameters == {"id": "a/b%20c"}


def test_head_finds_the_route_of_get():
    assert TABLE.match("HEAD", b"/things/1").route.operation == "get_thing"


def test_a_fixed_segment_wins_over_a_variable_one_whatever_the_method():
    assert TABLE.match("POST", b"/things/search").route.operation == "search"
    error = refusal("GET", b"/things/search")
    assert (error.code, error.headers["Allow"]) == ("method_not_allowed", "POST")


def test_a_fixed_segment_wins_when_it_is_escaped():
    assert TABLE.match("POST", b"/things/s%65arch").route.operation == "search"
    assert refusal("GET", b"/things/s%65arch").headers["Allow"] == "POST"


def test_the_earlier_fixed_segment_wins_among_variable_paths():
    assert TABLE.match("DELETE", b"/things/special/parts/special").route.operation == "special_thing_part"
    assert TABLE.match("GET", b"/things/1/parts/special").route.operation == "special_part"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", b"/things/1", "GET, HEAD, PUT"),
        ("POST", b"/things/1", "GET, HEAD, PUT"),
        ("OPTIONS", b"/things/1/parts/2", "GET, HEAD"),
        ("put", b"/things/1", "GET, HEAD, PUT"),
        ("NONSENSE", b"/things/search", "POST"),
    ],
)
def test_a_wrong_method_is_refused_with_those_allowed(method: str, path: bytes, allow: str):
    error = refusal(method, path)
    assert (error.code, error.kind.status, error.headers["Allow"]) == ("method_not_allowed", 405, allow)


@pytest.mark.parametrize("path", [b"/", b"/things", b"/Things/1", b"/things/1/parts", b"/things%2F1", b"/things/1/2/3"])
def test_an_unknown_path_is_not_found(path: bytes):
    assert refusal("GET", path).code == "not_found"


def test_a_bad_path_is_refused_before_it_is_looked_up():
    assert refusal("GET", b"/things/..").code == "bad_path"
    assert refusal("GET", b"/things/%2e%2e/parts/1").code == "bad_path"


def test_two_rows_of_one_method_and_path_are_a_mistake():
    with pytest.raises(ValueError, match="two routes for GET /a"):
        RouteTable([route("a", "GET", "/a"), route("b", "GET", "/a")])


def test_operations_of_the_core_are_unique_and_their_problems_exist():
    rows = list(CORE_ROUTES)
    assert len({row.operation for row in rows}) == len(rows)
    assert {code for row in rows for code in row.problems} <= set(PROBLEMS)


def test_only_what_is_meant_to_be_public_is():
    public = {row.operation for row in CORE_ROUTES if row.access is Access.PUBLIC}
    assert public == {"health", "health_live", "health_ready", "openapi", "login", "refresh", "jwks", "register"}
    assert {row.operation for row in CORE_ROUTES if row.access is Access.CONFIGURED} == {"metrics"}


def test_reading_writing_and_removing_need_their_permissions():
    removing = {"entities", "erase", "retention", "operations"}
    for row in CORE_ROUTES:
        if row.path.startswith("/api/") and not row.path.startswith(("/api/v1/auth/", "/api/v1/tenants")):
            if removing & set(row.path.split("/")):
                assert row.access is Permission.ADMIN
            else:
                assert row.access is (Permission.READ if row.method == "GET" else Permission.WRITE)


def test_keys_are_the_business_of_signed_in_users():
    keys = {row.operation: row.access for row in CORE_ROUTES if row.path.startswith("/api/v1/auth/api-keys")}
    assert keys == dict.fromkeys(("create_api_key", "list_api_keys", "revoke_api_key", "rotate_api_key"), Access.USER)


def test_sessions_are_everybodys_own_business():
    access = {row.operation: row.access for row in CORE_ROUTES}
    assert {access[name] for name in ("logout", "list_sessions", "end_session")} == {Access.USER}


def test_users_are_the_business_of_administrators_and_everybodys_own():
    access = {row.operation: row.access for row in CORE_ROUTES}
    assert {access[name] for name in ("list_users", "get_user", "change_user", "delete_user")} == {Permission.ADMIN}
    assert (access["change_password"], access["me"]) == (Access.USER, Access.ANY)


def test_tenants_are_read_by_those_in_them_and_managed_by_administrators():
    access = {row.operation: row.access for row in CORE_ROUTES if row.path.startswith("/api/v1/tenants")}
    assert [access.pop(name) for name in ("get_tenant", "get_tenant_stats")] == [Access.OWN_TENANT] * 2
    assert set(access.values()) == {Permission.MANAGE_TENANTS}


def test_every_path_is_plain_and_its_variables_are_whole_segments():
    for row in CORE_ROUTES:
        assert re.fullmatch(r"(/[a-z0-9.-]+|/\{[a-z_]+\})+", row.path), row.path
