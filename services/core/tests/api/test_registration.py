"""``POST auth/register`` at the real service: in each mode, by whomever, and what is left of it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .service import ADMIN, JSON, LOGIN, PASSWORD, Core, last_position, places, receive, refusal, until, until_refused

REGISTER = "/api/v1/auth/register"
NEW = "another horse, another battery"
NOBODY = {"ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": None, "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD": None}

Start = Callable[..., Core]


def wanted(username: str = "ann", **fields: Any) -> dict[str, Any]:
    return {"username": username, "email": f"{username}@example.org", "password": NEW, **fields}


def sign_in(core: Core, username: str = ADMIN, password: str = PASSWORD) -> dict[str, str]:
    """The header of a user who signs in."""
    with core.client({}) as client:
        answer = client.post(LOGIN, json={"username": username, "password": password})
        assert answer.status_code == 200, answer.text
        return {"Authorization": f"Bearer {answer.json()['token']}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Any:
    core = Core(tmp_path_factory.mktemp("registration")).ready()
    yield core
    assert core.stop() == 0


@pytest.fixture(scope="module")
def by_admin(service: Core) -> Any:
    with service.client(sign_in(service)) as client:
        yield client


def test_nobody_becomes_the_first_through_a_gateway_that_the_core_does_not_believe(start: Start):
    core = start(environ=NOBODY).ready()
    with core.client({}) as client:
        strange = {"X-Gateway-Key": "of another installation", "X-Forwarded-For": "127.0.0.1"}
        refusal(client.post(REGISTER, json=wanted(), headers=strange), 401, "unauthorized")
        assert client.post(REGISTER, json=wanted()).status_code == 201


def test_the_first_becomes_administrator_and_nobody_after_it(start: Start):
    core = start(environ=NOBODY).ready()
    assert not (core.data / "setup-token").exists()
    with core.client({}) as client:
        # As AllSource v1.0 clients write it.
        response = client.post(REGISTER, json=wanted(role="Admin"))
        assert response.status_code == 201, response.text
        body = response.json()
        assert body == {
            "user_id": body["user_id"],
            "username": "ann",
            "email": "ann@example.org",
            "role": "admin",
            "tenant_id": "default",
        }
        problem = refusal(client.post(REGISTER, json=wanted("bob")), 401, "unauthorized")
        assert "administrator" in problem["detail"]
        # Who may register nobody isn't told what is wrong with the body.
        refusal(client.post(REGISTER, content=b"{", headers=JSON), 401, "unauthorized")
    with core.client(sign_in(core, "ann", NEW)) as ann:
        assert ann.post(REGISTER, json=wanted("bob", role="ReadOnly")).json()["role"] == "readonly"
    assert core.stop() == 0
    assert NEW not in core.log
    assert "example.org" not in core.log
    again = start(environ=NOBODY).ready()
    assert "no_users" not in again.log
    sign_in(again, "ann", NEW)
    sign_in(again, "bob", NEW)


def test_of_those_who_come_at_once_one_is_the_first(start: Start):
    core = start(environ=NOBODY).ready()
    with core.client({}) as client, ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda n: client.post(REGISTER, json=wanted(f"ann{n}")), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [401] * 7
    winner = next(answer.json()["username"] for answer in answers if answer.status_code == 201)
    with core.client(sign_in(core, winner, NEW)) as client:
        assert [user["username"] for user in client.get("/api/v1/auth/users").json()["users"]] == [winner]


def test_a_setup_token_that_is_not_needed_is_removed(start: Start):
    first = start().ready()
    assert first.stop() == 0
    (first.data / "setup-token").write_text("left by a crash\n")
    second = start().ready()
    assert not (second.data / "setup-token").exists()
    with second.client({}) as client:
        body = wanted(setup_token="left by a crash")
        refusal(client.post(REGISTER, json=body), 401, "unauthorized")


def test_closed_is_closed(start: Start):
    core = start(environ={**NOBODY, "ALLSOURCE_AUTH__REGISTRATION": "closed"}).ready()
    assert '"event":"no_users"' in core.log
    with core.client({}) as client:
        refusal(client.post(REGISTER, json=wanted(role="admin")), 401, "unauthorized")
    assert core.stop() == 0
    core = start(environ={"ALLSOURCE_AUTH__REGISTRATION": "closed"}).ready()
    with core.client({}) as client:
        refusal(client.post(REGISTER, json=wanted()), 401, "unauthorized")
        assert client.post(REGISTER, json=wanted(), headers=sign_in(core)).status_code == 201


def test_open_is_open_for_guests_and_bounded(start: Start):
    environ = {
        "ALLSOURCE_AUTH__REGISTRATION": "open",
        "ALLSOURCE_AUTH__OPEN_REGISTRATIONS_PER_MINUTE": "48",
        "ALLSOURCE_AUTH__PASSWORD_MIN_LENGTH": "16",
    }
    core = start(environ=environ).ready()
    with core.client({}) as client:
        guest = client.post(REGISTER, json=wanted("guest")).json()
        assert (guest["role"], guest["tenant_id"]) == ("developer", "default")
        assert client.post(REGISTER, json=wanted("reader", role="read_only")).json()["role"] == "readonly"
        for fields in ({"role": "admin"}, {"role": "service_account"}, {"tenant_id": "other"}):
            refusal(client.post(REGISTER, json=wanted("x", **fields)), 403, "forbidden")
        problem = refusal(client.post(REGISTER, json=wanted("x", password="x" * 15)), 400, "weak_password")
        assert places(problem) == ["password"]
        refusal(client.post(REGISTER, json=wanted("guest")), 409, "already_exists")
        # A credential that comes with it counts, for better or worse.
        refusal(client.post(REGISTER, json=wanted("x"), headers=sign_in(core, "guest", NEW)), 403, "forbidden")
        refusal(client.post(REGISTER, json=wanted("x"), headers={"X-API-Key": "nonsense"}), 401, "unauthorized")
        numbers = itertools.count()
        *_, limited = until_refused(lambda: client.post(REGISTER, json=wanted(f"crowd{next(numbers)}")))
        refusal(limited, 429, "rate_limited")
        assert 1 <= int(limited.headers["Retry-After"]) <= 8
        # Administrators and those who sign in are not held up.
        assert client.post(REGISTER, json=wanted("op", role="admin"), headers=sign_in(core)).status_code == 201


@pytest.mark.parametrize(
    ("fields", "code", "place"),
    [
        ({"username": ""}, "invalid_body", "username"),
        ({"username": "ann "}, "invalid_body", "username"),
        ({"username": "a\nb"}, "invalid_body", "username"),
        ({"username": "x" * 257}, "invalid_body", "username"),
        ({"username": 5}, "invalid_body", "username"),
        ({"email": "nowhere"}, "invalid_body", "email"),
        ({"email": None}, "invalid_body", "email"),
        ({"role": "king"}, "invalid_body", "role"),
        ({"role": 1}, "invalid_body", "role"),
        ({"password": ""}, "weak_password", "password"),
        ({"password": "hunter2"}, "weak_password", "password"),
        ({"password": "hunter2" * 147}, "weak_password", "password"),
        ({"password": "weak.hunter2.weak", "username": "weak.hunter2.weak"}, "weak_password", "password"),
        ({"password": ["hunter2"]}, "invalid_body", "password"),
    ],
)
def test_what_is_wrong_is_named_and_stores_nothing(
    service: Core, by_admin: httpx.Client, fields: dict[str, Any], code: str, place: str
):
    before = last_position(by_admin)
    response = by_admin.post(REGISTER, json=wanted(**fields))
    problem = refusal(response, 400, code)
    assert places(problem) == [place]
    assert "hunter2" not in response.text
    assert "hunter2" not in service.log
    assert last_position(by_admin) == before


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b"[" * 50_000, b'{"username":"a","password":"b","x":' + b"[" * 50_000]
)
def test_a_malformed_body_is_refused(by_admin: httpx.Client, body: bytes):
    assert by_admin.post(REGISTER, content=body, headers=JSON).status_code == 400


def test_tenants_that_are_not_there_are_refused(by_admin: httpx.Client):
    refusal(by_admin.post(REGISTER, json=wanted(tenant_id="nowhere")), 404, "not_found")
    refusal(by_admin.post(REGISTER, json=wanted(tenant_id="_system")), 400, "reserved_tenant")
    refusal(by_admin.post(REGISTER, json=wanted(tenant_id="other", role="admin")), 400, "admin_outside_default")


def test_unknown_fields_are_ignored(by_admin: httpx.Client):
    response = by_admin.post(REGISTER, json=wanted("lenient", permissions=["admin"], active=False))
    assert response.status_code == 201
    assert response.headers["Warning"] == '299 allsource "ignored unknown: permissions, active"'
    assert response.json()["role"] == "developer"


def test_no_secret_is_in_the_data_or_the_log(start: Start):
    core = start(environ=NOBODY).ready()
    with core.client({}) as client:
        assert client.post(REGISTER, json=wanted()).status_code == 201
    sign_in(core, "ann", NEW)
    assert core.stop() == 0
    for path in sorted(core.data.rglob("*")):
        if path.is_file():
            assert NEW.encode() not in path.read_bytes(), path
    assert NEW not in core.log


# A test listens on loopback alone, where no setup token is needed: this core believes that others can reach it.
REACHABLE = (
    "-c",
    "import sys; from allsource_core import app, __main__ as entry;"
    "app.listens_on_loopback = lambda hosts: not list(hosts); sys.exit(entry.main())",
)


def test_where_others_reach_the_core_the_first_needs_the_token_of_log_and_file(start: Start):
    first = start(environ=NOBODY, program=REACHABLE).ready()
    old = (first.data / "setup-token").read_text().strip()
    assert first.stop() == 0
    core = start(environ=NOBODY, program=REACHABLE).ready()
    path = core.data / "setup-token"
    token = path.read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", token)
    assert path.stat().st_mode & 0o777 == 0o600
    line = json.loads(next(line for line in core.log.splitlines() if '"no_users"' in line))
    assert line["hint"].endswith(f" {token}")
    assert line["path"] == str(path)
    with core.client({}) as client:
        for other in (None, "", old, token[:-1], token + "0", "0" * 64):
            problem = refusal(client.post(REGISTER, json=wanted(setup_token=other)), 401, "unauthorized")
            assert token not in json.dumps(problem)
        assert client.post(REGISTER, json=wanted(setup_token=token)).json()["role"] == "admin"
        assert not path.exists()
        refusal(client.post(REGISTER, json=wanted("bob", setup_token=token)), 401, "unauthorized")
    assert core.stop() == 0
    for stored in core.data.rglob("*"):
        assert not stored.is_file() or token.encode() not in stored.read_bytes()


def test_verifying_a_store_does_not_mind_a_setup_token(start: Start):
    core = start(environ=NOBODY, program=REACHABLE).ready()
    assert core.stop() == 0
    assert (core.data / "setup-token").exists()
    commands = [sys.executable, "-m", "allsource_core.admin", "store", "verify", str(core.data)]
    verified = subprocess.run(commands, check=False, capture_output=True, text=True)
    assert "0 errors" in verified.stdout or verified.returncode == 0
    assert "setup-token" not in verified.stdout


@pytest.mark.parametrize(
    "environ",
    [
        {**NOBODY, "ALLSOURCE_DEV": "1"},
        {},
        {**NOBODY, "ALLSOURCE_AUTH__REGISTRATION": "closed"},
    ],
)
def test_there_is_no_token_where_it_would_be_of_no_use(start: Start, environ: dict[str, str | None]):
    core = start(environ=environ, program=REACHABLE).ready()
    assert not (core.data / "setup-token").exists()
    with core.client({}) as client:
        assert client.post(REGISTER, json=wanted()).status_code == (201 if "ALLSOURCE_DEV" in environ else 401)


def test_who_is_no_administrator_any_more_when_the_body_is_there_registers_nobody(start: Start):
    core = start().ready()
    with core.client(sign_in(core)) as root:
        made = root.post(REGISTER, json=wanted("second", role="admin")).json()
        second = sign_in(core, "second", NEW)["Authorization"]
        body = json.dumps(wanted("third", role="admin")).encode()
        head = f"POST {REGISTER} HTTP/1.1\r\nHost: x\r\nAuthorization: {second}\r\nContent-Type: application/json\r\n"
        with core.connect() as connection:
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[:5])
            # Answered after the head of the other: that one has been let in.
            until(lambda: root.get(f"/api/v1/auth/users/{made['user_id']}").status_code == 200)
            time.sleep(0.2)
            root.patch(f"/api/v1/auth/users/{made['user_id']}", json={"active": False}).raise_for_status()
            connection.sendall(body[5:])
            refusal(receive(connection, method="POST"), 401, "unauthorized")
        assert "third" not in root.get("/api/v1/auth/users").text
