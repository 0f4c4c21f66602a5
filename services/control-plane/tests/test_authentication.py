"""Whose a credential is: asked once, known until a change names it, and never for more than a second in silence."""

from __future__ import annotations

import asyncio
import time

import pytest
from structlog.testing import capture_logs

from allsource_control_plane.gateway import internal_client
from allsource_control_plane.gateway.internal_client import _CHANGES_SECONDS
from allsource_control_plane.gateway.known_principals import FRESH_SECONDS
from allsource_control_plane.settings import GatewaySettings

from .figures import figures
from .wire import GATEWAY_KEY, TOKEN, until

pytestmark = pytest.mark.asyncio

QUERY = b"/api/v1/events/query"
APPEND = b"/api/v1/events"
RETENTION = b"/api/v1/operations"
CREDENTIAL = "ask_0123456789abcdef"
HITS = "control_plane_credential_cache_hits_total"


@pytest.fixture
def told(core):
    """What the core tells the gateway."""
    return core.internal


async def test_a_credential_is_asked_about_once(gateway, told):
    await told.followed()
    for _ in range(5):
        assert (await gateway.ask("GET", QUERY)).status == 200
    assert told.asked == [(CREDENTIAL, None)]
    found = await figures(gateway)
    assert found[HITS] == 4
    assert found["control_plane_introspections_total{outcome=accepted}"] == 1
    assert found["control_plane_credential_cache_entries"] == 1
    while not 0 <= found["control_plane_changes_age_seconds"] < 1:
        found = await figures(gateway)


async def test_what_the_core_gets_bears_the_gateways_key_and_never_the_clients(gateway, core):
    await gateway.ask("GET", QUERY, TOKEN + b"X-Gateway-Key: stolen\r\nConnection: x-gateway-key\r\n")
    await gateway.ask("POST", b"/api/v1/auth/login", b"x-gateway-key: " + GATEWAY_KEY.encode() + b"\r\n", b"{}")
    assert [request.values(b"x-gateway-key") for request in core.requests] == [[GATEWAY_KEY.encode()]] * 2


@pytest.mark.parametrize(
    "path",
    [b"/internal/v1/changes", b"/%69nternal/v1/changes", b"/internal%2Fv1%2Fchanges", b"/internal%2Fv1/changes"],
)
@pytest.mark.parametrize("headers", [TOKEN, b"X-Gateway-Key: " + GATEWAY_KEY.encode() + b"\r\n"])
async def test_nothing_internal_is_forwarded_however_it_is_written(gateway, core, path, headers):
    for method in ("GET", "POST"):
        answer = await gateway.ask(method, path, headers)
        assert (answer.status, answer.problem) == (404, "not_found")
    assert (await gateway.ask("GET", b"/api/v1/../../internal/v1/changes", headers)).status == 400
    assert core.requests == []


@pytest.mark.parametrize("code", ["unauthorized", "tenant_inactive"])
async def test_a_refusal_of_the_core_is_the_gateways_and_is_not_remembered(gateway, core, told, code):
    await told.followed()
    told.refused[CREDENTIAL] = code
    for _ in range(2):
        answer = await gateway.ask("GET", QUERY)
        assert answer.problem == code
        assert b"as the core says" in answer.body
        assert bool(answer.values(b"www-authenticate")) == (code == "unauthorized")
    assert len(told.asked) == 2
    assert core.requests == []
    told.refused.clear()
    assert (await gateway.ask("GET", QUERY)).status == 200


async def test_what_somebody_may_is_left_to_the_core(gateway, core, told):
    """It charges the tenant for asking, and its answer says so in its headers."""
    await told.followed()
    told.principal = {"role": "readonly", "permissions": ["read", "metrics"]}
    assert (await gateway.ask("POST", APPEND, TOKEN, b"{}")).status == 200
    assert len(core.requests) == 1


@pytest.mark.parametrize("change", [("user", "u-1"), ("session", "s-1"), ("tenant", "default"), ("signing_keys", "")])
async def test_a_change_is_known_at_once(gateway, told, change):
    await told.followed()
    assert (await gateway.ask("GET", QUERY)).status == 200
    told.refused[CREDENTIAL] = "unauthorized"
    assert (await gateway.ask("GET", QUERY)).status == 200
    told.change(*change)
    # Long before it is forgotten by itself.
    async with asyncio.timeout(60):
        while (await gateway.ask("GET", QUERY)).status == 200:
            pass


