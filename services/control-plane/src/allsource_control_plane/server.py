"""Serving: the socket, the signals and a shutdown that ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Final

import structlog
from granian._granian import ListenerSpec
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server

from allsource_control_plane.app import open_gateway
from allsource_control_plane.asgi import Application
from allsource_control_plane.settings import ControlPlaneSettings, GatewaySettings

__all__ = ["ListenError", "create_server", "free_address", "serve", "wait_until_accepting"]

_STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_CONNECTIONS_MAX: Final = 4096
"""Connections that are served at once, and as many again that wait. An idle one counts, so this is generous."""

_READ_BUFFER_BYTES_MAX: Final = 128 * 1024
"""Bounds the head of a request, and how much of a body lies between the socket and the gateway."""

_UNSENT_BYTES_MAX: Final = 128 * 1024
"""What the kernel takes for a client beyond what is under way to it; by itself it takes 4 MiB."""

_CUT_OFF_DELAY_SECONDS: Final = 1
"""How much later than the gateway the kernel gives a client up; so the gateway can say why."""

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
        server = create_server(entry, host, port, settings.gateway)
        serving = asyncio.create_task(server.serve())
        await wait_until_accepting(host, port)
        _logger.info("listening", host=host, port=port, core=settings.gateway.core_url)
        await _serve_until(stopping, server, serving, settings.gateway.shutdown_timeout_seconds)


class _Server(Server):
    """Granian, with limits on what a client that does not read can hold; it has no settings for them.

    A connection inherits the options of the socket that it came to. This is also the only way to cut it off: the
    server does not look at an answer that was broken off before the client has taken what came before.
    """

    write_timeout_seconds: int

    def _init_shared_socket(self) -> None:
        # On Linux the server leaves this to a thread of its own, where the socket is out of reach.
        holder = ListenerSpec(self.bind_addr, self.bind_port, self.backlog).build()
        self._shd = holder  # type: ignore[assignment]  # inferred from a None
        options = {
            "TCP_NOTSENT_LOWAT": _UNSENT_BYTES_MAX,
            "TCP_USER_TIMEOUT": (self.write_timeout_seconds + _CUT_OFF_DELAY_SECONDS) * 1000,
        }
        with socket.socket(fileno=os.dup(holder.get_fd())) as listener:
            for name, value in options.items():
                if hasattr(socket, name):
                    listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def create_server(entry: Application, host: str, port: int, settings: GatewaySettings) -> Server:
    """The server that calls `entry` for every request, in the running event loop.

    Args:
        host: numeric.
        port: not 0.
        settings: how long a client may be idle, or take nothing of an answer, before its connection is cut off.
    """
    server = _Server(
        entry,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        # Over HTTP/2 a connection can't be cut off for one answer, and header fields travel by other rules.
        http=HTTPModes.http1,
        websockets=True,
        backlog=_CONNECTIONS_MAX,
        backpressure=_CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(
            # From the end of one request to the end of the next one's head: it closes idle connections as well.
            header_read_timeout=settings.idle_timeout_seconds * 1000,
            max_buffer_size=_READ_BUFFER_BYTES_MAX,
        ),
        log_enabled=False,
    )
    server.write_timeout_seconds = settings.write_timeout_seconds
    return server


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
