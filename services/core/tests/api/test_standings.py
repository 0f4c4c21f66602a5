"""What is remembered of callers: for the same header alone, until it expires or anything changes."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from allsource_core.api.standings import Standing, Standings
from allsource_core.changes import Changes
from allsource_core.identity.principals import Principal
from allsource_core.tenancy.rate_limits import Rate, RateLimit
from allsource_shared.permissions import ROLE_PERMISSIONS, Role

END = "e" * 32
BEARER = CIMultiDict({"Authorization": f"Bearer one{END}"})
KEY = CIMultiDict({"X-API-Key": f"ask_one{END}"})
RATE = Rate(RateLimit(60, 10))


class World:
    """Standings, a time of day, and a clock that never goes back."""

    def __init__(self) -> None:
        self.time = 1_000.0
        self.monotonic = 50.0
        self.changes = Changes()
        self.standings = Standings(self.changes, lambda: self.time)

    def find(self, headers: CIMultiDict[str]) -> Standing | None:
        return self.standings.find(headers, self.monotonic)


@pytest.fixture
def world() -> World:
    return World()


def principal(**changes: Any) -> Principal:
    permissions = ROLE_PERMISSIONS[Role.DEVELOPER]
    return Principal("user", "u", "n", Role.DEVELOPER, permissions, "t", "t", **changes)


@pytest.mark.parametrize("headers", [BEARER, KEY])
def test_who_was_here_is_known_by_the_same_header(world: World, headers: CIMultiDict[str]):
    who = principal()
    assert world.find(headers) is None
    world.standings.remember(headers, who, RATE)
    found = world.find(headers.copy())
    assert found is not None
    assert (found.principal, found.rate, found.permissions) == (who, RATE, who.permissions)


@pytest.mark.parametrize(
    "headers",
    [
        CIMultiDict(),
        CIMultiDict({"Authorization": f"Bearer other{END}"}),
        CIMultiDict({"Authorization": END}),
        CIMultiDict({"Authorization": ""}),
        CIMultiDict({"X-API-Key": BEARER["Authorization"]}),
        CIMultiDict({"Authorization": KEY["X-API-Key"]}),
        CIMultiDict({**BEARER, "X-Tenant-ID": "t"}),
        CIMultiDict([*BEARER.items(), *BEARER.items()]),
        CIMultiDict([*BEARER.items(), ("Authorization", "")]),
        CIMultiDict({"Authorization": "Bearer x", **KEY}),
        CIMultiDict([*KEY.items(), *KEY.items()]),
    ],
)
def test_whatever_else_is_sent_must_be_looked_at(world: World, headers: CIMultiDict[str]):
    for known in (BEARER, KEY):
        world.standings.remember(known, principal(), None)
    assert world.find(headers) is None


def test_nobody_is_known_after_any_change(world: World):
    for headers in (BEARER, KEY):
        world.standings.remember(headers, principal(), None)
    world.changes.publish("tenant", "another")
    assert (world.find(BEARER), world.find(KEY)) == (None, None)


@pytest.mark.parametrize("seconds", [0.25, 1, 5.5])
def test_what_has_expired_is_not_known(world: World, seconds: float):
    world.standings.remember(BEARER, principal(expires_at=world.time + seconds), None)
    end = world.monotonic + seconds
    while world.monotonic < end:
        assert world.find(BEARER) is not None
        world.time += 0.25
        world.monotonic += 0.25
    assert world.find(BEARER) is None


@pytest.mark.parametrize("lifetime", [10, 10_000])
def test_what_expires_since_the_time_was_set_forward_is_known_for_a_second_at_most(world: World, lifetime: float):
    world.standings.remember(BEARER, principal(expires_at=world.time + lifetime), None)
    assert world.find(BEARER) is not None
    world.time += lifetime
    world.monotonic += 1
    assert world.find(BEARER) is None


def test_what_does_not_expire_is_known_for_ever(world: World):
    world.standings.remember(KEY, principal(expires_at=None), None)
    for _ in range(3):
        assert world.find(KEY) is not None
        world.time += 10**9
        world.monotonic += 10**9


def test_who_has_to_change_its_password_may_do_nothing(world: World):
    world.standings.remember(BEARER, principal(must_change_password=True), None)
    found = world.find(BEARER)
    assert found is not None
    assert found.permissions == frozenset()


def test_no_more_are_remembered_than_there_is_room_for(world: World):
    headers = [CIMultiDict({"Authorization": f"Bearer {number:064}"}) for number in range(5_000)]
    for one in headers:
        world.standings.remember(one, principal(), None)
    known = [one for one in headers if world.find(one) is not None]
    assert known == headers[-len(known) :]
    assert len(known) == 4096


def test_the_secret_is_not_shown(world: World):
    world.standings.remember(BEARER, principal(), None)
    assert END not in repr(world.find(BEARER))
