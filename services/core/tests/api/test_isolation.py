"""Tenants that have the same entities, types, tags and event ids see nothing of each other, whatever they ask for.

What is asked comes from the route table: a new route fails here until somebody has said whose its answer is, and a new
parameter until somebody has said what it can be.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Route

from .service import (
    BATCH,
    EVENTS,
    JSON,
    QUERY,
    Core,
    bearer,
    delete_tenant,
    new_tenant,
    refusal,
    until,
    within_an_hour,
)
from .tenant_worlds import CLIENT_IDS, ENTITIES, TAGS, TIMES, TYPES, Headers, World

PUBLIC: Final = "everybody's, and of no tenant"
OWN: Final = "the caller's own"
TENANT: Final = "the tenant's that the caller works in"
OPERATOR: Final = "of all tenants, for administrators alone"
OPERATOR_OR_OWN: Final = "of all tenants for administrators, else the caller's own"
GATEWAY: Final = "for gateways"

WHOSE: Final = {
    **dict.fromkeys(("health", "health_live", "health_ready", "metrics", "openapi", "jwks"), PUBLIC),
    **dict.fromkeys(("login", "refresh"), PUBLIC),
    **dict.fromkeys(("me", "list_sessions", "logout", "end_session", "change_password"), OWN),
    **dict.fromkeys(("create_api_key", "list_api_keys", "revoke_api_key", "rotate_api_key"), OPERATOR_OR_OWN),
    **dict.fromkeys(("get_tenant", "get_tenant_stats"), OPERATOR_OR_OWN),
    **dict.fromkeys(("register", "list_users", "get_user", "change_user", "delete_user"), OPERATOR),
    **dict.fromkeys(("rotate_signing_key", "list_signing_keys"), OPERATOR),
    **dict.fromkeys(("create_tenant", "list_tenants", "put_tenant", "delete_tenant"), OPERATOR),
    **dict.fromkeys(("put_tenant_quotas", "put_tenant_limits", "activate_tenant", "deactivate_tenant"), OPERATOR),
    **dict.fromkeys(("append_event", "append_batch", "query_events", "get_event"), TENANT),
    **dict.fromkeys(("erase_event", "remove_entity", "remove_entity_by_query"), TENANT),
    **dict.fromkeys(("list_retention", "get_retention"), TENANT),
    **dict.fromkeys(("put_retention", "put_retention_by_query"), TENANT),
    **dict.fromkeys(("delete_retention", "delete_retention_by_query"), TENANT),
    **dict.fromkeys(("list_operations", "get_operation"), TENANT),
    **dict.fromkeys(("introspect", "changes"), GATEWAY),
}
"""Operation to whose its answer is, or what it changes."""

READS: Final = [pytest.param(row, id=row.operation) for row in CORE_ROUTES if row.method == "GET"]
WRITES: Final = [pytest.param(row, id=row.operation) for row in CORE_ROUTES if row.method != "GET"]

QUOTAS: Final = dict.fromkeys(
    (
        "max_events_per_day",
        "max_storage_bytes",
        "max_queries_per_hour",
        "max_api_keys",
        "max_projections",
        "max_pipelines",
    ),
    1,
)


class Worlds(NamedTuple):
    """Two tenants, and a connection without a credential."""

    client: httpx.Client
    one: World
    other: World


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    # Removals are done at once: worlds wait for theirs.
    environ = {"ALLSOURCE_STORAGE__REMOVAL_SECONDS": "0"}
    service = Core(tmp_path_factory.mktemp("core"), environ=environ).ready()
    with service.client({}) as client:
        yield client
    assert service.stop() == 0


@pytest.fixture(scope="module")
def readers(client: httpx.Client) -> Worlds:
    """Of which nothing is changed."""
    return Worlds(client, World(client), World(client))


@pytest.fixture(scope="module")
def writers(client: httpx.Client) -> Worlds:
    """Of which the first one changes."""
    return Worlds(client, World(client), World(client))


class Request(NamedTuple):
    """A request, and the texts in it that the answer may say again."""

    method: str
    path: str
    headers: Headers
    content: bytes | None
    said: list[str]
    ids: list[str]


def values(name: str, operation: str, asking: World, asked: World) -> st.SearchStrategy[Any]:
    """What a variable or parameter of this name can be: whatever might lead to the other tenant is among it."""
    positions = [1, *asking.positions, *asked.positions]
    shared: dict[str, list[Any]] = {
        "entity_id": ENTITIES,
        "event_type": TYPES,
        "tag": TAGS,
        "event_id": CLIENT_IDS,
        "prefix": ["cart", ""],
        **dict.fromkeys(("since", "until", "as_of"), TIMES),
        **dict.fromkeys(("after_position", "before_position", "min_position"), positions),
        "order": ["asc", "desc"],
        "limit": [1, 3, 1_000],
        "wait_ms": [0, 1],
        "status": ["running", "done"],
        "dry_run": ["true", "false"],
        "cursor": [*asking.cursors.get(operation, ()), *asked.cursors.get(operation, ())],
        "instance": [""],
        "after": [0],
    }
    own = [*asking.ids.get(name, ()), *asked.ids.get(name, ())]
    if name not in shared and not own:
        raise LookupError(f"{operation} takes {name}: say in `values` what it can be")
    candidates = [*shared.get(name, ()), *own]
    chosen = st.sampled_from(candidates)
    return st.lists(chosen, max_size=2, unique=True) if name == "tag" else chosen


@st.composite
def requests(draw: st.DrawFn, row: Route, caller: str, asking: World, asked: World) -> Request:
    """A request to a route with all parameters, headers and ids that it takes."""
    path, ids, said = row.path, [], []
    for name in [part[1:-1] for part in row.path.split("/") if part.startswith("{")]:
        value = draw(values(name, row.operation, asking, asked).filter(bool))
        path = path.replace(f"{{{name}}}", quote(value, safe=""))
        ids.append(value)
    parameters: list[tuple[str, Any]] = []
    for field in msgspec.structs.fields(row.query) if row.query is not None else ():
        if field.required or draw(st.booleans()):
            value = draw(values(field.encode_name, row.operation, asking, asked))
            parameters += [(field.encode_name, one) for one in (value if isinstance(value, list) else [value])]
    headers = {**asking.callers[caller]}
    if row.response_types:
        headers["Accept"] = draw(st.sampled_from(row.response_types))
    for name, _ in row.headers:
        header = {"If-Match": ["*", '"1"'], "Prefer": ["return=minimal"]}[name]
        headers |= draw(st.sampled_from([{}, *({name: one} for one in header)]))
    content = None
    if row.request is not None:
        body = draw(bodies(row.operation, asking, asked))
        content = json.dumps(body).encode()
        headers |= JSON
    said = [*ids, *(str(value) for _, value in parameters)]
    return Request(
        row.method, f"{path}?{httpx.QueryParams(parameters)}" if parameters else path, headers, content, said, ids
    )


def bodies(operation: str, asking: World, asked: World) -> st.SearchStrategy[Any]:
    """What a route may be sent to get at the other tenant."""
    event = st.fixed_dictionaries(
        {
            "entity_id": st.sampled_from([*ENTITIES, *asked.ids["entity_id"]]),
            "event_type": st.sampled_from([*TYPES, *asked.ids["event_type"]]),
            "payload": st.just({"of": "one"}),
        },
        optional={
            "event_id": st.sampled_from([*CLIENT_IDS, *asked.ids["event_id"]]),
            "tags": st.lists(st.sampled_from([*TAGS, *asked.ids["tag"]]), max_size=2, unique=True),
            "expected_version": st.sampled_from([0, 1, 6, "any"]),
        },
    )
    named = {"tenant_id": st.just(asked.tenant_id)}
    choices: dict[str, st.SearchStrategy[Any]] = {
        "append_event": st.one_of(event, event.map(lambda one: {**one, "tenant_id": asked.tenant_id})),
        "append_batch": st.fixed_dictionaries({"events": st.lists(event, min_size=1, max_size=4)}),
        "create_api_key": st.fixed_dictionaries({"name": st.just("mine")}, optional=named),
        "change_password": st.just({"current": "not the one", "new": "another password of somebody"}),
        "register": st.just(
            {"username": "new", "password": "a password of somebody new", "tenant_id": asked.tenant_id}
        ),
        "change_user": st.sampled_from([{"active": False}, {"role": "readonly"}, {"email": "new@example.org"}]),
        "create_tenant": st.just({"id": asked.tenant_id, "name": "mine"}),
        "put_tenant": st.just({"name": "mine"}),
        "put_tenant_quotas": st.just(QUOTAS),
        "put_tenant_limits": st.just({"requests_per_minute": 1, "burst": 1}),
        **dict.fromkeys(("put_retention", "put_retention_by_query"), st.just({"max_count": 1})),
        "introspect": st.just({"credential": "x"}),
    }
    return choices[operation]


def send(client: httpx.Client, request: Request) -> httpx.Response:
    return client.request(request.method, request.path, headers=request.headers, content=request.content)


def check_shows_nothing_of(asked: World, response: httpx.Response, said: Sequence[str] = ()) -> None:
    """Nothing that is the other tenant's alone is in an answer, which may only say again what it was asked."""
    text = response.text + repr(response.headers.multi_items())
    for one in said:
        text = text.replace(one, "")
    for secret in asked.secrets:
        assert secret not in text, f"{response.request.url}: {response.status_code} {response.text}"


