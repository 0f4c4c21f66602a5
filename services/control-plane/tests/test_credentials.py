"""What the gateway answers 401 by itself, and what it leaves to the core."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from structlog.testing import capture_logs

pytestmark = pytest.mark.asyncio

QUERY = b"/api/v1/events/query"


def token(header: bytes) -> bytes:
    return urlsafe_b64encode(header).rstrip(b"=") + b".e30.c2ln"


SIGNED = token(b'{"alg":"HS256","kid":"k","typ":"JWT"}')

NO_CREDENTIALS = {
    "nothing": b"",
    "another scheme": b"Authorization: Basic dXNlcjpwYXNz\r\n",
    "scheme without token": b"Authorization: Bearer\r\n",
    "empty": b"Authorization: \r\n",
    "not a token": b"Authorization: Bearer hello\r\n",
    "two parts": b"Authorization: Bearer abc.def\r\n",
    "four parts": b"Authorization: Bearer " + SIGNED + b".x\r\n",
    "empty signature": b"Authorization: Bearer " + SIGNED.rpartition(b".")[0] + b".\r\n",
    "not base64url": b"Authorization: Bearer a+b.c/d.e=f\r\n",
    "header is no JSON": b"Authorization: Bearer " + token(b"hello") + b"\r\n",
    "header is no object": b"Authorization: Bearer " + token(b"[1]") + b"\r\n",
    "no algorithm": b"Authorization: Bearer " + token(b'{"typ":"JWT"}') + b"\r\n",
    "algorithm none": b"Authorization: Bearer " + token(b'{"alg":"None"}') + b"\r\n",
    "header is not UTF-8": b"Authorization: Bearer " + token(b'{"alg":"\xff"}') + b"\r\n",
    "header names half a character": b"Authorization: Bearer " + token(b'{"alg":"\\ud800"}') + b"\r\n",
    "header nests deeply": b"Authorization: Bearer " + token(b'{"a":' + b"[" * 2900 + b"]" * 2900 + b"}") + b"\r\n",
    "header begins to nest": b"X-API-Key: " + token(b'{"a":' + b'{"a":' * 1100) + b"\r\n",
    "empty object": b"X-API-Key: " + token(b"{}") + b"\r\n",
    "algorithm is no text": b"X-API-Key: " + token(b'{"alg":1e999}') + b"\r\n",
    "impossible length of base64": b"Authorization: Bearer abcde.e30.c2ln\r\n",
    "key without body": b"Authorization: Bearer ask_\r\n",
    "token after token": b"Authorization: Bearer " + SIGNED + b" " + SIGNED + b"\r\n",
    "sent twice": b"Authorization: Bearer " + SIGNED + b"\r\nAuthorization: Bearer " + SIGNED + b"\r\n",
    "key sent twice": b"X-API-Key: ask_abc\r\nX-API-Key: ask_abc\r\n",
    "too long": b"Authorization: Bearer ask_" + b"a" * 8192 + b"\r\n",
    "not a key": b"X-API-Key: hello\r\n",
}

CREDENTIALS = {
    "token": b"Authorization: Bearer " + SIGNED + b"\r\n",
    "scheme in lower case": b"Authorization: bearer " + SIGNED + b"\r\n",
    "scheme in upper case": b"Authorization: BEARER  " + SIGNED + b"\r\n",
    "bare token": b"Authorization: " + SIGNED + b"\r\n",
    "API key": b"Authorization: Bearer ask_abc\r\n",
    "bare API key": b"authorization: ask_abc\r\n",
    "key header": b"X-API-Key: ask_abc\r\n",
    "token in key header": b"X-API-Key: " + SIGNED + b"\r\n",
}


@pytest.mark.parametrize("headers", NO_CREDENTIALS.values(), ids=NO_CREDENTIALS.keys())
@pytest.mark.parametrize("core_is_up", [True, False], ids=["core up", "core away"])
async def test_what_is_plainly_no_credential_is_a_401_from_the_gateway(gateway, core, headers, core_is_up):
    if not core_is_up:
        await core.stop()
    with capture_logs() as lines:
        answer = await gateway.ask("GET", QUERY, headers)
    assert (answer.status, answer.problem) == (401, "unauthorized")
    assert [line for line in lines if line["event"] != "changes_not_heard"] == []
    assert answer.values(b"www-authenticate") == [b'Bearer realm="allsource"']
    assert len(answer.values(b"x-request-id")) == 1
    assert core.requests == []


@pytest.mark.parametrize("headers", CREDENTIALS.values(), ids=CREDENTIALS.keys())
async def test_what_may_be_a_credential_is_for_the_core_to_judge(gateway, core, headers):
    assert (await gateway.ask("GET", QUERY, headers)).status == 200
    name, _, value = headers.rstrip().partition(b": ")
    assert core.requests[0].values(name.lower()) == [value]


async def test_credential_is_judged_before_the_body_is_taken(gateway, core):
    async with gateway.connect() as client:
        await client.send(b"POST /api/v1/events HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\n")
        assert (await client.answer()).status == 401


async def test_reserved_tenant_is_refused_at_once_and_others_are_passed_on(gateway, core):
    answer = await gateway.ask("GET", QUERY, CREDENTIALS["token"] + b"X-Tenant-ID: _system\r\n")
    assert (answer.status, answer.problem) == (400, "reserved_tenant")
    two = b"X-Tenant-ID: acme\r\nX-Tenant-ID:  _audit\r\n"
    assert (await gateway.ask("GET", QUERY, CREDENTIALS["token"] + two)).status == 400
    assert core.requests == []
    assert (await gateway.ask("GET", QUERY, CREDENTIALS["token"] + b"X-Tenant-ID: acme\r\n")).status == 200
    assert core.requests[0].values(b"x-tenant-id") == [b"acme"]
