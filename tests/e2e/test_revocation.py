"""Whatever is revoked ends: at the core with the next request, at the gateway within a second, whatever is under way.

Everybody whose credentials end here works in a tenant with more events than buffers between services hold.
"""

from __future__ import annotations

import json
import select
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPResponse
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from allsource_control_plane.gateway.known_principals import FRESH_SECONDS
from tools.stack import Stack

from .callers import PASSWORD, SOON_SECONDS, Headers, People, bearer, claims_of, figure, until

QUERY: Final = "/api/v1/events/query"
EVENTS: Final = "/api/v1/events"
BATCH: Final = "/api/v1/events/batch"
TENANTS: Final = "/api/v1/tenants"

UNAUTHORIZED: Final = (401, "unauthorized")
FORBIDDEN: Final = (403, "forbidden")
NOT_FOUND: Final = (404, "not_found")
INACTIVE: Final = (403, "tenant_inactive")

_EVENTS_STORED: Final = 48
_PAYLOAD_CHARACTERS: Final = 500_000
"""24 MB altogether: sockets hold a few of them on their way."""
_BEGIN_BYTES: Final = 64 * 1024
_LEFT_BYTES_MAX: Final = {"core": 64 * 1024, "gateway": 1024 * 1024}
"""What a reader may still get who goes on when it is broken off: what its own system has taken by then, and of the
gateway what its server has."""
_BREAK_OFF_SECONDS: Final = 50
"""Later the core breaks off whatever is not read."""


class Subject(NamedTuple):
    """Somebody whose credential is going to end.

    Attributes:
        headers: that hold until then.
        more: what else there is of them: ids, and another session.
    """

    people: People
    tenant_id: str
    user_id: str
    name: str
    headers: Headers
    more: dict[str, Any]


class Revocation(NamedTuple):
    """A way to end a credential.

    Attributes:
        credential: ``token``, ``key``, or ``admin``: a token of an administrator who works in another tenant.
        revoke: ends it.
        refusals: that there can be afterwards.
        own_tenant: it takes the whole tenant with it.
    """

    credential: str
    revoke: Callable[[Subject], Any]
    refusals: tuple[tuple[int, str], ...] = (UNAUTHORIZED,)
    own_tenant: bool = False


def change_user(**fields: Any) -> Callable[[Subject], None]:
    return lambda subject: subject.people.change("PATCH", f"/auth/users/{subject.user_id}", fields)


def delete_user(subject: Subject) -> None:
    subject.people.change("DELETE", f"/auth/users/{subject.user_id}")


def change_tenant(method: str, part: str = "") -> Callable[[Subject], None]:
    return lambda subject: subject.people.change(method, f"/tenants/{subject.tenant_id}{part}")


def as_themselves(method: str, path: str, body: Any = None) -> Callable[[Subject], None]:
    """By a session of the same user: the other one, but for signing out."""

    def revoke(subject: Subject) -> None:
        headers = subject.headers if path == "/auth/logout" else subject.more["session"]
        target = path.format(**subject.more)
        subject.people.client.request(method, target, json=body, headers=headers).raise_for_status()

    return revoke


_NEW_PASSWORD: Final = {"current": PASSWORD, "new": "quite another password"}

