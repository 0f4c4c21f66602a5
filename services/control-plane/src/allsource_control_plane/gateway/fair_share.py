"""How many requests one tenant, and all callers without a credential, may have under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from allsource_control_plane.metrics import GatewayMetrics
from allsource_control_plane.settings import GatewaySettings
from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError
from allsource_shared.wire.internal import IntrospectedPrincipal

__all__ = ["FairShare"]

_ADMINS_TENANT: Final = "default"
"""Administrators exist there only, whichever tenant they work in."""

_ANONYMOUS_SHARE: Final = 4
"""Callers without a credential get one in so many of the connections to the core."""

_RETRY_AFTER_SECONDS: Final = "1"


class FairShare:
    """Counts requests under way, so that nobody holds all connections to the core. For one event loop.

    Args:
        settings: how many there may be.
        metrics: counts what is refused.
    """

    def __init__(self, settings: GatewaySettings, metrics: GatewayMetrics) -> None:
        self._tenant_max = settings.max_requests_per_tenant
        self._anonymous_max = max(1, settings.max_connections // _ANONYMOUS_SHARE)
        self._metrics = metrics
        self._under_way: Counter[str] = Counter()
        self._anonymous = 0

    def __len__(self) -> int:
        return self._anonymous + self._under_way.total()

    @contextmanager
    def of_tenant(self, principal: IntrospectedPrincipal) -> Iterator[None]:
        """A place among the requests of the tenant that a caller belongs to.

        Raises:
            ApiError: ``rate_limited`` if there is none.
        """
        tenant_id = _ADMINS_TENANT if principal.role is Role.ADMIN else principal.tenant_id
        if self._under_way[tenant_id] >= self._tenant_max:
            self._metrics.count_crowded_out("tenant")
            detail = f"{self._tenant_max} requests of this tenant are under way already"
            raise ApiError("rate_limited", detail, headers={"Retry-After": _RETRY_AFTER_SECONDS})
        self._under_way[tenant_id] += 1
        try:
            yield
        finally:
            self._under_way[tenant_id] -= 1
            if not self._under_way[tenant_id]:
                del self._under_way[tenant_id]

    @contextmanager
    def of_anonymous(self) -> Iterator[None]:
        """A place among the requests without a credential; to be held only as long as a connection to the core.

        Raises:
            ApiError: ``overloaded`` if there is none.
        """
        if self._anonymous >= self._anonymous_max:
            self._metrics.count_crowded_out("anonymous")
            detail = f"{self._anonymous_max} requests without a credential are under way already"
            raise ApiError("overloaded", detail, headers={"Retry-After": _RETRY_AFTER_SECONDS})
        self._anonymous += 1
        try:
            yield
        finally:
            self._anonymous -= 1
