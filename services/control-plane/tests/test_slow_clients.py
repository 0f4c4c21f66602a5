"""Clients that send or read slowly, not at all or badly: what they may hold, for how long, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import sys
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from allsource_control_plane.gateway import exchange

from .wire import OK, TOKEN, answer_with, until

pytestmark = pytest.mark.asyncio

QUERY = b"/api/v1/events/query"
LOGIN = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: g\r\n"
EVENTS = b"POST /api/v1/events HTTP/1.1\r\nHost: g\r\n" + TOKEN
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

STATE = b'{"status":"healthy","service":"allsource-core","version":"1","uptime_seconds":1,"reasons":[]}'
HEALTHY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(STATE), STATE)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("head", [LOGIN + CHUNKED, EVENTS + CHUNKED, EVENTS + b"Content-Length: 1000000\r\n\r\n"])
async def test_bodies_that_only_begin_hold_no_connection_to_the_core(start_gateway, core, head):
    gateway = await start_gateway(max_connections=1)
    begin = chunk(b"x" * 60_000) if b"chunked" in head else b"x" * 60_000
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            client = await stack.enter_async_context(gateway.connect())
            await client.send(head + begin)
        await asyncio.sleep(0.1)
        assert (await gateway.ask("GET", QUERY)).status == 200
    assert [request.target for request in core.requests] == [QUERY]


@pytest.mark.parametrize("size", [0, 1, 64 * KIBIBYTE])
async def test_small_chunked_body_arrives_whole_with_its_length(gateway, core, size):
    body = b"x" * size
    pieces = [chunk(body[:1000]), chunk(body[1000:])] if size > 1000 else [chunk(body)] if size else []
    async with gateway.connect() as client:
        await client.send(EVENTS + CHUNKED)
        for piece in [*pieces, b"0\r\n\r\n"]:
            await client.send(piece)
            await asyncio.sleep(0.02)
        assert (await client.answer()).status == 200
    assert core.requests[0].values(b"content-length") == [b"%d" % size]
    assert core.requests[0].values(b"transfer-encoding") == []
    assert core.requests[0].body == body


@pytest.mark.parametrize("framing", [CHUNKED, b"Content-Length: 1000000\r\n\r\n"], ids=["chunked", "declared"])
@pytest.mark.parametrize("begin", [b"x", b"x" * 100_000], ids=["small", "streamed"])
async def test_body_that_takes_too_long_is_a_408_however_steadily_it_comes(start_gateway, core, framing, begin):
    gateway = await start_gateway(body_timeout_seconds=1)
    piece = chunk(b"x") if framing is CHUNKED else b"x"
    begun = time.monotonic()
    async with gateway.connect() as client:
        await client.send(EVENTS + framing + (chunk(begin) if framing is CHUNKED else begin))
        answering = asyncio.create_task(client.answer())
        while not answering.done():
            # It may be refused just before.
            with contextlib.suppress(ConnectionError):
                await client.send(piece)
            await asyncio.sleep(0.1)
        answer = await answering
    assert (answer.status, answer.problem) == (408, "request_timeout")
    assert 0.9 < time.monotonic() - begun < 50
    assert b"took longer than 1 seconds" in answer.body


@pytest.fixture
def without_collection():
    """Cycles of objects stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("begin", [b"x", b"x" * 100_000], ids=["small", "streamed"])
async def test_connection_of_a_refused_upload_does_not_wait_for_the_collector(
    start_gateway, core, without_collection, begin
):
    gateway = await start_gateway(body_timeout_seconds=1)
    async with gateway.connect() as client:
        await client.send(EVENTS + b"Content-Length: 1000000\r\n\r\n" + begin)
        assert (await client.answer()).status == 408
        async with asyncio.timeout(50):
            assert await client.reader.read() == b""


async def test_time_that_the_core_takes_over_a_body_is_not_held_against_the_client(start_gateway, core):
    gateway = await start_gateway(body_timeout_seconds=11)
    body = b"x" * (8 * MEBIBYTE)

    async def behave(connection):
        await asyncio.sleep(12)
        await connection.read_body()
        await connection.send(OK)

    core.behaviour = behave
    assert (await gateway.ask("POST", b"/api/v1/events/batch", body=body)).status == 200
    assert core.requests[0].body == body


@pytest.mark.parametrize("framing", [CHUNKED, b"Content-Length: 65537\r\n\r\n"], ids=["chunked", "declared"])
async def test_large_body_for_a_public_route_is_refused_at_once(gateway, core, framing):
    async with gateway.connect() as client:
        await client.send(LOGIN + framing + (chunk(b"x" * 65_537) if framing is CHUNKED else b""))
        answer = await client.answer()
    assert (answer.status, answer.problem) == (413, "body_too_large")
    assert core.connections == 0


async def test_health_of_the_core_is_known_while_every_connection_is_in_use(start_gateway, core):
    gateway = await start_gateway(max_connections=1)
    begun, release = asyncio.Event(), asyncio.Event()

    async def behave(connection):
        if connection.received.target == b"/health":
            await connection.send(HEALTHY)
            return
        begun.set()
        await release.wait()
        await connection.send(OK)

    core.behaviour = behave
    held = asyncio.create_task(gateway.ask("GET", QUERY))
    await begun.wait()
    answer = await gateway.ask("GET", b"/health", b"")
    assert b'"status":"healthy"' in answer.body
    assert b'"degraded"' not in answer.body
    release.set()
    assert (await held).status == 200