REVOCATIONS: Final = {
    "user_deactivated": Revocation("token", change_user(active=False)),
    "user_deactivated_key": Revocation("key", change_user(active=False)),
    "user_deleted": Revocation("token", delete_user),
    "user_deleted_key": Revocation("key", delete_user),
    "password_set": Revocation("token", change_user(password="a password by an admin")),
    "password_changed": Revocation("token", as_themselves("POST", "/auth/password", _NEW_PASSWORD)),
    "role_lowered": Revocation("admin", change_user(role="developer"), (FORBIDDEN,)),
    "session_ended": Revocation("token", as_themselves("DELETE", "/auth/sessions/{session_id}")),
    "logout": Revocation("token", as_themselves("POST", "/auth/logout")),
    "key_revoked": Revocation("key", as_themselves("DELETE", "/auth/api-keys/{key_id}")),
    "key_rotated": Revocation("key", as_themselves("POST", "/auth/api-keys/{key_id}/rotate")),
    "tenant_deactivated": Revocation("token", change_tenant("POST", "/deactivate"), (INACTIVE,), True),
    "tenant_deactivated_key": Revocation("key", change_tenant("POST", "/deactivate"), (INACTIVE,), True),
    # Its users are gone a moment after it.
    "tenant_deleted": Revocation("token", change_tenant("DELETE"), (INACTIVE, UNAUTHORIZED), True),
    "tenant_deleted_key": Revocation("key", change_tenant("DELETE"), (INACTIVE, UNAUTHORIZED), True),
    "tenant_deleted_admin": Revocation("admin", change_tenant("DELETE"), (NOT_FOUND,), True),
}

CASES: Final = [pytest.param(one, id=name) for name, one in REVOCATIONS.items()]
SERVICES: Final = ("core", "gateway")


@pytest.fixture(scope="module")
def people(stack: Stack, token: str) -> Iterator[People]:
    made = People(stack.core_url, token)
    with made.client:
        yield made


@pytest.fixture(scope="module")
def shared_tenant(people: People) -> str:
    """Of those whose tenant outlives them."""
    return fill(people, people.tenant(f"t-{uuid.uuid4()}"))


