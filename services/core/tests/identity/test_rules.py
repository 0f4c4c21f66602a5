"""Which names, addresses and passwords are taken, and that everybody else is told why not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.identity.errors import InvalidUserError
from allsource_core.identity.rules import PasswordRules, checked_email, checked_username

RULES = PasswordRules(12)
GOOD = "correct horse battery"


@given(st.text(max_size=300))
def test_a_name_is_kept_in_one_form_or_refused(name: str):
    normal = unicodedata.normalize("NFC", name)
    if not normal or len(max(name, normal, key=len)) > 256 or not normal.isprintable() or normal != normal.strip():
        with pytest.raises(InvalidUserError) as caught:
            checked_username(name)
        assert (caught.value.field, caught.value.code) == ("username", "invalid_body")
    else:
        assert checked_username(name) == normal
        # What is kept stays as it is, so that whoever has the name can be found by it.
        assert checked_username(normal) == normal


@pytest.mark.parametrize("name", ["a", "Ann", "ann lee", "root@example.org", "Ärger", "日本", "x" * 256, "_", "."])
def test_names_that_people_have(name: str):
    assert checked_username(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", " a", "a ", "a\tb", "a\nb", "a\0b", "a\u200bb", "a\u2028", "\u00a0a", "x" * 257]
)
def test_names_that_nobody_has(name: str):
    with pytest.raises(InvalidUserError, match=r"^username: must "):
        checked_username(name)


def test_a_name_in_two_forms_is_one():
    assert checked_username("e\u0301milie") == checked_username("émilie") == "émilie"


def test_a_name_may_not_grow_too_long_when_it_is_normalized():
    with pytest.raises(InvalidUserError):
        checked_username("\ufb2c" * 100)


@pytest.mark.parametrize("email", ["", "a@b", "ann.lee+x@example.org", "ä@exämple.org", "a@" + "x" * 254])
def test_addresses_that_are_taken(email: str):
    assert checked_email(email) == email


@pytest.mark.parametrize(
    "email", ["a", "@", "a@", "@b", "a@b@c", "a b@c", " a@b", "a@b ", "a@b\n", "a@\0", "a@" + "x" * 255]
)
def test_addresses_that_are_none(email: str):
    with pytest.raises(InvalidUserError, match=r"^email: must be an address"):
        checked_email(email)


@pytest.mark.parametrize("password", [GOOD, "x" * 12, "ä" * 512, "😀" * 12, "            ", "a\0bcdefghijkl"])
def test_passwords_that_are_taken(password: str):
    RULES.check(password, username="ann")


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("", "at least 12 characters"),
        ("x" * 11, "at least 12 characters"),
        ("ä" * 11, "at least 12 characters"),
        ("x" * 1025, "at most 1024 bytes"),
        ("ä" * 513, "at most 1024 bytes"),
        ("anne-marie.lee", "must not be the username"),
        ("Anne-Marie.LEE", "must not be the username"),
    ],
)
def test_weak_passwords_are_refused_and_not_shown(password: str, why: str):
    with pytest.raises(InvalidUserError, match=why) as caught:
        RULES.check(password, username="anne-marie.lee", field="new")
    assert (caught.value.field, caught.value.code) == ("new", "weak_password")
    assert not password or password not in str(caught.value)
