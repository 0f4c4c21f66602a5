"""Tenants: what they are allowed, and what they have used."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Quotas", "RateLimits"]

_Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]


class Quotas(msgspec.Struct, frozen=True, kw_only=True):
    """How much a tenant may use; 0 is no limit. Windows are fixed, in UTC."""

    max_events_per_day: _Count = 0
    max_storage_bytes: _Count = 0
    max_queries_per_hour: _Count = 0
    max_api_keys: _Count = 0
    max_projections: _Count = 0
    max_pipelines: _Count = 0


class RateLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How fast a tenant may call; `requests_per_minute` 0 is no limit."""

    requests_per_minute: _Count = 0
    burst: _Count = 0