def fill(people: People, tenant_id: str) -> str:
    event = {"event_type": "a", "entity_id": "b", "payload": "x" * _PAYLOAD_CHARACTERS}
    headers = {**people.admin, "X-Tenant-ID": tenant_id}
    for _ in range(_EVENTS_STORED // 24):
        people.client.post("/events/batch", json={"events": [event] * 24}, headers=headers).raise_for_status()
    return tenant_id


@pytest.fixture
def subject_of(people: People, shared_tenant: str) -> Callable[..., Subject]:
    """Make somebody for a revocation."""

    def make(revocation: Revocation, *, filled: bool = False) -> Subject:
        tenant_id = shared_tenant
        if revocation.own_tenant:
            tenant_id = people.tenant(f"t-{uuid.uuid4()}")
            if filled:
                fill(people, tenant_id)
        name = f"user-{uuid.uuid4()}"
        is_admin = revocation.credential == "admin"
        user_id = people.user(name, *(("admin", "default") if is_admin else ("developer", tenant_id)))
        token = people.token(name)
        more: dict[str, Any] = {"session": bearer(people.token(name))}
        more["session_id"] = claims_of(token)["jti"].partition(".")[0]
        headers = bearer(token)
        if revocation.credential == "key":
            key = people.key(token, "developer")
            headers = {"X-API-Key": key["key"]}
            more["key_id"] = key["id"]
        if is_admin:
            headers["X-Tenant-ID"] = tenant_id
        return Subject(people, tenant_id, user_id, name, headers, more)

    return make


def url_of(stack: Stack, service: str) -> str:
    return stack.core_url if service == "core" else stack.gateway_url


@contextmanager
def known(stack: Stack, service: str, headers: Headers) -> Iterator[httpx.Client]:
    """A client whose credential has been used and is remembered."""
    with httpx.Client(base_url=url_of(stack, service), headers=headers, timeout=30) as client:
        for _ in range(20):
            answer = client.get(QUERY, params={"limit": 1})
            assert answer.status_code == 200, answer.text
        yield client


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, "" if answer.is_success else answer.json()["error"]


def test_what_the_gateway_knows_counts_for_a_second_at_most() -> None:
    assert FRESH_SECONDS <= 1


@pytest.mark.parametrize("revocation", CASES)
def test_the_next_request_is_refused(stack: Stack, subject_of: Callable[..., Subject], revocation: Revocation) -> None:
    subject = subject_of(revocation)
    with known(stack, "core", subject.headers) as core, known(stack, "gateway", subject.headers) as gateway:
        revocation.revoke(subject)
        begun = time.monotonic()
        assert code_of(core.get(QUERY)) in revocation.refusals
        while (answer := gateway.get(QUERY, params={"limit": 1})).status_code == 200:
            assert time.monotonic() - begun < SOON_SECONDS
        assert time.monotonic() - begun < SOON_SECONDS
        assert code_of(answer) in revocation.refusals
        for client in (core, gateway):
            assert code_of(client.post(EVENTS, json={})) in revocation.refusals


@pytest.mark.parametrize("service", SERVICES)
def test_who_may_only_read_any_more_writes_no_more(
    stack: Stack, people: People, shared_tenant: str, service: str
) -> None:
    name = f"user-{uuid.uuid4()}"
    user_id = people.user(name, "developer", shared_tenant)
    token = people.token(name)
    for headers in (bearer(token), {"X-API-Key": people.key(token, "developer")["key"]}):
        people.change("PATCH", f"/auth/users/{user_id}", {"role": "developer"})
        with known(stack, service, headers) as client:
            # Nothing is stored: there is no event in it.
            assert code_of(client.post(BATCH, json={"events": []}))[0] != 403
            people.change("PATCH", f"/auth/users/{user_id}", {"role": "readonly"})
            begun = time.monotonic()
            while code_of(client.post(BATCH, json={"events": []})) != FORBIDDEN:
                assert service == "gateway"
                assert time.monotonic() - begun < SOON_SECONDS
            assert client.get(QUERY, params={"limit": 1}).status_code == 200


class SlowReader:
    """Asks for everything and reads a little of it; what its own system has taken by then is next to nothing."""

    def __init__(self, url: str, headers: Headers) -> None:
        parts = urlsplit(url)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(30)
        self._socket.connect((parts.hostname, parts.port))
        lines = [f"GET {QUERY} HTTP/1.1", "Host: test", "Accept: application/x-ndjson"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        begin = b""
        while len(begin) < _BEGIN_BYTES:
            chunk = self._socket.recv(4096)
            assert chunk, begin
            begin += chunk
        assert begin.startswith(b"HTTP/1.1 200"), begin

    def close(self) -> None:
        self._socket.close()

    def is_reset(self) -> bool:
        """Whether its connection was, without reading what came before."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return poll.poll(0) != []

    def rest(self) -> tuple[int, bool]:
        """How many bytes still come, and whether the answer has an orderly end."""
        size, end = 0, b""
        try:
            while chunk := self._socket.recv(65536):
                size += len(chunk)
                end = (end + chunk)[-5:]
                if end == b"0\r\n\r\n":
                    return size, True
        except ConnectionResetError:
            pass
        return size, False


@pytest.mark.parametrize("service", SERVICES)
def test_a_stream_that_nothing_happens_to_comes_to_its_end(
    stack: Stack, subject_of: Callable[..., Subject], service: str
) -> None:
    subject = subject_of(REVOCATIONS["logout"])
    with closing(SlowReader(url_of(stack, service), subject.headers)) as reader:
        size, ended = reader.rest()
    assert ended
    assert size > (_EVENTS_STORED - 1) * _PAYLOAD_CHARACTERS


def under_way(stack: Stack) -> float:
    """How many requests the gateway is answering, but for this one."""
    return figure(stack, "control_plane_http_requests_in_progress") - 1


@pytest.mark.parametrize("revocation", CASES)
def test_a_running_stream_is_broken_off(
    stack: Stack, subject_of: Callable[..., Subject], revocation: Revocation
) -> None:
    subject = subject_of(revocation, filled=True)
    begun = time.monotonic()
    with ExitStack() as readers:
        running = {
            service: readers.enter_context(closing(SlowReader(url_of(stack, service), subject.headers)))
            for service in SERVICES
        }
        until(lambda: under_way(stack) == 1)
        revocation.revoke(subject)
        # Nobody reads meanwhile. What the gateway has broken off its server keeps until somebody does.
        until(
            lambda: running["core"].is_reset() and under_way(stack) == 0,
            _BREAK_OFF_SECONDS - (time.monotonic() - begun),
        )
        for service, reader in running.items():
            size, ended = reader.rest()
            assert not ended, service
            assert size <= _LEFT_BYTES_MAX[service], service


@pytest.mark.parametrize("revocation", CASES)
def test_who_waits_for_a_position_is_refused_when_it_comes(
    stack: Stack, people: People, subject_of: Callable[..., Subject], revocation: Revocation
) -> None:
    subject = subject_of(revocation)
    answers: dict[str, tuple[int, str]] = {}
    event = {"event_type": "a", "entity_id": "c", "payload": None}
    # Further ahead than what the revocation itself stores.
    ahead = people.client.post("/events", json=event, headers=people.admin).json()["position"] + 100

    def wait(service: str) -> None:
        parameters = {"min_position": ahead, "wait_ms": 30_000, "limit": 1}
        url = url_of(stack, service)
        answers[service] = code_of(httpx.get(f"{url}{QUERY}", params=parameters, headers=subject.headers, timeout=60))

    waiting = [threading.Thread(target=wait, args=[service]) for service in SERVICES]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    assert answers == {}
    revocation.revoke(subject)
    people.client.post("/events/batch", json={"events": [event] * 100}, headers=people.admin).raise_for_status()
    for thread in waiting:
        thread.join()
    assert set(answers) == set(SERVICES)
    assert all(answer in revocation.refusals for answer in answers.values()), answers


class SlowUpload:
    """Sends one batch in two halves."""

    def __init__(self, url: str, path: str, body: bytes, headers: Headers) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname, parts.port), timeout=30)
        lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        half = len(body) // 2
        self._rest = body[half:]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + body[:half])

    def close(self) -> None:
        self._socket.close()

    def finish(self) -> tuple[int, str]:
        """Status and code of the answer, when the second half is sent."""
        self._socket.sendall(self._rest)
        answer = HTTPResponse(self._socket)
        answer.begin()
        return code_of(httpx.Response(answer.status, content=answer.read()))


@pytest.mark.parametrize("revocation", CASES)
def test_an_upload_that_takes_its_time_is_not_stored(
    stack: Stack, people: People, subject_of: Callable[..., Subject], revocation: Revocation
) -> None:
    subject = subject_of(revocation)
    entity = f"entity-{uuid.uuid4()}"

    def body(characters: int) -> bytes:
        event = {"event_type": "a", "entity_id": entity, "payload": "x" * characters}
        return json.dumps({"events": [event, event]}).encode()

    with ExitStack() as uploads:
        started = [
            uploads.enter_context(closing(SlowUpload(url_of(stack, service), BATCH, body(characters), subject.headers)))
            for service in SERVICES
            # What the gateway keeps until it is complete, and what it passes on as it comes.
            for characters in (10, 400_000)
        ]
        time.sleep(0.2)
        revocation.revoke(subject)
        answers = [upload.finish() for upload in started]
    assert all(answer in revocation.refusals for answer in answers), answers
    headers = {**people.admin, "X-Tenant-ID": subject.tenant_id}
    found = people.client.get("/events/query", params={"entity_id": entity}, headers=headers)
    assert found.status_code == 404 or found.json()["events"] == []


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", ["logout", "role_lowered"])
def test_who_is_no_administrator_any_more_registers_nobody(
    stack: Stack, people: People, subject_of: Callable[..., Subject], service: str, name: str
) -> None:
    revocation = REVOCATIONS[name]._replace(credential="admin")
    subject = subject_of(revocation)
    headers = {"Authorization": subject.headers["Authorization"]}
    accomplice = f"user-{uuid.uuid4()}"
    body = json.dumps({"username": accomplice, "password": PASSWORD, "role": "admin"}).encode()
    path = "/api/v1/auth/register"
    with closing(SlowUpload(url_of(stack, service), path, body, headers)) as upload:
        time.sleep(0.2)
        revocation.revoke(subject._replace(headers=headers))
        assert upload.finish() in revocation.refusals
    refused = people.client.post("/auth/login", json={"username": accomplice, "password": PASSWORD})
    assert code_of(refused) == (401, "invalid_credentials")
