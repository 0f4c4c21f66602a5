"""Letting requests in: who calls, how fast they call, what they may."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from allsource_core.api.authentication import Authenticator
from allsource_core.api.call import Call
from allsource_core.api.standings import Standings
from allsource_core.changes import Changes
from allsource_core.identity.principals import Principal
from allsource_core.tenancy.rate_limits import RateLimit, RateLimiter, Verdict
from allsource_shared.permissions import Permission
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access

__all__ = ["Admission", "rate_limited"]


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
        self._standings = Standings(changes)
        self._limiter = RateLimiter(time.monotonic)
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
        access = call.match.route.access
        # Most routes ask for a permission, and most callers were here before.
        if type(access) is Permission:
            standing = self._standings.find(call.request.headers)
            if standing is not None and access in standing.permissions:
                call.revision = self._changes.revision
                principal = call.caller = standing.principal
                if principal.key_id:
                    self._authenticator.note_use(principal.key_id)
                self._charge(call, principal, standing.limit)
                return
        elif self._is_open(call):
            self._authenticator.refuse_reserved_tenants(call.request)
            return
        self.identify(call)
        self._authenticator.check(call.principal, call.match.route)

    def identify(self, call: Call) -> None:
        """Find out who calls, and have its tenant pay for it. Also for routes that ask for no credential, but get one.

        Raises:
            ApiError: as `Authenticator.identify`; ``rate_limited``.
        """
        authenticator = self._authenticator
        call.revision = self._changes.revision
        caller = call.caller = authenticator.caller(call.request)
        limit = self._limit_of(caller.home_tenant_id)
        self._standings.remember(call.request.headers, caller, limit)
        self._charge(call, caller, limit)
        # Afterwards: whoever names a tenant that is not for them pays like everybody.
        call.caller = authenticator.enter(call.request, caller)

    def _charge(self, call: Call, caller: Principal, limit: RateLimit | None) -> None:
        """Have the caller's own tenant pay for a call. Raises ApiError: ``rate_limited``."""
        cost = call.match.route.cost
        if limit is not None and cost:
            verdict = call.verdict = self._limiter.take(caller.home_tenant_id, limit, cost)
            if verdict.retry_after:
                raise _too_fast(verdict, limit)

    def _is_open(self, call: Call) -> bool:
        """Whether a call needs no principal."""
        route = call.match.route
        if self._authenticator.is_open(route):
            return True
        return route.access is Access.GATEWAY and self._authenticator.is_gateway(call.request)

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

        A call that is refused gets back what it had paid, so that those who come when they are told to find as much as
        they were told. That it may do as often as its tenant may call: it was perhaps read to the end, and who sends
        what is refused all the time pays for that.

        Raises:
            ApiError: ``rate_limited``, until there is enough for all of the call.
        """
        tenant_id = call.principal.home_tenant_id
        limit = self._limit_of(tenant_id)
        if limit is None:
            return
        paid = call.match.route.cost
        cost = min(cost, limit.burst - paid)
        if cost <= 0:
            return
        verdict = self._limiter.take(tenant_id, limit, cost)
        if not verdict.admitted:
            # Without a verdict it was let in when there was no limit, and has paid nothing. What is given back is
            # counted in a bucket that is named like no tenant.
            if call.verdict is not None and self._limiter.take(f"refused {tenant_id}", limit).admitted:
                self._limiter.put_back(tenant_id, limit, paid)
            verdict = self._limiter.take(tenant_id, limit, paid + cost)
        call.verdict = verdict
        if not verdict.admitted:
            raise _too_fast(verdict, limit)


def _too_fast(verdict: Verdict, limit: RateLimit) -> ApiError:
    return rate_limited(verdict, f"the tenant calls faster than {limit.requests_per_minute} requests a minute")


def rate_limited(verdict: Verdict, what: str) -> ApiError:
    """The refusal of somebody for whom there are too few tokens; `what` they do too fast."""
    seconds = math.ceil(verdict.retry_after)
    return ApiError("rate_limited", f"{what}; wait {seconds} s", headers={"Retry-After": str(seconds)})
