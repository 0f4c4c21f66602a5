"""The HTTP server below the dispatcher: aiohttp's low-level one, which leaves paths as they came."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

from aiohttp import StreamReader
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse

from allsource_core.api.answers import break_off
from allsource_core.api.dispatcher import Dispatcher
from allsource_core.api.problem_details import problem_response
from allsource_core.engine import without_frames
from allsource_shared.context import REQUEST_ID_HEADER, begin_request
from allsource_shared.problems import ApiError

__all__ = ["HttpServer"]

_LINE_BYTES_MAX = 32 * 1024
"""Of a request line: 32 tags of 256 bytes each, percent-encoded, fit into a query string."""

_WRITE_SECONDS_MAX: Final = 60.0
"""How long a connection waits for a reader that does not read."""

# The dispatcher logs requests, with their ids; aiohttp's own line for each is switched off by its level.
_no_access_log = logging.getLogger("allsource_core.access")
_no_access_log.setLevel(logging.CRITICAL)


class HttpServer(Server):
    """Hands requests to the dispatcher; what can't be parsed as HTTP gets a problem+json as well.

    Args:
        dispatcher: serves the requests.
        max_body_bytes: of a body as it is sent.
        keepalive_seconds: how long an idle connection is kept.
    """

    def __init__(self, dispatcher: Dispatcher, *, max_body_bytes: int, keepalive_seconds: float) -> None:
        def make_request(
            message: RawRequestMessage,
            payload: StreamReader,
            protocol: RequestHandler,
            writer: Any,
            task: asyncio.Task[None],
        ) -> BaseRequest:
            loop = asyncio.get_running_loop()
            return BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=max_body_bytes)

        super().__init__(dispatcher, request_factory=make_request)
        self._dispatcher = dispatcher
        self._keepalive_seconds = keepalive_seconds

    def __call__(self) -> RequestHandler:
        return _Connection(
            self._dispatcher,
            self,
            loop=self._loop,
            keepalive_timeout=self._keepalive_seconds,
            access_log=_no_access_log,
            max_line_size=_LINE_BYTES_MAX,
            auto_decompress=False,  # bodies are unpacked where they are read, with their limits
        )


class _Connection(RequestHandler):
    """One connection. Whoever leaves more of its answers unread than may be buffered has so long to take them.

    The limit is here, and not where an answer is written, since it then holds for every answer and takes no time of
    those that are read.
    """

    def __init__(self, dispatcher: Dispatcher, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._dispatcher = dispatcher
        self._abort: Callable[[], None] | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # aiohttp forgets the transport when it is told to close, which may be for ever before what it holds is read.
        self._abort = partial(break_off, cast(asyncio.Transport, transport))

    def pause_writing(self) -> None:
        super().pause_writing()
        assert self._abort is not None
        self._patience = self._loop.call_later(_WRITE_SECONDS_MAX, self._abort)

    def resume_writing(self) -> None:
        assert self._patience is not None
        self._patience.cancel()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._abort = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        if request.writer.output_size > 0:
            if exc is not None:
                # It may be in a cycle with a future in one of its frames: those of a read would keep its files.
                without_frames(exc)
            return _BrokenOff()
        ids = begin_request(request.headers.get(REQUEST_ID_HEADER), None)
        if status < 500:
            response = problem_response(ApiError("bad_request", "this is not a valid HTTP request"), ids.request_id)
            self._dispatcher.unreadable(response.status)
        else:
            # A caller who hangs up is no failure of ours.
            if not isinstance(exc, ConnectionError):
                self.log_exception("request_failed", exc_info=exc)
            error = ApiError("internal_error", "the request failed; the log has the cause")
            response = problem_response(error, ids.request_id)
        response.force_close()
        return response


class _BrokenOff(StreamResponse):
    """In the place of an answer that has begun, and can only be broken off.

    aiohttp would leave an error that is raised instead in a cycle with its task, and the request and its connection
    with it, until a collection that may not come for long.
    """

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        raise ConnectionResetError("the answer has begun; it can only be broken off")
