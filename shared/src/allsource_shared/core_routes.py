"""The core's routes: the one table that its router, its permission check, the gateway and OpenAPI all read."""

from __future__ import annotations

from typing import Final

from allsource_shared.permissions import Permission
from allsource_shared.routes import JSON, NDJSON, Access, Route, RouteTable
from allsource_shared.wire import events, health, identity, operations, removal

__all__ = ["API_PREFIX", "CORE_ROUTES"]

API_PREFIX: Final = "/api/v1"

_APPEND_PROBLEMS: Final = (
    "invalid_event",
    "version_conflict",
    "event_id_conflict",
    "read_only",
    "overloaded",
    "append_uncertain",
    "storage_damaged",
    "storage_mending",
)
_BATCH_PROBLEMS: Final = (*_APPEND_PROBLEMS, "condition_failed", "condition_too_broad")
_READ_PROBLEMS: Final = ("not_yet", "rate_limited", "storage_damaged", "storage_mending")
_CHANGE_PROBLEMS: Final = ("read_only", "append_uncertain")
_REMOVAL_PROBLEMS: Final = (*_CHANGE_PROBLEMS, "storage_damaged", "storage_mending")
_REPLACE_PROBLEMS: Final = (*_CHANGE_PROBLEMS, "precondition_failed")

_IF_MATCH: Final = ("If-Match", "The `ETag` that the policy must have, or `*` for any.")

_REMOVALS: Final = (
    Route(
        operation="erase_event",
        method="POST",
        path=f"{API_PREFIX}/events/{{event_id}}/erase",
        access=Permission.ADMIN,
        summary="Erase payload, metadata and tags of one event; the event itself stays",
        response=operations.Operation,
        status=202,
        problems=("not_found", *_REMOVAL_PROBLEMS),
    ),
    Route(
        operation="remove_entity",
        method="DELETE",
        path=f"{API_PREFIX}/entities/{{entity_id}}",
        access=Permission.ADMIN,
        summary="Remove all events of an entity; its versions are never assigned again",
        response=operations.Operation,
        status=202,
        problems=("not_found", *_REMOVAL_PROBLEMS),
    ),
    Route(
        operation="remove_entity_by_query",
        method="DELETE",
        path=f"{API_PREFIX}/entities",
        access=Permission.ADMIN,
        summary="The same, with the entity in the query string",
        query=removal.EntitySelection,
        response=operations.Operation,
        status=202,
        problems=("not_found", *_REMOVAL_PROBLEMS),
    ),
)

_RETENTION: Final = (
    Route(
        operation="list_retention",
        method="GET",
        path=f"{API_PREFIX}/retention",
        access=Permission.ADMIN,
        summary="Every retention policy",
        response=removal.RetentionList,
    ),
    Route(
        operation="put_retention_by_query",
        method="PUT",
        path=f"{API_PREFIX}/retention",
        access=Permission.ADMIN,
        summary="Set the retention of a prefix that stands in the query string; empty, it is that of every entity",
        query=removal.PrefixSelection,
        request=removal.RetentionBounds,
        headers=(_IF_MATCH,),
        response=removal.RetentionPolicy,
        problems=_REPLACE_PROBLEMS,
    ),
    Route(
        operation="delete_retention_by_query",
        method="DELETE",
        path=f"{API_PREFIX}/retention",
        access=Permission.ADMIN,
        summary="End the retention of a prefix that stands in the query string",
        query=removal.PrefixSelection,
        headers=(_IF_MATCH,),
        response_types=(),
        status=204,
        problems=("not_found", *_REPLACE_PROBLEMS),
    ),
    Route(
        operation="get_retention",
        method="GET",
        path=f"{API_PREFIX}/retention/{{prefix}}",
        access=Permission.ADMIN,
        summary="The retention policy of a prefix",
        response=removal.RetentionPolicy,
        problems=("not_found",),
    ),
    Route(
        operation="put_retention",
        method="PUT",
        path=f"{API_PREFIX}/retention/{{prefix}}",
        access=Permission.ADMIN,
        summary="Keep of each entity whose id begins with the prefix only so many events, or so old ones",
        request=removal.RetentionBounds,
        headers=(_IF_MATCH,),
        response=removal.RetentionPolicy,
        problems=_REPLACE_PROBLEMS,
    ),
    Route(
        operation="delete_retention",
        method="DELETE",
        path=f"{API_PREFIX}/retention/{{prefix}}",
        access=Permission.ADMIN,
        summary="End a retention policy; what it removed stays removed",
        headers=(_IF_MATCH,),
        response_types=(),
        status=204,
        problems=("not_found", *_REPLACE_PROBLEMS),
    ),
)

_OPERATIONS: Final = (
    Route(
        operation="list_operations",
        method="GET",
        path=f"{API_PREFIX}/operations",
        access=Permission.ADMIN,
        summary="Long work under way and that of the last 7 days, the newest first",
        query=operations.OperationParameters,
        response=operations.OperationPage,
        problems=("invalid_cursor",),
    ),
    Route(
        operation="get_operation",
        method="GET",
        path=f"{API_PREFIX}/operations/{{operation_id}}",
        access=Permission.ADMIN,
        summary="How far a piece of long work is",
        response=operations.Operation,
        problems=("not_found",),
    ),
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
            problems=_BATCH_PROBLEMS,
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
            problems=("invalid_cursor", "not_acceptable", *_READ_PROBLEMS),
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
            problems=("not_found", *_READ_PROBLEMS),
        ),
        *_REMOVALS,
        *_RETENTION,
        *_OPERATIONS,
    ]
)
