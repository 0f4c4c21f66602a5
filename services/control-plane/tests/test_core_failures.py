"""The core away, broken, slow: what the caller is told, and what is tried again."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import msgspec
import pytest

from allsource_control_plane.gateway import core_client
from allsource_control_plane.gateway.core_client import CoreCallError, CoreClient, FailureReason
from allsource_control_plane.settings import GatewaySettings

from .conftest import PATIENCE_SECONDS
from .wire import OK, TOKEN, answer_ok, answer_with, until

pytestmark = pytest.mark.asyncio

QUERY = b"/api/v1/events/query"
EVENTS = b"/api/v1/events"


def failing(times, then=answer_ok):
    """Break off the first `times` requests without a byte of an answer."""
    left = times

    async def behave(connection):
        nonlocal left
        await connection.read_body()
        if left == 0:
            await then(connection)
            return
        left -= 1
        connection.writer.transport.abort()

    return behave


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_core_that_is_away_is_a_503_at_once(gateway, core, method):
    await core.stop()
    begun = time.monotonic()
    answer = await gateway.ask(method, EVENTS if method == "POST" else QUERY, body=b"{}" if method == "POST" else b"")
    # Before the time to connect is over, which is a minute here.
    assert time.monotonic() - begun < 50
    assert answer.status == 503
    assert answer.values(b"retry-after") == [b"1"]
    assert len(answer.values(b"x-request-id")) == 1
    if method != "HEAD":
        assert answer.problem == "core_unavailable"
        assert b"was not sent" in answer.body


async def test_core_that_accepts_no_connection_is_a_503_in_time(start_gateway, core):
    assert GatewaySettings().connect_timeout_ms < 1000
    gateway = await start_gateway(connect_timeout_ms=300)
    await core.stop()
    listener = await _full_listener(core.port)
    try:
        begun = time.monotonic()
        answer = await gateway.ask("GET", QUERY)
        assert time.monotonic() - begun < 50
        assert (answer.status, answer.problem) == (503, "core_unavailable")
    finally:
        for sock in listener:
            sock.close()


async def _full_listener(port):
    """A socket that listens, whose queue is full, so that a further connection hangs."""
    import socket

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    sockets = [listener]
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        sockets.append(filler)
    await asyncio.sleep(0.1)
    return sockets


async def test_gateway_recovers_as_soon_as_the_core_is_back(gateway, core):
    assert (await gateway.ask("POST", EVENTS, body=b"{}")).status == 200
    for _ in range(2):
        await core.stop()
        assert (await gateway.ask("POST", EVENTS, body=b"{}")).status == 503
        await core.start()
        assert (await gateway.ask("POST", EVENTS, body=b"{}")).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_read_is_repeated_once_if_no_byte_of_the_answer_came(gateway, core, method):
    core.behaviour = failing(1)
    assert (await gateway.ask(method, QUERY)).status == 200
    assert len(core.requests) == 2


async def test_read_is_not_repeated_twice(gateway, core):
    core.behaviour = failing(2)
    answer = await gateway.ask("GET", QUERY)
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    assert len(core.requests) == 2


async def test_write_whose_connection_broke_is_not_repeated_and_says_that_it_may_have_happened(gateway, core):
    core.behaviour = failing(1)
    answer = await gateway.ask("POST", EVENTS, body=b"{}")
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    assert answer.values(b"retry-after") == [b"1"]
    detail = msgspec.json.decode(answer.body)["detail"]
    assert "may or may not have happened" in detail
    assert "event ids" in detail
    assert len(core.requests) == 1


async def test_write_on_a_used_connection_is_not_repeated_either(gateway, core):
    assert (await gateway.ask("POST", EVENTS, body=b"{}")).status == 200
    core.behaviour = failing(1)
    assert (await gateway.ask("POST", EVENTS, body=b"{}")).status == 503
    assert (len(core.requests), core.connections) == (2, 1)


async def test_silent_core_is_a_503_and_a_read_is_not_repeated(start_gateway, core):
    gateway = await start_gateway(response_timeout_seconds=1)

    async def silent(connection):
        await connection.reader.read()

    core.behaviour = silent
    answer = await gateway.ask("GET", QUERY)
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    await until(lambda: core.requests)
    assert len(core.requests) == 1


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", b"SSH-2.0-x\r\n"])
async def test_answer_that_is_not_http_is_a_503(gateway, core, data):
    core.behaviour = answer_with(data)
    answer = await gateway.ask("POST", EVENTS, body=b"{}")
    assert (answer.status, answer.problem) == (503, "core_unavailable")


async def test_busy_connections_are_a_503_that_nothing_was_sent_for(start_gateway, core):
    gateway = await start_gateway(max_connections=1, connect_timeout_ms=2000)
    # From here on there is a connection of each kind: only who finds them in use waits for one. On a machine that
    # stands still there may be none in time at first.
    async with asyncio.timeout(60):
        while (await gateway.ask("GET", QUERY)).status != 200:
            pass
    core.requests.clear()
    begun, release = asyncio.Event(), asyncio.Event()

    async def wait(connection):
        begun.set()
        await release.wait()
        await connection.send(OK)

    core.behaviour = wait
    first = asyncio.create_task(gateway.ask("GET", QUERY))
    await until(begun.is_set)
    answer = await gateway.ask("POST", EVENTS, body=b"{}")
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    assert b"in use" in answer.body
    release.set()
    assert (await first).status == 200
    assert len(core.requests) == 1


@pytest.fixture
def sure_to_begin(patience):
    """An answer has all the time to begin; how long the core may fall silent within it is as it is set."""

    def limits(**times):
        return aiohttp.ClientTimeout(**{**times, "sock_read": PATIENCE_SECONDS})

    patience.setattr(core_client, "ClientTimeout", limits)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\nnot a length\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
    ],
)
@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
async def test_answer_that_breaks_off_looks_broken_to_the_client(start_gateway, core, sure_to_begin, data, abort):
    gateway = await start_gateway(response_timeout_seconds=4)

    async def behave(connection):
        head, end, body = data.partition(b"\r\n\r\n")
        await connection.send(head + end)
        await asyncio.sleep(0.1)
        await connection.send(body)
        await asyncio.sleep(0.1)
        if abort:
            connection.writer.transport.abort()
        else:
            connection.writer.close()

    core.behaviour = behave
    answer = await gateway.ask("GET", QUERY)
    assert answer.status == 200
    assert not answer.complete
    assert b"only this".startswith(answer.body)
    assert len(core.requests) == 1


async def test_answer_that_falls_silent_looks_broken_to_the_client(start_gateway, core, sure_to_begin):
    gateway = await start_gateway(response_timeout_seconds=1)

    async def behave(connection):
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        await connection.reader.read()

    core.behaviour = behave
    answer = await gateway.ask("GET", QUERY, TOKEN)
    assert (answer.status, answer.body, answer.complete) == (200, b"only this", False)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
async def test_client_of_the_core_repeats_nothing_by_itself(core, method):
    """aiohttp repeats what it takes for idempotent on a used connection; here that would be a second write."""
    settings = GatewaySettings(core_url=f"http://127.0.0.1:{core.port}", connect_timeout_ms=60_000)
    async with CoreClient(settings) as client:
        async with await client.call("GET", b"/", b"", [], None) as response:
            await response.read()
        core.behaviour = failing(1)
        with pytest.raises(CoreCallError) as caught:
            await client.call(method, b"/", b"", [], None)
    assert caught.value.reason is FailureReason.DISCONNECTED
    assert (len(core.requests), core.connections) == (2, 1)


async def test_answer_that_breaks_off_inside_its_head_is_no_answer(gateway, core):
    core.behaviour = answer_with(b"HTTP/1.1 200 OK\r\nContent-Le")
    answer = await gateway.ask("POST", EVENTS, body=b"{}")
    assert (answer.status, answer.problem) == (503, "core_unavailable")
    assert len(core.requests) == 1
