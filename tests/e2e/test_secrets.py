"""No secret is in any byte of the data directory, in a log, or in an answer but the one that gives it out.

Both services run with the loudest logs there are, through everything that has to do with secrets and much that goes
wrong. What a file may have packed is unpacked as well before it is searched.
"""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest

from allsource_core.engine import EventStore, StoreOptions
from allsource_core.facts import SYSTEM_TENANT
from allsource_core.sealing import MasterKey
from tools.stack import Stack

from .callers import API, Headers, bearer
from .conftest import GATEWAY_KEY, MASTER_KEY, SECRET, make_stack
from .conftest import PASSWORD as ADMIN_PASSWORD
from .wire import exchange

LOUD: Final = {
    "ALLSOURCE_LOGGING__LEVEL": "debug",
    "ALLSOURCE_LOGGING__REQUESTS": "all",
    "ALLSOURCE_STORAGE__LOG_FILE_MB": "1",
}
NAME: Final = "a-name-that-is-no-secret"
PAYLOAD: Final = "a payload that is no secret"


class Secrets:
    """What must be nowhere, by what it is."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {
            "master key": MASTER_KEY,
            "configured signing secret": SECRET,
            "gateway key": GATEWAY_KEY,
            "bootstrap password": ADMIN_PASSWORD,
        }

    def add(self, what: str, text: str) -> str:
        """Another one. Of a compound one the part that is secret."""
        number = len(self.texts)
        if text.count(".") == 2:
            self.texts[f"signature of {what} {number}"] = text.rpartition(".")[2]
        self.texts[f"{what} {number}"] = re.split(r"[_.]", text)[-1] if text.startswith(("ask_", "asr_")) else text
        return text

    def found_in(self, content: bytes) -> list[str]:
        """Which of them are in some bytes, in any form."""
        return [what for what, text in self.texts.items() if any(form in content for form in forms(text))]


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it stands, as it would be in JSON or an address, and as what it may encode or be encoded as."""
    yield secret.encode()
    yield json.dumps(secret)[1:-1].encode()
    yield quote(secret, safe="").encode()
    yield base64.b64encode(secret.encode()).rstrip(b"=")[:-1]
    try:
        raw = base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return
    yield raw
    yield raw.hex().encode()


class Scene:
    """Two services and what they have answered.

    Attributes:
        told: every answer that may give out no secret, with its header lines.
    """

    def __init__(self, stack: Stack, secrets: Secrets) -> None:
        self.secrets = secrets
        self.told: list[bytes] = []
        self.urls = (stack.core_url, stack.gateway_url)
        self.clients = [httpx.Client(base_url=url + API, timeout=30) for url in self.urls]
        self._turn = 0

    def ask(self, method: str, path: str, *, giving: bool = False, **more: Any) -> httpx.Response:
        """Ask the two services in turn. Of what is refused nothing is given out, whatever was asked for."""
        self._turn += 1
        answer = self.clients[self._turn % 2].request(method, path, **more)
        if not (giving and answer.is_success):
            self._note(answer)
        return answer

    def ask_both(self, method: str, path: str, **more: Any) -> list[int]:
        """Ask both; statuses."""
        return [self.ask(method, path, **more).status_code for _ in self.clients]

    def _note(self, answer: httpx.Response) -> None:
        self.told.append(b"\n".join(b": ".join(field) for field in answer.headers.raw) + b"\n\n" + answer.content)

    def close(self) -> None:
        for client in self.clients:
            client.close()

    # --- what secrets come from ---

    def sign_in(self, name: str, password: str) -> tuple[str, str]:
        """Access token and refresh token."""
        body = {"username": name, "password": password}
        answer = self.ask("POST", "/auth/login", giving=True, json=body)
        assert answer.status_code == 200, answer.text
        return self._tokens(answer)

    def refresh(self, token: str) -> tuple[str, str]:
        answer = self.ask("POST", "/auth/refresh", giving=True, json={"refresh_token": token})
        assert answer.status_code == 200, answer.text
        return self._tokens(answer)

    def _tokens(self, answer: httpx.Response) -> tuple[str, str]:
        told = answer.json()
        return self.secrets.add("access token", told["token"]), self.secrets.add("refresh token", told["refresh_token"])

    def key(self, path: str, headers: Headers, body: Any = None) -> tuple[str, str]:
        """Id and credential of a key that is made or rotated."""
        answer = self.ask("POST", path, giving=True, json=body, headers=headers)
        assert answer.is_success, answer.text
        return answer.json()["id"], self.secrets.add("API key", answer.json()["key"])