def is_isolated(row: Route, caller: str) -> bool:
    """Whether an answer may show nothing of other tenants: administrators are the operators of all of them."""
    return WHOSE[row.operation] not in (OPERATOR, OPERATOR_OR_OWN) or caller != "admin"


def test_of_every_route_it_is_said_whose_its_answer_is():
    assert {row.operation for row in CORE_ROUTES} == set(WHOSE)


@pytest.mark.parametrize("row", READS)
@settings(max_examples=40)
@given(data=st.data())
def test_no_read_shows_anything_of_another_tenant(readers: Worlds, row: Route, data: st.DataObject):
    caller = data.draw(st.sampled_from(sorted(readers.one.callers)))
    asking, asked = data.draw(st.sampled_from([(readers.one, readers.other), (readers.other, readers.one)]))
    request = data.draw(requests(row, caller, asking, asked))
    response = send(readers.client, request)
    if not is_isolated(row, caller):
        return
    assert response.status_code in (200, 400, 401, 403, 404), response.text
    check_shows_nothing_of(asked, response, said=request.said if response.is_error else ())
    if any(one in ids for ids in asked.ids.values() for one in request.ids):
        assert response.status_code == 404 or response.json()["error"] == "forbidden", response.text


@pytest.mark.parametrize("row", READS)
def test_what_is_shown_to_nobody_else_is_shown_to_the_tenant(readers: Worlds, row: Route):
    """Else the test above could find nothing."""
    if WHOSE[row.operation] in (PUBLIC, GATEWAY) or row.operation == "list_signing_keys":
        return
    one = readers.one
    variable = next((part[1:-1] for part in row.path.split("/") if part.startswith("{")), None)
    seen = []
    for value in one.ids[variable] if variable else [""]:
        path = row.path.replace(f"{{{variable}}}", quote(value, safe="")) if variable else row.path
        seen += [readers.client.get(path, headers=headers) for headers in one.callers.values()]
    assert any(response.status_code == 200 and one.marker in response.text for response in seen)


