"""Who may call what, as both services judge it."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest

from allsource_shared.access import check_access
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access


class Somebody(msgspec.Struct, frozen=True):
    role: Role = Role.ADMIN
    permissions: frozenset[Permission] = frozenset(Permission)
    kind: Literal["user", "api_key"] = "user"


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("permission", list(Permission))
def test_a_permission_is_needed_and_nothing_else(role: Role, permission: Permission):
    caller = Somebody(role, ROLE_PERMISSIONS[role])
    if permission in ROLE_PERMISSIONS[role]:
        check_access(permission, caller)
    else:
        with pytest.raises(ApiError, match=f"the role {role} lacks the permission {permission}"):
            check_access(permission, caller)


def test_what_counts_is_what_is_granted_not_the_role():
    with pytest.raises(ApiError, match="lacks the permission write"):
        check_access(Permission.WRITE, Somebody(permissions=frozenset({Permission.READ})))


def test_a_key_is_no_signed_in_user():
    check_access(Access.USER, Somebody(Role.READONLY, frozenset()))
    with pytest.raises(ApiError, match="sign in"):
        check_access(Access.USER, Somebody(kind="api_key"))


@pytest.mark.parametrize("access", [Access.ANY, Access.OWN_TENANT, Access.PUBLIC])
@pytest.mark.parametrize("kind", ["user", "api_key"])
def test_any_principal_will_do_where_the_handler_decides(access: Access, kind: Literal["user", "api_key"]):
    check_access(access, Somebody(Role.READONLY, frozenset(), kind))


def test_what_is_configured_asks_for_metrics():
    check_access(Access.CONFIGURED, Somebody())
    with pytest.raises(ApiError, match="lacks the permission metrics"):
        check_access(Access.CONFIGURED, Somebody(Role.SERVICEACCOUNT, frozenset({Permission.READ})))


def test_no_principal_is_a_gateway():
    with pytest.raises(ApiError, match="gateways alone"):
        check_access(Access.GATEWAY, Somebody())