def live(scene: Scene, mark: str) -> list[str]:
    """Everything that has to do with secrets, as it should be. Returns credentials that are good, for `stray`."""
    first, second, third = (
        scene.secrets.add("password", f'{word} "pässword" of {mark}\\') for word in ("first", "second", "third")
    )
    admin, _ = scene.sign_in("admin", ADMIN_PASSWORD)
    name = f"{NAME}-{mark}"
    body = {"username": name, "email": f"{name}@example.org", "password": first}
    made = scene.ask("POST", "/auth/register", json=body, headers=bearer(admin))
    assert made.status_code == 201
    token, refresh_token = scene.sign_in(name, first)
    token, refresh_token = scene.refresh(refresh_token)
    change = {"current": first, "new": second}
    assert scene.ask("POST", "/auth/password", json=change, headers=bearer(token)).status_code == 204
    token, refresh_token = scene.sign_in(name, second)
    key_id, key = scene.key("/auth/api-keys", bearer(token), {"name": "of a test"})
    assert scene.ask_both("GET", "/auth/me", headers=bearer(key)) == [200, 200]
    _, key = scene.key(f"/auth/api-keys/{key_id}/rotate", bearer(token))
    _, revoked = scene.key("/auth/api-keys", bearer(token), {"name": "another"})
    assert scene.ask_both("GET", "/auth/me", headers={"X-API-Key": revoked}) == [200, 200]
    event = {"event_type": "t", "entity_id": "e", "payload": PAYLOAD}
    assert scene.ask_both("POST", "/events", json=event, headers=bearer(key)) == [201, 201]
    assert scene.ask("POST", "/auth/keys/rotate", headers=bearer(admin)).status_code == 201
    for path in ("/auth/keys", "/auth/users", "/auth/api-keys", "/auth/sessions", "/tenants", "/events/query"):
        assert scene.ask_both("GET", path, headers=bearer(admin)) == [200, 200]
    reset = scene.ask("PATCH", f"/auth/users/{made.json()['user_id']}", json={"password": third}, headers=bearer(admin))
    assert reset.status_code == 200
    last, last_refresh = scene.sign_in(name, third)
    return [key, admin, last, last_refresh]


