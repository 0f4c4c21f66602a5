"""The routes of tenants."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX, CHANGE_PROBLEMS, REPLACE_PROBLEMS
from allsource_shared.permissions import Permission
from allsource_shared.routes import Access, Route
from allsource_shared.wire import tenants

__all__ = ["TENANT_ROUTES"]

_IF_MATCH: Final = ("If-Match", "The `ETag` that the tenant must have, or `*` for any.")
_TENANTS: Final = f"{API_PREFIX}/tenants"
_TENANT: Final = f"{_TENANTS}/{{tenant_id}}"
_NAMED: Final = ("not_found", "reserved_tenant")
_CHANGE: Final = ("overloaded", *CHANGE_PROBLEMS)
_REPLACE: Final = ("overloaded", *REPLACE_PROBLEMS)

_MANY: Final = (
    Route(
        operation="create_tenant",
        method="POST",
        path=_TENANTS,
        access=Permission.MANAGE_TENANTS,
        summary="Make a tenant; `professional` where neither a preset nor quotas are given",
        request=tenants.NewTenant,
        response=tenants.TenantView,
        status=201,
        problems=("reserved_tenant", "already_exists", *_CHANGE),
        lenient=True,
    ),
    Route(
        operation="list_tenants",
        method="GET",
        path=_TENANTS,
        access=Permission.MANAGE_TENANTS,
        summary="Tenants by id",
        query=tenants.TenantParameters,
        response=tenants.TenantPage,
        problems=("invalid_cursor",),
    ),
)

_ONE: Final = (
    Route(
        operation="get_tenant",
        method="GET",
        path=_TENANT,
        access=Access.OWN_TENANT,
        summary="A tenant",
        response=tenants.TenantView,
        problems=_NAMED,
    ),
    Route(
        operation="put_tenant",
        method="PUT",
        path=_TENANT,
        access=Permission.MANAGE_TENANTS,
        summary="Set name and description of a tenant",
        request=tenants.TenantDescription,
        headers=(_IF_MATCH,),
        response=tenants.TenantView,
        problems=(*_NAMED, *_REPLACE),
        lenient=True,
    ),
    Route(
        operation="delete_tenant",
        method="DELETE",
        path=_TENANT,
        access=Permission.MANAGE_TENANTS,
        summary="Remove a tenant with its events, users and keys; its id may be used again once this is answered",
        cost=10,
        response=tenants.TenantRemoval,
        status=202,
        problems=(*_NAMED, "default_tenant", "not_yet", *_CHANGE),
    ),
    Route(
        operation="get_tenant_stats",
        method="GET",
        path=f"{_TENANT}/stats",
        access=Access.OWN_TENANT,
        summary="What a tenant has used of each quota",
        response=tenants.TenantStats,
        problems=_NAMED,
    ),
    Route(
        operation="put_tenant_quotas",
        method="PUT",
        path=f"{_TENANT}/quotas",
        access=Permission.MANAGE_TENANTS,
        summary="Set all quotas of a tenant, from now on",
        request=tenants.AllQuotas,
        headers=(_IF_MATCH,),
        response=tenants.TenantView,
        problems=(*_NAMED, *_REPLACE),
        lenient=True,
    ),
    Route(
        operation="put_tenant_limits",
        method="PUT",
        path=f"{_TENANT}/limits",
        access=Permission.MANAGE_TENANTS,
        summary="Set how fast a tenant may call, from the next request on",
        request=tenants.RateLimits,
        headers=(_IF_MATCH,),
        response=tenants.TenantView,
        problems=(*_NAMED, *_REPLACE),
    ),
    Route(
        operation="activate_tenant",
        method="POST",
        path=f"{_TENANT}/activate",
        access=Permission.MANAGE_TENANTS,
        summary="Let the credentials of a tenant work again",
        response_types=(),
        status=204,
        problems=(*_NAMED, *_CHANGE),
    ),
    Route(
        operation="deactivate_tenant",
        method="POST",
        path=f"{_TENANT}/deactivate",
        access=Permission.MANAGE_TENANTS,
        summary="Refuse the credentials of a tenant from now on, with 403 `tenant_inactive`",
        response_types=(),
        status=204,
        problems=(*_NAMED, "default_tenant", *_CHANGE),
    ),
)

TENANT_ROUTES: Final = (*_MANY, *_ONE)
