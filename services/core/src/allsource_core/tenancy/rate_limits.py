"""Rate limits: a token bucket for each tenant, refilled continuously.

A bucket is kept as one number: the time at which it will be full again. That says as much as a count of tokens and the
time of the count (the generic cell rate algorithm of ITU-T I.371, and the leaky bucket as a meter, are this too), and a
bucket whose time has passed is full: it need not be kept at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

__all__ = ["RateLimit", "RateLimiter", "Verdict"]

_SWEEP_LEAST: Final = 1024
_ROUNDING: Final = 1e-6
"""Seconds that a sum may be off, ten times what a clock that shows 30 years rounds: a full bucket is full, and of five
tokens less one four are left."""


class RateLimit(msgspec.Struct, frozen=True):
    """How fast a tenant may call.

    Attributes:
        requests_per_minute: tokens that flow into its bucket; at least 1.
        burst: tokens that it holds; at least 1.
    """

    requests_per_minute: int
    burst: int


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """Whether a call is let through, and how the bucket stands.

    Attributes:
        retry_after: seconds until the same call would be let through; 0 if it was.
        limit: tokens that the bucket holds.
        remaining: whole tokens that are left.
        reset: seconds until it is full.
    """

    retry_after: float
    limit: int
    remaining: int
    reset: float

    @property
    def admitted(self) -> bool:
        return self.retry_after == 0.0


class RateLimiter:
    """The buckets of all tenants. One of them costs about 100 bytes, and only until it is full again. For one thread.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._sweep_at = _SWEEP_LEAST

    def __len__(self) -> int:
        """How many buckets are kept; those that are full need not be."""
        return len(self._full_at)

    def take(self, tenant_id: str, limit: RateLimit, cost: float = 1.0) -> Verdict:
        """Take tokens out of a tenant's bucket, if it has as many. About 0.5 µs.

        Args:
            tenant_id: whose bucket it is.
            limit: that holds for the tenant now. It may be another one than before.
            cost: tokens; where it is more than the bucket holds, a full bucket is enough.
        """
        now = self._clock()
        second = limit.requests_per_minute / 60
        burst = limit.burst
        # Comparisons instead of `min` and `max`, which cost as much as all else here: every request comes by.
        full_at = self._full_at.get(tenant_id, now)
        if full_at < now:
            full_at = now
        elif full_at > now + burst / second + 2 * _ROUNDING:
            # The bucket that this one replaces was larger, and emptied further than this one can be.
            full_at = self._full_at[tenant_id] = now + burst / second
        after = full_at + (cost if cost < burst else burst) / second
        wait = after - now - burst / second
        # Whoever is let through too early owes it: it is never given twice.
        if wait > _ROUNDING:
            return Verdict(wait, burst, int((now - full_at + _ROUNDING) * second + burst), full_at - now)
        self._full_at[tenant_id] = after
        if len(self._full_at) > self._sweep_at:
            self._sweep(now)
        return Verdict(0.0, burst, int((now - after + _ROUNDING) * second + burst), after - now)

    def put_back(self, tenant_id: str, limit: RateLimit, cost: float = 1.0) -> None:
        """Give back what was taken, under the same limit, for a call that is then refused for more than that."""
        full_at = self._full_at.get(tenant_id)
        if full_at is not None:
            # Of a bucket that is full meanwhile, that is a time in the past: as good as none.
            self._full_at[tenant_id] = full_at - min(cost, limit.burst) * 60 / limit.requests_per_minute

    def forget(self, tenant_id: str) -> None:
        """There is no such tenant any more."""
        self._full_at.pop(tenant_id, None)

    def _sweep(self, now: float) -> None:
        """Forget the buckets that are full. Whoever makes the buckets double pays for it: a constant cost a call."""
        self._full_at = {tenant_id: full_at for tenant_id, full_at in self._full_at.items() if full_at > now}
        self._sweep_at = max(_SWEEP_LEAST, 2 * len(self._full_at))
