"""The routes of long work."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX
from allsource_shared.permissions import Permission
from allsource_shared.routes import Route
from allsource_shared.wire import operations

__all__ = ["OPERATION_ROUTES"]

OPERATION_ROUTES: Final = (
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