def fail(scene: Scene, mark: str, credentials: list[str]) -> None:
    """Wrong passwords, and bodies that are none, with secrets in them."""
    _, admin, token, refresh_token = credentials
    wrong = scene.secrets.add("password", f"a wrong password of {mark}")
    refused: list[tuple[str, Any]] = [
        ("/auth/login", {"username": f"{NAME}-{mark}", "password": wrong}),
        ("/auth/login", {"username": wrong, "password": wrong}),
        ("/auth/login", {"username": 1, "password": wrong}),
        ("/auth/login", {"username": [wrong], "password": {"is": wrong}}),
        ("/auth/refresh", {"refresh_token": wrong}),
        ("/auth/refresh", {"refresh_token": token}),
        ("/auth/refresh", {"refresh_token": refresh_token[:-1]}),
        ("/auth/refresh", {"token": refresh_token}),
        ("/auth/refresh", [refresh_token]),
        ("/auth/register", {"username": "x", "password": wrong, "role": token}),
        ("/auth/register", {"username": "x", "password": wrong[:11]}),
        ("/auth/register", {"username": wrong, "password": wrong}),
        ("/auth/register", {"username": "x", "password": wrong, "email": f"{wrong}"}),
        ("/auth/register", {"username": "x", "password": wrong, "tenant_id": token}),
        ("/auth/password", {"current": wrong, "new": wrong}),
        ("/auth/password", {"current": wrong}),
        ("/auth/password", {"current": wrong, "new": [wrong]}),
        ("/auth/api-keys", {"name": ["x"], "role": token}),
        ("/auth/api-keys", {"name": "x", "role": token}),
        ("/auth/api-keys", {"name": "x", "tenant_id": token}),
        ("/tenants", {"id": token, "name": "x"}),
        ("/tenants", {"id": "x", "name": "x", "tier": token}),
    ]
    for path, body in refused:
        for headers in ({}, bearer(admin)):
            answers = scene.ask_both("POST", path, json=body, headers=headers)
            assert all(400 <= status < 500 for status in answers), (path, body, answers)
    for content in (
        json.dumps({"username": "x", "password": wrong})[:-1],
        json.dumps({"username": "x", "password": wrong, "refresh_token": refresh_token})[:-3],
        f"username=x&password={quote(wrong)}&refresh_token={refresh_token}",
        wrong,
        f'{{"password":"{wrong}","password":}}',
        f'"{refresh_token}"',
    ):
        for media in ("application/json", "application/x-www-form-urlencoded"):
            for path in ("/auth/login", "/auth/refresh", "/auth/register", "/auth/password", "/events"):
                headers = {"Content-Type": media, **bearer(admin)}
                answers = scene.ask_both("POST", path, content=content.encode(), headers=headers)
                assert all(400 <= status < 500 for status in answers), (path, content, answers)


LISTS: Final = ("auth/users", "auth/api-keys", "tenants", "operations", "retention")


def stray(scene: Scene, admin: Headers, credentials: list[str]) -> None:
    """Good credentials where none belongs, and bad ones where they do."""
    for credential in credentials:
        parameters = [
            f"{name}={credential}" for name in ("token", "ticket", "cursor", "limit", "entity_id", "tenant_id")
        ]
        places: list[tuple[str, Headers]] = [
            *((f"/events/query?{parameter}", headers) for parameter in parameters for headers in ({}, admin)),
            *((f"/{path}?{parameter}", admin) for path in LISTS for parameter in (*parameters[:3], credential)),
            *((f"/{path}/{credential}", headers) for path in ("events", *LISTS) for headers in ({}, admin)),
            (f"/{credential}", admin),
            ("/auth/me", {"Cookie": f"token={credential}; session={credential}"}),
            ("/auth/me", {"Proxy-Authorization": f"Bearer {credential}"}),
            ("/auth/me", {"Authorization": f"Basic {base64.b64encode(f'x:{credential}'.encode()).decode()}"}),
            ("/auth/me", {"Authorization": f"Bearer {credential}x"}),
            ("/auth/me", {"Authorization": f"Token {credential}"}),
            ("/auth/me", {"X-API-Key": f"{credential}x"}),
            ("/auth/me", {"X-Gateway-Key": credential}),
            ("/auth/me", {**admin, "X-Tenant-ID": credential}),
            ("/auth/me", {"Referer": f"http://localhost/?ticket={credential}", "User-Agent": "x"}),
        ]
        for path, headers in places:
            scene.ask_both("GET", path, headers=headers)
        for path in ("sessions", "users", "api-keys"):
            assert scene.ask_both("DELETE", f"/auth/{path}/{credential}", headers=admin) == [404, 404]
        for url in scene.urls:
            for target in (f"http://x:{credential}@core/x", f"/%zz{credential}", f"//{credential}", f"/{credential}#x"):
                answer = exchange(url, "GET", target.encode())
                scene.told.append(repr(answer.headers).encode() + answer.body)
        scene.ask_both("POST", f"/auth/login?password={credential}", json={"username": "x", "password": "y"})


