"""The real process: configuration, the port, signals and a shutdown that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys

import pytest
import pytest_asyncio

from tools.ports import free_ports

from .wire import GATEWAY_KEY, OK, TOKEN, Gateway

pytestmark = pytest.mark.asyncio

# Of a public route: whose a credential is has to be found out in less than a second.
REQUEST = b"POST /api/v1/auth/login HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\n{}"


class Process:
    """One gateway process and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.gateway = Gateway(port)

    async def wait_for_line(self, text: bytes) -> bytes:
        async with asyncio.timeout(60):
            while line := await self._process.stderr.readline():
                if text in line:
                    return line
        raise AssertionError(f"the process ended without writing {text!r}")

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def end(self) -> tuple[int, bytes]:
        async with asyncio.timeout(60):
            rest = await self._process.stderr.read()
            return await self._process.wait(), rest

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


@pytest_asyncio.fixture
async def start_process(core):
    """Starts gateway processes in front of `core`."""
    started = []

    async def start(*flags, port=None, **environment):
        if port is None:
            [port] = free_ports(1)
        core_url = f"http://127.0.0.1:{core.port}"
        arguments = [f"gateway.port={port}", f"gateway.core_url={core_url}", "gateway.connect_timeout_ms=60000", *flags]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "allsource_control_plane",
            *(part for flag in arguments for part in ("--set", flag)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("ALLSOURCE_")},
                "ALLSOURCE_GATEWAY__KEY": GATEWAY_KEY,
                **environment,
            },
        )
        started.append(Process(process, port))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        await process.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_an_idle_process_with_0(start_process, number):
    process = await start_process()
    await process.wait_for_line(b"listening")
    async with process.gateway.connect() as client:
        await client.send(b"GET /health/live HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await client.answer()).status == 200
        process.signal(number)
        code, _ = await process.end()
    assert code == 0


async def refuses_connections(port):
    """Wait until it does: a server that ends still takes some that came before."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionRefusedError):
            while True:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await asyncio.sleep(0.05)


async def test_request_under_way_at_shutdown_is_finished(start_process, core):
    begun, release = asyncio.Event(), asyncio.Event()

    async def behave(connection):
        await connection.read_body()
        begun.set()
        await release.wait()
        await connection.send(OK)

    core.behaviour = behave
    process = await start_process("gateway.shutdown_timeout_seconds=200")
    await process.wait_for_line(b"listening")
    async with process.gateway.connect() as client:
        await client.send(REQUEST)
        await begun.wait()
        process.signal(signal.SIGTERM)
        await process.wait_for_line(b"stopping")
        await refuses_connections(process.gateway.port)
        release.set()
        answer = await client.answer()
    assert (answer.status, answer.complete) == (200, True)
    assert (await process.end())[0] == 0


async def test_shutdown_ends_even_if_a_request_does_not(start_process, core):
    begun = asyncio.Event()

    async def behave(connection):
        await connection.read_body()
        begun.set()
        await connection.reader.read()

    core.behaviour = behave
    process = await start_process("gateway.shutdown_timeout_seconds=1")
    await process.wait_for_line(b"listening")
    async with process.gateway.connect() as client:
        await client.send(REQUEST)
        await begun.wait()
        process.signal(signal.SIGTERM)
        code, log = await process.end()
    assert code == 0
    assert b"requests_cut_off" in log


async def test_port_in_use_is_said_clearly_and_exits_with_1(start_process):
    first = await start_process()
    await first.wait_for_line(b"listening")
    second = await start_process(port=first.gateway.port)
    code, log = await second.end()
    assert code == 1
    assert b"listen_failed" in log
    assert b"Traceback" not in log


async def test_configuration_mistakes_are_all_listed_and_exit_with_2(start_process):
    process = await start_process("gateway.prot=1", "gateway.core_url=http://core/path", ALLSOURCE_GATEWAY__HOST="")
    code, log = await process.end()
    assert code == 2
    lines = log.decode().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("allsource-control-plane: ") for line in lines)


@pytest.mark.parametrize(
    ("key", "message"),
    [("", "is not set"), ("hunter2" * 4, "is shorter than 32 bytes"), ("hunter2" * 8, "looks like a placeholder")],
)
async def test_without_a_key_that_nobody_guesses_it_does_not_start(start_process, key, message):
    process = await start_process(ALLSOURCE_GATEWAY__KEY=key)
    code, log = await process.end()
    assert code == 2
    (line,) = log.decode().splitlines()
    assert line.startswith("allsource-control-plane: ALLSOURCE_GATEWAY__KEY ")
    assert message in line
    assert "hunter2" not in line


async def test_one_tenant_can_not_be_allowed_every_connection(start_process):
    process = await start_process("gateway.max_connections=256")
    code, log = await process.end()
    assert code == 2
    assert b"ALLSOURCE_GATEWAY__MAX_REQUESTS_PER_TENANT is 256, and must be less than" in log
    process = await start_process("gateway.max_connections=256", "gateway.max_requests_per_tenant=255")
    await process.wait_for_line(b"listening")


async def test_every_request_is_logged_where_that_is_asked_for(start_process):
    process = await start_process("logging.requests=all", "logging.format=json")
    await process.wait_for_line(b"listening")
    assert (await process.gateway.ask("GET", b"/nowhere?secret=1", TOKEN + b"X-Request-ID: abc\r\n")).status == 404
    line = await process.wait_for_line(b'"event":"request"')
    assert b'"request_id":"abc"' in line
    assert b'"operation":"unmatched"' in line
    assert b"secret" not in line
