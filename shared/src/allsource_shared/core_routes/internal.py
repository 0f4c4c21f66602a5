"""The routes between the services: for gateways alone, and never forwarded by one."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import INTERNAL_PREFIX
from allsource_shared.routes import Access, Route
from allsource_shared.wire import internal

__all__ = ["INTERNAL_ROUTES"]

INTERNAL_ROUTES: Final = (
    Route(
        operation="introspect",
        method="POST",
        path=f"{INTERNAL_PREFIX}/introspect",
        access=Access.GATEWAY,
        summary="Whose a credential is, or why it is not accepted",
        request=internal.Introspect,
        response=internal.Introspection,
    ),
    Route(
        operation="changes",
        method="GET",
        path=f"{INTERNAL_PREFIX}/changes",
        access=Access.GATEWAY,
        summary="What has changed of who may do what; waits for a change",
        query=internal.ChangeParameters,
        response=internal.ChangePage,
    ),
)
