"""The body of a request on its way through: counted, never parsed, never held whole unless it is small."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from allsource_control_plane.asgi import Receive
from allsource_control_plane.gateway.exchange import Exchange
from allsource_shared.problems import ApiError

__all__ = ["WHOLE_BYTES_MAX", "ClientGoneError", "RequestBody"]

WHOLE_BYTES_MAX: Final = 64 * 1024
"""A body of known length up to this is read before the core is called: one write instead of a stream, and it can be
sent again. As long as one read from a socket."""


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


class RequestBody:
    """What the client sends after the head of its request, and whether it is still there.

    Args:
        exchange: the request.
        bytes_max: longest body that is let through.
        idle_timeout_seconds: longest pause between two pieces of it.

    Attributes:
        declared_bytes: the length that the client announced; None for a chunked body.
        complete: every byte has been taken.
        started: streaming began, so the body cannot be sent a second time.
        failure: why the body could not be taken, once that happened.
        on_gone: called when the client turns out to be gone.

    Raises:
        ApiError: ``body_too_large`` if the client announces more than `bytes_max`; ``bad_header`` for a
            Transfer-Encoding other than chunked, which would be lost on the way.
    """

    def __init__(self, exchange: Exchange, *, bytes_max: int, idle_timeout_seconds: float) -> None:
        self._receive: Receive = exchange.receive
        self._bytes_max = bytes_max
        self._idle_timeout_seconds = idle_timeout_seconds
        self._received = 0
        coding = exchange.field(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise ApiError("bad_header", "the only Transfer-Encoding that is understood is chunked")
        self.declared_bytes = int(exchange.field(b"content-length") or 0) if coding is None else None
        self.complete = self.declared_bytes == 0
        self.started = False
        self.failure: Exception | None = None
        self.on_gone: Callable[[], None] | None = None
        if self.declared_bytes is not None and self.declared_bytes > bytes_max:
            raise self._too_large()

    def _too_large(self) -> ApiError:
        return ApiError("body_too_large", f"the body is longer than {self._bytes_max} bytes (gateway.max_body_bytes)")

    async def read_small(self) -> bytes | None:
        """The whole body where it is known to be small, else None; then take it with `stream`.

        Raises:
            ApiError: ``request_timeout`` or ``body_too_large``.
            ClientGoneError: if the client left before all of it came.
        """
        if self.declared_bytes is None or self.declared_bytes > WHOLE_BYTES_MAX:
            return None
        pieces = []
        while not self.complete:
            pieces.append(await self._next())
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream(self) -> AsyncIterator[bytes]:
        """The pieces of the body as they come. A failure is raised and kept in `failure`."""
        self.started = True
        while not self.complete:
            piece = await self._next()
            if piece:
                yield piece

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle_timeout_seconds):
                message = await self._receive()
        except TimeoutError:
            self.failure = ApiError(
                "request_timeout", f"no byte of the body came for {self._idle_timeout_seconds:g} seconds"
            )
            raise self.failure from None
        if message["type"] == "http.disconnect":
            self.failure = ClientGoneError()
            if self.on_gone is not None:
                self.on_gone()
            raise self.failure
        piece: bytes = message.get("body", b"")
        self._received += len(piece)
        if self._received > self._bytes_max:
            self.failure = self._too_large()
            raise self.failure
        # The server reports the end in a message of its own; a known length makes waiting for it unnecessary.
        self.complete = not message.get("more_body", False) or self._received == self.declared_bytes
        return piece

    async def disconnected(self) -> None:
        """Return when the client is gone. Only once the body is complete: there is one reader of the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.failure = ClientGoneError()
        if self.on_gone is not None:
            self.on_gone()