def kept(data: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of a data directory, by name, and what is packed in them."""
    for path in sorted(data.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(data)), path.read_bytes()
            if path.suffix == ".sqlite":
                database = sqlite3.connect(path)
                yield f"rows of {path.name}", "\n".join(database.iterdump()).encode()
                database.close()


def events(store: EventStore) -> bytes:
    return b"\n".join(
        b"%s %s %s" % (event.entity_id.encode(), bytes(event.payload), bytes(event.metadata or b""))
        for tenant in ("default", SYSTEM_TENANT)
        for event in store.read(tenant)
    )


def unsealed(store: EventStore) -> Iterator[str]:
    """The secrets of the signing keys."""
    for event in store.read(SYSTEM_TENANT):
        if event.event_type == "signing_key.made":
            sealed = json.loads(bytes(event.payload))["sealed"]
            yield MasterKey(MASTER_KEY).open(sealed, purpose="signing keys", subject=event.entity_id).decode()


@pytest.mark.timeout(600)  # thousands of requests
def test_no_secret_is_in_data_logs_or_answers(tmp_path: Path) -> None:
    secrets = Secrets()
    told: list[bytes] = []
    while_running: list[tuple[str, bytes]] = []
    for algorithm in ("HS256", "EdDSA"):
        with make_stack(tmp_path, ALLSOURCE_AUTH__JWT_ALGORITHM=algorithm, **LOUD) as stack:
            scene = Scene(stack, secrets)
            credentials = live(scene, algorithm)
            if algorithm == "HS256":
                fail(scene, algorithm, credentials)
            # Of the second algorithm only an access token differs in its form.
            strays = credentials if algorithm == "HS256" else credentials[2:3]
            stray(scene, bearer(credentials[1]), strays)
            scene.close()
            told += scene.told
            # With the logs that the databases write ahead.
            while_running += [(str(path), path.read_bytes()) for path in (tmp_path / "data").rglob("*.sqlite*")]

    data = tmp_path / "data"
    with EventStore.open(data, options=StoreOptions(maintenance="thread")) as store:
        keys = list(unsealed(store))
        assert (len(keys), keys[0]) == (4, SECRET)
        for key in keys:
            secrets.add("signing key", key)
        secrets.texts["key that seals"] = base64.b64encode(MasterKey(MASTER_KEY).derive("signing keys")).decode()
        before = [*kept(data), ("events", events(store))]
        store.seal()
        store.compact()
        assert store.stats().sealed_through == store.last_position
        after = [*kept(data), ("events of segments", events(store))]
    logs = [(path.name, path.read_bytes()) for path in tmp_path.glob("*.log")]
    assert len(logs) == 2

    places = [*while_running, *before, *after, *logs, ("answers", b"\n".join(told))]
    for place, content in places:
        found = secrets.found_in(content)
        assert not found, f"{found} in {place}, behind {snippet(secrets, found[0], content)!r}"
    # What is searched is what there is, and the search finds.
    assert len(secrets.texts) > 40
    assert len(told) > 500
    assert NAME.encode() in before[-1][1]
    assert PAYLOAD.encode() in after[-1][1]
    assert any(b"sessions.sqlite" in place.encode() and content for place, content in while_running)
    assert any(place == "core.log" and b'"operation":"login"' in content for place, content in logs)
    for what, text in secrets.texts.items():
        assert what in secrets.found_in(b"x" + json.dumps({"a": text}).encode())


def snippet(secrets: Secrets, what: str, content: bytes) -> bytes:
    """What stands before a secret that was found, to tell where it came from."""
    place = min(content.find(form) for form in forms(secrets.texts[what]) if form in content)
    return content[max(0, place - 160) : place]
