"""The gateway's own routes, on Litestar."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import structlog
from litestar import Litestar, Request, Response, get
from litestar.handlers import HTTPRouteHandler

from allsource_control_plane.gateway.exchange import problem_answer
from allsource_control_plane.health import CoreProbe, HealthReport
from allsource_control_plane.metrics import METRICS_MEDIA_TYPE, GatewayMetrics
from allsource_control_plane.routes import GATEWAY_ROUTES, REACHABLE_ROUTES
from allsource_shared import __version__
from allsource_shared.openapi import openapi_document
from allsource_shared.problems import ApiError
from allsource_shared.wire.health import Liveness

__all__ = ["create_application"]

_JSON: Final = "application/json"
_logger: Final = structlog.stdlib.get_logger(__name__)


def create_application(*, report: HealthReport, probe: CoreProbe, metrics: GatewayMetrics) -> Litestar:
    """The application that answers every row of `GATEWAY_ROUTES`.

    Args:
        report: for ``/health``.
        probe: asked before the figures are written, so that ``core_up`` is true when it is read.
        metrics: for ``/metrics``.
    """
    live = msgspec.json.encode(Liveness())
    document = msgspec.json.encode(
        openapi_document(
            title="AllSource",
            version=__version__,
            routes=REACHABLE_ROUTES,
            extra_problems=("core_unavailable", "rate_limited"),
        )
    )

    async def answer_health() -> Response[bytes]:
        return Response(msgspec.json.encode(await report.report()), media_type=_JSON)

    async def answer_live() -> Response[bytes]:
        return Response(live, media_type=_JSON)

    async def answer_metrics() -> Response[bytes]:
        state = await probe.state()
        metrics.core_up.set(state.status == "healthy")
        return Response(metrics.render(), media_type=METRICS_MEDIA_TYPE)

    async def answer_openapi() -> Response[bytes]:
        return Response(document, media_type=_JSON)

    handlers = {
        "health": answer_health,
        "health_live": answer_live,
        "metrics": answer_metrics,
        "openapi": answer_openapi,
    }
    rows: list[HTTPRouteHandler] = [
        get(route.path, name=route.operation)(handlers[route.operation]) for route in GATEWAY_ROUTES
    ]
    return Litestar(
        route_handlers=rows,
        openapi_config=None,
        logging_config=None,
        exception_handlers={Exception: _answer_failure},
    )


def _answer_failure(request: Request[Any, Any, Any], _error: Exception) -> Response[bytes]:
    _logger.exception("request_failed", path=request.scope["path"])
    error = ApiError("internal_error", "the gateway failed; see its log")
    status, headers, body = problem_answer(error, request.scope["state"]["request_id"])
    fields = {name.decode(): value.decode() for name, value in headers}
    return Response(body, status_code=status, headers=fields, media_type=fields["content-type"])