async def test_a_change_of_somebody_else_costs_nothing(gateway, told):
    await told.followed()
    await gateway.ask("GET", QUERY)
    told.change("user", "u-2")
    polls = told.polls
    await until(lambda: told.polls > polls + 1)
    await gateway.ask("GET", QUERY)
    assert len(told.asked) == 1


async def test_another_core_process_makes_it_ask_again(gateway, told):
    await told.followed()
    await gateway.ask("GET", QUERY)
    told.restart("two")
    polls = told.polls
    await until(lambda: told.polls > polls + 1)
    await gateway.ask("GET", QUERY)
    assert len(told.asked) == 2


async def test_core_that_falls_silent_is_believed_for_a_second_and_then_nothing_is(start_gateway, told, patience):
    assert FRESH_SECONDS == 1
    usual = GatewaySettings().introspect_timeout_ms
    assert usual < 1000
    patience.setattr(internal_client, "_CHANGES_SECONDS", _CHANGES_SECONDS)
    gateway = await start_gateway(introspect_timeout_ms=usual)
    await told.followed()
    async with asyncio.timeout(60):
        while (await gateway.ask("GET", QUERY)).status != 200:
            pass
    told.silent = True
    assert (await gateway.ask("GET", QUERY)).status == 200
    patience.undo()
    begun = time.monotonic()
    while (answer := await gateway.ask("GET", QUERY)).status == 200:
        assert time.monotonic() - begun < 60
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    assert answer.values(b"retry-after") == [b"1"]
    assert (await gateway.ask("GET", QUERY)).status == 503
    assert time.monotonic() - begun < 60
    assert (await gateway.ask("GET", QUERY, b"Authorization: Bearer hello\r\n")).status == 401
    found = await figures(gateway)
    assert found["control_plane_introspections_total{outcome=failed}"] >= 2
    assert found["control_plane_changes_age_seconds"] > 1
    told.silent = False
    polls = told.polls
    await until(lambda: told.polls > polls + 1)
    async with asyncio.timeout(60):
        while (await gateway.ask("GET", QUERY)).status != 200:
            pass


async def test_an_answer_that_a_change_overtook_is_used_once_and_not_remembered(gateway, told):
    await told.followed()
    told.held = asyncio.Event()
    asking = asyncio.create_task(gateway.ask("GET", QUERY))
    await until(lambda: told.asked)
    told.refused[CREDENTIAL] = "unauthorized"
    told.change("user", "u-1")
    polls = told.polls
    await until(lambda: told.polls > polls + 1)
    told.held.set()
    assert (await asking).status == 200
    assert (await gateway.ask("GET", QUERY)).status == 401


async def test_named_tenants_are_known_apart(gateway, told):
    await told.followed()
    for headers in (b"", b"X-Tenant-ID: acme\r\n", b"X-Tenant-ID: beta\r\n", b"X-Tenant-ID: acme\r\n"):
        assert (await gateway.ask("GET", QUERY, TOKEN + headers)).status == 200
    assert [tenant for _, tenant in told.asked] == [None, "acme", "beta"]
    two = await gateway.ask("GET", QUERY, TOKEN + b"X-Tenant-ID: acme\r\nX-Tenant-ID: beta\r\n")
    assert (two.status, two.problem) == (400, "bad_header")
    assert (await gateway.ask("GET", QUERY, TOKEN + b"X-Tenant-ID: \xff\r\n")).problem == "bad_header"


@pytest.mark.parametrize("name", [b"a" * 129, b"a" * 70_000, "ä".encode() * 129], ids=["long", "huge", "not ASCII"])
async def test_a_name_that_no_tenant_can_have_is_refused_without_asking(gateway, told, name):
    answer = await gateway.ask("GET", QUERY, TOKEN + b"X-Tenant-ID: " + name + b"\r\n")
    assert (answer.status, answer.problem) == (400, "bad_header")
    assert told.asked == []
    longest = b"X-Tenant-ID: " + b"a" * 128 + b"\r\n"
    assert (await gateway.ask("GET", QUERY, TOKEN + longest)).status == 200
    assert told.asked == [(CREDENTIAL, "a" * 128)]


