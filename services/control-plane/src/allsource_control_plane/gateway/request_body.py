"""The body of a request on its way through: counted, timed, never parsed, never held whole unless it is small."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from time import monotonic
from typing import Final

from allsource_control_plane.asgi import Message, Receive
from allsource_control_plane.gateway.exchange import Exchange
from allsource_shared.problems import ApiError

__all__ = ["WHOLE_BYTES_MAX", "BrokenBodyError", "ClientGoneError", "RequestBody"]

WHOLE_BYTES_MAX: Final = 64 * 1024
"""A body up to this is read before the core is called: one write instead of a stream, it can be sent again, and a
client that sends slowly holds no connection to the core. A longer one is streamed once more than this is here."""


class ClientGoneError(Exception):
    """The client closed its connection before it had its answer."""


class BrokenBodyError(ClientGoneError):
    """The body broke off: the client left in the middle of it, or framed it wrongly. The server does not say which."""


class RequestBody:
    """What the client sends after the head of its request, and whether it is still there.

    Args:
        exchange: the request.
        bytes_max: longest body that is let through.
        idle_timeout_seconds: longest pause between two pieces of it.
        timeout_seconds: how long may be waited for all of them together.

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

    def __init__(
        self, exchange: Exchange, *, bytes_max: int, idle_timeout_seconds: float, timeout_seconds: float
    ) -> None:
        self._receive: Receive = exchange.receive
        self._bytes_max = bytes_max
        self._idle_timeout_seconds = idle_timeout_seconds
        self._timeout_seconds = timeout_seconds
        self._waited_seconds = 0.0
        self._received = 0
        self._ahead: list[bytes] = []
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
        return ApiError("body_too_large", f"the body is longer than {self._bytes_max} bytes, the limit of this route")

    async def read_small(self) -> bytes | None:
        """The whole body where it is small, else None; then take it with `stream`.

        Raises:
            ApiError: ``request_timeout`` or ``body_too_large``.
            BrokenBodyError: if it broke off.
        """
        while not self.complete and self._received <= WHOLE_BYTES_MAX:
            self._ahead.append(await self._next())
        return self._take_ahead() if self._received <= WHOLE_BYTES_MAX else None

    def _take_ahead(self) -> bytes:
        pieces, self._ahead = self._ahead, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream(self) -> AsyncIterator[bytes]:
        """The pieces of the body as they come. A failure is raised and kept in `failure`."""
        self.started = True
        yield self._take_ahead()
        while not self.complete:
            piece = await self._next()
            if piece:
                yield piece

    async def _next(self) -> bytes:
        message = await self._receive_in_time()
        if message["type"] == "http.disconnect":
            self.failure = BrokenBodyError()
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

    async def _receive_in_time(self) -> Message:
        left_seconds = self._timeout_seconds - self._waited_seconds
        begun = monotonic()
        try:
            async with asyncio.timeout(min(self._idle_timeout_seconds, left_seconds)):
                message = await self._receive()
        except TimeoutError:
            if left_seconds > self._idle_timeout_seconds:
                detail = f"no byte of the body came for {self._idle_timeout_seconds:g} seconds"
            else:
                detail = f"the body took longer than {self._timeout_seconds:g} seconds"
            self.failure = ApiError("request_timeout", detail)
            raise self.failure from None
        self._waited_seconds += monotonic() - begun
        return message

    async def disconnected(self) -> None:
        """Return when the client is gone. Only once the body is complete: there is one reader of the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.failure = ClientGoneError()
        if self.on_gone is not None:
            self.on_gone()
