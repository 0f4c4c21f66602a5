"""For every route a request that does what the route is for: what a test makes of it then is the only thing amiss."""

from __future__ import annotations

import json
import uuid
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from allsource_shared.routes import Route, RouteTable

from .callers import PASSWORD, Headers, People, bearer

QUOTAS = dict.fromkeys(
    (
        "max_events_per_day",
        "max_storage_bytes",
        "max_queries_per_hour",
        "max_api_keys",
        "max_projections",
        "max_pipelines",
    ),
    0,
)
EVENT = {"event_type": "t", "entity_id": "walked", "payload": 1}

ENDS_THE_CALLER = ("change_password", "logout")
"""Operations after which the caller's other sessions, or its own, are over: the last ones in any order."""


class Ask(NamedTuple):
    """A request, ready to be changed and sent.

    Attributes:
        segments: what stands in the path for each variable.
        query: parameters.
        body: None where the route takes none.
    """

    segments: dict[str, str]
    query: dict[str, str]
    body: Any

    def send(self, client: httpx.Client, row: Route, headers: Headers) -> httpx.Response:
        path = row.path
        for name, value in self.segments.items():
            path = path.replace(f"{{{name}}}", quote(value, safe="%"))
        content = None if self.body is None else json.dumps(self.body).encode()
        json_header = {} if self.body is None else {"Content-Type": "application/json"}
        return client.request(row.method, path, params=self.query, content=content, headers={**json_header, **headers})


class Targets:
    """Users, keys, tenants, events and so on for requests to be about, made anew by administrators of a running stack.

    Args:
        url: of either service.
        admin_token: of the administrator named ``admin``.
    """

    def __init__(self, url: str, admin_token: str) -> None:
        self._mark = mark = uuid.uuid4().hex[:8]
        self.name = f"caller-{mark}"
        people = People(url, admin_token)
        with people.client:
            self._make(people)

    def _make(self, people: People) -> None:
        mark = self._mark
        self.tenant = people.tenant(f"target-{mark}")
        people.user(self.name, "admin")
        signed_in, other = people.sign_in(self.name), people.sign_in(self.name)
        self.caller = str(signed_in["token"])
        self._refresh_token = str(people.sign_in(self.name)["refresh_token"])
        self._user = people.user(f"victim-{mark}", "developer", self.tenant)
        self._keys = {name: people.key(self.caller, "developer")["id"] for name in ("revoke_api_key", "rotate_api_key")}
        client, headers = people.client, bearer(self.caller)
        sessions = client.get("/auth/sessions", headers=bearer(str(other["token"]))).json()["sessions"]
        self._session = next(session["id"] for session in sessions if session["current"])
        self._entities = [f"target-{mark}-{number}" for number in range(4)]
        events = [{**EVENT, "entity_id": entity} for entity in self._entities]
        appended = client.post("/events/batch", json={"events": events}, headers=headers)
        appended.raise_for_status()
        self._event = appended.json()["events"][0]["event_id"]
        removed = client.delete(f"/entities/{self._entities[1]}", headers=headers)
        removed.raise_for_status()
        self._operation = removed.json()["operation_id"]

    def ask(self, row: Route) -> Ask:
        """The request for a route."""
        operation = row.operation
        segments = {
            "tenant_id": self.tenant,
            "user_id": self._user,
            "key_id": self._keys.get(operation, ""),
            "session_id": self._session,
            "event_id": self._event,
            "entity_id": self._entities[2],
            "operation_id": self._operation,
            "prefix": f"target-{self._mark}",
        }
        queries = {
            "remove_entity_by_query": {"entity_id": self._entities[3]},
            "put_retention_by_query": {"prefix": f"query-{self._mark}"},
            "delete_retention_by_query": {"prefix": f"query-{self._mark}"},
        }
        return Ask(
            {name: value for name, value in segments.items() if f"{{{name}}}" in row.path},
            queries.get(operation, {}),
            self._body(operation),
        )

    def _body(self, operation: str) -> Any:
        mark = self._mark
        return {
            "login": {"username": self.name, "password": PASSWORD},
            "refresh": {"refresh_token": self._refresh_token},
            "register": {"username": f"new-{mark}", "password": PASSWORD},
            "change_password": {"current": PASSWORD, "new": f"{PASSWORD} now"},
            "change_user": {"email": "another@example.org"},
            "create_api_key": {"name": "walked"},
            "create_tenant": {"id": f"made-{mark}", "name": "Made"},
            "put_tenant": {"name": "Renamed"},
            "put_tenant_quotas": QUOTAS,
            "put_tenant_limits": {"requests_per_minute": 0, "burst": 0},
            "append_event": EVENT,
            "append_batch": {"events": [EVENT, EVENT]},
            "put_retention": {"max_count": 1000},
            "put_retention_by_query": {"max_count": 1000},
            "introspect": {"credential": self.caller},
        }.get(operation)


def in_order(table: RouteTable) -> list[Route]:
    """The rows so that none needs what one before it has taken away."""
    methods = ("POST", "PUT", "GET", "PATCH", "DELETE")
    last = {operation: place for place, operation in enumerate(ENDS_THE_CALLER, start=1)}
    return sorted(table, key=lambda row: (last.get(row.operation, 0), methods.index(row.method)))
