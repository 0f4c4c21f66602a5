"""Every request's way in and out: ids, route, admission, handler, answer, figures, log line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import structlog
from aiohttp import HttpVersion11, hdrs
from aiohttp.web import BaseRequest, HTTPException, StreamResponse

from allsource_core.api.admission import Admission
from allsource_core.api.answers import JsonResponse, add_lines, break_off
from allsource_core.api.call import Call, Handler
from allsource_core.api.lifecycle import Lifecycle, Phase
from allsource_core.api.memory_budget import UNCOUNTED_BYTES_MAX, MemoryBudget
from allsource_core.api.metrics import CoreMetrics
from allsource_core.api.problem_details import SERVER_NAME, problem_response, to_api_error
from allsource_core.api.warnings import warn_of_ignored
from allsource_core.engine import CorruptionError
from allsource_shared.context import REQUEST_ID_HEADER, TRACEPARENT_HEADER, RequestIds, begin_request
from allsource_shared.paths import read_target
from allsource_shared.problems import ApiError
from allsource_shared.routes import RouteTable

__all__ = ["Dispatcher"]

_UNMATCHED: Final = "unmatched"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE_METHODS: Final = frozenset({hdrs.METH_GET, hdrs.METH_HEAD})


class Dispatcher:
    """Serves requests by the route table.

    Handlers come in two steps: those of health and metrics before the store is open, the others with `add` when it
    is. A route without a handler is answered 503 ``starting`` until then.

    Args:
        routes: the table.
        admission, lifecycle, metrics: asked about and told of every request.
        memory: for bodies and answers.
        log_requests: ``all``, ``errors`` (5xx) or ``none``.
    """

    def __init__(
        self,
        routes: RouteTable,
        admission: Admission,
        lifecycle: Lifecycle,
        metrics: CoreMetrics,
        memory: MemoryBudget,
        *,
        log_requests: str,
    ) -> None:
        self._routes = routes
        self._admission = admission
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._memory = memory
        self._log_from_status = {"all": 0, "errors": 500, "none": 1000}[log_requests]
        self._handlers: dict[str, Handler] = {}

    def add(self, handlers: Mapping[str, Handler]) -> None:
        """Serve these operations from now on.

        Raises:
            ValueError: an operation that the table doesn't have.
        """
        unknown = set(handlers) - {route.operation for route in self._routes}
        if unknown:
            raise ValueError(f"no route for the operations {sorted(unknown)}")
        self._handlers.update(handlers)

    def missing(self) -> list[str]:
        """Operations of the table that have no handler."""
        return [route.operation for route in self._routes if route.operation not in self._handlers]

    async def __call__(self, request: BaseRequest) -> StreamResponse:
        """Answer a request. Raises nothing but cancellation and a broken connection."""
        started = time.monotonic()
        headers = request.headers
        ids = begin_request(headers.get(REQUEST_ID_HEADER), headers.get(TRACEPARENT_HEADER))
        operation = _UNMATCHED
        status = 499
        call = None
        try:
            path, query = read_target(request.raw_path.encode("utf-8", "surrogateescape"))
            match = self._routes.match(request.method, path)
            operation = match.route.operation
            raw_query = query.decode("utf-8", "surrogateescape")
            admission = self._admission
            revision = admission.changes.revision
            call = Call(request, started, match, raw_query, ids, None, [], admission.recheck, self._memory, revision)
            response = await self._admit(call)(call)
            if not response.prepared:
                lines = f"{REQUEST_ID_HEADER}: {ids.request_id}\r\nServer: {SERVER_NAME}\r\n{call.rate_lines}"
                if type(response) is JsonResponse:
                    response.add_lines(lines)
                else:
                    add_lines(response.headers, lines)
                if call.ignored:
                    warn_of_ignored(response, call.ignored)
                if type(response) is JsonResponse and response.nbytes > UNCOUNTED_BYTES_MAX:
                    await _send_counted(call, response)
            status = response.status
        except asyncio.CancelledError:
            raise
        except ConnectionError:
            # The caller is gone, or has stopped reading: there is nobody to answer.
            _end(request)
            raise
        except Exception as error:
            if request.writer.output_size > 0:
                # The answer has begun: a second one inside it would be read as a part of it. Break it off.
                structlog.get_logger().error("answer_broken_off", operation=operation, exc_info=error)
                status = 500
                _end(request)
                raise ConnectionResetError from error
            response = self._refuse(error, ids)
            if call is not None:
                add_lines(response.headers, call.rate_lines)
            status = response.status
        finally:
            if call is not None and call.hold is not None:
                call.hold.release()
            self._finish(request.method, operation, status, time.monotonic() - started)
        return response

    def unreadable(self, status: int) -> None:
        """Count a request that never came here, since it can't be read as HTTP, and log it."""
        self._finish("", _UNMATCHED, status, 0.0)

    def _admit(self, call: Call) -> Handler:
        """Let a call in, if its caller may make it; returns the handler that serves it."""
        route = call.match.route
        handler = self._handlers.get(route.operation)
        if handler is None:
            raise ApiError("starting", "the store is recovering; see /health/ready", headers={"Retry-After": "1"})
        if self._lifecycle.phase is Phase.STOPPING and not route.path.startswith("/health"):
            raise ApiError("stopping", "the service is shutting down", headers={"Retry-After": "1"})
        self._admission.admit(call)
        return handler

    def _refuse(self, error: Exception, ids: RequestIds) -> StreamResponse:
        refusal = to_api_error(error)
        if isinstance(error, CorruptionError):
            structlog.get_logger().error(
                "storage_damaged", path=str(error.path), offset=error.offset, reason=error.reason
            )
        if isinstance(error, OSError):
            structlog.get_logger().error("system_refused", exc_info=error)
        if refusal is None:
            if isinstance(error, HTTPException) and error.status < 500:
                refusal = ApiError("bad_request", error.reason)
            else:
                structlog.get_logger().error("request_failed", exc_info=error)
                refusal = ApiError("internal_error", "the request failed; the log has the cause")
        return problem_response(refusal, ids.request_id)

    def _finish(self, method: str, operation: str, status: int, seconds: float) -> None:
        method = method if method in _METHODS else "other"
        self._metrics.answered(operation, method, status, seconds)
        # Probes come every second; what they find while the store recovers is in its own log lines. Gateways ask for
        # changes three times a second.
        if status >= self._log_from_status and not operation.startswith("health") and operation != "changes":
            structlog.get_logger().info(
                "request",
                operation=operation,
                method=method,
                status=status,
                duration_ms=round(seconds * 1000, 3),
            )


def _end(request: BaseRequest) -> None:
    """Break an answer off, with what was sent of it. One of HTTP/1.0 ends where its connection does: only a reset says
    that it did not.
    """
    if request.transport is not None:
        if request.version < HttpVersion11:
            break_off(request.transport)
        else:
            request.transport.abort()


async def _send_counted(call: Call, response: JsonResponse) -> None:
    """Send an answer that is too large to let many of them wait for their readers uncounted.

    Raises:
        ApiError: ``overloaded``, where nothing has been changed.
        ConnectionError: the reader is gone, or has stopped reading.
    """
    call.keep(response.nbytes, refusable=call.request.method in _SAFE_METHODS)
    await response.prepare(call.request)
    await response.write_eof()
    call.check_reader()
