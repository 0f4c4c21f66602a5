"""One request on its way through the core, and what handlers answer with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp.web import BaseRequest, StreamResponse

from allsource_core.api.answers import JsonResponse
from allsource_core.api.memory_budget import Hold, MemoryBudget
from allsource_core.identity.principals import Principal
from allsource_shared.context import RequestIds
from allsource_shared.routes import JSON, Match

__all__ = ["Call", "Handler", "encoded_response", "json_response"]


class Call(msgspec.Struct):
    """A request that found its route and was allowed in.

    Attributes:
        request: aiohttp's, for body and headers.
        started: when it came, `time.monotonic`.
        match: the route and the variable segments of the path.
        raw_query: the query string as it came.
        ids: of the request.
        caller: who calls; None on public routes.
        ignored: names of unknown fields and parameters that the route ignores, for the ``Warning`` header.
        recheck: refuses the call if its caller may no longer make it; to be called after any wait.
        memory: what bodies and answers may take of it.
        revision: of the changes when the caller was last looked at.
        rate_lines: headers about the rate limit, each with its line end; none where nobody is known.
        hold: what this call has of `memory`; None where it is too little to be counted. Whoever made the call releases
            it.
    """

    request: BaseRequest
    started: float
    match: Match
    raw_query: str
    ids: RequestIds
    caller: Principal | None
    ignored: list[str]
    recheck: Callable[[Call], None]
    memory: MemoryBudget
    revision: int
    rate_lines: str = ""
    hold: Hold | None = None

    @property
    def principal(self) -> Principal:
        """Who calls, on a route that asks for a permission."""
        if self.caller is None:
            raise RuntimeError(f"{self.match.route.operation} has no principal: its route is public")
        return self.caller

    def keep(self, nbytes: int, *, refusable: bool = True) -> None:
        """Count what the call keeps in memory: its body, or its answer as far as that is made.

        Args:
            nbytes: of all of it. To be called only for more than `UNCOUNTED_BYTES_MAX`.
            refusable: nothing was done yet that a refusal would deny.

        Raises:
            ApiError: ``overloaded`` if that is too much.
        """
        if self.hold is None:
            self.hold = Hold(self.memory, "" if self.caller is None else self.caller.home_tenant_id)
        self.hold.resize(nbytes, refusable=refusable)

    def check_reader(self) -> None:
        """After the end of an answer that is not written at once: who waits for a connection that is given up is merely
        woken.

        Raises:
            ConnectionResetError: the reader is gone, or has stopped reading.
        """
        if self.request.transport is None:
            raise ConnectionResetError("the reader is gone, or has stopped reading")


Handler = Callable[[Call], Awaitable[StreamResponse]]

_encoder = msgspec.json.Encoder()


def json_response(body: Any, status: int = 200) -> JsonResponse:
    """Encode a struct as the answer."""
    return encoded_response(_encoder.encode(body), status)


def encoded_response(body: bytes, status: int = 200) -> JsonResponse:
    """JSON as the answer."""
    return JsonResponse(body=body, status=status, content_type=JSON)
