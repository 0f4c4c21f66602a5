"""The routes of appending and reading events."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX, APPEND_PROBLEMS, BATCH_PROBLEMS, READ_PROBLEMS
from allsource_shared.permissions import Permission
from allsource_shared.routes import JSON, NDJSON, Route
from allsource_shared.wire import events

__all__ = ["EVENT_ROUTES"]

EVENT_ROUTES: Final = (
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
        problems=APPEND_PROBLEMS,
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
        problems=BATCH_PROBLEMS,
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
        problems=("invalid_cursor", "not_acceptable", *READ_PROBLEMS),
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
        problems=("not_found", *READ_PROBLEMS),
    ),
)
