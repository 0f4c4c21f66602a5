"""One call to the core: the bytes as they are, and an exact account of what went wrong."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import ClientRequest, ClientResponse, ClientTimeout
from aiohttp.client_middlewares import ClientHandlerType
from yarl import URL

from allsource_control_plane.settings import GatewaySettings
from allsource_shared.problems import ApiError

__all__ = ["CoreCallError", "CoreClient", "FailureReason", "core_unavailable"]

_KEEPALIVE_SECONDS: Final = 15.0
"""Shorter than the core keeps an idle connection, so that none is reused at the moment when the core closes it."""

_PROBE_TIMEOUT_SECONDS: Final = 0.45

_ANSWER_BUFFER_BYTES: Final = 64 * 1024
"""The core is held back when twice as much of an answer waits for its client."""

_ADDED_BY_AIOHTTP: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class FailureReason(StrEnum):
    """Why there is no answer. The values are labels of a metric."""

    REFUSED = "refused"
    """Nobody listens. The request was not sent."""
    UNREACHABLE = "unreachable"
    """The name or address leads nowhere. The request was not sent."""
    CONNECT_TIMEOUT = "connect_timeout"
    """No connection came about in time. The request was not sent."""
    BUSY = "busy"
    """All connections were in use. The request was not sent."""
    DISCONNECTED = "disconnected"
    """The connection broke before a byte of the answer came. The request may have been carried out."""
    RESPONSE_TIMEOUT = "response_timeout"
    """No byte of the answer came in time. The request may have been carried out."""
    BAD_ANSWER = "bad_answer"
    """What came is no HTTP answer. The request may have been carried out."""
    BROKEN_ANSWER = "broken_answer"
    """The answer began and did not end."""
    KEY_REFUSED = "key_refused"
    """The core does not accept the key of this gateway."""


_NEVER_SENT: Final = frozenset(
    {FailureReason.REFUSED, FailureReason.UNREACHABLE, FailureReason.CONNECT_TIMEOUT, FailureReason.BUSY}
)


class CoreCallError(Exception):
    """The core gave no answer, for `reason`."""

    def __init__(self, reason: FailureReason) -> None:
        super().__init__(reason)
        self.reason = reason

    @property
    def never_sent(self) -> bool:
        """Whether it is certain that no byte of the request reached the core."""
        return self.reason in _NEVER_SENT


_CAUSES: Final = {
    FailureReason.REFUSED: "the core can't be reached",
    FailureReason.UNREACHABLE: "the core can't be reached",
    FailureReason.CONNECT_TIMEOUT: "the core did not accept a connection in time",
    FailureReason.BUSY: "all connections to the core are in use",
    FailureReason.DISCONNECTED: "the connection to the core broke before it answered",
    FailureReason.RESPONSE_TIMEOUT: "the core did not answer in time",
    FailureReason.BAD_ANSWER: "the core gave no valid answer",
    FailureReason.BROKEN_ANSWER: "the core broke its answer off",
    FailureReason.KEY_REFUSED: "the core does not accept the key of this gateway",
}
_RETRY_AFTER_SECONDS: Final = "1"


def core_unavailable(reason: FailureReason, consequence: str) -> ApiError:
    """What a caller is told of a failure.

    Args:
        consequence: for the request, in words.
    """
    detail = f"{_CAUSES[reason]}; {consequence}"
    return ApiError("core_unavailable", detail, headers={"Retry-After": _RETRY_AFTER_SECONDS})


class _ConnectionBrokenError(Exception):
    """Hides a broken connection from aiohttp, which would repeat a PUT or DELETE by itself."""


async def _without_repetition(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _ConnectionBrokenError from error


class CoreClient:
    """Calls the core over a pool of connections. To be entered before use and left after it.

    It adds no header but ``Host`` and the framing of the body, follows no redirect, keeps no cookie, unpacks nothing
    and repeats nothing.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._calls = 0

    async def __aenter__(self) -> Self:
        settings = self._settings
        connect_timeout_seconds = settings.connect_timeout_ms / 1000
        self._connector = aiohttp.TCPConnector(limit=settings.max_connections, keepalive_timeout=_KEEPALIVE_SECONDS)
        # A connection of its own: how the core is must be known above all when the others are in use.
        self._prober = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, keepalive_timeout=_KEEPALIVE_SECONDS),
            timeout=ClientTimeout(total=_PROBE_TIMEOUT_SECONDS),
        )
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_without_repetition,),
            skip_auto_headers=_ADDED_BY_AIOHTTP,
            read_bufsize=_ANSWER_BUFFER_BYTES,
            timeout=ClientTimeout(
                total=None, connect=connect_timeout_seconds, sock_read=settings.response_timeout_seconds
            ),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._prober.close()

    async def call(
        self,
        method: str,
        raw_path: bytes,
        query: bytes,
        headers: list[tuple[str, str]],
        body: bytes | AsyncIterator[bytes] | None,
    ) -> ClientResponse:
        """Send one request, once.

        Args:
            raw_path, query: ASCII; sent exactly as they are.
            headers: sent as they are; a ``Content-Length`` says how long a streamed body is, else it is chunked.
            body: None for none.

        Returns:
            The answer, its head read, its body still to be read; the caller releases or closes it.

        Raises:
            CoreCallError: if no head of an answer came.
        """
        self._calls += 1
        try:
            return await self._session.request(
                method, self._url(raw_path, query), headers=headers, data=body, allow_redirects=False
            )
        except aiohttp.ClientConnectorError as error:
            self._connector.clear_dns_cache()
            refused = error.os_error.errno == errno.ECONNREFUSED
            raise CoreCallError(FailureReason.REFUSED if refused else FailureReason.UNREACHABLE) from error
        except aiohttp.ConnectionTimeoutError as error:
            self._connector.clear_dns_cache()
            busy = self._calls > self._settings.max_connections
            raise CoreCallError(FailureReason.BUSY if busy else FailureReason.CONNECT_TIMEOUT) from error
        except TimeoutError as error:
            raise CoreCallError(FailureReason.RESPONSE_TIMEOUT) from error
        except _ConnectionBrokenError as error:
            raise CoreCallError(FailureReason.DISCONNECTED) from error
        except aiohttp.ClientError as error:
            raise CoreCallError(FailureReason.BAD_ANSWER) from error
        finally:
            self._calls -= 1

    async def probe(self) -> bytes:
        """The body of the core's ``/health``, whatever its status.

        Raises:
            CoreCallError: if there is none within half a second.
        """
        try:
            async with self._prober.get(self._url(b"/health", b"")) as response:
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CoreCallError(FailureReason.UNREACHABLE) from error

    def _url(self, raw_path: bytes, query: bytes) -> URL:
        target = raw_path + b"?" + query if query else raw_path
        return URL(self._settings.core_url + target.decode("ascii"), encoded=True)
