"""Serving: the socket, the signals and a shutdown that ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Final

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from allsource_control_plane.app import open_gateway
from allsource_control_plane.asgi import Application
from allsource_control_plane.settings import ControlPlaneSettings

__all__ = ["ListenError", "create_server", "free_address", "serve", "wait_until_accepting"]

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_CONNECTIONS_MAX: Final = 4096
"""Connections that are served at once, and as many again that wait. An idle one counts, so this is generous."""

_READ_BUFFER_BYTES_MAX: Final = 128 * 1024
"""Bounds the head of a request, and how much of a body lies between the socket and the gateway."""

_HEAD_TIMEOUT_MS: Final = 30_000

_ACCEPTING_ATTEMPTS: Final = 1000
_ACCEPTING_PAUSE_SECONDS: Final = 0.01

_logger: Final = structlog.stdlib.get_logger(__name__)


class ListenError(Exception):
    """The configured address can't be listened on; the message says which and why."""


async def serve(settings: ControlPlaneSettings) -> None:
    """Serve until SIGINT or SIGTERM, then let requests under way finish.

    Raises:
        ListenError: if the address is taken or not ours.
    """
    host, port = free_address(settings.gateway.host, settings.gateway.port)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    async with open_gateway(settings) as entry:
        server = create_server(entry, host, port)
        serving = asyncio.create_task(server.serve())
        await wait_until_accepting(host, port)
        _logger.info("listening", host=host, port=port, core=settings.gateway.core_url)
        await _serve_until(stopping, server, serving, settings.gateway.shutdown_timeout_seconds)


def create_server(entry: Application, host: str, port: int) -> Server:
    """The server that calls `entry` for every request, in the running event loop.

    Args:
        host: numeric.
        port: not 0.
    """
    return Server(
        entry,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        # Over HTTP/2 a connection can't be cut off for one answer, and header fields travel by other rules.
        http=HTTPModes.http1,
        websockets=True,
        backlog=_CONNECTIONS_MAX,
        backpressure=_CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(header_read_timeout=_HEAD_TIMEOUT_MS, max_buffer_size=_READ_BUFFER_BYTES_MAX),
        log_enabled=False,
    )


async def _serve_until(
    stopping: asyncio.Event, server: Server, serving: asyncio.Task[None], shutdown_timeout_seconds: int
) -> None:
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait({serving, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if serving.done():
        await serving
        raise RuntimeError("the server ended by itself")
    _logger.info("stopping")
    server.stop()  # type: ignore[no-untyped-call]
    # The server itself waits for open requests without a limit.
    _, unfinished = await asyncio.wait({serving}, timeout=shutdown_timeout_seconds)
    if unfinished:
        _logger.warning("requests_cut_off", shutdown_timeout_seconds=shutdown_timeout_seconds)
        serving.cancel()
    _logger.info("stopped")


async def wait_until_accepting(host: str, port: int) -> None:
    """Return when a connection can be made: the server starts to listen in a thread of its own.

    Raises:
        ListenError: if that takes longer than it ever should.
    """
    for _ in range(_ACCEPTING_ATTEMPTS):
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError:
            await asyncio.sleep(_ACCEPTING_PAUSE_SECONDS)
        else:
            writer.close()
            return
    raise ListenError(f"the server does not accept connections on {host}:{port}")


def free_address(host: str, port: int) -> tuple[str, int]:
    """The numeric address to listen on; port 0 becomes a free one.

    The server shares its port with whoever else asks to share it, so two gateways on one port would both seem to
    work; binding once without sharing finds that out.

    Raises:
        ListenError: if it can't be bound.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            name = probe.getsockname()
            return str(name[0]), int(name[1])
    except OSError as error:
        raise ListenError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
