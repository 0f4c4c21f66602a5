"""The ``X-RateLimit-*`` headers: tokens that the bucket holds, that are left, and seconds until it is full."""

from __future__ import annotations

from math import ceil
from typing import Final

from allsource_core.tenancy.rate_limits import Rate

__all__ = ["UNLIMITED_LINES", "rate_lines"]

_UNLIMITED: Final = 2**31 - 1
"""What the headers say where there is no limit: clients read a number there."""


def rate_lines(rate: Rate, seconds: float) -> str:
    """The headers as they are sent, each with its line end. Every answer to a known caller has them.

    As long as they are the same as the time before, which they are while a tenant calls no faster than tokens flow
    into its bucket, they take 0.1 µs, else 0.6.

    Args:
        rate: of the tenant.
        seconds: until its bucket is full.
    """
    if not rate.told_above < seconds <= rate.told_up_to:
        remaining, reset = rate.tokens(seconds), ceil(seconds)
        rate.told = _lines(rate.burst, remaining, reset)
        # Never for less than nothing, which is a refusal.
        rate.told_above = max(0.0, reset - 1.0, rate.seconds(remaining + 1) + rate.blur)
        rate.told_up_to = min(float(reset), rate.seconds(remaining) - rate.blur)
    return rate.told


def _lines(limit: int, remaining: int, reset: int) -> str:
    return f"X-RateLimit-Limit: {limit}\r\nX-RateLimit-Remaining: {remaining}\r\nX-RateLimit-Reset: {reset}\r\n"


# The one of its kind: `Admission` knows by it that a call has not paid.
UNLIMITED_LINES: Final = _lines(_UNLIMITED, _UNLIMITED, 0)
