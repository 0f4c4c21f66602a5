"""What is remembered of callers: for the same header alone, until it expires or anything changes."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from allsource_core.api.standings import Standings
from allsource_core.changes import Changes
from allsource_core.identity.principals import Principal
from allsource_core.tenancy.rate_limits import RateLimit
from allsource_shared.permissions import ROLE_PERMISSIONS, Role

END = "e" * 32
BEARER = CIMultiDict({"Authorization": f"Bearer one{END}"})
KEY = CIMultiDict({"X-API-Key": f"ask_one{END}"})
LIMIT = RateLimit(60, 10)


class World:
    def __init__(self) -> None:
        self.time = 1_000.0
        self.changes = Changes()
        self.standings = Standings(self.changes, lambda: self.time)


@pytest.fixture
def world() -> World:
    return World()


def principal(**changes: Any) -> Principal:
    permissions = ROLE_PERMISSIONS[Role.DEVELOPER]
    return Principal("user", "u", "n", Role.DEVELOPER, permissions, "t", "t", **changes)


@pytest.mark.parametrize("headers", [BEARER, KEY])
def test_who_was_here_is_known_by_the_same_header(world: World, headers: CIMultiDict[str]):
    who = principal()
    assert world.standings.find(headers) is None
    world.standings.remember(headers, who, LIMIT)
    found = world.standings.find(headers.copy())
    assert found is not None
    assert (found.principal, found.limit, found.permissions) == (who, LIMIT, who.permissions)


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
    assert world.standings.find(headers) is None


def test_nobody_is_known_after_any_change(world: World):
    for headers in (BEARER, KEY):
        world.standings.remember(headers, principal(), None)
    world.changes.publish("tenant", "another")
    assert (world.standings.find(BEARER), world.standings.find(KEY)) == (None, None)


def test_what_has_expired_is_not_known(world: World):
    world.standings.remember(BEARER, principal(expires_at=world.time + 1), None)
    assert world.standings.find(BEARER) is not None
    world.time += 1
    assert world.standings.find(BEARER) is None


def test_who_has_to_change_its_password_may_do_nothing(world: World):
    world.standings.remember(BEARER, principal(must_change_password=True), None)
    found = world.standings.find(BEARER)
    assert found is not None
    assert found.permissions == frozenset()


def test_no_more_are_remembered_than_there_is_room_for(world: World):
    headers = [CIMultiDict({"Authorization": f"Bearer {number:064}"}) for number in range(5_000)]
    for one in headers:
        world.standings.remember(one, principal(), None)
    known = [one for one in headers if world.standings.find(one) is not None]
    assert known == headers[-len(known) :]
    assert len(known) == 4096


def test_the_secret_is_not_shown(world: World):
    world.standings.remember(BEARER, principal(), None)
    assert END not in repr(world.standings.find(BEARER))
