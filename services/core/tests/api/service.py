"""The real service as a child process, and what its answers must look like."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from allsource_shared.permissions import Role
from allsource_shared.problems import PROBLEMS
from allsource_shared.tokens import SigningKey, TokenSigner

from .seeding import seed, user_id_of

SECRET = "kZ3vN8qTj1Wm5xRb7Lc0Yd9Hf2Gs6Pu4EaQi"  # signs the tokens of the tests, and nothing else
MASTER_KEY = "vT4mQ9wLc2Zr7Nd0Xk5Bf8Yh1Gs6Pj3Ue"
GATEWAY_KEY = "w3Nq8Zt1Kx6Vb0Lj5Rm9Yc4Hf7Dg2Pu5TiSo"
ADMIN = "root@example.org"
PASSWORD = "correct horse battery staple"

EVENTS = "/api/v1/events"
BATCH = "/api/v1/events/batch"
QUERY = "/api/v1/events/query"
LOGIN = "/api/v1/auth/login"

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}

PATIENCE_SECONDS = 60
"""Whatever takes longer hangs, however slow the machine."""


def token(
    role: str = "admin", *, tenant: str = "default", secret: str = SECRET, session: str | None = None, **changes: Any
) -> str:
    """An access token as the service itself would sign it, or nearly so, of somebody whom `seed` made.

    Some are made before the first test and used in the last: they outlive any run.
    """
    arguments: dict[str, Any] = {"issuer": "allsource", "audience": "allsource", "lifetime_seconds": 24 * 3600}
    signer = TokenSigner(SigningKey.from_secret(secret), **{**arguments, "now": time.time, **changes})
    user_id = user_id_of(role, tenant)
    return signer.sign(
        user_id=user_id, username="ann", tenant_id=tenant, role=Role(role), session_id=session or user_id
    )[0]


def bearer(role: str = "admin", *, tenant: str = "default", **changes: Any) -> dict[str, str]:
    """The headers of somebody of a role who works in a tenant: administrators choose it, all others belong to it."""
    if role != "admin" or tenant.startswith("_"):
        return {"Authorization": f"Bearer {token(role, tenant=tenant, **changes)}"}
    headers = {"Authorization": f"Bearer {token(role, **changes)}"}
    return headers if tenant == "default" else {**headers, "X-Tenant-ID": tenant}


def new_tenant(client: httpx.Client, **quotas: Any) -> str:
    """A tenant that no other test has, without limits unless some are given."""
    body = {"id": f"t-{uuid.uuid4().hex}", "name": "Of a test", "tier": "unlimited", **quotas}
    client.post("/api/v1/tenants", json=body, headers=bearer()).raise_for_status()
    return str(body["id"])


def delete_tenant(client: httpx.Client, tenant_id: str) -> None:
    """Delete a tenant, however long that takes: who is told that it goes on asks again."""
    path = f"/api/v1/tenants/{tenant_id}"
    answers = [client.delete(path, headers=bearer())]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while answers[-1].status_code == 409:
        refusal(answers[-1], 409, "not_yet")
        assert time.monotonic() < deadline
        answers.append(client.delete(path, headers=bearer()))
    # It may have come to its end between two of them.
    assert answers[-1].status_code in (202, 404 if len(answers) > 1 else 202), answers[-1].text


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that comes by itself, a minute at most."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_refused(call: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """Call as often as it is let through; the last answer is the first that was not.

    A bucket is refilled meanwhile, by more where calls take longer: how many are let through is not known beforehand.
    """
    answers = [call()]
    while answers[-1].is_success:
        assert len(answers) < 1_000
        answers.append(call())
    return answers


def within_an_hour() -> None:
    """Let a test not run over the end of an hour, where what is counted begins anew."""
    # Waiting and the test together stay below the time that a test may take. Who slept for so long may find the clock,
    # which others set, just short of the hour.
    while (left := 3600 - time.time() % 3600) < 60:
        time.sleep(left)


class Core:
    """A core in a child process on a free port.

    Args:
        directory: for its data and its log.
        environ: over the usual variables; a value of None takes one away.
        flags: of the command line.
        program: what Python is to run instead of the service's module.
        seeded: whether it finds the users whose tokens `token` makes.
    """

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str | None] | None = None,
        flags: Sequence[str] = (),
        program: Sequence[str] = ("-m", "allsource_core"),
        *,
        seeded: bool = True,
    ) -> None:
        self.data = directory / "data"
        changed = environ or {}
        if seeded and "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME" not in changed and not (self.data / "derived").exists():
            asyncio.run(seed(self.data, admin=ADMIN, password=PASSWORD))
        self._log_path = directory / "core.log"
        variables: dict[str, str | None] = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ALLSOURCE_")},
            "ALLSOURCE_AUTH__MASTER_KEY": MASTER_KEY,
            "ALLSOURCE_AUTH__JWT_SECRET": SECRET,
            "ALLSOURCE_GATEWAY__KEY": GATEWAY_KEY,
            "ALLSOURCE_SERVER__PORT": "0",
            "ALLSOURCE_STORAGE__DATA_DIR": str(self.data),
            # Log files are filled ahead, and every one of hundreds of cores would fill its own.
            "ALLSOURCE_STORAGE__LOG_FILE_MB": "4",
            "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": ADMIN,
            "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
            **(environ or {}),
        }
        with self._log_path.open("ab") as log:
            self._log_begin = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, *program, *flags],
                env={name: value for name, value in variables.items() if value is not None},
                stdout=log,
                stderr=log,
            )
        self.port = 0

    @property
    def log(self) -> str:
        """Everything that this process wrote."""
        return self._log_path.read_bytes()[self._log_begin :].decode()

    def ready(self) -> Core:
        """Wait until it serves."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while '"event":"ready"' not in self.log:
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        found = re.search(r'"addresses":\["127\.0\.0\.1:(\d+)"', self.log)
        assert found is not None
        self.port = int(found[1])
        return self

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def exit_code(self) -> int:
        """Wait until it has ended by itself."""
        return self._process.wait(PATIENCE_SECONDS)

    def stop(self) -> int:
        """Tell it to stop, and wait."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def kill(self) -> None:
        """End it without a chance to finish anything."""
        self._process.kill()
        self.exit_code()

    def client(self, headers: Mapping[str, str] | None = None) -> httpx.Client:
        """A caller; an admin unless `headers` says otherwise."""
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers=bearer() if headers is None else headers,
            timeout=PATIENCE_SECONDS,
        )

    def connect(self) -> socket.socket:
        """A connection that sends what no library would."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)

    def send(self, data: bytes, *, method: str = "GET") -> httpx.Response:
        """Send bytes as they are and read one answer; `method` says whether it has a body."""
        with self.connect() as connection:
            connection.sendall(data)
            return receive(connection, method=method)


