"""Passwords: hashed with argon2id, off the loop, never more at a time than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from allsource_core.identity.errors import SignInQueueFullError
from allsource_core.identity.passwords import Passwords


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(queue_max=3)
    yield passwords
    passwords.close()


def verify(passwords: Passwords, encoded: str | None, password: str) -> bool:
    return asyncio.run(passwords.verify(encoded, password))


@pytest.mark.parametrize("password", ["correct horse", "ä😀", "x" * 1024, " ", "a\0b"])
def test_a_password_matches_its_own_hash_and_no_other(passwords: Passwords, password: str):
    encoded = passwords.hash(password)
    assert password not in encoded
    assert verify(passwords, encoded, password)
    assert not verify(passwords, encoded, password + "x")


def test_equal_passwords_have_different_hashes(passwords: Passwords):
    assert passwords.hash("correct horse") != passwords.hash("correct horse")


def test_the_parameters_are_those_of_owasp(passwords: Passwords):
    assert passwords.hash("x").startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize("encoded", [None, ""])
def test_who_has_no_hash_has_no_password(passwords: Passwords, encoded: str | None, monkeypatch: pytest.MonkeyPatch):
    # Not even the one that takes the place of theirs.
    monkeypatch.setattr(passwords, "_nobody", passwords.hash("nobody has this password"))
    assert not verify(passwords, encoded, "nobody has this password")


@pytest.mark.parametrize("encoded", ["$argon2id$", "plain", "$2b$12$x"])
def test_what_is_no_hash_matches_nothing(passwords: Passwords, encoded: str):
    assert not verify(passwords, encoded, encoded)


def test_beyond_the_queue_a_check_is_refused_at_once_and_places_come_back(passwords: Passwords):
    encoded = passwords.hash("correct horse")

    async def many() -> list[bool | BaseException]:
        checks = [passwords.verify(encoded, "correct horse") for _ in range(5)]
        return await asyncio.gather(*checks, return_exceptions=True)

    for _ in range(2):
        answers = asyncio.run(many())
        assert answers[:3] == [True, True, True]
        assert all(isinstance(answer, SignInQueueFullError) for answer in answers[3:])
