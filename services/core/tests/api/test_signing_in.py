"""``POST auth/login``: name and password against a token, and nothing for those who guess."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest

from allsource_shared.permissions import Permission
from allsource_shared.tokens import SigningKey, TokenVerifier

from .service import ADMIN, JSON, LOGIN, PASSWORD, QUERY, SECRET, Core, last_position, places, refusal


def test_the_right_password_gives_a_token_that_works(anonymous: httpx.Client):
    response = anonymous.post(LOGIN, json={"username": ADMIN, "password": PASSWORD})
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    body = response.json()
    assert list(body) == ["token", "refresh_token", "expires_at", "user"]
    claims = TokenVerifier([SigningKey.from_secret(SECRET)], issuer="allsource", audience="allsource").verify(
        body["token"]
    )
    assert body["user"] == {
        "id": claims.sub,
        "username": ADMIN,
        "email": "",
        "role": "admin",
        "tenant_id": "default",
        "active": True,
        "created_at": body["user"]["created_at"],
        "permissions": sorted(map(str, Permission)),
        "must_change_password": False,
    }
    assert uuid.UUID(claims.sub).version == 4
    assert datetime.fromisoformat(body["expires_at"]).timestamp() == claims.exp
    assert claims.exp - claims.iat == 3600
    assert anonymous.get(QUERY, headers={"Authorization": f"Bearer {body['token']}"}).status_code == 200


WRONG = {
    "wrong password": {"username": ADMIN, "password": PASSWORD + "x"},
    "password in another case": {"username": ADMIN, "password": PASSWORD.upper()},
    "half a password": {"username": ADMIN, "password": PASSWORD[:5]},
    "password with a space": {"username": ADMIN, "password": PASSWORD + " "},
    "password with a NUL": {"username": ADMIN, "password": PASSWORD + "\0"},
    "unknown user": {"username": "nobody", "password": PASSWORD},
    "password of nobody": {"username": "nobody", "password": "nobody has this password"},
    "name in another case": {"username": ADMIN.upper(), "password": PASSWORD},
    "name with a space": {"username": ADMIN + " ", "password": PASSWORD},
    "a user of the system tenant": {"username": "_system", "password": PASSWORD},
    "longest": {"username": "x" * 256, "password": "ä" * 1024},
}


@pytest.mark.parametrize("body", WRONG.values(), ids=list(WRONG))
def test_whatever_is_wrong_the_answer_is_the_same(anonymous: httpx.Client, body: dict[str, str]):
    problem = refusal(anonymous.post(LOGIN, json=body), 401, "invalid_credentials")
    assert problem["detail"] == "username or password is wrong"
    assert "errors" not in problem


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (b"", "malformed_json", None),
        (b"{", "malformed_json", None),
        (b"[]", "invalid_body", "$"),
        (b"null", "invalid_body", "$"),
        (b"{}", "invalid_body", "$"),
        (b'{"username":"a"}', "invalid_body", "$"),
        (b'{"password":"a"}', "invalid_body", "$"),
        (b'{"username":"","password":"a"}', "invalid_body", "username"),
        (b'{"username":"a","password":""}', "invalid_body", "password"),
        (b'{"username":5,"password":"hunter2"}', "invalid_body", "username"),
        (b'{"username":["a"],"password":"hunter2"}', "invalid_body", "username"),
        (b'{"username":"a","password":["hunter2"]}', "invalid_body", "password"),
        (b'{"username":"a","password":null}', "invalid_body", "password"),
        (b'{"username":"%s","password":"hunter2"}' % (b"x" * 257), "invalid_body", "username"),
        (b'{"username":"a","password":"%s"}' % (b"hunter2" * 200), "invalid_body", "password"),
        (b'{"username":"a","password":"hunter2"', "malformed_json", None),
        (b'{"username":"\xff","password":"hunter2"}', "malformed_json", None),
        (b'{"username":"a","password":"hunter2\xff"}', "malformed_json", None),
        (b'{"username":"a","password":"hunter2","\xff":1}', "malformed_json", None),
        (rb'{"username":"\ud800","password":"hunter2"}', "malformed_json", None),
        (rb'{"username":"a","password":"\udc00hunter2"}', "malformed_json", None),
        (b"[" * 50_000, "invalid_body", "$"),
        (b'{"username":"a","password":"hunter2","x":' + b"[" * 50_000, "invalid_body", None),
        (b'{"username":"a","password":"hunter2","x":' + b'{"a":' * 12_000, "invalid_body", None),
        (b'{"username":"a","password":' + b"[" * 50_000, "invalid_body", "password"),
    ],
)
def test_a_malformed_body_is_refused_without_showing_it(
    anonymous: httpx.Client, core: Core, body: bytes, code: str, place: str | None
):
    response = anonymous.post(LOGIN, content=body, headers=JSON)
    problem = refusal(response, 400, code)
    assert places(problem) == ([] if place is None else [place])
    assert "hunter2" not in response.text
    assert "hunter2" not in core.log


@pytest.mark.parametrize("levels", range(940, 1010, 3))
def test_a_deep_field_that_is_ignored_breaks_nothing(anonymous: httpx.Client, levels: int):
    # Each with a name of its own: so many failures of one are slowed down.
    body = b'{"username":"%d","password":"b","x":' % levels + b"[" * levels + b"]" * levels + b"}"
    response = anonymous.post(LOGIN, content=body, headers=JSON)
    assert response.status_code in (400, 401)


def test_a_large_body_is_refused_however_it_comes(anonymous: httpx.Client):
    body = json.dumps({"username": "a", "password": "b", **{f"x{number}": 1 for number in range(10_000)}}).encode()
    refusal(anonymous.post(LOGIN, content=body, headers=JSON), 413, "body_too_large")
    refusal(anonymous.post(LOGIN, content=iter([body[:100], body[100:]]), headers=JSON), 413, "body_too_large")
    packed = gzip.compress(body)
    assert len(packed) < 65536
    response = anonymous.post(LOGIN, content=packed, headers={**JSON, "Content-Encoding": "gzip"})
    refusal(response, 413, "body_too_large")


def test_unknown_fields_are_ignored(anonymous: httpx.Client):
    body = {"username": ADMIN, "password": PASSWORD, "role": "admin", "tenant_id": "default"}
    response = anonymous.post(LOGIN, json=body)
    assert response.json()["user"]["tenant_id"] == "default"
    assert response.headers["Warning"] == '299 allsource "ignored unknown: role, tenant_id"'


def test_signing_in_stores_nothing(anonymous: httpx.Client):
    before = last_position(anonymous)
    anonymous.post(LOGIN, json={"username": ADMIN, "password": PASSWORD})
    anonymous.post(LOGIN, json={"username": ADMIN, "password": "wrong"})
    assert last_position(anonymous) == before


def test_names_and_passwords_stay_out_of_the_log(anonymous: httpx.Client, core: Core):
    anonymous.post(LOGIN, json={"username": "a-name-that-is-a-password", "password": "and-its-password"})
    signed_in = anonymous.post(LOGIN, json={"username": ADMIN, "password": PASSWORD}).json()
    for secret in ("a-name-that-is-a-password", "and-its-password", PASSWORD, signed_in["token"], SECRET):
        assert secret not in core.log
    line = json.loads(next(line for line in core.log.splitlines() if '"signed_in"' in line))
    assert line["user_id"] == signed_in["user"]["id"]


def test_beyond_the_queue_sign_ins_are_told_to_wait(start: Callable[..., Core]):
    core = start(environ={"ALLSOURCE_AUTH__SIGN_IN_QUEUE_MAX": "1"}).ready()
    with core.client({}) as client, ThreadPoolExecutor(16) as callers:

        def sign_in(_number: int) -> httpx.Response:
            return client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD})

        answers: list[Any] = list(callers.map(sign_in, range(64)))
        assert {answer.status_code for answer in answers} == {200, 429}
        for answer in answers:
            if answer.status_code == 429:
                refusal(answer, 429, "rate_limited")
                assert answer.headers["Retry-After"] == "1"
        assert sign_in(0).status_code == 200
