"""The routes of signing in, users and their sessions."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX
from allsource_shared.routes import Access, Route
from allsource_shared.wire import identity

__all__ = ["IDENTITY_ROUTES"]

IDENTITY_ROUTES: Final = (
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
)