@pytest.mark.parametrize("code", ["forbidden", "not_found"])
async def test_who_names_a_tenant_that_is_not_theirs_is_refused_by_the_core(gateway, core, told, code):
    """Which charges them, and says so in the headers of its answer."""
    await told.followed()
    told.refused[CREDENTIAL, "acme"] = code
    answer = await gateway.ask("GET", QUERY, TOKEN + b"X-Tenant-ID: acme\r\n")
    assert answer.status == 200
    assert told.asked == [(CREDENTIAL, "acme"), (CREDENTIAL, None)]
    assert [request.values(b"x-tenant-id") for request in core.requests] == [[b"acme"]]


@pytest.mark.parametrize("more", [b"-" + b"a" * 70_000, b"-\xff"], ids=["long", "not ASCII"])
async def test_who_calls_is_asked_whatever_trace_a_request_continues(gateway, core, told, more):
    """A later version of the header may have more behind what is known of it: that is not sent on."""
    known = b"01-" + b"3" * 32 + b"-" + b"4" * 16 + b"-01"
    assert (await gateway.ask("GET", QUERY, TOKEN + b"traceparent: " + known + more + b"\r\n")).status == 200
    (parent,) = core.requests[0].values(b"traceparent")
    assert len(parent) == len(known)


async def test_a_refusal_that_this_gateway_does_not_know_is_a_refusal(gateway, told):
    told.refused[CREDENTIAL] = "a code of the future"
    answer = await gateway.ask("GET", QUERY)
    assert (answer.status, answer.problem) == (401, "unauthorized")


async def test_the_same_text_in_another_header_is_another_question_but_not_beside_the_one_that_counts(gateway, told):
    await told.followed()
    key = b"X-API-Key: ask_0123456789abcdef\r\n"
    for headers in (TOKEN, key, TOKEN + b"X-API-Key: ask_other\r\n", TOKEN, key):
        assert (await gateway.ask("GET", QUERY, headers)).status == 200
    assert [credential for credential, _ in told.asked] == [CREDENTIAL] * 2


async def test_ten_thousand_bad_tokens_leave_nothing_behind(gateway, told):
    await told.followed()

    class Everything(dict):
        def get(self, key, default=None):
            return "unauthorized"

    told.refused = Everything()

    async def ask(first):
        async with gateway.connect(seconds=200) as client:
            for number in range(first, first + 500):
                head = b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\nX-API-Key: ask_%d\r\n\r\n" % number
                await client.send(head)
                assert (await client.answer()).status == 401

    await asyncio.gather(*(ask(first) for first in range(0, 10_000, 500)))
    assert len(set(told.asked)) == 10_000
    assert (await figures(gateway))["control_plane_credential_cache_entries"] == 0


async def test_a_core_with_another_key_is_told_apart_from_one_that_is_away(start_gateway, core, told):
    told.key = "another"
    with capture_logs() as lines:
        gateway = await start_gateway()
        answer = await gateway.ask("GET", QUERY)
        await until(lambda: any(line["event"] == "changes_not_heard" for line in lines))
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    assert b"the core does not accept the key of this gateway" in answer.body
    assert [line["reason"] for line in lines if line["event"] == "changes_not_heard"] == ["key_refused"]
    assert b"gateway_key_refused" in (await gateway.ask("GET", b"/health", b"")).body


async def test_a_core_that_is_starting_says_so_through_the_gateway(gateway, core, told):
    told.unavailable = "starting"
    answer = await gateway.ask("GET", QUERY)
    assert (answer.status, answer.problem) == (503, "starting")
    assert core.requests == []


async def test_neither_key_nor_credential_is_logged(gateway, core, told):
    with capture_logs() as lines:
        await gateway.ask("GET", QUERY)
        told.refused[CREDENTIAL] = "unauthorized"
        await gateway.ask("GET", QUERY)
        await core.stop()
        await gateway.ask("GET", QUERY, TOKEN + b"X-Tenant-ID: x\r\n")
    assert CREDENTIAL not in str(lines)
    assert GATEWAY_KEY not in str(lines)
