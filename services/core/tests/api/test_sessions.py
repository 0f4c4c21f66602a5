"""``auth/refresh``, ``auth/logout`` and ``auth/sessions``: what has ended stays ended, over crashes too."""

from __future__ import annotations

import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from ..engine.data_directory import contents_of
from .service import ADMIN, JSON, LOGIN, PASSWORD, Core, places, refusal, until_refused

REFRESH = "/api/v1/auth/refresh"
LOGOUT = "/api/v1/auth/logout"
SESSIONS = "/api/v1/auth/sessions"

Start = Callable[..., Core]


def program(change: str) -> tuple[str, str]:
    """A core in which something was changed before it started."""
    return "-c", f"import sys; from allsource_core import __main__ as entry; {change}; sys.exit(entry.main())"


def repeating(seconds: float) -> tuple[str, str]:
    """A core that takes a refresh token again for so long."""
    return program(f"from allsource_core.identity import sessions; sessions.REPEAT_SECONDS = {seconds}")


IMPATIENT: Final = program("from allsource_core import derived; derived._BUSY_SECONDS_MAX = 0.2")
"""A core that does not wait long for a file that somebody else writes."""


@pytest.fixture
def client(core: Core) -> Iterator[httpx.Client]:
    with core.client({"User-Agent": "tests"}) as client:
        yield client


def sign_in(client: httpx.Client) -> dict[str, Any]:
    response = client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD})
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def refresh(client: httpx.Client, token: str) -> httpx.Response:
    return client.post(REFRESH, json={"refresh_token": token})


def bearer(signed_in: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed_in['token']}"}


def session_ids(client: httpx.Client, signed_in: dict[str, Any]) -> set[str]:
    return {session["id"] for session in client.get(SESSIONS, headers=bearer(signed_in)).json()["sessions"]}


def test_a_refresh_gives_a_working_token_and_the_next_refresh_token(client: httpx.Client):
    first = sign_in(client)
    response = refresh(client, first["refresh_token"])
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    second = response.json()
    assert list(second) == ["token", "refresh_token", "expires_at", "user"]
    assert second["user"] == first["user"]
    assert second["token"] != first["token"]
    assert second["refresh_token"] != first["refresh_token"]
    assert client.get(SESSIONS, headers=bearer(second)).status_code == 200


def test_one_sees_ones_own_sessions_and_which_one_it_is(client: httpx.Client):
    first = sign_in(client)
    second = refresh(client, sign_in(client)["refresh_token"]).json()
    listed = client.get(SESSIONS, headers=bearer(second)).json()
    assert list(listed) == ["sessions", "count"]
    assert listed["count"] == len(listed["sessions"])
    [current] = [session for session in listed["sessions"] if session["current"]]
    assert listed["sessions"][0] == current
    assert list(current) == ["id", "created_at", "last_used_at", "expires_at", "address", "user_agent", "current"]
    assert (current["address"], current["user_agent"]) == ("127.0.0.1", "tests")
    assert current["created_at"] < current["last_used_at"] < current["expires_at"]
    assert current["id"] == second["refresh_token"].split("_")[1]
    assert first["refresh_token"].split("_")[1] in {session["id"] for session in listed["sessions"]}


def test_a_token_used_again_at_once_gives_the_same_successor_and_a_fresh_access_token(start: Start):
    core = start(program=repeating(3600)).ready()
    with core.client({}) as client, ThreadPoolExecutor(8) as callers:
        token = sign_in(client)["refresh_token"]
        answers = [answer.json() for answer in callers.map(lambda _: refresh(client, token), range(32))]
        assert len({answer["refresh_token"] for answer in answers}) == 1
        assert len({answer["token"] for answer in answers}) == 32
        assert refresh(client, answers[0]["refresh_token"]).status_code == 200


def test_a_token_used_again_later_ends_the_session(start: Start):
    core = start(program=repeating(0.2)).ready()
    with core.client({}) as client:
        first, other = sign_in(client), sign_in(client)
        second = refresh(client, first["refresh_token"]).json()
        time.sleep(0.4)
        problem = refusal(refresh(client, first["refresh_token"]), 401, "unauthorized")
        assert problem["detail"] == "the refresh token is not good, or not any more; sign in"
        refusal(refresh(client, second["refresh_token"]), 401, "unauthorized")
        session_id = first["refresh_token"].split("_")[1]
        assert session_id not in session_ids(client, other)
        [line] = [json.loads(line) for line in core.log.splitlines() if session_id in line and "reused" in line]
        assert (line["level"], line["event"]) == ("warning", "refresh_token_reused")
        assert line["user_id"] == first["user"]["id"]
        assert refresh(client, other["refresh_token"]).status_code == 200


