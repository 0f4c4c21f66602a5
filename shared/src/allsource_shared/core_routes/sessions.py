"""The routes of signing in, staying signed in, and signing out."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX
from allsource_shared.routes import Access, Route
from allsource_shared.wire import sessions

__all__ = ["SESSION_ROUTES"]

SESSION_ROUTES: Final = (
    Route(
        operation="login",
        method="POST",
        path=f"{API_PREFIX}/auth/login",
        access=Access.PUBLIC,
        summary="Exchange username and password for an access token and a refresh token",
        request=sessions.Login,
        response=sessions.SignedIn,
        problems=("invalid_credentials", "tenant_inactive", "rate_limited", "overloaded"),
        lenient=True,
    ),
    Route(
        operation="refresh",
        method="POST",
        path=f"{API_PREFIX}/auth/refresh",
        access=Access.PUBLIC,
        summary="Exchange a refresh token, once, for a new access token and the next refresh token",
        request=sessions.Refresh,
        response=sessions.SignedIn,
        problems=("unauthorized", "tenant_inactive", "overloaded"),
    ),
    Route(
        operation="logout",
        method="POST",
        path=f"{API_PREFIX}/auth/logout",
        access=Access.USER,
        summary="End the session that the access token belongs to",
        serves_expired_passwords=True,
        response_types=(),
        status=204,
        problems=("overloaded",),
    ),
    Route(
        operation="list_sessions",
        method="GET",
        path=f"{API_PREFIX}/auth/sessions",
        access=Access.USER,
        summary="One's own sessions, the one that was used last first",
        response=sessions.SessionList,
    ),
    Route(
        operation="end_session",
        method="DELETE",
        path=f"{API_PREFIX}/auth/sessions/{{session_id}}",
        access=Access.USER,
        summary="End one of one's own sessions",
        response_types=(),
        status=204,
        problems=("not_found", "overloaded"),
    ),
)
