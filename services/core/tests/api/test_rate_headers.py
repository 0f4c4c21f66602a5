"""What callers are told of how their bucket stands: the same whether it was told before or not."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from allsource_core.api.rate_headers import rate_lines
from allsource_core.tenancy.rate_limits import Rate, RateLimit, RateLimiter


@given(
    limit=st.builds(RateLimit, st.integers(1, 10**9), st.integers(1, 10**9)),
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=30),
    steps=st.lists(st.integers(0, 3), max_size=30),
)
# So large that a full bucket and one that lacks next to nothing are a token apart.
@example(limit=RateLimit(1, 2**28), shares=[2**-52, 2**-1022], steps=[])
def test_what_is_told_is_what_the_bucket_has(limit: RateLimit, shares: list[float], steps: list[int]):
    rate = Rate(limit)
    seconds = [share * limit.burst * rate.token_seconds for share in shares]
    # And next to each other, where the same is told again.
    seconds += [
        (min(sum(steps[:end]), limit.burst) + 0.5 * (end % 2)) * rate.token_seconds for end in range(len(steps))
    ]
    for each in seconds:
        lines = dict(line.split(": ") for line in rate_lines(rate, each).splitlines())
        assert int(lines["X-RateLimit-Limit"]) == limit.burst
        assert int(lines["X-RateLimit-Remaining"]) == Rate(limit).tokens(each)
        assert int(lines["X-RateLimit-Reset"]) == ceil(each)


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.5])
def test_a_refusal_is_never_taken_for_what_was_told(seconds: float):
    rate = Rate(RateLimit(60, 5))
    rate_lines(rate, seconds)
    assert rate.told_above >= 0


def test_with_the_largest_limit_there_is_no_more_left_than_there_may_be():
    rate = Rate(RateLimit(2**53 - 1, 2**53 - 1))
    assert rate.tokens(RateLimiter().take("a", rate, 1000.0)) <= rate.burst
