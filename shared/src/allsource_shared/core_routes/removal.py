"""The routes of removing events, and of retention."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX, REMOVAL_PROBLEMS, REPLACE_PROBLEMS
from allsource_shared.permissions import Permission
from allsource_shared.routes import Route
from allsource_shared.wire import operations, removal

__all__ = ["REMOVAL_ROUTES"]

_IF_MATCH: Final = ("If-Match", "The `ETag` that the policy must have, or `*` for any.")

_REMOVALS: Final = (
    Route(
        operation="erase_event",
        method="POST",
        path=f"{API_PREFIX}/events/{{event_id}}/erase",
        access=Permission.ADMIN,
        summary="Erase payload, metadata and tags of one event; the event itself stays",
        cost=5,
        response=operations.Operation,
        status=202,
        problems=("not_found", *REMOVAL_PROBLEMS),
    ),
    Route(
        operation="remove_entity",
        method="DELETE",
        path=f"{API_PREFIX}/entities/{{entity_id}}",
        access=Permission.ADMIN,
        summary="Remove all events of an entity; its versions are never assigned again",
        cost=5,
        response=operations.Operation,
        status=202,
        problems=("not_found", *REMOVAL_PROBLEMS),
    ),
    Route(
        operation="remove_entity_by_query",
        method="DELETE",
        path=f"{API_PREFIX}/entities",
        access=Permission.ADMIN,
        summary="The same, with the entity in the query string",
        cost=5,
        query=removal.EntitySelection,
        response=operations.Operation,
        status=202,
        problems=("not_found", *REMOVAL_PROBLEMS),
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
        cost=5,
        query=removal.PrefixSelection,
        request=removal.RetentionBounds,
        headers=(_IF_MATCH,),
        response=removal.RetentionPolicy,
        problems=REPLACE_PROBLEMS,
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
        problems=("not_found", *REPLACE_PROBLEMS),
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
        cost=5,
        request=removal.RetentionBounds,
        headers=(_IF_MATCH,),
        response=removal.RetentionPolicy,
        problems=REPLACE_PROBLEMS,
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
        problems=("not_found", *REPLACE_PROBLEMS),
    ),
)

REMOVAL_ROUTES: Final = (*_REMOVALS, *_RETENTION)
