"""Bodies in both directions: streamed, counted, never held, and given up when the client leaves."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys

import pytest

from .wire import OK, TOKEN, answer_ok, until

pytestmark = pytest.mark.asyncio

EVENTS = b"/api/v1/events"
QUERY = b"/api/v1/events/query"
MEBIBYTE = 1024 * 1024
BEGIN = b"begin" * 20_000
"""Of a body that is long enough to be streamed."""


def post(headers: bytes) -> bytes:
    return b"POST /api/v1/events/batch HTTP/1.1\r\nHost: gateway\r\n" + TOKEN + headers + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def test_answer_arrives_chunk_by_chunk(gateway, core):
    seen = asyncio.Queue()

    async def behave(connection):
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(3):
            assert await seen.get() == number
            await connection.send(chunk(b"line %d\n" % number))
        assert await seen.get() == 3
        await connection.send(b"0\r\n\r\n")

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n")
        assert (await client.head())[0] == 200
        for number in range(3):
            seen.put_nowait(number)
            assert await client.chunk() == b"line %d\n" % number
        seen.put_nowait(3)
        assert await client.chunk() == b""


async def test_upload_arrives_chunk_by_chunk(gateway, core):
    arrived = asyncio.Queue()

    async def behave(connection):
        begin = b""
        while len(begin) < len(BEGIN):
            size = int(await connection.reader.readline(), 16)
            begin += (await connection.reader.readexactly(size + 2))[:-2]
        arrived.put_nowait(begin)
        assert await connection.reader.readline() == b"7\r\n"
        arrived.put_nowait(await connection.reader.readexactly(9))
        assert await connection.reader.readexactly(5) == b"0\r\n\r\n"
        await connection.send(OK)

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(post(b"Transfer-Encoding: chunked\r\n") + chunk(BEGIN))
        assert await arrived.get() == BEGIN
        await client.send(chunk(b"second\n"))
        assert await arrived.get() == b"second\n\r\n"
        await client.send(b"0\r\n\r\n")
        assert (await client.answer()).status == 200
    assert core.requests[0].values(b"content-length") == []


async def test_large_upload_of_known_length_keeps_its_length_and_its_bytes(gateway, core):
    body = bytes(range(256)) * 4096
    assert (await gateway.ask("POST", EVENTS, body=body)).status == 200
    assert core.requests[0].values(b"content-length") == [b"%d" % len(body)]
    assert core.requests[0].body == body


async def test_body_is_not_parsed(gateway, core):
    body = b"\xff\xfe{not json"
    assert (await gateway.ask("POST", EVENTS, TOKEN + b"Content-Type: application/json\r\n", body)).status == 200
    assert core.requests[0].body == body
    assert core.requests[0].values(b"content-type") == [b"application/json"]


async def test_empty_body_adds_no_content_type(gateway, core):
    assert (await gateway.ask("POST", EVENTS, TOKEN + b"Content-Length: 0\r\n")).status == 200
    assert core.requests[0].values(b"content-type") == []
    assert core.requests[0].values(b"content-length") == [b"0"]


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
async def test_neither_a_large_upload_nor_a_large_answer_is_held_in_memory(start_gateway, core):
    gateway = await start_gateway(max_body_bytes=512 * MEBIBYTE, body_timeout_seconds=200)
    piece = b"x" * MEBIBYTE

    async def behave(connection):
        for _ in range(256):
            await connection.reader.readexactly(MEBIBYTE)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (256 * MEBIBYTE))
        for _ in range(256):
            await connection.send(piece)

    core.behaviour = behave
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with gateway.connect(seconds=200) as client:
        await client.send(post(b"Content-Length: %d\r\n" % (256 * MEBIBYTE)))
        for _ in range(256):
            await client.send(piece)
        assert (await client.head())[0] == 200
        for _ in range(256):
            await client.reader.readexactly(MEBIBYTE)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 128 * 1024


async def test_client_that_reads_slowly_holds_the_core_back(gateway, core):
    sent = 0

    async def behave(connection):
        nonlocal sent
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (128 * MEBIBYTE))
        for _ in range(128):
            await connection.send(b"x" * MEBIBYTE)
            sent += 1

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n")
        assert (await client.head())[0] == 200
        await asyncio.sleep(1)
        assert sent < 64
        for _ in range(128):
            await client.reader.readexactly(MEBIBYTE)
        await until(lambda: sent == 128)


async def test_announced_body_over_the_limit_is_refused_before_the_core_is_asked(start_gateway, core):
    gateway = await start_gateway(max_body_bytes=MEBIBYTE)
    async with gateway.connect() as client:
        await client.send(post(b"Content-Length: %d\r\n" % (MEBIBYTE + 1)))
        answer = await client.answer()
    assert (answer.status, answer.problem) == (413, "body_too_large")
    assert core.connections == 0


async def test_chunked_body_over_the_limit_is_refused_while_it_is_counted(start_gateway, core):
    gateway = await start_gateway(max_body_bytes=MEBIBYTE)
    whole = []

    async def behave(connection):
        with contextlib.suppress(asyncio.IncompleteReadError):
            whole.append(await connection.read_body())

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(post(b"Transfer-Encoding: chunked\r\n") + chunk(b"x" * MEBIBYTE))
        await client.send(chunk(b"y"))
        answer = await client.answer()
    assert (answer.status, answer.problem) == (413, "body_too_large")
    await core.stop()
    assert whole == []


async def test_body_of_exactly_the_limit_passes(start_gateway, core):
    gateway = await start_gateway(max_body_bytes=MEBIBYTE)
    async with gateway.connect() as client:
        await client.send(post(b"Transfer-Encoding: chunked\r\n") + chunk(b"x" * MEBIBYTE) + b"0\r\n\r\n")
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("closes", [False, True], ids=["reads on", "closes"])
async def test_early_answer_of_the_core_reaches_a_client_that_still_sends(gateway, core, closes):
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 7\r\nConnection: close\r\n\r\ntoo big"

    async def behave(connection):
        await connection.reader.readexactly(1000)
        await connection.send(refusal)
        if closes:
            connection.writer.close()
        else:
            await connection.reader.read()

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(post(b"Content-Length: %d\r\n" % (8 * MEBIBYTE)) + b"x" * 100_000)
        answer = await client.answer()
    assert (answer.status, answer.body, answer.complete) == (413, b"too big", True)


@pytest.mark.parametrize("headers", [b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("begin", [b"begin", BEGIN], ids=["small", "streamed"])
async def test_body_that_stops_coming_is_a_408(start_gateway, core, headers, begin):
    gateway = await start_gateway(body_idle_timeout_seconds=1)
    async with gateway.connect() as client:
        await client.send(post(headers) + (chunk(begin) if b"chunked" in headers else begin))
        answer = await client.answer()
    assert (answer.status, answer.problem) == (408, "request_timeout")


@pytest.mark.parametrize("headers", [b"Content-Length: 1000000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_upload_whose_client_leaves_never_looks_complete_to_the_core(gateway, core, headers):
    begun, ended = asyncio.Event(), asyncio.Event()
    whole = []

    async def behave(connection):
        begun.set()
        try:
            whole.append(await connection.read_body())
        finally:
            ended.set()

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(post(headers) + (chunk(BEGIN) if b"chunked" in headers else BEGIN))
        await begun.wait()
    async with asyncio.timeout(60):
        await ended.wait()
    assert whole == []


@pytest.mark.parametrize("started", [False, True], ids=["before the answer", "inside the answer"])
async def test_call_to_the_core_is_given_up_when_the_client_leaves(gateway, core, started):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def behave(connection):
        if started:
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
        begun.set()
        assert await connection.reader.read() == b""
        ended.set()

    core.behaviour = behave
    async with gateway.connect() as client:
        await client.send(b"GET " + QUERY + b" HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n")
        await begun.wait()
        if started:
            await client.head()
    async with asyncio.timeout(60):
        await ended.wait()


async def test_connection_serves_on_after_a_slow_answer(gateway, core):
    async def slow(connection):
        await connection.read_body()
        await asyncio.sleep(0.2)
        await connection.send(OK)

    async with gateway.connect() as client:
        for behaviour in (slow, answer_ok, slow):
            core.behaviour = behaviour
            await client.send(post(b"Content-Length: 2\r\n") + b"{}")
            assert (await client.answer()).status == 200


async def test_expectation_is_answered_by_the_gateway(gateway, core):
    async with gateway.connect() as client:
        await client.send(post(b"Content-Length: 2\r\nExpect: 100-continue\r\n"))
        assert (await client.head())[0] == 100
        await client.send(b"{}")
        assert (await client.answer()).status == 200
    assert core.requests[0].values(b"expect") == []
    assert core.requests[0].body == b"{}"


async def test_length_beside_chunked_coding_does_not_reach_the_core(gateway, core):
    async with gateway.connect() as client:
        await client.send(post(b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") + chunk(b"{}") + b"0\r\n\r\n")
        status = (await client.answer()).status
    if status != 400:
        assert core.requests[0].values(b"content-length") == [b"2"]
        assert core.requests[0].body == b"{}"


async def test_other_transfer_coding_is_refused(gateway, core):
    async with gateway.connect() as client:
        await client.send(post(b"Transfer-Encoding: gzip, chunked\r\n") + chunk(b"{}") + b"0\r\n\r\n")
        assert (await client.answer()).status == 400
    assert core.connections == 0


async def test_body_of_a_get_is_forwarded(gateway, core):
    assert (await gateway.ask("GET", QUERY, body=b"{}")).status == 200
    assert core.requests[0].body == b"{}"


async def test_idle_connections_do_not_keep_others_out(gateway):
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(300):
            await stack.enter_async_context(gateway.connect())
        assert (await gateway.ask("GET", QUERY)).status == 200
