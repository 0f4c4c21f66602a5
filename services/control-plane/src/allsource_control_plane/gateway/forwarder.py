"""Takes a request to the core and its answer back, both as streams of bytes that nobody here reads."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import aiohttp
from aiohttp import ClientResponse, StreamReader

from allsource_control_plane.gateway.client_watch import ClientWatch
from allsource_control_plane.gateway.connection_resets import ConnectionResets
from allsource_control_plane.gateway.core_client import CoreCallError, CoreClient, FailureReason, core_unavailable
from allsource_control_plane.gateway.exchange import Exchange
from allsource_control_plane.gateway.headers import answer_headers, request_headers
from allsource_control_plane.gateway.request_body import WHOLE_BYTES_MAX, ClientGoneError, RequestBody
from allsource_control_plane.gateway.trusted_proxies import TrustedProxies
from allsource_control_plane.metrics import GatewayMetrics
from allsource_control_plane.settings import GatewaySettings
from allsource_shared.problems import ApiError

__all__ = ["BrokenAnswerError", "Forwarder", "StalledClientError"]

_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})

_WRITE_BYTES_MAX: Final = 64 * 1024
"""The server takes half a dozen writes before it waits for a client that does not read."""


class BrokenAnswerError(Exception):
    """The core broke off in the middle of an answer. The client's connection must not look as if it had ended."""


class StalledClientError(ClientGoneError):
    """The client does not read its answer. Its connection is to be cut off."""


class Forwarder:
    """Forwards requests that have been judged.

    Args:
        client: calls the core.
        settings: bounds of a request's body, and of how long either side may be silent; the key that the core knows the
            gateway by; whose word on the addresses of callers is taken.
        resets: tells of answers that the core broke off.
        metrics: counts what fails.
    """

    def __init__(
        self, client: CoreClient, settings: GatewaySettings, resets: ConnectionResets, metrics: GatewayMetrics
    ) -> None:
        self._client = client
        self._resets = resets
        self._settings = settings
        self._metrics = metrics
        self._proxies = TrustedProxies(settings.trusted_proxies)

    async def forward(self, exchange: Exchange, *, anonymous_place: AbstractContextManager[None] | None = None) -> None:
        """Forward one request and answer it.

        Args:
            anonymous_place: of a request that bears no credential, taken while the core is called. The body is read
                whole before that, so that who sends slowly holds neither the place nor a connection to the core.

        Raises:
            ApiError: before the answer began: ``core_unavailable``, ``body_too_large``, ``request_timeout``,
                ``bad_header`` or ``bad_query``; as the place, if there is none.
            BrokenAnswerError: after it began.
            ClientGoneError: when the client has left or stopped reading; the call to the core was given up.
        """
        if not exchange.query.isascii():
            raise ApiError("bad_query", "the query string has a byte that must be percent-encoded")
        caller = self._proxies.caller(exchange.peer, exchange.headers)
        headers = request_headers(exchange.headers, exchange.ids, caller, gateway_key=self._settings.key)
        bytes_max = self._settings.max_body_bytes
        body = RequestBody(
            exchange,
            bytes_max=min(bytes_max, WHOLE_BYTES_MAX) if anonymous_place else bytes_max,
            idle_timeout_seconds=self._settings.body_idle_timeout_seconds,
            timeout_seconds=self._settings.body_timeout_seconds,
        )
        small = await body.read_small()
        if small is None and body.declared_bytes is not None:
            headers.append(("Content-Length", str(body.declared_bytes)))
        with anonymous_place or nullcontext():
            async with ClientWatch(body):
                response = await self._call(exchange, headers, body, small)
                try:
                    await self._relay(exchange, response)
                finally:
                    # Ends the connection unless the answer was read to its end; then it is back in the pool already.
                    response.close()

    async def _call(
        self, exchange: Exchange, headers: list[tuple[str, str]], body: RequestBody, small: bytes | None
    ) -> ClientResponse:
        """Call the core; a second time where that can do no harm."""
        repeatable = True
        while True:
            try:
                return await self._client.call(
                    exchange.method,
                    exchange.raw_path,
                    exchange.query,
                    headers,
                    body.stream() if small is None else small or None,
                )
            except CoreCallError as failure:
                # The stream of the body failed, and the call with it: that is no failure of the core.
                if body.failure is not None:
                    raise body.failure from failure
                self._metrics.count_core_error(failure.reason)
                if not repeatable or body.started or not _may_repeat(exchange.method, failure):
                    raise _unavailable(exchange.method, failure) from failure
                repeatable = False

    async def _relay(self, exchange: Exchange, response: ClientResponse) -> None:
        await exchange.start(response.status, answer_headers(response.raw_headers))
        content = response.content
        try:
            if content.is_eof():
                await exchange.write(content.read_nowait(), more=False)
                return
            # The server holds the head back until something follows it.
            await exchange.write(b"", more=True)
            async with self._resets.break_off(response):
                while chunk := await self._next_chunk(content):
                    await self._pass_on(exchange, chunk)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._metrics.count_core_error(FailureReason.BROKEN_ANSWER)
            raise BrokenAnswerError from error
        await exchange.write(b"", more=False)

    async def _next_chunk(self, content: StreamReader) -> bytes:
        # aiohttp's own limit ends with the connection; after a malformed chunk its reader would wait for ever.
        async with asyncio.timeout(self._settings.response_timeout_seconds):
            return await content.read(_WRITE_BYTES_MAX)

    async def _pass_on(self, exchange: Exchange, chunk: bytes) -> None:
        try:
            async with asyncio.timeout(self._settings.write_timeout_seconds):
                await exchange.write(chunk, more=True)
        except TimeoutError:
            raise StalledClientError from None


def _may_repeat(method: str, failure: CoreCallError) -> bool:
    if failure.reason is FailureReason.REFUSED:
        return True
    return failure.reason is FailureReason.DISCONNECTED and method in _SAFE_METHODS


def _unavailable(method: str, failure: CoreCallError) -> ApiError:
    if failure.never_sent:
        consequence = "the request was not sent to it"
    elif method in _SAFE_METHODS:
        consequence = "ask again"
    else:
        consequence = "a write may or may not have happened, and repeating it is safe only with event ids"
    return core_unavailable(failure.reason, consequence)