async def test_probe_survives_a_restart_of_the_core(gateway, core):
    core.behaviour = answer_with(HEALTHY, close=False)
    assert b'"degraded"' not in (await gateway.ask("GET", b"/health", b"")).body
    await core.stop()
    await core.start()
    await asyncio.sleep(1.1)
    assert b'"degraded"' not in (await gateway.ask("GET", b"/health", b"")).body


@contextlib.contextmanager
def reader_of(gateway, request, *, buffer=16 * KIBIBYTE):
    """A client that sends `request` and reads when it is told to, through a small buffer."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(request)
        client.setblocking(False)
        yield client


async def read_all(client):
    """Read until the connection ends; a reset is raised."""
    async with asyncio.timeout(60):
        while await asyncio.get_running_loop().sock_recv(client, MEBIBYTE):
            pass


def is_cut_off(gateway, client):
    """Whether the kernel has given up the gateway's end. The client is told when it reads."""
    ends = f":{gateway.port:04X}", f":{client.getsockname()[1]:04X}"
    connections = [line.split()[1:3] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return not any(local.endswith(ends[0]) and remote.endswith(ends[1]) for local, remote in connections)


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel cuts off a client that does not read")
async def test_client_that_stops_reading_is_cut_off_and_holds_little(start_gateway, core):
    gateway = await start_gateway(write_timeout_seconds=1)
    sent, ended = 0, asyncio.Event()

    async def behave(connection):
        nonlocal sent
        connection.writer.transport.set_write_buffer_limits(0)
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            while True:
                await connection.send(chunk(b"x" * 16 * KIBIBYTE))
                sent += 16 * KIBIBYTE
        finally:
            ended.set()

    core.behaviour = behave
    request = b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n"
    with capture_logs() as lines, reader_of(gateway, request) as client:
        async with asyncio.timeout(60):
            await ended.wait()
            while not is_cut_off(gateway, client):
                await asyncio.sleep(0.05)
        with pytest.raises(ConnectionResetError):
            await read_all(client)
        await until(lambda: any(line["event"] == "request" for line in lines))
    assert [line["aborted_by"] for line in lines if line["event"] == "request"] == ["stalled_client"]
    # Most of it lies between the core and the gateway, whose kernels may take 10 MiB.
    assert sent < 12 * MEBIBYTE


async def test_client_that_reads_slowly_is_not_cut_off(start_gateway, core):
    length = 2 * MEBIBYTE
    gateway = await start_gateway(write_timeout_seconds=12)
    core.behaviour = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length)
    loop = asyncio.get_running_loop()
    request = b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n"
    size, seconds = 0, 14.5  # longer than the gateway and then the kernel wait for one that reads nothing
    begun = time.monotonic()
    # A buffer that never has room for a whole segment would not count as reading for the kernel.
    with reader_of(gateway, request, buffer=64 * KIBIBYTE) as client:
        while size < length:
            if size > length * (time.monotonic() - begun) / seconds:
                await asyncio.sleep(0.05)
                continue
            data = await loop.sock_recv(client, 16 * KIBIBYTE)
            assert data
            size += len(data)


MALFORMED = {
    "size is no number": b"ZZ\r\n{}\r\n0\r\n\r\n",
    "size in C": b"0x31\r\n{}\r\n",
    "negative size": b"-1\r\n{}\r\n",
    "size too large": b"fffffffffffffffff\r\n{}\r\n",
    "bad terminator": b"2\r\n{}XX0\r\n\r\n",
    "lines end with LF": b"2\n{}\n0\n\n",
    "LF in an extension": b"2;a=\n\r\n{}\r\n0\r\n\r\n",
    "long extension": b"2;" + b"a" * 200_000 + b"\r\n{}\r\n0\r\n\r\n",
    "many trailers": b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
    "broken after a piece that is streamed": chunk(b"x" * 100_000) + b"ZZ\r\n",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_chunks_are_a_400_that_says_so(gateway, core, body):
    async with gateway.connect() as client:
        await client.send(EVENTS + b"X-Request-ID: r-1\r\n" + CHUNKED + body)
        answer = await client.answer()
    assert (answer.status, answer.problem) == (400, "bad_request")
    assert answer.values(b"x-request-id") == [b"r-1"]
    figures = (await gateway.ask("GET", b"/metrics", b"")).body
    assert b'http_requests_total{method="POST",operation="append_event",status="400"} 1.0' in figures
    assert b'status="499"' not in figures


async def test_refusal_does_not_wait_long_for_a_body_that_never_comes(gateway, monkeypatch):
    assert exchange._LINGER_PAUSE_SECONDS == 1
    monkeypatch.setattr(exchange, "_LINGER_SECONDS", 100)
    async with gateway.connect() as client:
        begun = time.monotonic()
        await client.send(b"POST /nowhere HTTP/1.1\r\nHost: g\r\nContent-Length: 1000\r\n\r\n")
        assert (await client.answer()).status == 404
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("begin", [b"", b"GET /health/live HTTP/1.1\r\nHost:"], ids=["idle", "half a head"])
@pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
async def test_connection_without_a_request_is_closed_in_time(start_gateway, begin, used):
    gateway = await start_gateway(idle_timeout_seconds=1)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(gateway.connect())
        # Closed before it is used is what a connection is whose client stands still for a second.
        while used and not await answers(client):
            client = await stack.enter_async_context(gateway.connect())
        with contextlib.suppress(ConnectionError):
            await client.send(begin)
            async with asyncio.timeout(50):
                await client.reader.read()


async def answers(client):
    """Whether a connection is not closed yet, and serves."""
    try:
        await client.send(b"GET /health/live HTTP/1.1\r\nHost: g\r\n\r\n")
        return (await client.answer()).status == 200
    except (ConnectionError, asyncio.IncompleteReadError):
        return False
