"""Answers that the core breaks off, as where their caller may no longer have them, end for the client too."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import termios
import time

import pytest

from allsource_control_plane.gateway import connection_resets

from .figures import figures
from .wire import TOKEN, Client, answer_ok, until

pytestmark = pytest.mark.asyncio

ASK = b"GET /api/v1/events/query HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n"
MEBIBYTE = 1024 * 1024
RESET = struct.pack("ii", 1, 0)


class Answering:
    """A core that sends an answer until it is told to end it.

    Args:
        size: of the answer.
    """

    def __init__(self, core, size):
        self._end = asyncio.Event()
        self._ended = asyncio.Event()
        self._by_reset = False
        self._size = size
        self._transport = None
        core.behaviour = self._behave

    async def _behave(self, connection):
        if connection.received.target == b"/health":
            await answer_ok(connection)
            return
        self._transport = connection.writer.transport
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._size)
        # What the gateway does not take stays here.
        connection.writer.write(b"x" * self._size)
        await self._end.wait()
        if self._by_reset:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
        else:
            connection.writer.close()
        self._ended.set()

    def taken(self):
        """Whether the gateway's side has all of it, so that a reset loses nothing on the way."""
        if self._transport is None or self._transport.get_write_buffer_size():
            return False
        connection = self._transport.get_extra_info("socket")
        return struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4)) == (0,)

    async def end(self, *, by_reset):
        self._by_reset = by_reset
        self._end.set()
        await self._ended.wait()


@contextlib.asynccontextmanager
async def stalled_client(gateway):
    """Somebody who has read the head of an answer, and takes little more."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", gateway.port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=8 * 1024)
    client = Client(reader, writer)
    try:
        await client.send(ASK)
        assert (await client.head())[0] == 200
        await asyncio.sleep(0.5)
        async with asyncio.timeout(100):
            yield client
    finally:
        writer.close()


async def read_to_the_end(client):
    size = 0
    with contextlib.suppress(ConnectionError):
        while data := await client.reader.read(64 * 1024):
            size += len(data)
    return size


async def under_way(gateway):
    return (await figures(gateway))["control_plane_http_requests_in_progress"] - 1


async def test_answer_that_is_reset_ends_within_a_second_for_a_client_that_does_not_read(start_gateway, core):
    assert connection_resets._GRACE_SECONDS < 1
    # The client itself is not what ends it.
    gateway = await start_gateway(write_timeout_seconds=300)
    answering = Answering(core, 32 * MEBIBYTE)
    async with stalled_client(gateway) as client:
        assert await under_way(gateway) == 1
        begun = time.monotonic()
        await answering.end(by_reset=True)
        while await under_way(gateway):
            assert time.monotonic() - begun < 60
            await asyncio.sleep(0.01)
        # The client gets what the server had taken for it, not what was on its way between the services.
        assert await read_to_the_end(client) < MEBIBYTE


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
async def test_client_that_keeps_up_gets_what_was_sent_before(gateway, core, monkeypatch, by_reset):
    monkeypatch.setattr(connection_resets, "_GRACE_SECONDS", 60)
    answering = Answering(core, 2 * MEBIBYTE)
    async with gateway.connect() as client:
        await client.send(ASK)
        assert (await client.head())[0] == 200
        reading = asyncio.create_task(client.reader.readexactly(2 * MEBIBYTE))
        await until(answering.taken)
        await answering.end(by_reset=by_reset)
        await reading


async def test_answer_is_whole_for_a_client_that_does_not_read_if_the_core_ended_it_as_usual(gateway, core):
    answering = Answering(core, 2 * MEBIBYTE)
    async with stalled_client(gateway) as client:
        await answering.end(by_reset=False)
        await asyncio.sleep(1)
        await client.reader.readexactly(2 * MEBIBYTE)


async def test_answers_leave_no_descriptors_behind(gateway, core):
    async def once(by_reset):
        answering = Answering(core, 8 * MEBIBYTE)
        async with stalled_client(gateway):
            await answering.end(by_reset=by_reset)
        while await under_way(gateway):
            await asyncio.sleep(0.01)

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    await once(True)
    # Some connections are closed a little later.
    before = descriptors()
    for _ in range(10):
        await asyncio.sleep(0.05)
        before = min(before, descriptors())
    for by_reset in (True, False, True, False):
        await once(by_reset)
    async with asyncio.timeout(60):
        while descriptors() > before + 1:
            await asyncio.sleep(0.05)
