"""The routes between the services: what a gateway is told, and that nobody else is told anything."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access

from .service import GATEWAY_KEY, QUERY, Core, bearer, refusal, token, until

INTROSPECT = "/internal/v1/introspect"
CHANGES = "/internal/v1/changes"
KEY = {"X-Gateway-Key": GATEWAY_KEY}
ROWS = [pytest.param(row, id=row.operation) for row in CORE_ROUTES if row.access is Access.GATEWAY]


def introspect(client: httpx.Client, **asked: Any) -> Any:
    response = client.post(INTROSPECT, json=asked, headers=KEY)
    assert (response.status_code, response.headers["Cache-Control"]) == (200, "no-store")
    return response.json()


def changes(client: httpx.Client, **known: Any) -> Any:
    response = client.get(CHANGES, params=known, headers=KEY)
    assert response.status_code == 200
    return response.json()


@pytest.mark.parametrize("row", ROWS)
def test_no_credential_but_the_gateways_own_is_good_enough(anonymous: httpx.Client, row: Any):
    def call(headers: list[tuple[str, str]]) -> httpx.Response:
        return anonymous.request(row.method, row.path, headers=headers)

    for headers in ([], [("X-Gateway-Key", GATEWAY_KEY + "x")], [("X-Gateway-Key", "")], [*KEY.items()] * 2):
        refusal(call(headers), 401, "unauthorized")
    refusal(call([("Authorization", f"Bearer {GATEWAY_KEY}")]), 401, "unauthorized")
    refusal(call([*bearer("admin").items()]), 403, "forbidden")


@pytest.mark.parametrize("path", [QUERY, "/api/v1/operations"])
def test_the_gateways_key_is_no_credential_elsewhere(anonymous: httpx.Client, path: str):
    refusal(anonymous.get(path, headers=KEY), 401, "unauthorized")


def test_a_core_without_a_key_has_no_gateways(start: Callable[..., Core]):
    with start(environ={"ALLSOURCE_GATEWAY__KEY": None}).ready().client({}) as client:
        for headers in (KEY, {"X-Gateway-Key": ""}):
            refusal(client.get(CHANGES, headers=headers), 401, "unauthorized")


def test_a_credential_that_is_good_is_told_whose_it_is(anonymous: httpx.Client):
    answer = introspect(anonymous, credential=token("developer", lifetime_seconds=900))
    assert answer["problem"] is None
    principal = answer["principal"]
    assert abs(principal.pop("expires_at") - (time.time() + 900)) < 60
    assert sorted(principal.pop("permissions")) == ["manage_pipelines", "manage_schemas", "metrics", "read", "write"]
    assert (principal["kind"], principal["username"], principal["role"]) == ("user", "developer@default", "developer")
    assert (principal["tenant_id"], principal["must_change_password"]) == ("default", False)
    known = changes(anonymous)
    assert (answer["instance"], answer["revision"]) == (known["instance"], known["revision"])


def test_a_refusal_is_told_as_the_core_itself_would_tell_it(anonymous: httpx.Client):
    for credential, tenant in [("nonsense", None), (token("developer"), "other"), (token(), "_system"), (token(), "x")]:
        headers = {"Authorization": f"Bearer {credential}", **({"X-Tenant-ID": tenant} if tenant else {})}
        direct = anonymous.get(QUERY, headers=headers).json()
        answer = introspect(anonymous, credential=credential, tenant=tenant)
        assert answer["principal"] is None
        assert answer["problem"] == {"error": direct["error"], "detail": direct["detail"]}


def test_bad_questions_are_refused(anonymous: httpx.Client):
    for body, code in [(b"{", "malformed_json"), (b"{}", "invalid_body"), (b'{"credential":""}', "invalid_body")]:
        headers = {**KEY, "Content-Type": "application/json"}
        refusal(anonymous.post(INTROSPECT, content=body, headers=headers), 400, code)
    refusal(anonymous.get(CHANGES, params={"after": -1}, headers=KEY), 400, "bad_query")
    refusal(anonymous.get(CHANGES, params={"wait_ms": 30_001}, headers=KEY), 400, "bad_query")


def test_who_knows_another_instance_or_nothing_is_told_to_forget_all(anonymous: httpx.Client):
    known = changes(anonymous, wait_ms=30_000)
    assert (known["reset"], known["changes"]) == (True, [])
    assert changes(anonymous, instance="another", wait_ms=30_000)["reset"]
    ahead = known["revision"] + 1
    assert changes(anonymous, instance=known["instance"], after=ahead, wait_ms=30_000)["reset"]


def test_without_a_change_the_answer_comes_when_the_time_is_over(anonymous: httpx.Client):
    known = changes(anonymous)
    begun = time.monotonic()
    answer = changes(anonymous, instance=known["instance"], after=known["revision"], wait_ms=200)
    assert time.monotonic() - begun > 0.15
    assert answer == {**known, "reset": False}


# A core that says when somebody begins to wait for a change, and lets nobody go because the time is over.
TELLING = """
import sys
from allsource_core import __main__ as entry
from allsource_core.changes import Changes

wait = Changes.wait

async def tell_and_wait(changes, revision, timeout_seconds):
    print("a poll waits", file=sys.stderr, flush=True)
    await wait(changes, revision, 100 * timeout_seconds)

Changes.wait = tell_and_wait
sys.exit(entry.main())
"""


def test_a_poll_does_not_hold_up_the_end_of_the_service(start: Callable[..., Core]):
    # Longer than anybody here waits for its end.
    core = start(program=("-c", TELLING), flags=["--set", "server.shutdown_timeout_seconds=120"]).ready()
    with core.client({}) as client:
        known = changes(client)
        request = (
            f"GET {CHANGES}?instance={known['instance']}&after={known['revision']}&wait_ms=30000 HTTP/1.1\r\n"
            f"Host: core\r\nX-Gateway-Key: {GATEWAY_KEY}\r\n\r\n"
        )
    with core.connect() as connection:
        connection.sendall(request.encode())
        until(lambda: "a poll waits" in core.log)
        assert core.stop() == 0
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_neither_key_nor_credential_is_ever_written_down(start: Callable[..., Core]):
    core = start(flags=["--set", "logging.requests=all"]).ready()
    with core.client({}) as client:
        introspect(client, credential=token())
        introspect(client, credential="ask_nonsense")
    core.stop()
    assert GATEWAY_KEY not in core.log
    assert token()[:20] not in core.log
    assert "ask_nonsense" not in core.log
