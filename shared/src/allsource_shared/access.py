"""Whether a caller may call a route: what both services must judge alike."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, Protocol

from allsource_shared.permissions import Permission, Role
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access

__all__ = ["Caller", "check_access"]


class Caller(Protocol):
    """What is asked of a principal."""

    @property
    def kind(self) -> Literal["user", "api_key"]: ...
    @property
    def role(self) -> Role: ...
    @property
    def permissions(self) -> Collection[Permission]: ...


def check_access(access: Permission | Access, caller: Caller) -> None:
    """Refuse a caller what a route does not allow it.

    Of `Access.OWN_TENANT` nothing can be said here: the route's handler knows which tenant is asked for.

    Raises:
        ApiError: ``forbidden``.
    """
    # Before anything is compared: this is what nearly every request asks for.
    if isinstance(access, Permission) and access in caller.permissions:
        return
    if access is Access.GATEWAY:
        raise ApiError("forbidden", "this route is for gateways alone")
    if access is Access.USER:
        if caller.kind != "user":
            raise ApiError("forbidden", "an API key may not do this; sign in")
        return
    if access is Access.CONFIGURED:
        access = Permission.METRICS
    if isinstance(access, Permission) and access not in caller.permissions:
        raise ApiError("forbidden", f"the role {caller.role} lacks the permission {access}")