def test_a_forged_token_ends_nothing(client: httpx.Client):
    token = sign_in(client)["refresh_token"]
    prefix, session_id, generation, mac = token.split("_")
    for forged in (
        f"{prefix}_{session_id}_{generation}_{'0' * 64}",
        f"{prefix}_{session_id}_1_{mac}",
        f"{prefix}_{'0' * 20}_{generation}_{mac}",
        f"ask_{session_id}_{mac}",
        token + "0",
        sign_in(client)["token"][:256],
    ):
        refusal(refresh(client, forged), 401, "unauthorized")
    assert refresh(client, token).status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (b"{}", "invalid_body", "$"),
        (b'{"refresh_token":""}', "invalid_body", "refresh_token"),
        (b'{"refresh_token":5}', "invalid_body", "refresh_token"),
        (b'{"refresh_token":"%s"}' % (b"hunter2" * 50), "invalid_body", "refresh_token"),
        (b'{"refresh_token":"hunter2","x":1}', "invalid_body", "$"),
        (b'{"refresh_token":"hunter2"', "malformed_json", None),
        (b"[" * 50_000, "invalid_body", "$"),
    ],
)
def test_a_malformed_refresh_is_refused_without_showing_it(
    client: httpx.Client, core: Core, body: bytes, code: str, place: str | None
):
    response = client.post(REFRESH, content=body, headers=JSON)
    assert places(refusal(response, 400, code)) == ([] if place is None else [place])
    assert "hunter2" not in response.text + core.log


def test_a_refresh_token_is_no_access_token_nor_the_other_way_round(client: httpx.Client):
    signed_in = sign_in(client)
    for headers in (
        {"Authorization": f"Bearer {signed_in['refresh_token']}"},
        {"X-API-Key": signed_in["refresh_token"]},
    ):
        refusal(client.get(SESSIONS, headers=headers), 401, "unauthorized")


def test_signing_out_ends_the_session(client: httpx.Client):
    signed_in, other = sign_in(client), sign_in(client)
    response = client.post(LOGOUT, headers=bearer(signed_in))
    assert (response.status_code, response.content) == (204, b"")
    refusal(refresh(client, signed_in["refresh_token"]), 401, "unauthorized")
    assert signed_in["refresh_token"].split("_")[1] not in session_ids(client, other)
    assert refresh(client, other["refresh_token"]).status_code == 200


def test_one_ends_another_session_of_ones_own(client: httpx.Client):
    here, there = sign_in(client), sign_in(client)
    path = f"{SESSIONS}/{there['refresh_token'].split('_')[1]}"
    assert client.delete(path, headers=bearer(here)).status_code == 204
    refusal(refresh(client, there["refresh_token"]), 401, "unauthorized")
    refusal(client.delete(path, headers=bearer(here)), 404, "not_found")
    refusal(client.delete(f"{SESSIONS}/nobody's", headers=bearer(here)), 404, "not_found")
    assert refresh(client, here["refresh_token"]).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", LOGOUT), ("GET", SESSIONS), ("DELETE", f"{SESSIONS}/a")])
def test_without_a_credential_there_is_no_session_to_see_or_end(client: httpx.Client, method: str, path: str):
    refusal(client.request(method, path), 401, "unauthorized")


# --- crashes ---


def test_a_session_that_was_ended_does_not_come_back_after_a_crash(start: Start):
    core = start().ready()
    with core.client({}) as client:
        left, stayed, ended = (sign_in(client) for _ in range(3))
        stayed = refresh(client, stayed["refresh_token"]).json()
        assert client.post(LOGOUT, headers=bearer(left)).status_code == 204
        path = f"{SESSIONS}/{ended['refresh_token'].split('_')[1]}"
        assert client.delete(path, headers=bearer(stayed)).status_code == 204
        core.kill()
    core = start().ready()
    with core.client({}) as client:
        for signed_in in (left, ended):
            refusal(refresh(client, signed_in["refresh_token"]), 401, "unauthorized")
        assert session_ids(client, stayed) == {stayed["refresh_token"].split("_")[1]}
        assert refresh(client, stayed["refresh_token"]).status_code == 200


