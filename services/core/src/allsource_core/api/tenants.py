"""Which tenant a request may name elsewhere than in ``X-Tenant-ID``."""

from __future__ import annotations

from allsource_core.identity.principals import Principal
from allsource_shared.permissions import Permission
from allsource_shared.problems import ApiError

__all__ = ["check_own_tenant", "check_selected", "check_tenant"]


def check_tenant(named: str, principal: Principal | None, *, where: str) -> None:
    """Refuse a request that names another tenant than the one that it works in.

    Args:
        named: the tenant.
        principal: who calls, or None before signing in.
        where: the field or parameter that names it.

    Raises:
        ApiError: ``reserved_tenant``, ``forbidden``.
    """
    if named.startswith("_"):
        raise ApiError("reserved_tenant", f"{where} names a reserved tenant")
    if principal is not None and named != principal.tenant_id:
        raise ApiError(
            "forbidden", f"{where} names another tenant than the one you work in; administrators choose by X-Tenant-ID"
        )


def check_selected(named: str | None) -> None:
    """Refuse a selection of what is in one of the store's own tenants.

    Args:
        named: the tenant; None selects no tenant in particular.

    Raises:
        ApiError: ``reserved_tenant``.
    """
    if named is not None:
        check_tenant(named, None, where="tenant_id")


def check_own_tenant(named: str, principal: Principal) -> None:
    """Refuse a path that names a tenant which its caller may not ask about.

    Args:
        named: the tenant.
        principal: who calls.

    Raises:
        ApiError: ``reserved_tenant``; ``not_found`` for another tenant than one's own, unless one manages them all.
    """
    if named.startswith("_"):
        raise ApiError("reserved_tenant", "the path names a reserved tenant")
    if named != principal.tenant_id and Permission.MANAGE_TENANTS not in principal.permissions:
        raise ApiError("not_found", f"there is no tenant {named[:128]!r}")
