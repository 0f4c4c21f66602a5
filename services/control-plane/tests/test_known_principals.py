"""What is known of credentials: until when, what a change drops, and that it is bounded."""

from __future__ import annotations

import pytest

from allsource_control_plane.gateway.known_principals import KNOWN_MAX, KnownPrincipals
from allsource_shared.permissions import Permission, Role
from allsource_shared.wire.internal import Change, ChangePage, IntrospectedPrincipal, Introspection


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wall_clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock, wall_clock) -> KnownPrincipals:
    """Has heard of instance ``one`` at revision 5 just now."""
    known = KnownPrincipals(clock, wall_clock)
    known.apply(ChangePage("one", 5, [], reset=True), clock.now)
    return known


def principal(user: str = "u", **fields) -> IntrospectedPrincipal:
    facts = {
        "kind": "user",
        "user_id": user,
        "username": user,
        "role": Role.ADMIN,
        "permissions": frozenset(Permission),
        "tenant_id": "default",
        "key_id": "",
        "session_id": f"{user}-session",
        "must_change_password": False,
        "expires_at": None,
    }
    return IntrospectedPrincipal(**{**facts, **fields})


def answer(found=None, *, instance: str = "one", revision: int = 5) -> Introspection:
    return Introspection(instance, revision, found or principal(), None)


def changed(*changes: tuple[str, str], first: int = 6) -> ChangePage:
    listed = [Change(first + index, kind, id_) for index, (kind, id_) in enumerate(changes)]
    return ChangePage("one", listed[-1].revision, listed, reset=False)


def test_what_was_remembered_is_known(known):
    known.remember(b"k", answer())
    assert known.get(b"k") == principal()
    assert known.get(b"other") is None


def test_a_second_after_the_last_question_nothing_is_known(known, clock):
    known.remember(b"k", answer())
    clock.now += 0.999
    assert known.get(b"k")
    clock.now += 0.001
    assert known.get(b"k") is None


def test_freshness_counts_from_when_the_question_was_sent(known, clock):
    known.remember(b"k", answer())
    known.apply(ChangePage("one", 5, [], reset=False), clock.now)
    clock.now += 0.9
    known.apply(ChangePage("one", 5, [], reset=False), clock.now - 0.6)
    clock.now += 0.39
    assert known.get(b"k")
    clock.now += 0.02
    assert known.get(b"k") is None


def test_before_the_first_answer_nothing_is_remembered(clock, wall_clock):
    known = KnownPrincipals(clock, wall_clock)
    known.remember(b"k", answer())
    known.remember(b"k", answer(instance="", revision=0))
    assert known.get(b"k") is None


def test_a_core_that_goes_on_where_it_fell_silent_makes_it_good_again(known, clock):
    known.remember(b"k", answer())
    known.remember(b"l", answer(principal("v")))
    clock.now += 60
    assert known.get(b"k") is None
    known.apply(changed(("user", "v")), clock.now)
    assert known.get(b"k")
    assert known.get(b"l") is None


@pytest.mark.parametrize(
    "change", [("user", "u"), ("session", "u-session"), ("api_key", "key-1"), ("tenant", "acme"), ("signing_keys", "")]
)
def test_a_change_drops_what_it_names(known, clock, change):
    known.remember(b"k", answer(principal("u", key_id="key-1", tenant_id="acme")))
    known.apply(changed(change), clock.now)
    assert known.get(b"k") is None
    assert len(known) == 0


@pytest.mark.parametrize("change", [("user", "v"), ("session", "u"), ("api_key", "u"), ("tenant", "acme")])
def test_a_change_leaves_what_it_does_not_name(known, clock, change):
    known.remember(b"k", answer())
    known.apply(changed(change), clock.now)
    assert known.get(b"k")


@pytest.mark.parametrize(
    "page", [ChangePage("one", 9, [], reset=True), ChangePage("two", 5, [], reset=False)], ids=["reset", "restarted"]
)
def test_a_reset_and_another_instance_drop_everything(known, clock, page):
    known.remember(b"k", answer())
    known.apply(page, clock.now)
    assert known.get(b"k") is None
    assert (known.instance, known.revision) == (page.instance, page.revision)


def test_an_answer_that_a_change_has_overtaken_is_not_remembered(known, clock):
    known.apply(changed(("user", "u")), clock.now)
    known.remember(b"k", answer(revision=5))
    assert known.get(b"k") is None
    known.remember(b"k", answer(revision=6))
    assert known.get(b"k")


def test_an_answer_ahead_of_the_changes_is_remembered_until_they_name_it(known, clock):
    known.remember(b"k", answer(revision=7))
    assert known.get(b"k")
    known.apply(changed(("user", "v"), ("user", "u")), clock.now)
    assert known.get(b"k") is None


def test_an_answer_of_another_instance_is_not_remembered(known):
    known.remember(b"k", answer(instance="two", revision=99))
    assert known.get(b"k") is None


def test_a_refusal_is_not_remembered(known):
    known.remember(b"k", Introspection("one", 5, None, None))
    assert len(known) == 0


def test_it_ends_when_the_credential_expires(known, wall_clock):
    known.remember(b"k", answer(principal(expires_at=wall_clock.now + 10)))
    wall_clock.now += 9.9
    assert known.get(b"k")
    wall_clock.now += 0.1
    assert known.get(b"k") is None
    assert len(known) == 0


def test_the_oldest_makes_room_and_leaves_nothing_behind(known, clock):
    for number in range(KNOWN_MAX + 100):
        known.remember(b"%d" % number, answer(principal(f"u{number}")))
    assert len(known) == KNOWN_MAX
    assert known.get(b"99") is None
    assert known.get(b"100")
    known.apply(changed(("tenant", "default")), clock.now)
    assert len(known) == 0
    assert known._keys == {}


def test_a_credential_that_is_remembered_again_takes_one_place(known):
    for _ in range(3):
        known.remember(b"k", answer())
    assert len(known) == 1
