"""Letting requests in: who calls, how fast they call, what they may."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

from allsource_core.api.authentication import Authenticator
from allsource_core.api.call import Call
from allsource_core.changes import Changes
from allsource_core.tenancy.rate_limits import RateLimit, RateLimiter, Verdict
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access

__all__ = ["Admission", "rate_headers"]

_UNLIMITED: Final = str(2**31 - 1)
"""What the headers say where there is no limit: clients read a number there."""
_UNLIMITED_HEADERS: Final = {
    "X-RateLimit-Limit": _UNLIMITED,
    "X-RateLimit-Remaining": _UNLIMITED,
    "X-RateLimit-Reset": "0",
}


class Admission:
    """Decides on every call: authentication, then the rate limit, then the permission.

    In this order: a rate belongs to a tenant, which only a credential names; and what is refused costs as well.

    Args:
        authenticator: tells who calls.
        changes: of who may do what.
    """

    def __init__(self, authenticator: Authenticator, changes: Changes) -> None:
        self._authenticator = authenticator
        self._changes = changes
        self._limiter: RateLimiter | None = None
        self._limit_of: Callable[[str], RateLimit | None] = lambda _tenant_id: None

    def limit(self, limiter: RateLimiter, limit_of: Callable[[str], RateLimit | None]) -> None:
        """Limit rates from now on; `limit_of` tells that of a tenant, None where there is none."""
        self._limiter = limiter
        self._limit_of = limit_of

    def admit(self, call: Call) -> None:
        """Let a call in. Its caller is known afterwards, unless the route asks for no credential.

        Raises:
            ApiError: as `Authenticator.identify` and `Authenticator.check`; ``rate_limited``. Without a credential
                ``reserved_tenant``.
        """
        authenticator, route = self._authenticator, call.match.route
        if authenticator.is_open(route) or (route.access is Access.GATEWAY and authenticator.is_gateway(call.request)):
            authenticator.refuse_reserved_tenants(call.request)
            return
        self.identify(call)
        authenticator.check(call.principal, route)

    def identify(self, call: Call) -> None:
        """Find out who calls, and have its tenant pay for it. Also for routes that ask for no credential, but get one.

        Raises:
            ApiError: as `Authenticator.identify`; ``rate_limited``.
        """
        authenticator = self._authenticator
        call.revision = self._changes.revision
        caller = call.caller = authenticator.caller(call.request)
        limit = self._limit_of(caller.home_tenant_id)
        if limit is not None:
            self._charge(call, limit, call.match.route.cost)
        # Afterwards: whoever names a tenant that is not for them pays like everybody.
        call.caller = authenticator.enter(call.request, caller)

    def recheck(self, call: Call) -> None:
        """Refuse a call that was let in, and whose caller may no longer make it: after any wait.

        Raises:
            ApiError: as `admit`.
        """
        if call.caller is None or call.revision == self._changes.revision:
            return
        call.revision = self._changes.revision
        call.caller = self._authenticator.identify(call.request)
        self._authenticator.check(call.caller, call.match.route)

    def charge_more(self, call: Call, cost: float) -> None:
        """Take further tokens for what a call turned out to carry; altogether never more than a full bucket.

        Raises:
            ApiError: ``rate_limited``.
        """
        limit = self._limit_of(call.principal.home_tenant_id)
        if limit is not None:
            self._charge(call, limit, min(cost, limit.burst - call.match.route.cost))

    def _charge(self, call: Call, limit: RateLimit, cost: float) -> None:
        """Take tokens from the bucket of the tenant that the caller belongs to."""
        if self._limiter is None or cost <= 0:
            return
        verdict = call.verdict = self._limiter.take(call.principal.home_tenant_id, limit, cost)
        if not verdict.admitted:
            seconds = math.ceil(verdict.retry_after)
            raise ApiError(
                "rate_limited",
                f"the tenant calls faster than {limit.requests_per_minute} requests a minute; wait {seconds} s",
                headers={"Retry-After": str(seconds)},
            )


def rate_headers(verdict: Verdict | None) -> Mapping[str, str]:
    """The ``X-RateLimit-*`` headers: tokens that the bucket holds, that are left, and seconds until it is full."""
    if verdict is None:
        return _UNLIMITED_HEADERS
    return {
        "X-RateLimit-Limit": str(verdict.limit),
        "X-RateLimit-Remaining": str(verdict.remaining),
        "X-RateLimit-Reset": str(math.ceil(verdict.reset)),
    }
