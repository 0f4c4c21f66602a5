"""Tenants: what they are, what they are allowed, and what they have used."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from allsource_shared.wire.operations import Operation

__all__ = [
    "AllQuotas",
    "NewTenant",
    "QuotaOverrides",
    "QuotaUsage",
    "Quotas",
    "RateLimits",
    "TenantDescription",
    "TenantPage",
    "TenantParameters",
    "TenantRemoval",
    "TenantStats",
    "TenantUsage",
    "TenantView",
]

_PAGE_LIMIT_DEFAULT: Final = 100
_PAGE_LIMIT_MAX: Final = 10_000

_Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
_Description = Annotated[str, Meta(max_length=4096)]


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant may use; 0 is no limit. Windows are fixed, in UTC."""

    max_events_per_day: _Count = 0
    max_storage_bytes: _Count = 0
    max_queries_per_hour: _Count = 0
    max_api_keys: _Count = 0
    max_projections: _Count = 0
    max_pipelines: _Count = 0


class AllQuotas(msgspec.Struct, frozen=True, kw_only=True):
    """The six quotas, each of which is to be given: one that is left out would be lifted. 0 is no limit."""

    max_events_per_day: _Count
    max_storage_bytes: _Count
    max_queries_per_hour: _Count
    max_api_keys: _Count
    max_projections: _Count
    max_pipelines: _Count


class QuotaOverrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Quotas that are given over those of a preset; 0 is no limit. A misspelt one is refused: it would limit none."""

    max_events_per_day: _Count | UnsetType = UNSET
    max_storage_bytes: _Count | UnsetType = UNSET
    max_queries_per_hour: _Count | UnsetType = UNSET
    max_api_keys: _Count | UnsetType = UNSET
    max_projections: _Count | UnsetType = UNSET
    max_pipelines: _Count | UnsetType = UNSET


class RateLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How fast a tenant may call: what flows into its bucket, and what that holds. Both 0: as fast as it can."""

    requests_per_minute: _Count
    burst: _Count


class NewTenant(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant that is to be made.

    Attributes:
        id: 1 to 128 of A-Z a-z 0-9 . _ - and begins with a letter or a digit.
        name: for people; 1 to 256 bytes, without control characters.
        tier, quota_preset: the same, either will do: `free`, `professional` or `unlimited`.
        quotas: over those of the preset. Given without one, those that are left out are unlimited.
    """

    id: str
    name: str
    description: _Description = ""
    tier: str | None = None
    quota_preset: str | None = None
    quotas: QuotaOverrides | None = None


class TenantDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What is told to people about a tenant. A description that is left out is empty."""

    name: str
    description: _Description = ""


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant.

    Attributes:
        tier: the preset that has these quotas; `custom` if none has.
        active: its credentials work.
        deleting: it is being deleted, which nothing stops any more.
        created_at, updated_at: RFC 3339.
    """

    id: str
    name: str
    description: str
    tier: str
    quotas: Quotas
    limits: RateLimits
    active: bool
    deleting: bool
    created_at: str
    updated_at: str


class TenantParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Query parameters of ``GET tenants``.

    Attributes:
        cursor: `next_cursor` of the page before.
    """

    limit: Annotated[int, Meta(ge=1, le=_PAGE_LIMIT_MAX)] = _PAGE_LIMIT_DEFAULT
    cursor: str | None = None


class TenantPage(msgspec.Struct, frozen=True):
    """Tenants by id. `next_cursor` is null on the last page."""

    tenants: list[TenantView]
    count: int
    next_cursor: str | None


class QuotaUsage(msgspec.Struct, frozen=True):
    """What is used of a quota.

    Attributes:
        limit: 0 is none.
        percent: of the limit; null without one.
        resets_at: when it begins anew by itself (RFC 3339); null where it does not.
    """

    limit: int
    used: int
    percent: float | None
    resets_at: str | None


class TenantUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of each of the six quotas."""

    events_today: QuotaUsage
    storage_bytes: QuotaUsage
    queries_this_hour: QuotaUsage
    api_keys: QuotaUsage
    projections: QuotaUsage
    pipelines: QuotaUsage


class TenantStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has used, and what it may."""

    tenant_id: str
    name: str
    tier: str
    active: bool
    usage: TenantUsage
    limits: RateLimits


class TenantRemoval(Operation, frozen=True, kw_only=True):
    """The removal of a tenant: it is effective; the operation is done when the bytes are gone from the disk."""

    events_removed: int
