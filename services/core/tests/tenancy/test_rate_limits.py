"""Token buckets: never more than was promised, never less, and no memory for those who are idle."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.tenancy.rate_limits import RateLimit, RateLimiter


class Clock:
    """Stands still until it is turned."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_is_let_through_and_then_as_much_as_flows_in(clock: Clock) -> None:
    limiter, limit = RateLimiter(clock), RateLimit(60, 3)
    assert [limiter.take("a", limit).remaining for _ in range(3)] == [2, 1, 0]
    refused = limiter.take("a", limit)
    assert not refused.admitted
    assert (refused.limit, refused.remaining, refused.reset) == (3, 0, pytest.approx(3.0))
    assert refused.retry_after == pytest.approx(1.0)
    clock.now += refused.retry_after
    assert limiter.take("a", limit).admitted
    assert not limiter.take("a", limit).admitted
    assert limiter.take("b", limit).remaining == 2


def test_what_costs_more_than_the_bucket_holds_takes_a_full_bucket(clock: Clock) -> None:
    limiter, limit = RateLimiter(clock), RateLimit(60, 3)
    assert limiter.take("a", limit, 100).remaining == 0
    clock.now += 2
    refused = limiter.take("a", limit, 100)
    assert (refused.admitted, refused.remaining) == (False, 2)
    assert refused.retry_after == pytest.approx(1.0)
    clock.now += 1
    assert limiter.take("a", limit, 100).admitted


def test_what_is_put_back_can_be_taken_again_and_never_makes_more_than_a_full_bucket(clock: Clock) -> None:
    limiter, limit = RateLimiter(clock), RateLimit(60, 10)
    limiter.take("a", limit, 4)
    limiter.put_back("a", limit, 3)
    assert limiter.take("a", limit, 0).remaining == 9
    limiter.put_back("a", limit, 100)
    limiter.put_back("b", limit)
    assert len(limiter) == 1
    for tenant_id in "ab":
        assert limiter.take(tenant_id, limit, 10).remaining == 0
        assert not limiter.take(tenant_id, limit).admitted


def test_another_limit_holds_from_the_next_call_on(clock: Clock) -> None:
    limiter = RateLimiter(clock)
    assert limiter.take("a", RateLimit(60, 100), 100).admitted
    refused = limiter.take("a", RateLimit(60, 10))
    assert refused.retry_after == pytest.approx(1.0)
    clock.now += 10
    assert limiter.take("a", RateLimit(60, 10)).remaining == 9


POWERS = st.integers(0, 29).map(lambda power: 2.0**power)
# Below a power of two, sums are rounded that reach over it.
STARTS = st.one_of(POWERS.map(lambda power: 1.1 * power), POWERS.map(lambda power: 0.999999 * power), st.floats(1e0, 1e9))
COSTS = st.one_of(st.just(1.0), st.floats(0.01, 8))


@given(start=STARTS, rate=st.integers(1, 6000), burst=st.integers(1, 50), pauses=st.lists(st.floats(0, 5), max_size=9))
def test_a_full_bucket_admits_whatever_it_holds_whatever_the_clock_shows(
    start: float, rate: int, burst: int, pauses: list[float]
) -> None:
    clock = Clock(start)
    limiter, limit = RateLimiter(clock), RateLimit(rate, burst)
    for pause in [*pauses, 0.0]:
        assert limiter.take("a", limit, burst).admitted
        refused = limiter.take("a", limit, burst)
        assert not refused.admitted
        clock.now += refused.retry_after + pause


@given(start=STARTS, rate=st.integers(1, 6000), burst=st.integers(1, 50), costs=st.lists(st.integers(1, 5), max_size=9))
def test_what_is_left_is_told_to_the_token_whatever_the_clock_shows(
    start: float, rate: int, burst: int, costs: list[int]
) -> None:
    limiter, limit = RateLimiter(Clock(start)), RateLimit(rate, burst)
    left = burst
    for cost in costs:
        verdict = limiter.take("a", limit, cost)
        assert verdict.admitted == (left >= min(cost, burst))
        if verdict.admitted:
            left -= min(cost, burst)
        assert verdict.remaining == left


@given(
    start=STARTS,
    rate=st.integers(1, 6000),
    burst=st.integers(1, 50),
    calls=st.lists(st.tuples(st.floats(0, 5), COSTS), min_size=1, max_size=60),
)
def test_over_any_time_no_more_is_admitted_than_burst_and_refill_and_a_refusal_says_when(
    start: float, rate: int, burst: int, calls: list[tuple[float, float]]
) -> None:
    clock = Clock(start)
    limiter, limit = RateLimiter(clock), RateLimit(rate, burst)
    tokens, then, admitted = float(burst), start, []
    for pause, cost in calls:
        clock.now += pause
        tokens = min(burst, tokens + (clock.now - then) * rate / 60)
        then = clock.now
        cost = min(cost, burst)
        verdict = limiter.take("a", limit, cost)
        if tokens == burst:
            assert verdict.admitted
        elif not math.isclose(tokens, cost, rel_tol=0, abs_tol=1e-3):
            # Nearer to the border it is what floating point makes of it.
            assert verdict.admitted == (tokens > cost)
        if verdict.admitted:
            tokens -= cost
            admitted.append((clock.now, cost))
        else:
            assert verdict.retry_after == pytest.approx((cost - tokens) * 60 / rate, abs=1e-5)
        assert verdict.reset == pytest.approx((burst - tokens) * 60 / rate, abs=1e-5)
        assert 0 <= verdict.remaining <= burst
    for index, (begin, _) in enumerate(admitted):
        total = 0.0
        for end, cost in admitted[index:]:
            total += cost
            assert total <= burst + (end - begin) * rate / 60 + 1e-3


def test_a_million_tenants_seen_leave_no_bucket_behind(clock: Clock) -> None:
    limiter, limit = RateLimiter(clock), RateLimit(600, 10)
    most = 0
    for number in range(1_000_000):
        clock.now += 0.001
        limiter.take(f"tenant-{number}", limit)
        most = max(most, len(limiter))
    # A token flows in after 0.1 s, in which a hundred tenants call.
    assert most <= 1025
