"""Tenants that have the same of everything, and beside it what no other may ever see: all of that bears a marker."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import quote

import httpx

from .service import BATCH, EVENTS, LOGIN, QUERY, bearer, until

Headers = dict[str, str]

ENTITIES: Final = ["cart", "order/1", "Ärger & Co"]
TYPES: Final = ["added", "removed"]
TAGS: Final = ["red", "green"]
TIMES: Final = ["2020-01-01T00:00:00Z", "2021-06-15T12:30:00.5Z", "2026-01-01T00:00:00Z"]
CLIENT_IDS: Final = [f"0198c0de-0000-7000-8000-{number:012x}" for number in range(4)]

ROLES: Final = ["developer", "readonly", "serviceaccount"]
_PASSWORD: Final = "a password of a tenant in the tests"
_USERS: Final = "/api/v1/auth/users"
_KEYS: Final = "/api/v1/auth/api-keys"
_TENANTS: Final = "/api/v1/tenants"
_OPERATIONS: Final = "/api/v1/operations"


class World:
    """A tenant with users of each role, keys, sessions, events, retention and removals.

    Attributes:
        marker: is in every text that is this tenant's alone.
        callers: headers of everybody who works in it, by role; those of keys end with ``-key``.
        ids: what only this tenant has, by the name of the variable or parameter that it stands for.
        secrets: texts that no answer to anybody else may have.
        cursors: that its own queries were given, by operation.
        positions: of its events.
        said: what its callers wrote; it is stored in their own tenant, and may be told them later.
    """

    def __init__(self, client: httpx.Client, tenant_id: str | None = None) -> None:
        self._client = client
        self.marker = f"mark{secrets.token_hex(8)}"
        self.tenant_id = tenant_id or f"t-{self.marker}"
        self.admin = bearer(tenant=self.tenant_id)
        self.callers: dict[str, Headers] = {"admin": self.admin}
        self.ids: dict[str, list[str]] = {"tenant_id": [self.tenant_id], "user_id": [], "key_id": [], "session_id": []}
        self.cursors: dict[str, list[str]] = {}
        self.said: set[str] = set()
        body = {"id": self.tenant_id, "name": f"name {self.marker}", "description": f"about {self.marker}"}
        self._send("POST", _TENANTS, {**body, "tier": "unlimited"}, bearer())
        self._make_people()
        self._make_events()
        self._make_removals()
        self._make_cursors()
        known = [*self.ids["event_id"], *self.ids["user_id"], *self.ids["key_id"], *self.ids["session_id"]]
        self.secrets = [self.marker, *known]

    def _send(self, method: str, path: str, body: Any, headers: Headers) -> Any:
        response = self._client.request(method, path, json=body, headers=headers)
        assert response.is_success, response.text
        return response.json() if response.content else None

    def _make_people(self) -> None:
        for role in ROLES:
            name = f"{role}-{self.marker}"
            body = {"username": name, "email": f"{name}@example.org", "password": _PASSWORD, "role": role}
            user = self._send("POST", "/api/v1/auth/register", body, self.admin)
            login = {"username": name, "password": _PASSWORD}
            signed_in = self._send("POST", LOGIN, login, {"User-Agent": f"browser {self.marker}"})
            own = {"Authorization": f"Bearer {signed_in['token']}"}
            key = self._send("POST", _KEYS, {"name": f"key {self.marker}", "role": role}, own)
            sessions = self._send("GET", "/api/v1/auth/sessions", None, own)["sessions"]
            self.callers[role] = own
            self.callers[f"{role}-key"] = {"X-API-Key": key["key"]}
            self.ids["user_id"].append(user["user_id"])
            self.ids["key_id"].append(key["id"])
            self.ids["session_id"] += [session["id"] for session in sessions]
        of_admin = self._send("POST", _KEYS, {"name": f"admin's {self.marker}", "role": "developer"}, self.admin)
        self.callers["admins-key"] = {"X-API-Key": of_admin["key"]}
        self.ids["key_id"].append(of_admin["id"])

    def _make_events(self) -> None:
        names = [*ENTITIES, f"own {self.marker}"]
        types, tags = [*TYPES, f"own.{self.marker}"], [*TAGS, f"tag {self.marker}"]
        events: list[dict[str, Any]] = [
            {
                "entity_id": names[number % len(names)],
                "event_type": types[number % len(types)],
                "tags": tags[number % 2 :],
                "payload": {"secret": self.marker, "n": number},
                "metadata": {"by": self.marker},
                "timestamp": TIMES[number % len(TIMES)],
            }
            for number in range(24)
        ]
        for number, event_id in enumerate(CLIENT_IDS):
            events[number]["event_id"] = event_id
        appended = self._send("POST", BATCH, {"events": events}, self.admin)["events"]
        self.positions = [event["position"] for event in appended]
        self.ids["event_id"] = [event["event_id"] for event in appended if event["event_id"] not in CLIENT_IDS]
        self.ids["entity_id"] = [names[-1]]
        self.ids["event_type"] = [types[-1]]
        self.ids["tag"] = [tags[-1]]

    def _make_removals(self) -> None:
        self.ids["prefix"] = [f"keep-{self.marker}", f"own {self.marker}"]
        for prefix in (*self.ids["prefix"], "cart"):
            self._send("PUT", f"/api/v1/retention/{quote(prefix)}", {"max_count": 1_000}, self.admin)
        removed = f"removed {self.marker}"
        event = {"entity_id": removed, "event_type": "added", "payload": {"secret": self.marker}}
        erased = self._send("POST", EVENTS, event, self.admin)["event_id"]
        self._send("POST", f"/api/v1/events/{erased}/erase", None, self.admin)
        self._send("DELETE", f"/api/v1/entities/{quote(removed)}", None, self.admin)
        self.ids["operation_id"] = [one["operation_id"] for one in self._operations()]
        # So that nothing goes on by itself while others are compared with what was before.
        until(lambda: all(one["status"] == "done" for one in self._operations()))

    def _operations(self) -> list[dict[str, Any]]:
        operations: list[dict[str, Any]] = self._send("GET", _OPERATIONS, None, self.admin)["operations"]
        return operations

    def _make_cursors(self) -> None:
        for operation, path in (
            ("query_events", f"{QUERY}?limit=1"),
            ("query_events", f"{QUERY}?limit=1&order=desc"),
            ("list_operations", f"{_OPERATIONS}?limit=1"),
            ("list_users", f"{_USERS}?limit=1"),
            ("list_api_keys", f"{_KEYS}?limit=1"),
            ("list_tenants", f"{_TENANTS}?limit=1"),
        ):
            page = self._send("GET", path, None, self.admin)
            self.cursors.setdefault(operation, []).append(page["next_cursor"])

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """What can be read of the tenant, as it is answered; but not how often that was done."""
        lines = {**self.admin, "Accept": "application/x-ndjson"}
        yield "events", self._client.get(QUERY, headers=lines).content
        for path in ("/api/v1/retention", _OPERATIONS, f"{_TENANTS}/{self.tenant_id}"):
            yield path, self._client.get(path, headers=self.admin).content
        for path in (_USERS, _KEYS):
            yield path, self._client.get(path, params={"tenant_id": self.tenant_id}, headers=self.admin).content
        for role in ROLES:
            yield f"sessions of {role}", self._client.get("/api/v1/auth/sessions", headers=self.callers[role]).content
        stats = self._client.get(f"{_TENANTS}/{self.tenant_id}/stats", headers=self.admin).json()
        del stats["usage"]["queries_this_hour"]
        yield "stats", repr(stats).encode()