def receive(connection: socket.socket, *, method: str = "GET") -> httpx.Response:
    """Read one answer."""
    answer = http.client.HTTPResponse(connection, method=method)
    answer.begin()
    return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())


_MEMBERS = ["type", "title", "status", "detail", "instance", "error", "request_id"]
_MORE_MEMBERS = ["errors", "policy_id", "expected", "actual"]


def refusal(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that an answer is a problem of this code, in exactly the one shape there is; returns it."""
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json"), (
        response.text
    )
    body: dict[str, Any] = response.json()
    assert list(body) == _MEMBERS + [name for name in _MORE_MEMBERS if name in body]
    assert body["error"] == code, body
    assert (body["status"], body["type"]) == (status, f"urn:allsource:error:{code}")
    assert status in (PROBLEMS[code].status, PROBLEMS[code].other_status)
    assert PROBLEMS[code].title == body["title"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert body["instance"] == f"urn:allsource:request:{body['request_id']}"
    assert body["detail"]
    assert "Traceback" not in response.text
    assert response.headers["Server"] == "allsource"
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert ("Allow" in response.headers) == (status == 405)
    if "errors" in body:
        assert body["errors"]
        assert all(list(item) == ["path", "message"] for item in body["errors"])
    return body


def places(body: Mapping[str, Any]) -> list[str]:
    """The places that a problem names."""
    return [item["path"] for item in body.get("errors", [])]


def last_position(client: httpx.Client) -> int:
    """Of the whole store; what did not move it was not stored."""
    position: int = client.get("/health", headers=bearer()).json()["store"]["last_position"]
    return position
