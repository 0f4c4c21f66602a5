"""Tenants over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
import structlog
from aiohttp import hdrs
from aiohttp.web import Response, StreamResponse

from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.cursors import cut_page
from allsource_core.api.operations import removal_operation
from allsource_core.api.preconditions import check_if_match
from allsource_core.api.requests import parse_query, refuse_query
from allsource_core.api.tenants import check_own_tenant
from allsource_core.engine import CorruptionError, tenant_fault
from allsource_core.facts import Facts
from allsource_core.tenancy.deletion import TenantDeletions
from allsource_core.tenancy.errors import InvalidTenantError
from allsource_core.tenancy.quotas import PRESETS, find_preset
from allsource_core.tenancy.rate_limits import RateLimit
from allsource_core.tenancy.tenants import Tenant, TenantDirectory
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.problems import ApiError
from allsource_shared.wire.tenants import (
    AllQuotas,
    NewTenant,
    Quotas,
    QuotaUsage,
    RateLimits,
    TenantDescription,
    TenantPage,
    TenantParameters,
    TenantRemoval,
    TenantStats,
    TenantUsage,
    TenantView,
)
from allsource_shared.wire.times import format_instant

__all__ = ["TenantRoutes"]

_creation_decoder: Final = msgspec.json.Decoder(NewTenant)
_description_decoder: Final = msgspec.json.Decoder(TenantDescription)
_quotas_decoder: Final = msgspec.json.Decoder(AllQuotas)
_limits_decoder: Final = msgspec.json.Decoder(RateLimits)


class TenantRoutes:
    """Handlers of ``tenants/…``.

    Args:
        tenants: all of them.
        facts: held while something is looked at and changed.
        deletions: of tenants.
        usage: counts what they use.
        count_keys: how many API keys a tenant has.
        bodies: reads requests.
    """

    def __init__(
        self,
        tenants: TenantDirectory,
        facts: Facts,
        deletions: TenantDeletions,
        usage: UsageLedger,
        count_keys: Callable[[str], int],
        bodies: Bodies,
    ) -> None:
        self._tenants = tenants
        self._facts = facts
        self._deletions = deletions
        self._usage = usage
        self._count_keys = count_keys
        self._bodies = bodies

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "create_tenant": self.create_tenant,
            "list_tenants": self.list_tenants,
            "get_tenant": self.get_tenant,
            "put_tenant": self.put_tenant,
            "delete_tenant": self.delete_tenant,
            "get_tenant_stats": self.get_stats,
            "put_tenant_quotas": self.put_quotas,
            "put_tenant_limits": self.put_limits,
            "activate_tenant": self.activate,
            "deactivate_tenant": self.deactivate,
        }

    async def create_tenant(self, call: Call) -> StreamResponse:
        """``POST tenants``."""
        refuse_query(call)
        new = await self._bodies.decode(call, _creation_decoder)
        quotas, limits = _allowed(new)
        async with self._facts.changing:
            call.recheck(call)
            tenant = await self._tenants.create(
                new.id, name=new.name, description=new.description, quotas=quotas, limits=limits
            )
        _log("tenant_created", call, tenant.id)
        return _answer(tenant, 201)

    async def list_tenants(self, call: Call) -> StreamResponse:
        """``GET tenants``."""
        parameters = parse_query(call, TenantParameters)
        after = parameters.cursor or ""
        if parameters.cursor is not None and tenant_fault(after) is not None:
            raise ApiError("invalid_cursor", "cursor: not one that this service gave out")
        page, more = cut_page(self._tenants.page(after, parameters.limit + 1), parameters.limit)
        tenants = [_view(tenant) for tenant in page]
        return json_response(TenantPage(tenants, len(tenants), tenants[-1].id if more else None))

    async def get_tenant(self, call: Call) -> StreamResponse:
        """``GET tenants/{tenant_id}``."""
        refuse_query(call)
        return _answer(self._tenants.find(_named(call)))

    async def put_tenant(self, call: Call) -> StreamResponse:
        """``PUT tenants/{tenant_id}``."""
        tenant_id = _named(call)
        refuse_query(call)
        told = await self._bodies.decode(call, _description_decoder)
        async with self._facts.changing:
            call.recheck(call)
            self._check_if_match(call, tenant_id)
            tenant = await self._tenants.describe(tenant_id, name=told.name, description=told.description)
        _log("tenant_described", call, tenant_id)
        return _answer(tenant)

    async def put_quotas(self, call: Call) -> StreamResponse:
        """``PUT tenants/{tenant_id}/quotas``."""
        tenant_id = _named(call)
        refuse_query(call)
        quotas = await self._bodies.decode(call, _quotas_decoder)
        if quotas.max_storage_bytes:
            # The first append under it needs the bytes that are kept, and is told if they can't be counted.
            with suppress(CorruptionError, OSError):
                await self._usage.count(self._tenants.find(tenant_id).id)
        async with self._facts.changing:
            call.recheck(call)
            self._check_if_match(call, tenant_id)
            tenant = await self._tenants.set_quotas(tenant_id, Quotas(**msgspec.structs.asdict(quotas)))
        _log("tenant_quotas_set", call, tenant_id)
        return _answer(tenant)

    async def put_limits(self, call: Call) -> StreamResponse:
        """``PUT tenants/{tenant_id}/limits``."""
        tenant_id = _named(call)
        refuse_query(call)
        given = await self._bodies.decode(call, _limits_decoder)
        rate, burst = given.requests_per_minute, given.burst
        if bool(rate) != bool(burst):
            field = "burst" if rate else "requests_per_minute"
            raise InvalidTenantError(field, "must be at least 1, or both 0 for no limit")
        async with self._facts.changing:
            call.recheck(call)
            self._check_if_match(call, tenant_id)
            tenant = await self._tenants.set_limits(tenant_id, RateLimit(rate, burst) if rate else None)
        _log("tenant_limits_set", call, tenant_id)
        return _answer(tenant)

    async def activate(self, call: Call) -> StreamResponse:
        """``POST tenants/{tenant_id}/activate``."""
        return await self._set_active(call, True)

    async def deactivate(self, call: Call) -> StreamResponse:
        """``POST tenants/{tenant_id}/deactivate``."""
        return await self._set_active(call, False)

    async def _set_active(self, call: Call, active: bool) -> StreamResponse:
        refuse_query(call)
        tenant_id = _named(call)
        async with self._facts.changing:
            call.recheck(call)
            await self._tenants.set_active(tenant_id, active)
        _log("tenant_activated" if active else "tenant_deactivated", call, tenant_id)
        return Response(status=204)

    async def delete_tenant(self, call: Call) -> StreamResponse:
        """``DELETE tenants/{tenant_id}``."""
        refuse_query(call)
        tenant_id = _named(call)
        _log("tenant_deletion_asked_for", call, tenant_id)
        removal = await self._deletions.delete(tenant_id, recheck=lambda: call.recheck(call))
        operation = removal_operation(removal, tenant_id)
        body = TenantRemoval(**msgspec.structs.asdict(operation), events_removed=removal.events_removed)
        return json_response(body, 202)

    async def get_stats(self, call: Call) -> StreamResponse:
        """``GET tenants/{tenant_id}/stats``."""
        refuse_query(call)
        await self._usage.count(self._tenants.find(_named(call)).id)
        call.recheck(call)
        tenant = self._tenants.find(_named(call))
        quotas, used = tenant.quotas, self._usage.usage(tenant.id)
        usage = TenantUsage(
            events_today=_usage(quotas.max_events_per_day, used.events_today, used.day_resets_at),
            storage_bytes=_usage(quotas.max_storage_bytes, used.storage_bytes),
            queries_this_hour=_usage(quotas.max_queries_per_hour, used.queries_this_hour, used.hour_resets_at),
            api_keys=_usage(quotas.max_api_keys, self._count_keys(tenant.id)),
            # There is no way yet to make one.
            projections=_usage(quotas.max_projections, 0),
            pipelines=_usage(quotas.max_pipelines, 0),
        )
        stats = TenantStats(
            tenant_id=tenant.id,
            name=tenant.name,
            tier=tenant.tier,
            active=tenant.active,
            usage=usage,
            limits=_limits(tenant),
        )
        return json_response(stats)

    def _check_if_match(self, call: Call, tenant_id: str) -> None:
        check_if_match(call, _tag(self._tenants.changeable(tenant_id)), what="tenant")


def _named(call: Call) -> str:
    """The tenant that the path names, if the caller may know of it."""
    tenant_id = call.match.parameters["tenant_id"]
    check_own_tenant(tenant_id, call.principal)
    return tenant_id


def _allowed(new: NewTenant) -> tuple[Quotas, RateLimit | None]:
    """Quotas and rate limit of a new tenant.

    Raises:
        InvalidTenantError: the preset is none, or there are two.
    """
    if new.tier is not None and new.quota_preset is not None and new.tier != new.quota_preset:
        raise InvalidTenantError("quota_preset", "must be the same as tier, or be left out")
    name, field = (new.tier, "tier") if new.tier is not None else (new.quota_preset, "quota_preset")
    if name is not None:
        preset = find_preset(name, field=field)
        quotas, limit = preset.quotas, preset.limit
    else:
        limit = PRESETS["professional"].limit
        quotas = PRESETS["professional"].quotas if new.quotas is None else Quotas()
    if new.quotas is None:
        return quotas, limit
    given = {name: value for name, value in msgspec.structs.asdict(new.quotas).items() if value is not msgspec.UNSET}
    return msgspec.structs.replace(quotas, **given), limit


def _usage(limit: int, used: int, resets_at: int | None = None) -> QuotaUsage:
    percent = round(100 * used / limit, 2) if limit else None
    return QuotaUsage(limit, used, percent, None if resets_at is None else format_instant(resets_at))


def _limits(tenant: Tenant) -> RateLimits:
    limit = tenant.limits
    rate, burst = (0, 0) if limit is None else (limit.requests_per_minute, limit.burst)
    return RateLimits(requests_per_minute=rate, burst=burst)


def _view(tenant: Tenant) -> TenantView:
    return TenantView(
        id=tenant.id,
        name=tenant.name,
        description=tenant.description,
        tier=tenant.tier,
        quotas=tenant.quotas,
        limits=_limits(tenant),
        active=tenant.active,
        deleting=tenant.deleting,
        created_at=format_instant(tenant.created_at),
        updated_at=format_instant(tenant.updated_at),
    )


def _tag(tenant: Tenant) -> str:
    return f'"{tenant.revision}"'


def _answer(tenant: Tenant, status: int = 200) -> StreamResponse:
    response = json_response(_view(tenant), status)
    response.headers[hdrs.ETAG] = _tag(tenant)
    return response


def _log(what: str, call: Call, tenant_id: str) -> None:
    structlog.get_logger().info(what, tenant_id=tenant_id, user_id=call.principal.user_id)
