"""The core's routes: the one table that its router, its permission check, the gateway and OpenAPI all read."""

from __future__ import annotations

from typing import Final

from allsource_shared.permissions import Permission
from allsource_shared.routes import JSON, NDJSON, Access, Route, RouteTable
from allsource_shared.wire import events, health, identity

__all__ = ["API_PREFIX", "CORE_ROUTES"]

API_PREFIX: Final = "/api/v1"

_APPEND_PROBLEMS: Final = (
    "invalid_event",
    "version_conflict",
    "event_id_conflict",
    "read_only",
    "overloaded",
    "append_uncertain",
)

CORE_ROUTES: Final = RouteTable(
    [
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
        Route(
            operation="login",
            method="POST",
            path=f"{API_PREFIX}/auth/login",
            access=Access.PUBLIC,
            summary="Exchange username and password for an access token",
            request=identity.Login,
            response=identity.SignedIn,
            problems=("invalid_credentials", "rate_limited"),
            lenient=True,
        ),
        Route(
            operation="append_event",
            method="POST",
            path=f"{API_PREFIX}/events",
            access=Permission.WRITE,
            summary="Append one event; 200 with `duplicate` where its event id is known with the same content",
            query=events.AppendOptions,
            request=events.NewEvent,
            response=events.AppendedEvent,
            status=201,
            other_status=200,
            problems=_APPEND_PROBLEMS,
            lenient=True,
        ),
        Route(
            operation="append_batch",
            method="POST",
            path=f"{API_PREFIX}/events/batch",
            access=Permission.WRITE,
            summary="Append up to 10,000 events, all or nothing; NDJSON has one event a line",
            query=events.AppendOptions,
            request=events.EventBatch,
            request_types=(JSON, NDJSON),
            headers=(("Prefer", "`return=minimal` leaves `events` out of the answer."),),
            response=events.AppendedBatch,
            status=201,
            other_status=200,
            problems=_APPEND_PROBLEMS,
        ),
        Route(
            operation="query_events",
            method="GET",
            path=f"{API_PREFIX}/events/query",
            access=Permission.READ,
            summary="Read events by entity, type, tags, time and position; NDJSON streams them all without a limit",
            query=events.QueryParameters,
            response=events.EventPage,
            response_types=(JSON, NDJSON),
            problems=("invalid_cursor", "not_acceptable", "not_yet", "rate_limited"),
            lenient=True,
        ),
        Route(
            operation="get_event",
            method="GET",
            path=f"{API_PREFIX}/events/{{event_id}}",
            access=Permission.READ,
            summary="Read one event by its id",
            query=events.ReadOptions,
            response=events.EventView,
            problems=("not_found", "not_yet", "rate_limited"),
        ),
    ]
)
