"""Routes: what a row of a route table says, and how a request finds its row.

Both services look their routes up here, on the segments that `paths.read_path` read, so they cannot disagree about
which route a path means. A table also gives the OpenAPI document (`openapi.py`) and the permission check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, Final, Literal

import msgspec

from allsource_shared.paths import read_path
from allsource_shared.permissions import Permission
from allsource_shared.problems import ApiError

__all__ = ["JSON", "NDJSON", "Access", "Match", "Route", "RouteTable"]

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Access(Enum):
    """Who may call a route that asks for no permission. There is no default: every row says what it needs."""

    PUBLIC = "public"
    """Anybody, without credentials."""

    CONFIGURED = "configured"
    """Anybody, or principals with `metrics`, as ``metrics.public`` says."""

    ANY = "any"
    """Any principal: a user or an API key."""

    USER = "user"
    """A signed-in user: no API key, whatever its role."""

    OWN_TENANT = "own_tenant"
    """Any principal for the tenant that it works in; `manage_tenants` for others. ``tenant_id`` names it."""

    GATEWAY = "gateway"
    """A gateway, by the key that both services are configured with, and nobody else."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a route table.

    Attributes:
        operation: the name that handlers, metrics, logs and OpenAPI know the route by; unique in its table.
        path: raw path with ``{name}`` for a variable segment.
        access: the permission that the caller needs, or who else may call.
        summary: one line for people.
        query: struct of the query parameters; None where there are none.
        request: struct of the body; None where there is none.
        request_types: media types that the body may have.
        response: struct of the answer, or None for text.
        response_types: media types of the answer, the default first.
        status: of a success.
        other_status: of a success that did something else: nothing was stored, say. None where there is none.
        headers: request headers with a meaning for this route, and what it is.
        problems: codes beyond those that any route can answer (see `openapi.COMMON_PROBLEMS`).
        lenient: unknown fields and parameters are ignored and listed in a ``Warning`` header, as AllSource v1.0
            clients expect of the routes that it had; elsewhere they are refused by name.
        cost: tokens that a call takes from the bucket of its tenant, before what it turns out to carry.
        serves_expired_passwords: also for those who must change their password first.
    """

    operation: str
    method: Method
    path: str
    access: Permission | Access
    summary: str
    query: Any = None
    request: Any = None
    request_types: tuple[str, ...] = (JSON,)
    response: Any = None
    response_types: tuple[str, ...] = (JSON,)
    status: int = 200
    other_status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    lenient: bool = False
    cost: int = 1
    serves_expired_passwords: bool = False


class Match(msgspec.Struct, frozen=True, gc=False):
    """A route and the decoded variable segments of the path that led to it."""

    route: Route
    parameters: dict[str, str]


class RouteTable:
    """Finds the route of a request.

    Args:
        routes: the rows. A fixed path wins over one with variables, whatever the method.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._exact: dict[tuple[str, bytes], Match] = {}
        self._by_length: dict[int, list[tuple[tuple[str, ...], dict[str, Route]]]] = {}
        templates: dict[str, dict[str, Route]] = {}
        for route in self._routes:
            methods = templates.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"two routes for {route.method} {route.path}")
            methods[route.method] = route
            if "{" not in route.path:
                self._exact[route.method, route.path.encode()] = Match(route, {})
        for path, methods in templates.items():
            segments = read_path(path.replace("{", "%7B").replace("}", "%7D").encode())
            self._by_length.setdefault(len(segments), []).append((segments, methods))
        for candidates in self._by_length.values():
            candidates.sort(key=lambda candidate: [_is_variable(segment) for segment in candidate[0]])

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def match(self, method: str, raw_path: bytes) -> Match:
        """The route that a request means.

        A fixed path that arrives as it is declared costs one dict lookup; every other path is read and compared.

        Args:
            method: as it came; HEAD finds the GET route.
            raw_path: as it came over the wire, without the query string.

        Raises:
            ApiError: ``bad_path``, ``not_found``, or ``method_not_allowed`` with ``Allow``.
        """
        if method == "HEAD":
            method = "GET"
        exact = self._exact.get((method, raw_path))
        if exact is not None:
            return exact
        segments = read_path(raw_path)
        allowed: list[str] = []
        for template, methods in self._by_length.get(len(segments), ()):
            parameters = _compare(template, segments)
            if parameters is None:
                continue
            route = methods.get(method)
            if route is not None:
                return Match(route, parameters)
            allowed.extend(methods)
            if not parameters:
                break
        if allowed:
            if "GET" in allowed:
                allowed.append("HEAD")
            names = ", ".join(sorted(set(allowed)))
            raise ApiError("method_not_allowed", f"this route allows {names}", headers={"Allow": names})
        raise ApiError("not_found", "there is no such route")


def _is_variable(segment: str) -> bool:
    return segment.startswith("{")


def _compare(template: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    parameters: dict[str, str] = {}
    for expected, actual in zip(template, segments, strict=True):
        if _is_variable(expected):
            parameters[expected[1:-1]] = actual
        elif expected != actual:
            return None
    return parameters
