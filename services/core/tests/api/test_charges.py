"""What is charged for a call when it turns out to be a large one: who waits as long as told is let in then."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from allsource_core.api.admission import Admission
from allsource_core.api.call import Call
from allsource_core.changes import Changes
from allsource_core.tenancy.rate_limits import RateLimit, RateLimiter
from allsource_shared.problems import ApiError


class Tenant:
    """Somebody with a rate limit, and a clock that stands still until it is turned."""

    def __init__(self, limit: RateLimit | None) -> None:
        self.limit = limit
        self.now = 1000.0
        caller = SimpleNamespace(home_tenant_id="acme", expires_at=None)
        authenticator: Any = SimpleNamespace(caller=lambda _request: caller, enter=lambda _request, caller: caller)
        self._admission = Admission(authenticator, Changes(), lambda: self.now)
        self._admission.limit(RateLimiter(), lambda _tenant_id: self.limit)

    def attempt(self, more: float, between: Callable[[], None] = lambda: None) -> tuple[int, int]:
        """Make a call that costs 1, and so much more; how many tokens are left, and for how long it is refused."""
        match: Any = SimpleNamespace(route=SimpleNamespace(cost=1))
        request: Any = SimpleNamespace(headers=CIMultiDict[str]())
        nothing: Any = None
        call = Call(request, self.now, match, "", nothing, None, [], nothing, nothing, 0)
        wait = 0
        try:
            self._admission.identify(call)
            between()
            self._admission.charge_more(call, more)
        except ApiError as error:
            wait = int(error.headers["Retry-After"])
        (left,) = re.findall(r"Remaining: (\d+)\r\n", call.rate_lines)
        return int(left), wait


@pytest.mark.parametrize("more", [0.5, 1, 8.01, 10, 19, 500])
@pytest.mark.parametrize("taken", [1, 3, 11, 19, 20])
def test_who_waits_as_long_as_told_is_let_in(taken: int, more: float):
    tenant = Tenant(RateLimit(1, 20))
    tenant.attempt(taken - 1)
    left, wait = tenant.attempt(more)
    if wait and not left:
        # Too little for any call: nobody has read yet how large this one is.
        tenant.now += wait
        left, wait = tenant.attempt(more)
    if wait:
        # An impatient call before its time doesn't keep it out then.
        assert tenant.attempt(more) == (left, wait)
        tenant.now += wait
        assert tenant.attempt(more)[1] == 0


def test_a_refused_call_takes_nothing_and_says_when_there_is_enough_for_all_of_it():
    tenant = Tenant(RateLimit(1, 20))
    assert tenant.attempt(10) == (9, 0)
    assert tenant.attempt(10) == (9, 120)
    tenant.now += 119
    assert tenant.attempt(10) == (10, 1)
    tenant.now += 1
    assert tenant.attempt(10) == (0, 0)


def test_several_who_wait_as_long_as_told_are_let_in_one_after_the_other():
    tenant = Tenant(RateLimit(1, 20))
    tenant.attempt(19)
    begun = tenant.now
    retries = dict.fromkeys(range(5), begun)
    while retries:
        number, tenant.now = min(retries.items(), key=lambda retry: retry[1])
        # 55 tokens, each after a minute, and what of them the refused calls took.
        assert tenant.now - begun < 65 * 60
        wait = tenant.attempt(10)[1]
        if wait:
            retries[number] += wait
        else:
            del retries[number]


def test_who_sends_what_is_refused_all_the_time_pays_for_it():
    tenant = Tenant(RateLimit(1, 5))
    tenant.attempt(1)
    answers = [tenant.attempt(4) for _ in range(9)]
    assert answers == [(3, 120)] * 5 + [(2, 180), (1, 240), (0, 300), (0, 60)]


def test_a_limit_that_is_made_or_changed_meanwhile_holds_and_nothing_is_given_back_that_was_not_paid():
    tenant = Tenant(None)
    limit = RateLimit(1, 4)

    def make_limit() -> None:
        tenant.limit = limit

    assert tenant.attempt(3, make_limit) == (1, 0)
    tenant.limit = None
    assert tenant.attempt(3, make_limit) == (1, 180)
    assert tenant.attempt(0) == (0, 0)

    def lift_limit() -> None:
        tenant.limit = None

    tenant.now += 60
    assert tenant.attempt(500, lift_limit) == (0, 0)
