"""No route of either service has anything to do with the tenants that belong to the store, whoever asks, and wherever
the request names one: tenants whose name begins with ``_``.

Every request here would do its work if it named no such tenant, which the last test shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from allsource_control_plane.routes import GATEWAY_ROUTES, REACHABLE_ROUTES
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access, Route, RouteTable
from tools.stack import Stack

from .callers import Headers, People, bearer, forged
from .conftest import GATEWAY_KEY, SECRET, make_stack, sign_in
from .valid_requests import EVENT, Ask, Targets, in_order
from .wire import exchange

NAMES: Final = ("_system", "_audit", "_x")
SERVICES: Final[dict[str, RouteTable]] = {"core": CORE_ROUTES, "gateway": REACHABLE_ROUTES}

OWN_FIGURES: Final = {"health", "health_live", "health_ready", "metrics", "openapi", "jwks"}
"""Operations that tell of the service itself and read no query string."""

TENANT_IN_BODY: Final = {"create_tenant": "id", "introspect": "tenant"}
"""The field that names the tenant, where it is not ``tenant_id``."""


class World:
    """A stack of its own, so that nobody else's work moves the last position."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.admin = sign_in(stack.core_url)
        self.targets = Targets(stack.core_url, self.admin)
        self.token = self.targets.caller
        people = People(stack.core_url, self.admin)
        with people.client:
            people.user("walking-developer", "developer", self.targets.tenant)
            developer = people.token("walking-developer")
            self.callers: dict[str, Headers] = {
                "admin": bearer(self.token),
                "admin-key": bearer(people.key(self.token, "admin")["key"]),
                "developer": bearer(developer),
                "developer-key": {"X-API-Key": people.key(developer, "developer")["key"]},
                "nobody": {},
            }
        urls = {"core": stack.core_url, "gateway": stack.gateway_url}
        self.clients = {name: httpx.Client(base_url=url, timeout=30) for name, url in urls.items()}

    def facts(self) -> dict[str, Any]:
        """What no refused request may have changed."""
        lists = ("auth/users", "auth/sessions", "tenants", "retention", "operations")
        headers = bearer(self.token)
        found = {path: self.clients["core"].get(f"/api/v1/{path}", headers=headers).json() for path in lists}
        for operation in found["operations"]["operations"]:
            operation.clear()  # they go on by themselves; how many there are is what counts
        # Whatever is stored or removed moves it. How many events there are changes when a removal gets to the files.
        store = self.clients["core"].get("/health", headers=headers).json()["store"]
        return {**found, "last_position": store["last_position"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory: Path = tmp_path_factory.mktemp("reserved")
    with make_stack(directory) as stack:
        made = World(stack)
        yield made
        for client in made.clients.values():
            client.close()


def disguises(row: Route, ask: Ask, name: str, token: str) -> Iterator[tuple[str, Ask, Headers]]:
    """The request with a reserved tenant in every place where a tenant can be named."""
    yield "header", ask, {"X-Tenant-ID": name}
    if row.operation not in OWN_FIGURES:
        yield "query", ask._replace(query={**ask.query, "tenant_id": name}), {}
    if "tenant_id" in ask.segments:
        for written in (name, name.replace("_", "%5F"), "".join(f"%{ord(char):02x}" for char in name)):
            yield f"path {written}", ask._replace(segments={**ask.segments, "tenant_id": written}), {}
    if isinstance(ask.body, dict):
        field = TENANT_IN_BODY.get(row.operation, "tenant_id")
        yield "body", ask._replace(body={**ask.body, field: name}), {}
    if row.operation == "append_batch":
        yield "event of a batch", ask._replace(body={"events": [EVENT, {**EVENT, "tenant_id": name}]}), {}
    if row.access not in (Access.PUBLIC, Access.CONFIGURED, Access.GATEWAY):
        yield "token", ask, bearer(forged(token, SECRET, tenant_id=name))


def outcome(response: httpx.Response) -> tuple[int, str]:
    if not response.is_error:
        return response.status_code, response.text[:200]
    return response.status_code, response.json()["error"]


REFUSALS: Final = {(400, "reserved_tenant"), (400, "bad_query"), (400, "invalid_body")}
"""By its meaning, or by name as a field or parameter that the route does not have."""


def is_refused(row: Route, place: str, response: httpx.Response) -> bool:
    if row.operation == "introspect" and place == "body" and response.status_code == 200:
        told = response.json()
        return told["principal"] is None and told["problem"]["error"] == "reserved_tenant"
    meant = place.startswith(("header", "path", "token"))
    return outcome(response) in ({(400, "reserved_tenant")} if meant else REFUSALS)


def own_headers(row: Route, caller: Headers) -> Headers:
    return {"X-Gateway-Key": GATEWAY_KEY} if row.access is Access.GATEWAY else caller


@pytest.mark.parametrize("service", SERVICES)
def test_an_administrator_is_refused_the_stores_own_tenants_everywhere(world: World, service: str) -> None:
    before = world.facts()
    tried = 0
    for row in in_order(SERVICES[service]):
        ask = world.targets.ask(row)
        for name in NAMES:
            for place, disguised, headers in disguises(row, ask, name, world.token):
                sent = {**own_headers(row, world.callers["admin"]), **headers}
                response = disguised.send(world.clients[service], row, sent)
                assert is_refused(row, place, response), f"{row.operation}, {name} in {place}: {outcome(response)}"
                tried += 1
    assert tried > 3 * 3 * len(list(SERVICES[service]))
    assert world.facts() == before


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("caller", ["admin-key", "developer", "developer-key", "nobody"])
def test_everybody_else_is_refused_them_too(world: World, service: str, caller: str) -> None:
    before = world.facts()
    for row in in_order(SERVICES[service]):
        if row.access is Access.GATEWAY:
            continue
        for place, disguised, headers in disguises(row, world.targets.ask(row), "_system", world.token):
            response = disguised.send(world.clients[service], row, {**world.callers[caller], **headers})
            told = f"{row.operation} as {caller}, _system in {place}: {outcome(response)}"
            assert response.status_code in (400, 401, 403), told
    assert world.facts() == before


def test_through_the_gateway_the_internal_routes_are_not_there_for_them_either(world: World) -> None:
    for row in CORE_ROUTES:
        if row.access is Access.GATEWAY:
            for _, disguised, headers in disguises(row, world.targets.ask(row), "_system", world.token):
                sent = {"X-Gateway-Key": GATEWAY_KEY, **world.callers["admin"], **headers}
                response = disguised.send(world.clients["gateway"], row, sent)
                assert outcome(response) == (404, "not_found")


@pytest.mark.parametrize("line", [0, 1])
def test_a_line_of_a_batch_names_none(world: World, line: int) -> None:
    before = world.facts()
    lines = [b'{"event_type":"t","entity_id":"e","payload":1}'] * 2
    lines[line] = lines[line][:-1] + b',"tenant_id":"_system"}'
    for client in world.clients.values():
        headers = {**world.callers["admin"], "Content-Type": "application/x-ndjson"}
        response = client.post("/api/v1/events/batch", content=b"\n".join(lines), headers=headers)
        assert outcome(response) in REFUSALS
    assert world.facts() == before


def test_no_list_shows_one(world: World) -> None:
    headers = world.callers["admin"]
    for client in world.clients.values():
        for path in ("tenants", "auth/users", "auth/api-keys"):
            assert '"_' not in client.get(f"/api/v1/{path}", headers=headers).text


@pytest.mark.parametrize("value", ["_system  ", "\t _system", "_system, default", "default, _system"])
@pytest.mark.parametrize("path", ["/api/v1/events/query", "/health"])
def test_a_header_that_is_oddly_written_names_none(world: World, path: str, value: str) -> None:
    for url in (world.stack.core_url, world.stack.gateway_url):
        headers = {**world.callers["admin"], "X-Tenant-ID": value}
        answer = exchange(url, "GET", path.encode(), headers=headers)
        if value.startswith("default"):  # a name that nobody has; health asks for no tenant
            assert answer.status in ((404,) if path != "/health" else (200,))
        else:
            assert (answer.status, answer.json()["error"]) == (400, "reserved_tenant")


@pytest.mark.parametrize("names", [("default", "_system"), ("_system", "default")])
def test_of_two_headers_neither_may_name_one(world: World, names: tuple[str, str]) -> None:
    for client in world.clients.values():
        for path in ("/api/v1/events/query", "/health"):
            fields = [*world.callers["admin"].items(), *(("X-Tenant-ID", name) for name in names)]
            status, error = outcome(client.get(path, headers=fields))
            assert (status, error) in {(400, "reserved_tenant"), (400, "bad_header")}


@pytest.mark.parametrize("service", ["gateway", "core"])
def test_the_same_requests_do_their_work_without_such_a_name(world: World, service: str) -> None:
    """What was refused above was refused for the tenant alone. Takes apart what the tests before have used."""
    targets = Targets(world.stack.core_url, world.admin)
    before = world.facts()["last_position"]
    for row in in_order(SERVICES[service]):
        headers = own_headers(row, bearer(targets.caller))
        response = targets.ask(row).send(world.clients[service], row, headers)
        assert response.is_success, f"{row.operation}: {outcome(response)}"
    assert world.facts()["last_position"] > before + 10


def test_the_gateways_own_routes_are_among_them() -> None:
    own = {row.operation for row in GATEWAY_ROUTES}
    assert own <= {row.operation for row in REACHABLE_ROUTES}
    assert own <= OWN_FIGURES