@pytest.mark.parametrize("caller", ["admin", "developer", "readonly", "serviceaccount", "developer-key", "admins-key"])
def test_a_stream_without_any_filter_has_the_events_of_the_tenant_and_no_others(readers: Worlds, caller: str):
    client, one, other = readers
    headers = {**one.callers[caller], "Accept": "application/x-ndjson"}
    response = client.get(QUERY, headers=headers)
    check_shows_nothing_of(other, response)
    events = [json.loads(line) for line in response.text.splitlines()]
    assert {event["tenant_id"] for event in events} == {one.tenant_id}
    assert [event["position"] for event in events] == one.positions


@pytest.mark.parametrize("path", ["/api/v1/auth/users", "/api/v1/auth/api-keys"])
def test_administrators_who_ask_for_one_tenant_get_no_other(readers: Worlds, path: str):
    client, one, other = readers
    response = client.get(path, params={"tenant_id": one.tenant_id}, headers=bearer())
    assert one.marker in response.text
    check_shows_nothing_of(other, response)


def test_figures_of_the_service_name_no_tenant(readers: Worlds):
    client, one, other = readers
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"):
        for headers in ({}, *one.callers.values()):
            response = client.get(path, headers=headers)
            for world in (one, other):
                check_shows_nothing_of(world, response)


def test_what_is_counted_is_counted_for_each_tenant(readers: Worlds):
    within_an_hour()
    client, world, _ = readers

    def make(events: int) -> Headers:
        """Somebody of a tenant of whose usage all is known."""
        headers = bearer(tenant=new_tenant(client))
        event = {"event_type": "t", "entity_id": "e", "payload": 1}
        client.post(BATCH, json={"events": [event] * events}, headers=headers).raise_for_status()
        client.post("/api/v1/auth/api-keys", json={"name": "k"}, headers=headers).raise_for_status()
        client.get(QUERY, headers=headers).raise_for_status()
        return headers

    def used(headers: Headers) -> dict[str, int]:
        usage = client.get(f"/api/v1/tenants/{headers['X-Tenant-ID']}/stats", headers=headers).json()["usage"]
        return {name: count["used"] for name, count in usage.items() if count["used"]}

    def expected(events: int) -> dict[str, int]:
        return {"events_today": events, "storage_bytes": 3 * events, "queries_this_hour": 1, "api_keys": 1}

    one = make(3)
    until(lambda: used(one) == expected(3))
    other = make(5)
    for role in ("developer", "admin"):
        assert client.get(QUERY, headers=world.callers[role]).status_code == 200
    until(lambda: used(other) == expected(5))
    assert used(one) == expected(3)


