"""The routes of API keys. A key never makes, rotates or lists keys: that takes a signed-in user."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX, CHANGE_PROBLEMS
from allsource_shared.routes import Access, Route
from allsource_shared.wire import api_keys

__all__ = ["API_KEY_ROUTES"]

API_KEY_ROUTES: Final = (
    Route(
        operation="create_api_key",
        method="POST",
        path=f"{API_PREFIX}/auth/api-keys",
        access=Access.USER,
        summary="Make an API key of one's own; the answer is the only one that has the key itself",
        cost=5,
        request=api_keys.NewApiKey,
        response=api_keys.IssuedApiKey,
        status=201,
        problems=("not_found", "admin_outside_default", "quota_exceeded", "overloaded", *CHANGE_PROBLEMS),
        lenient=True,
    ),
    Route(
        operation="list_api_keys",
        method="GET",
        path=f"{API_PREFIX}/auth/api-keys",
        access=Access.USER,
        summary="One's own API keys, with `admin` everybody's, without the keys themselves",
        query=api_keys.ApiKeyParameters,
        response=api_keys.ApiKeyPage,
        problems=("invalid_cursor",),
        lenient=True,
    ),
    Route(
        operation="revoke_api_key",
        method="DELETE",
        path=f"{API_PREFIX}/auth/api-keys/{{key_id}}",
        access=Access.USER,
        summary="Revoke an API key of one's own, with `admin` anybody's",
        response_types=(),
        status=204,
        problems=("not_found", "overloaded", *CHANGE_PROBLEMS),
        lenient=True,
    ),
    Route(
        operation="rotate_api_key",
        method="POST",
        path=f"{API_PREFIX}/auth/api-keys/{{key_id}}/rotate",
        access=Access.USER,
        summary="Give an API key of one's own a new secret, told in this answer alone; the old one ends at once",
        cost=5,
        response=api_keys.IssuedApiKey,
        problems=("not_found", "overloaded", *CHANGE_PROBLEMS),
    ),
)
