"""Quotas: the presets, and whether there may be one more of what is counted."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from allsource_core.tenancy.errors import InvalidTenantError, QuotaExceededError
from allsource_core.tenancy.rate_limits import RateLimit
from allsource_shared.wire.tenants import Quotas

__all__ = ["CUSTOM", "PRESETS", "CountedQuota", "Preset", "check_count", "find_preset", "preset_of"]

CountedQuota = Literal["max_api_keys", "max_projections", "max_pipelines"]

CUSTOM: Final = "custom"
"""What quotas are called that are no preset's."""

_GIBIBYTE: Final = 1024**3


class Preset(msgspec.Struct, frozen=True):
    """What a tenant is allowed unless it is told otherwise.

    Attributes:
        limit: None for as many requests as there are.
    """

    quotas: Quotas
    limit: RateLimit | None


PRESETS: Final[dict[str, Preset]] = {
    "free": Preset(
        Quotas(
            max_events_per_day=10_000,
            max_storage_bytes=_GIBIBYTE,
            max_queries_per_hour=1_000,
            max_api_keys=2,
            max_projections=5,
            max_pipelines=2,
        ),
        RateLimit(60, 100),
    ),
    "professional": Preset(
        Quotas(
            max_events_per_day=1_000_000,
            max_storage_bytes=100 * _GIBIBYTE,
            max_queries_per_hour=100_000,
            max_api_keys=25,
            max_projections=100,
            max_pipelines=50,
        ),
        RateLimit(600, 1_000),
    ),
    "unlimited": Preset(Quotas(), None),
}


def find_preset(name: str, *, field: str) -> Preset:
    """The preset of this name.

    Raises:
        InvalidTenantError: there is none; `field` says where it was named.
    """
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidTenantError(field, f"must be one of {', '.join(PRESETS)}")
    return preset


def preset_of(quotas: Quotas) -> str:
    """The name of the preset that has exactly these quotas; `CUSTOM` if none has."""
    return next((name for name, preset in PRESETS.items() if preset.quotas == quotas), CUSTOM)


def check_count(quotas: Quotas, name: CountedQuota, used: int) -> None:
    """Let there be one more of something that is counted.

    Args:
        quotas: of the tenant.
        name: of the quota.
        used: how many there are. It must not change before the one more is there.

    Raises:
        QuotaExceededError: there are as many as may be.
    """
    limit: int = getattr(quotas, name)
    if limit and used >= limit:
        raise QuotaExceededError(name, limit=limit, used=used)
