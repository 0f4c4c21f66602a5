"""The routes of users: registering, administrating, one's own password, and who one is."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX, CHANGE_PROBLEMS
from allsource_shared.permissions import Permission
from allsource_shared.routes import Access, Route
from allsource_shared.wire import identity, users

__all__ = ["USER_ROUTES"]

_STORING: Final = (*CHANGE_PROBLEMS, "overloaded")

_ADMINISTRATION: Final = (
    Route(
        operation="list_users",
        method="GET",
        path=f"{API_PREFIX}/auth/users",
        access=Permission.ADMIN,
        summary="Every user, or those of one tenant, the oldest first",
        query=users.UserParameters,
        response=users.UserPage,
        problems=("invalid_cursor",),
    ),
    Route(
        operation="get_user",
        method="GET",
        path=f"{API_PREFIX}/auth/users/{{user_id}}",
        access=Permission.ADMIN,
        summary="One user",
        response=identity.UserView,
        problems=("not_found",),
    ),
    Route(
        operation="change_user",
        method="PATCH",
        path=f"{API_PREFIX}/auth/users/{{user_id}}",
        access=Permission.ADMIN,
        summary="Change role, e-mail address or password of a user, or whether it is active; all of it or nothing",
        request=users.UserChange,
        response=identity.UserView,
        problems=("not_found", "weak_password", "admin_outside_default", "last_admin", "rate_limited", *_STORING),
    ),
    Route(
        operation="delete_user",
        method="DELETE",
        path=f"{API_PREFIX}/auth/users/{{user_id}}",
        access=Permission.ADMIN,
        summary="Forget a user: its sessions and API keys end, its name and e-mail address are erased",
        response_types=(),
        status=204,
        problems=("not_found", "last_admin", *_STORING),
    ),
)

USER_ROUTES: Final = (
    Route(
        operation="register",
        method="POST",
        path=f"{API_PREFIX}/auth/register",
        access=Access.PUBLIC,
        summary="Make a user: as an administrator, as the first user of all, or where registration is open",
        request=users.Registration,
        response=users.RegisteredUser,
        status=201,
        problems=(
            "unauthorized",
            "forbidden",
            "password_change_required",
            "tenant_inactive",
            "not_found",
            "reserved_tenant",
            "bad_header",
            "weak_password",
            "admin_outside_default",
            "already_exists",
            "rate_limited",
            *_STORING,
        ),
        lenient=True,
    ),
    Route(
        operation="me",
        method="GET",
        path=f"{API_PREFIX}/auth/me",
        access=Access.ANY,
        summary="Who one is: the user, or the API key",
        serves_expired_passwords=True,
        response=users.Me,
    ),
    Route(
        operation="change_password",
        method="POST",
        path=f"{API_PREFIX}/auth/password",
        access=Access.USER,
        summary="Change one's own password; the other sessions end",
        serves_expired_passwords=True,
        request=users.PasswordChange,
        response_types=(),
        status=204,
        problems=("invalid_credentials", "weak_password", "rate_limited", *_STORING),
    ),
    *_ADMINISTRATION,
)
