"""Letting requests in: who calls, how fast they call, what they may."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from allsource_core.api.authentication import Authenticator
from allsource_core.api.call import Call
from allsource_core.api.rate_headers import UNLIMITED_LINES, rate_lines
from allsource_core.api.standings import Standings
from allsource_core.changes import Changes
from allsource_core.identity.principals import Principal
from allsource_core.tenancy.rate_limits import Rate, RateLimit, RateLimiter
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
        clock: seconds that never go back, of which `Call.started` is one.

    Attributes:
        changes: the same.
    """

    def __init__(
        self, authenticator: Authenticator, changes: Changes, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._authenticator = authenticator
        self.changes = changes
        self._standings = Standings(changes)
        self._clock = clock
        self.limit(RateLimiter(), lambda _tenant_id: None)

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
        route = call.match.route
        # Most routes ask for a permission, and most callers were here before.
        if type(route.access) is Permission:
            standing = self._standings.find(call.request.headers, call.started)
            if standing is not None and route.access in standing.permissions:
                principal = call.caller = standing.principal
                if principal.key_id:
                    self._authenticator.note_use(principal.key_id)
                rate = standing.rate
                if rate is None:
                    call.rate_lines = UNLIMITED_LINES
                    return
                # As `_charge` and `rate_lines`, without the calls.
                left = self._limiter.take(principal.home_tenant_id, rate, call.started, route.cost)
                if rate.told_above < left <= rate.told_up_to:
                    call.rate_lines = rate.told
                else:
                    self._tell(call, rate, left, call.started)
                return
        elif self._is_open(call):
            self._authenticator.refuse_reserved_tenants(call.request)
            return
        self.identify(call)
        self._authenticator.check(call.principal, route)

    def identify(self, call: Call) -> None:
        """Find out who calls, and have its tenant pay for it. Also for routes that ask for no credential, but get one.

        Raises:
            ApiError: as `Authenticator.identify`; ``rate_limited``.
        """
        authenticator = self._authenticator
        call.revision = self.changes.revision
        caller = call.caller = authenticator.caller(call.request)
        rate = self._rate_of(caller.home_tenant_id)
        self._standings.remember(call.request.headers, caller, rate)
        self._charge(call, caller, rate)
        # Afterwards: whoever names a tenant that is not for them pays like everybody.
        call.caller = authenticator.enter(call.request, caller)

    def _rate_of(self, tenant_id: str) -> Rate | None:
        limit = self._limit_of(tenant_id)
        return None if limit is None else Rate(limit)

    def _charge(self, call: Call, caller: Principal, rate: Rate | None) -> None:
        """Have the caller's own tenant pay for a call. Raises ApiError: ``rate_limited``."""
        if rate is None:
            call.rate_lines = UNLIMITED_LINES
            return
        left = self._limiter.take(caller.home_tenant_id, rate, call.started, call.match.route.cost)
        self._tell(call, rate, left, call.started)

    def _tell(self, call: Call, rate: Rate, left: float, now: float) -> None:
        """Have the answer say what is left, which `RateLimiter.take` returned. Raises ApiError: ``rate_limited``."""
        if left >= 0:
            call.rate_lines = rate_lines(rate, left)
            return
        call.rate_lines = rate_lines(rate, self._limiter.seconds_until_full(call.principal.home_tenant_id, now))
        raise rate_limited(-left, f"the tenant calls faster than {rate.limit.requests_per_minute} requests a minute")

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
        if call.caller is None or call.revision == self.changes.revision:
            return
        call.revision = self.changes.revision
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
        rate = self._rate_of(tenant_id)
        if rate is None:
            return
        paid = call.match.route.cost
        cost = min(cost, rate.burst - paid)
        if cost <= 0:
            return
        now = self._clock()
        left = self._limiter.take(tenant_id, rate, now, cost)
        if left < 0:
            # Where there was no limit when it was let in, it has paid nothing. What is given back is counted in a
            # bucket that is named like no tenant.
            has_paid = call.rate_lines is not UNLIMITED_LINES
            if has_paid and self._limiter.take(f"refused {tenant_id}", rate, now) >= 0:
                self._limiter.put_back(tenant_id, rate, paid)
            left = self._limiter.take(tenant_id, rate, now, paid + cost)
        self._tell(call, rate, left, now)


def rate_limited(seconds: float, what: str) -> ApiError:
    """The refusal of somebody for whom there are too few tokens for so long; `what` they do too fast."""
    whole = math.ceil(seconds)
    return ApiError("rate_limited", f"{what}; wait {whole} s", headers={"Retry-After": str(whole)})
