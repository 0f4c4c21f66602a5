"""The core's routes: the one table that its router, its permission check, the gateway and OpenAPI all read."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.api_keys import API_KEY_ROUTES
from allsource_shared.core_routes.events import EVENT_ROUTES
from allsource_shared.core_routes.internal import INTERNAL_ROUTES
from allsource_shared.core_routes.operations import OPERATION_ROUTES
from allsource_shared.core_routes.problem_sets import API_PREFIX
from allsource_shared.core_routes.removal import REMOVAL_ROUTES
from allsource_shared.core_routes.service import SERVICE_ROUTES
from allsource_shared.core_routes.sessions import SESSION_ROUTES
from allsource_shared.core_routes.signing_keys import SIGNING_KEY_ROUTES
from allsource_shared.core_routes.tenants import TENANT_ROUTES
from allsource_shared.core_routes.users import USER_ROUTES
from allsource_shared.routes import RouteTable

__all__ = ["API_PREFIX", "CORE_ROUTES"]

CORE_ROUTES: Final = RouteTable(
    [
        *SERVICE_ROUTES,
        *SESSION_ROUTES,
        *SIGNING_KEY_ROUTES,
        *USER_ROUTES,
        *API_KEY_ROUTES,
        *TENANT_ROUTES,
        *EVENT_ROUTES,
        *REMOVAL_ROUTES,
        *OPERATION_ROUTES,
        *INTERNAL_ROUTES,
    ]
)