def test_every_refresh_that_was_answered_before_a_crash_holds_after_it(start: Start):
    core = start().ready()
    with core.client({}) as client:
        first = sign_in(client)["refresh_token"]
        newest = first
        for _ in range(20):
            newest = refresh(client, newest).json()["refresh_token"]
        core.kill()
    core = start().ready()
    with core.client({}) as client:
        assert newest.split("_")[2] == "20"
        newest = refresh(client, newest).json()["refresh_token"]
        refusal(refresh(client, first), 401, "unauthorized")
        refusal(refresh(client, newest), 401, "unauthorized")


def test_with_a_damaged_file_everybody_signs_in_again(start: Start):
    core = start().ready()
    with core.client({}) as client:
        token = sign_in(client)["refresh_token"]
    assert core.stop() == 0
    (core.data / "derived" / "sessions.sqlite").write_bytes(b"no database" * 1000)
    core = start().ready()
    with core.client({}) as client:
        refusal(refresh(client, token), 401, "unauthorized")
        assert refresh(client, sign_in(client)["refresh_token"]).status_code == 200


def test_while_sessions_can_not_be_stored_nobody_is_signed_in_or_out(start: Start):
    core = start(program=IMPATIENT).ready()
    with core.client({}) as client:
        signed_in = sign_in(client)
        other = sqlite3.connect(core.data / "derived" / "sessions.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        login = {"username": ADMIN, "password": PASSWORD}
        problem = refusal(client.post(LOGIN, json=login), 503, "overloaded")
        assert problem["detail"] == "sessions can't be stored at present"
        refusal(refresh(client, signed_in["refresh_token"]), 503, "overloaded")
        other.execute("ROLLBACK")
        other.close()
        assert refresh(client, signed_in["refresh_token"]).status_code == 200
        assert len(session_ids(client, signed_in)) == 1
    assert '"event":"sessions_not_stored"' in core.log


@pytest.mark.parametrize("change", ["password", "delete"])
def test_what_ends_sessions_holds_while_they_can_not_be_stored(start: Start, change: str):
    core = start(program=IMPATIENT).ready()
    with core.client() as admin, core.client({}) as client:
        ann = admin.post("/api/v1/auth/register", json={"username": "ann", "password": PASSWORD}).json()["user_id"]
        signed_in = client.post(LOGIN, json={"username": "ann", "password": PASSWORD}).json()
        other = sqlite3.connect(core.data / "derived" / "sessions.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        if change == "password":
            assert admin.patch(f"/api/v1/auth/users/{ann}", json={"password": "another of ann"}).status_code == 200
        else:
            assert admin.delete(f"/api/v1/auth/users/{ann}").status_code == 204
        refusal(client.get("/api/v1/auth/me", headers=bearer(signed_in)), 401, "unauthorized")
        refusal(refresh(client, signed_in["refresh_token"]), 401, "unauthorized")
        core.kill()
        other.execute("ROLLBACK")
        other.close()
    assert '"event":"end_of_sessions_not_stored"' in core.log
    core = start().ready()
    with core.client({}) as client:
        refusal(client.get("/api/v1/auth/me", headers=bearer(signed_in)), 401, "unauthorized")
        refusal(refresh(client, signed_in["refresh_token"]), 401, "unauthorized")


# --- slowing down, secrets ---


def test_a_user_refreshes_only_so_often_whatever_the_sessions(start: Start):
    core = start(program=repeating(3600)).ready()
    with core.client() as admin, core.client({}) as client:
        admin.post("/api/v1/auth/register", json={"username": "ann", "password": PASSWORD}).raise_for_status()
        other = client.post(LOGIN, json={"username": "ann", "password": PASSWORD}).json()["refresh_token"]
        tokens = [sign_in(client)["refresh_token"] for _ in range(2)]
        turns = itertools.cycle(tokens)
        # A repetition is written as well, and who proves nothing takes nothing from anybody.
        refusal(refresh(client, tokens[0][:-1] + ("0" if tokens[0][-1] != "0" else "1")), 401, "unauthorized")
        begun = time.monotonic()
        *admitted, limited = until_refused(lambda: refresh(client, next(turns)))
        # The bucket of 128 is refilled once a second meanwhile.
        assert 128 <= len(admitted) <= 128 + time.monotonic() - begun
        problem = refusal(limited, 429, "rate_limited")
        assert problem["detail"] == "your sessions are refreshed too fast; wait 1 s"
        assert limited.headers["Retry-After"] == "1"
        assert refresh(client, other).status_code == 200
        time.sleep(1.1)
        assert refresh(client, admitted[-1].json()["refresh_token"]).status_code == 200


@pytest.mark.parametrize("username", [ADMIN, "nobody"])
def test_guessing_is_told_when_to_go_on(start: Start, tmp_path: Path, username: str):
    clock = tmp_path / "clock"
    clock.write_text("1000")
    read = f"lambda: float(open({str(clock)!r}).read())"
    turned = f"throttle = services.SignInThrottle; services.SignInThrottle = lambda _: throttle({read})"
    core = start(program=program(f"from allsource_core import services; {turned}")).ready()
    with core.client({}) as client:
        wrong = {"username": username, "password": "wrong"}
        for _ in range(10):
            refusal(client.post(LOGIN, json=wrong), 401, "invalid_credentials")
        # Without a gateway's key nobody comes from anywhere else.
        for headers in ({}, {"X-Forwarded-For": "198.51.100.1"}):
            response = client.post(LOGIN, json=wrong, headers=headers)
            refusal(response, 429, "rate_limited")
            assert response.headers["Retry-After"] == "1"
        clock.write_text("1001")
        refusal(client.post(LOGIN, json=wrong), 401, "invalid_credentials")
        response = client.post(LOGIN, json=wrong)
        refusal(response, 429, "rate_limited")
        assert response.headers["Retry-After"] == "2"


def test_no_token_is_in_any_file_or_log(start: Start):
    core = start().ready()
    with core.client({}) as client:
        first = sign_in(client)
        second = refresh(client, first["refresh_token"]).json()
        third = refresh(client, second["refresh_token"]).json()
        client.post(LOGOUT, headers=bearer(third))
        refresh(client, third["refresh_token"])
        client.post(REFRESH, json={"refresh_token": third["refresh_token"], "x": 1})
        fourth = sign_in(client)
    core.kill()
    secrets = [PASSWORD]
    for signed_in in (first, second, third, fourth):
        secrets += [signed_in["token"], signed_in["token"].split(".")[2]]
        secrets += [signed_in["refresh_token"], signed_in["refresh_token"].split("_")[3]]
    contents = [content for _, content in contents_of(core.data)]
    assert any(fourth["refresh_token"].split("_")[1].encode() in content for content in contents)
    for secret in secrets:
        assert all(secret.encode() not in content for content in [*contents, core.log.encode()])


@pytest.mark.parametrize("how", ["password", "deactivated", "deleted"])
def test_sessions_that_a_change_ended_do_not_come_back_with_an_older_file(start: Start, how: str):
    """A crash between the change and the file of sessions, or a copy of the file that is put back, revives nobody."""
    first = start().ready()
    with first.client() as admin:
        body = {"username": "ann", "password": PASSWORD, "role": "developer", "email": ""}
        ann = admin.post("/api/v1/auth/register", json=body).json()["user_id"]
        login = {"username": "ann", "password": PASSWORD}
        kept, ended = (admin.post(LOGIN, json=login).json() for _ in range(2))
        assert first.stop() == 0
    path = first.data / "derived" / "sessions.sqlite"
    before = path.read_bytes()
    second = start().ready()
    with second.client() as admin:
        user = f"/api/v1/auth/users/{ann}"
        if how == "password":
            change = {"current": PASSWORD, "new": "another password of ann's"}
            response = admin.post("/api/v1/auth/password", json=change, headers=bearer(kept))
        elif how == "deactivated":
            response = admin.patch(user, json={"active": False})
            admin.patch(user, json={"active": True}).raise_for_status()
        else:
            response = admin.delete(user)
        assert response.is_success, response.text
    assert second.stop() == 0
    path.write_bytes(before)
    with start().ready().client({}) as client:
        refusal(client.get(SESSIONS, headers=bearer(ended)), 401, "unauthorized")
        refusal(refresh(client, ended["refresh_token"]), 401, "unauthorized")
        goes_on = client.get(SESSIONS, headers=bearer(kept)).status_code == 200
        assert goes_on == (how == "password")
