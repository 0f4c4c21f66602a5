"""One caller of every kind that there is, made over the API of a running stack."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import jwt

from allsource_shared.permissions import Role
from allsource_shared.tokens import SigningKey
from tools.stack import Stack

API = "/api/v1"
PASSWORD = "a password of somebody in the tests"
SOON_SECONDS = 30
"""For what comes within a second: a machine may stand still for some, and what is wrong takes longer or never comes."""

Headers = dict[str, str]


def bearer(credential: str) -> Headers:
    return {"Authorization": f"Bearer {credential}"}


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a token, unverified."""
    part = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return claims


def forged(token: str, secret: str, **changes: Any) -> str:
    """The token again with other claims, signed with `secret`."""
    return jwt.encode(
        {**claims_of(token), **changes}, secret, algorithm="HS256", headers={"kid": SigningKey.from_secret(secret).kid}
    )


def figure(stack: Stack, name: str) -> float:
    """One of those that the gateway publishes."""
    lines = httpx.get(f"{stack.gateway_url}/metrics", timeout=30).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that comes by itself."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class People:
    """Makes tenants, users, sessions and keys as an administrator.

    Args:
        url: of either service.
        admin_token: of an administrator.
    """

    def __init__(self, url: str, admin_token: str) -> None:
        self.client = httpx.Client(base_url=f"{url}{API}", timeout=30)
        self.admin = bearer(admin_token)

    def tenant(self, tenant_id: str, preset: str = "unlimited", **more: Any) -> str:
        body = {"id": tenant_id, "name": tenant_id, "tier": preset, **more}
        self.client.post("/tenants", json=body, headers=self.admin).raise_for_status()
        return tenant_id

    def user(self, name: str, role: str, tenant_id: str = "default") -> str:
        """A user's id."""
        body = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
        answer = self.client.post(
            "/auth/register", json={**body, "role": role, "tenant_id": tenant_id}, headers=self.admin
        )
        answer.raise_for_status()
        return str(answer.json()["user_id"])

    def sign_in(self, name: str, password: str = PASSWORD) -> dict[str, Any]:
        answer = self.client.post("/auth/login", json={"username": name, "password": password})
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    def token(self, name: str) -> str:
        return str(self.sign_in(name)["token"])

    def key(self, token: str, role: str, **more: Any) -> dict[str, Any]:
        body = {"name": f"a key with the role {role}", "role": role, **more}
        answer = self.client.post("/auth/api-keys", json=body, headers=bearer(token))
        answer.raise_for_status()
        made: dict[str, Any] = answer.json()
        return made

    def change(self, method: str, path: str, body: Any = None) -> None:
        self.client.request(method, path, json=body, headers=self.admin).raise_for_status()


@contextmanager
def every_caller(url: str, admin_token: str, secret: str) -> Iterator[tuple[dict[str, Headers], dict[str, Headers]]]:
    """Callers whose credentials are good, and callers whose credentials are not.

    Yields:
        The good ones by ``<role>`` and ``<role>-key``, all of the tenant ``acme`` but administrators; and the others by
        what is wrong with them, those of an inactive tenant beginning with ``inactive-tenant``.
    """
    people = People(url, admin_token)
    with people.client:
        good: dict[str, Headers] = {"admin": bearer(admin_token)}
        good["admin-key"] = bearer(people.key(admin_token, "admin")["key"])
        people.tenant("acme")
        for role in (Role.DEVELOPER, Role.READONLY, Role.SERVICEACCOUNT):
            people.user(f"acme-{role}", role, "acme")
            token = people.token(f"acme-{role}")
            good[str(role)] = bearer(token)
            good[f"{role}-key"] = {"X-API-Key": people.key(token, role)["key"]}
        yield good, _bad_callers(people, admin_token, secret)


def _bad_callers(people: People, admin_token: str, secret: str) -> dict[str, Headers]:
    bad: dict[str, Headers] = {"nobody": {}, "garbage": bearer("garbage"), "unknown-key": bearer(f"ask_{'0' * 20}_x")}
    past = int(time.time()) - 7200
    bad["expired"] = bearer(forged(admin_token, secret, iat=past, exp=past + 900))
    bad["not-ours"] = bearer(forged(admin_token, "x" * 48))
    bad["gateway-key-as-token"] = bearer("y" * 48)

    revoked = people.key(admin_token, "admin")
    people.change("DELETE", f"/auth/api-keys/{revoked['id']}")
    bad["revoked-key"] = bearer(revoked["key"])

    signed_out = people.user("signed-out", "admin") and people.token("signed-out")
    people.client.post("/auth/logout", headers=bearer(signed_out)).raise_for_status()
    bad["signed-out"] = bearer(signed_out)

    for name, end in (("inactive", ("PATCH", {"active": False})), ("deleted", ("DELETE", None))):
        user_id = people.user(name, "admin")
        token = people.token(name)
        key = people.key(token, "admin")["key"]
        people.change(end[0], f"/auth/users/{user_id}", end[1])
        bad[f"{name}-user"], bad[f"{name}-users-key"] = bearer(token), bearer(key)

    people.tenant("asleep")
    people.user("asleep-developer", "developer", "asleep")
    token = people.token("asleep-developer")
    key = people.key(token, "developer")["key"]
    people.change("POST", "/tenants/asleep/deactivate")
    bad["inactive-tenant"], bad["inactive-tenants-key"] = bearer(token), bearer(key)
    return bad