@pytest.mark.parametrize("row", WRITES)
def test_no_write_changes_anything_of_another_tenant(writers: Worlds, row: Route):
    within_an_hour()
    client, one, other = writers
    before = dict(other.everything())

    @settings(max_examples=25)
    @given(data=st.data())
    def write(data: st.DataObject) -> None:
        callers = [caller for caller in one.callers if is_isolated(row, caller)]
        caller = data.draw(st.sampled_from(callers))
        request = data.draw(requests(row, caller, _only_ids_of(one, other), other))
        response = send(client, request)
        assert response.status_code < 500, response.text
        one.said |= {*request.said, *_texts(request.content)}
        check_shows_nothing_of(other, response, said=sorted(one.said, key=len, reverse=True))

    if row.operation not in ("logout", "login", "refresh"):
        write()
    assert dict(other.everything()) == before


def _only_ids_of(one: World, other: World) -> Any:
    """The first tenant's callers, who know nothing but what is the other's: what is their own stays as it is."""
    asking = object.__new__(World)
    asking.__dict__.update(one.__dict__, ids={**other.ids}, cursors={}, positions=[1])
    return asking


def _texts(content: bytes | None) -> list[str]:
    """All texts in a body, longest first."""
    found: list[str] = []

    def collect(value: Any) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list):
            for each in value.values() if isinstance(value, dict) else value:
                collect(each)

    collect(json.loads(content or b"null"))
    return sorted(found, key=len, reverse=True)


def test_what_another_tenant_has_refuses_no_append(readers: Worlds):
    within_an_hour()
    client, one, other = readers
    own = one.callers["developer"]
    names = {name: other.ids[name] for name in ("entity_id", "event_type", "tag")}
    condition = {
        "fail_if_events_match": [
            {"tags": names["tag"]},
            {"event_types": names["event_type"]},
            {"entity_ids": names["entity_id"]},
        ]
    }
    event = {"entity_id": names["entity_id"][0], "event_type": "x", "payload": {"of": "one"}}
    events = [{**event, "event_id": event_id} for event_id in other.ids["event_id"]]
    versions = {names["entity_id"][0]: 0}
    before = dict(other.everything())
    dry = client.post(
        f"{BATCH}?dry_run=true",
        json={"events": events, "condition": condition, "expected_versions": versions},
        headers=own,
    )
    assert dry.status_code == 200, dry.text
    assert [one["version"] for one in dry.json()["events"]] == list(range(1, len(events) + 1))
    assert "duplicate" not in dry.text
    assert dict(other.everything()) == before
    for event_id in other.ids["event_id"]:
        refusal(client.get(f"{EVENTS}/{event_id}", headers=own), 404, "not_found")


def test_a_tenant_with_the_id_of_a_deleted_one_sees_nothing_of_it(client: httpx.Client):
    first = World(client, f"t-{uuid.uuid4()}")
    stale = dict(first.callers)
    delete_tenant(client, first.tenant_id)
    second = World(client, first.tenant_id)
    del stale["admin"]
    for headers in stale.values():
        refusal(client.get(QUERY, headers=headers), 401, "unauthorized")
    until(lambda: client.get("/api/v1/operations?status=running", headers=bearer()).json()["count"] == 0)
    for row in CORE_ROUTES:
        if row.method != "GET" or WHOSE[row.operation] == GATEWAY:
            continue
        variable = next((part[1:-1] for part in row.path.split("/") if part.startswith("{")), None)
        for caller, headers in second.callers.items():
            if variable is None:
                check_shows_nothing_of(first, client.get(row.path, headers=headers))
                continue
            for value in first.ids[variable] if variable != "tenant_id" else ():
                response = client.get(row.path.replace(f"{{{variable}}}", quote(value, safe="")), headers=headers)
                assert response.status_code in (403, 404), f"{caller}: {response.request.url} {response.text}"
    events = client.get(QUERY, params={"limit": 1_000}, headers=second.admin).json()["events"]
    assert [event["position"] for event in events] == second.positions
    assert min(second.positions) > max(first.positions)
