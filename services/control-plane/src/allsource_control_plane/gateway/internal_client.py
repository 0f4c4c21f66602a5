"""What only a gateway may ask the core: whose a credential is, and what has changed.

Over connections of their own: who may do what must be known above all when those of the clients' requests are in use.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec

from allsource_control_plane.gateway.core_client import CoreCallError, CoreClient, FailureReason
from allsource_control_plane.settings import GatewaySettings
from allsource_shared.context import REQUEST_ID_HEADER, TRACEPARENT_HEADER, RequestIds
from allsource_shared.core_routes.problem_sets import INTERNAL_PREFIX
from allsource_shared.problems import PROBLEMS, ApiError, Problem
from allsource_shared.routes import JSON
from allsource_shared.wire.internal import GATEWAY_KEY_HEADER, ChangePage, Introspect, Introspection

__all__ = ["InternalClient", "KeyRefusedError"]

_INTROSPECTIONS_MAX: Final = 32
"""Connections for introspection; each takes the core a fraction of a millisecond."""

_CHANGES_WAIT_MS: Final = 300
_CHANGES_SECONDS: Final = 1.0
"""What an answer tells is known for a second from when the question was sent. A core that has nothing to tell says so
after a third of it, which leaves the rest for a core that is busy."""

_INTROSPECT: Final = f"{INTERNAL_PREFIX}/introspect".encode()
_CHANGES: Final = f"{INTERNAL_PREFIX}/changes".encode()

T = TypeVar("T")

_introspection: Final = msgspec.json.Decoder(Introspection)
_change_page: Final = msgspec.json.Decoder(ChangePage)
_problem: Final = msgspec.json.Decoder(Problem)


class KeyRefusedError(CoreCallError):
    """The core does not accept ``gateway.key``: the two services are configured with different ones."""

    def __init__(self) -> None:
        super().__init__(FailureReason.KEY_REFUSED)


class InternalClient:
    """Asks the core as a gateway. To be entered before use and left after it.

    Args:
        settings: where the core is, the key, and how long to wait for it.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._key = settings.key
        self._introspect_seconds = settings.introspect_timeout_ms / 1000
        self._introspecting = CoreClient(msgspec.structs.replace(settings, max_connections=_INTROSPECTIONS_MAX))
        self._following = CoreClient(msgspec.structs.replace(settings, max_connections=1))

    async def __aenter__(self) -> Self:
        await self._introspecting.__aenter__()
        await self._following.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._introspecting.__aexit__(kind, error, traceback)
        await self._following.__aexit__(kind, error, traceback)

    async def introspect(self, credential: str, tenant: str | None, ids: RequestIds) -> Introspection:
        """Whose a credential is. Takes at most `gateway.introspect_timeout_ms`.

        Args:
            credential: an access token or an API key.
            tenant: the value of ``X-Tenant-ID``, or None.
            ids: of the request that bears it.

        Raises:
            ApiError: the core says that it can't answer at present.
            CoreCallError: it gave no valid answer.
        """
        body = msgspec.json.encode(Introspect(credential, tenant))
        headers = [
            ("Content-Type", JSON),
            (REQUEST_ID_HEADER, ids.request_id),
            (TRACEPARENT_HEADER, ids.traceparent),
        ]
        try:
            async with asyncio.timeout(self._introspect_seconds):
                try:
                    answer = await self._ask(self._introspecting, "POST", _INTROSPECT, b"", headers, body)
                except CoreCallError as failure:
                    # An idle connection that the core had closed; asking twice does no harm.
                    if failure.reason is not FailureReason.DISCONNECTED:
                        raise
                    answer = await self._ask(self._introspecting, "POST", _INTROSPECT, b"", headers, body)
        except TimeoutError as error:
            raise CoreCallError(FailureReason.RESPONSE_TIMEOUT) from error
        return _read(_introspection, *answer)

    async def changes(self, instance: str, after: int) -> ChangePage:
        """What has changed behind a revision of an instance of the core, as soon as there is anything; nothing after a
        third of a second.

        Raises:
            ApiError, CoreCallError: as `introspect`.
        """
        query = urlencode({"instance": instance, "after": after, "wait_ms": _CHANGES_WAIT_MS}).encode()
        try:
            async with asyncio.timeout(_CHANGES_SECONDS):
                answer = await self._ask(self._following, "GET", _CHANGES, query, [], None)
        except TimeoutError as error:
            raise CoreCallError(FailureReason.RESPONSE_TIMEOUT) from error
        return _read(_change_page, *answer)

    async def _ask(
        self,
        client: CoreClient,
        method: str,
        path: bytes,
        query: bytes,
        headers: list[tuple[str, str]],
        body: bytes | None,
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        response = await client.call(method, path, query, [*headers, (GATEWAY_KEY_HEADER, self._key)], body)
        try:
            return response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise CoreCallError(FailureReason.BROKEN_ANSWER) from error
        finally:
            response.close()


def _read(decoder: msgspec.json.Decoder[T], status: int, body: bytes) -> T:
    if status in (401, 403):
        raise KeyRefusedError
    try:
        if status == 200:
            return decoder.decode(body)
        problem = _problem.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CoreCallError(FailureReason.BAD_ANSWER) from error
    if status == 503 and problem.error in PROBLEMS and PROBLEMS[problem.error].status == status:
        raise ApiError(problem.error, problem.detail, headers={"Retry-After": "1"})
    raise CoreCallError(FailureReason.BAD_ANSWER)
