"""Nobody takes all connections to the core: not one tenant, and not callers without a credential."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from allsource_control_plane.gateway import exchange

from .figures import figures
from .wire import OK, until

pytestmark = pytest.mark.asyncio

QUERY = b"/api/v1/events/query"
LOGIN = b"/api/v1/auth/login"
HOGS = b"Authorization: Bearer ask_hog\r\n"
OTHERS = b"Authorization: Bearer ask_other\r\n"
UPLOAD = (
    b"POST /api/v1/events/batch HTTP/1.1\r\nHost: g\r\n" + HOGS + b"Content-Length: 16000000\r\n\r\n" + b"x" * 80_000
)


@pytest.fixture
def principals(core):
    """Each credential is a developer's in a tenant of its own name."""
    introspect = core.internal._introspect

    def answer(asked):
        core.internal.principal = {"role": "developer", "tenant_id": asked["credential"]}
        return introspect(asked)

    core.internal._introspect = answer


async def under_way(gateway, count):
    """Wait until so many requests are under way, that for the figures among them."""
    while (await figures(gateway))["control_plane_http_requests_in_progress"] != count + 1:
        await asyncio.sleep(0.01)


async def have_places(core, count):
    """Wait until so many requests have come as far as the core: whoever calls it has its place."""
    await until(lambda: len(core.requests) == count)


async def test_stalled_uploads_of_one_tenant_leave_room_for_others(start_gateway, core, principals):
    gateway = await start_gateway(max_connections=8, max_requests_per_tenant=4)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(gateway.connect()) for _ in range(4)]
        for client in clients:
            await client.send(UPLOAD)
        await have_places(core, 4)
        refused = await gateway.ask("GET", QUERY, HOGS)
        assert (refused.status, refused.problem) == (429, "rate_limited")
        assert refused.values(b"retry-after") == [b"1"]
        assert (await gateway.ask("GET", QUERY, OTHERS)).status == 200
        assert (await figures(gateway))["control_plane_crowded_out_requests_total{whose=tenant}"] == 1
    await under_way(gateway, 0)
    assert (await gateway.ask("GET", QUERY, HOGS)).status == 200


async def test_refused_upload_is_taken_before_its_answer_is_sent(start_gateway, core, principals, patience):
    patience.setattr(exchange, "_LINGER_SECONDS", 60)
    patience.setattr(exchange, "_LINGER_PAUSE_SECONDS", 60)
    gateway = await start_gateway(max_requests_per_tenant=1)
    async with gateway.connect() as client, gateway.connect() as refused:
        await client.send(UPLOAD)
        await have_places(core, 1)
        await refused.send(UPLOAD + b"x" * (16_000_000 - 80_000))
        answer = await refused.answer()
        assert (answer.status, answer.problem) == (429, "rate_limited")
        await refused.send(b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\n" + OTHERS + b"\r\n")
        assert (await refused.answer()).status == 200


async def test_administrator_is_counted_where_it_belongs_whichever_tenant_it_names(start_gateway, core):
    gateway = await start_gateway(max_requests_per_tenant=1)
    async with gateway.connect() as client:
        await client.send(UPLOAD)
        await have_places(core, 1)
        for tenant in (b"", b"X-Tenant-ID: acme\r\n"):
            assert (await gateway.ask("GET", QUERY, HOGS + tenant)).problem == "rate_limited"


@pytest.mark.parametrize("failure", ["core", "client"])
async def test_place_is_given_back_however_a_request_ends(start_gateway, core, principals, failure):
    gateway = await start_gateway(max_requests_per_tenant=1)
    answer_ok = core.behaviour
    begun = asyncio.Event()

    async def behave(connection):
        if connection.received.target == b"/health":
            await answer_ok(connection)
            return
        begun.set()
        if failure == "core":
            connection.writer.transport.abort()
        else:
            await connection.reader.read()

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(b"POST /api/v1/events HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n" + HOGS + b"\r\n{}")
        await begun.wait()
        if failure == "core":
            assert (await client.answer()).problem == "core_unavailable"
    await under_way(gateway, 0)
    core.behaviour = answer_ok
    assert (await gateway.ask("GET", QUERY, HOGS)).status == 200


async def test_callers_without_a_credential_share_a_quarter(start_gateway, core):
    gateway = await start_gateway(max_connections=8)
    release = asyncio.Event()
    answer_ok = core.behaviour

    async def behave(connection):
        if connection.received.target == LOGIN:
            await connection.read_body()
            await release.wait()
            await connection.send(OK)
        else:
            await answer_ok(connection)

    core.behaviour = behave
    held = [asyncio.create_task(gateway.ask("POST", LOGIN, b"", b"{}")) for _ in range(2)]
    await have_places(core, 2)
    refused = await gateway.ask("POST", LOGIN, b"", b"{}")
    assert (refused.status, refused.problem) == (503, "overloaded")
    assert refused.values(b"retry-after") == [b"1"]
    assert (await gateway.ask("GET", QUERY)).status == 200
    assert (await figures(gateway))["control_plane_crowded_out_requests_total{whose=anonymous}"] == 1
    release.set()
    assert [answer.status for answer in await asyncio.gather(*held)] == [200, 200]
    assert (await gateway.ask("POST", LOGIN, b"", b"{}")).status == 200
