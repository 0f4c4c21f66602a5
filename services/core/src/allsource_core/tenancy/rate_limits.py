"""Rate limits: a token bucket for each tenant, refilled continuously.

A bucket is kept as one number: the time at which it will be full again. That says as much as a count of tokens and the
time of the count (the generic cell rate algorithm of ITU-T I.371, and the leaky bucket as a meter, are this too), and a
bucket whose time has passed is full: it need not be kept at all.
"""

from __future__ import annotations

from typing import Final

import msgspec

__all__ = ["Rate", "RateLimit", "RateLimiter"]

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


class Rate:
    """A rate limit in the numbers that a bucket is reckoned in: every request needs them.

    Attributes:
        limit: the same for people.
        burst: tokens that a bucket holds.
        token_seconds: in which a token flows in.
        seconds_max: that an empty bucket takes to fill, and what a sum may be off.
        blur: seconds that `tokens` and `seconds`, of all the tokens that there may be, are off each other at most.
        told: what callers were told last of how their bucket stands.
        told_above, told_up_to: of buckets that are full in so many seconds, the same is to be told.
    """

    __slots__ = (
        *("_per_second", "_rounding", "blur", "burst", "limit", "seconds_max", "token_seconds"),
        *("told", "told_above", "told_up_to"),
    )

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.burst = limit.burst
        self.token_seconds = 60 / limit.requests_per_minute
        self.seconds_max = limit.burst * self.token_seconds + _ROUNDING
        self._per_second = limit.requests_per_minute / 60
        self._rounding = limit.burst + min(_ROUNDING * self._per_second, 0.5)
        # Two roundings each, of half a unit in the last of 53 places, and as much again.
        self.blur = limit.burst * 2.0**-50 / self._per_second
        self.told = ""
        self.told_above = self.told_up_to = 0.0

    def tokens(self, seconds: float) -> int:
        """Whole tokens in a bucket that is full in so many seconds."""
        # Beyond 2**52 tokens, what is added for rounding is more than one.
        return min(self.burst, int(self._rounding - seconds * self._per_second))

    def seconds(self, tokens: int) -> float:
        """The most seconds in which a bucket is full that holds so many whole tokens."""
        return (self._rounding - tokens) / self._per_second


class RateLimiter:
    """The buckets of all tenants. One of them costs about 100 bytes, and only until it is full again. For one thread.

    Times are seconds of one clock that never goes back.
    """

    def __init__(self) -> None:
        self._full_at: dict[str, float] = {}
        self._sweep_at = _SWEEP_LEAST

    def __len__(self) -> int:
        """How many buckets are kept; those that are full need not be."""
        return len(self._full_at)

    def take(self, name: str, rate: Rate, now: float, cost: float = 1) -> float:
        """Take tokens out of a bucket, if it has as many. About 0.3 µs, which every request takes.

        Args:
            name: of the bucket: the tenant's id.
            rate: that holds for it now. It may be another one than before.
            now: the time.
            cost: tokens; where it is more than the bucket holds, a full bucket is enough.

        Returns:
            Seconds until it is full. Below 0 if it has too few: so many seconds more, and it would have enough.
        """
        full_at = self._full_at.get(name)
        if full_at is None:
            full_at = self._begin(name, now)
        elif full_at < now:
            full_at = now
        # Nearly all cost one token, and what needs no `min` takes half the time.
        after = full_at + (rate.token_seconds if cost == 1 else min(cost, rate.burst) * rate.token_seconds)
        if after - now > rate.seconds_max:
            seconds_max = rate.seconds_max - _ROUNDING
            if full_at - now > seconds_max + 2 * _ROUNDING:
                # The bucket that this one replaces was larger, and emptied further than this one can be.
                after += now + seconds_max - full_at
                self._full_at[name] = now + seconds_max
            if after - now > rate.seconds_max:
                return now + seconds_max - after
        # Whoever is let through too early by what is rounded owes it: it is never given twice.
        self._full_at[name] = after
        return after - now

    def seconds_until_full(self, name: str, now: float) -> float:
        """In how many seconds a bucket is full."""
        return max(0.0, self._full_at.get(name, now) - now)

    def put_back(self, name: str, rate: Rate, cost: float = 1) -> None:
        """Give back what was taken, at the same rate, for a call that is then refused for more than that."""
        full_at = self._full_at.get(name)
        if full_at is not None:
            # Of a bucket that is full meanwhile, that is a time in the past: as good as none.
            self._full_at[name] = full_at - min(cost, rate.burst) * rate.token_seconds

    def forget(self, name: str) -> None:
        """There is no such tenant any more."""
        self._full_at.pop(name, None)

    def _begin(self, name: str, now: float) -> float:
        """Keep a bucket that is full. Whoever makes the buckets double pays for a sweep: a constant cost of each."""
        if len(self._full_at) > self._sweep_at:
            self._full_at = {one: full_at for one, full_at in self._full_at.items() if full_at > now}
            self._sweep_at = max(_SWEEP_LEAST, 2 * len(self._full_at))
        self._full_at[name] = now
        return now
