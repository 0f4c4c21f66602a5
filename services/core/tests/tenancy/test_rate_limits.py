"""Token buckets: never more than was promised, never less, and no memory for those who are idle."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.tenancy.rate_limits import Rate, RateLimit, RateLimiter


def test_a_burst_is_let_through_and_then_as_much_as_flows_in() -> None:
    limiter, rate = RateLimiter(), Rate(RateLimit(60, 3))
    assert [rate.tokens(limiter.take("a", rate, 1000)) for _ in range(3)] == [2, 1, 0]
    assert limiter.take("a", rate, 1000) == pytest.approx(-1)
    assert limiter.seconds_until_full("a", 1000) == pytest.approx(3)
    assert rate.tokens(limiter.take("a", rate, 1001)) == 0
    assert limiter.take("a", rate, 1001) < 0
    assert rate.tokens(limiter.take("b", rate, 1001)) == 2
    assert limiter.seconds_until_full("nobody", 1001) == 0


def test_what_costs_more_than_the_bucket_holds_takes_a_full_bucket() -> None:
    limiter, rate = RateLimiter(), Rate(RateLimit(60, 3))
    assert rate.tokens(limiter.take("a", rate, 1000, 100)) == 0
    assert limiter.take("a", rate, 1002, 100) == pytest.approx(-1)
    assert rate.tokens(limiter.seconds_until_full("a", 1002)) == 2
    assert limiter.take("a", rate, 1003, 100) == pytest.approx(3)


def test_what_is_put_back_can_be_taken_again_and_never_makes_more_than_a_full_bucket() -> None:
    limiter, rate = RateLimiter(), Rate(RateLimit(60, 10))
    limiter.take("a", rate, 1000, 4)
    limiter.put_back("a", rate, 3)
    assert rate.tokens(limiter.take("a", rate, 1000, 0)) == 9
    limiter.put_back("a", rate, 100)
    limiter.put_back("b", rate)
    assert len(limiter) == 1
    for name in "ab":
        assert rate.tokens(limiter.take(name, rate, 1000, 10)) == 0
        assert limiter.take(name, rate, 1000) < 0


def test_another_limit_holds_from_the_next_call_on() -> None:
    limiter = RateLimiter()
    assert limiter.take("a", Rate(RateLimit(60, 100)), 1000, 100) == pytest.approx(100)
    smaller = Rate(RateLimit(60, 10))
    assert limiter.take("a", smaller, 1000) == pytest.approx(-1)
    assert limiter.take("a", smaller, 1010) == pytest.approx(1)


def test_a_refusal_forgives_nothing_of_what_is_owed() -> None:
    limiter, rate = RateLimiter(), Rate(RateLimit(60, 3))
    now = 1000.0
    limiter.take("a", rate, now, 3)
    # As early as rounding allows, again and again: the millionth of a second is not given twice.
    for token in range(1, 1000):
        assert limiter.take("a", rate, now + token - 0.9e-6) >= 0
        assert limiter.take("a", rate, now + token - 0.9e-6) < 0
    assert limiter.seconds_until_full("a", now + 999) == pytest.approx(3)


POWERS = st.integers(0, 29).map(lambda power: 2.0**power)
# Below a power of two, sums are rounded that reach over it.
STARTS = st.one_of(
    POWERS.map(lambda power: 1.1 * power), POWERS.map(lambda power: 0.999999 * power), st.floats(1e0, 1e9)
)
COSTS = st.one_of(st.just(1.0), st.floats(0.01, 8))


@given(start=STARTS, rate=st.integers(1, 6000), burst=st.integers(1, 50), pauses=st.lists(st.floats(0, 5), max_size=9))
def test_a_full_bucket_admits_whatever_it_holds_whatever_the_clock_shows(
    start: float, rate: int, burst: int, pauses: list[float]
) -> None:
    limiter, limit, now = RateLimiter(), Rate(RateLimit(rate, burst)), start
    for pause in [*pauses, 0.0]:
        assert limiter.take("a", limit, now, burst) >= 0
        left = limiter.take("a", limit, now, burst)
        assert left < 0
        now += pause - left


@given(start=STARTS, rate=st.integers(1, 6000), burst=st.integers(1, 50), costs=st.lists(st.integers(1, 5), max_size=9))
def test_what_is_left_is_told_to_the_token_whatever_the_clock_shows(
    start: float, rate: int, burst: int, costs: list[int]
) -> None:
    limiter, limit, left = RateLimiter(), Rate(RateLimit(rate, burst)), burst
    for cost in costs:
        admitted = limiter.take("a", limit, start, cost) >= 0
        assert admitted == (left >= min(cost, burst))
        if admitted:
            left -= min(cost, burst)
        assert limit.tokens(limiter.seconds_until_full("a", start)) == left


@given(
    start=STARTS,
    rate=st.integers(1, 6000),
    burst=st.integers(1, 50),
    calls=st.lists(st.tuples(st.floats(0, 5), COSTS), min_size=1, max_size=60),
)
def test_over_any_time_no_more_is_admitted_than_burst_and_refill_and_a_refusal_says_when(
    start: float, rate: int, burst: int, calls: list[tuple[float, float]]
) -> None:
    limiter, limit, now = RateLimiter(), Rate(RateLimit(rate, burst)), start
    tokens, then, admitted = float(burst), start, []
    for pause, cost in calls:
        now += pause
        tokens = min(burst, tokens + (now - then) * rate / 60)
        then = now
        cost = min(cost, burst)
        left = limiter.take("a", limit, now, cost)
        if tokens == burst:
            assert left >= 0
        elif not math.isclose(tokens, cost, rel_tol=0, abs_tol=1e-3):
            # Nearer to the border it is what floating point makes of it.
            assert (left >= 0) == (tokens > cost)
        if left >= 0:
            tokens -= cost
            admitted.append((now, cost))
        else:
            assert -left == pytest.approx((cost - tokens) * 60 / rate, abs=1e-5)
        reset = limiter.seconds_until_full("a", now)
        assert reset == pytest.approx((burst - tokens) * 60 / rate, abs=1e-5)
        assert left < 0 or left == pytest.approx(reset)
        assert 0 <= limit.tokens(reset) <= burst
    for index, (begin, _) in enumerate(admitted):
        total = 0.0
        for end, cost in admitted[index:]:
            total += cost
            assert total <= burst + (end - begin) * rate / 60 + 1e-3


def test_a_million_tenants_seen_leave_no_bucket_behind() -> None:
    limiter, rate = RateLimiter(), Rate(RateLimit(600, 10))
    most = 0
    for number in range(1_000_000):
        limiter.take(f"tenant-{number}", rate, 1000 + number / 1000)
        most = max(most, len(limiter))
    # A token flows in after 0.1 s, in which a hundred tenants call.
    assert most <= 1025
