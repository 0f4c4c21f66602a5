"""The routes that tell of the service itself."""

from __future__ import annotations

from typing import Final

from allsource_shared.routes import Access, Route
from allsource_shared.wire import health

__all__ = ["SERVICE_ROUTES"]

SERVICE_ROUTES: Final = (
    Route(
        operation="health",
        method="GET",
        path="/health",
        access=Access.PUBLIC,
        summary="Whether the service works; with the permission `metrics`, also its figures",
        response=health.CoreHealth,
    ),
    Route(
        operation="health_live",
        method="GET",
        path="/health/live",
        access=Access.PUBLIC,
        summary="Liveness probe",
        response=health.Liveness,
    ),
    Route(
        operation="health_ready",
        method="GET",
        path="/health/ready",
        access=Access.PUBLIC,
        summary="Readiness probe; while the store recovers, how far it is",
        response=health.Readiness,
    ),
    Route(
        operation="metrics",
        method="GET",
        path="/metrics",
        access=Access.CONFIGURED,
        summary="Figures in the Prometheus text format",
        response_types=("text/plain",),
    ),
    Route(
        operation="openapi",
        method="GET",
        path="/openapi.json",
        access=Access.PUBLIC,
        summary="This document",
    ),
)
