"""The routes that clients can reach: the gateway's own, and those of the core that it forwards."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access, Route, RouteTable
from allsource_shared.wire import health

__all__ = ["GATEWAY_ROUTES", "REACHABLE_ROUTES", "merge_routes"]

_INTERNAL_PREFIX: Final = "/internal"

GATEWAY_ROUTES: Final = RouteTable(
    [
        Route(
            operation="health",
            method="GET",
            path="/health",
            access=Access.PUBLIC,
            summary="Whether the gateway works, what it can do, and how the core behind it is; always 200",
            response=health.GatewayHealth,
        ),
        Route(
            operation="health_live",
            method="GET",
            path="/health/live",
            access=Access.PUBLIC,
            summary="Liveness probe of the gateway, whatever the core does",
            response=health.Liveness,
        ),
        Route(
            operation="metrics",
            method="GET",
            path="/metrics",
            access=Access.PUBLIC,
            summary="Figures of the gateway in the Prometheus text format",
            response_types=("text/plain",),
        ),
        Route(
            operation="openapi",
            method="GET",
            path="/openapi.json",
            access=Access.PUBLIC,
            summary="This document: everything that is reachable through the gateway",
        ),
    ]
)
"""What the gateway answers itself."""


def merge_routes(own: RouteTable, core: RouteTable) -> RouteTable:
    """One table of both: an own row wins over the core's, and nothing under ``/internal`` is ever taken over."""
    taken = {(route.method, route.path) for route in own}
    forwarded = [
        route
        for route in core
        if (route.method, route.path) not in taken
        and route.path != _INTERNAL_PREFIX
        and not route.path.startswith(f"{_INTERNAL_PREFIX}/")
    ]
    return RouteTable([*own, *forwarded])


REACHABLE_ROUTES: Final = merge_routes(GATEWAY_ROUTES, CORE_ROUTES)
"""What the gateway routes on: a request that finds no row here reaches nobody."""
