"""What is sealed is opened by the same master key, for the same purpose, as the same thing, and by nothing else."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.sealing import MasterKey, SealBrokenError

SECRET = "vT4mQ9wLc2Zr7Nd0Xk5Bf8Yh1Gs6Pj3Ue"
KEY = MasterKey(SECRET)
OTHER = MasterKey("hR7kW2xNb5Tq9Mc4Vz1Lf6Dj3Gy8Ps0Ea")


def broken(sealed: str, key: MasterKey = KEY, purpose: str = "p", subject: str = "thing:1") -> None:
    with pytest.raises(SealBrokenError, match="can't be unsealed") as caught:
        key.open(sealed, purpose=purpose, subject=subject)
    assert SECRET not in str(caught.value)
    assert subject in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.binary(max_size=300), st.text(max_size=20), st.text(max_size=20))
def test_what_is_sealed_comes_back(plain: bytes, purpose: str, subject: str):
    sealed = KEY.seal(plain, purpose=purpose, subject=subject)
    assert MasterKey(SECRET).open(sealed, purpose=purpose, subject=subject) == plain


@given(st.binary(min_size=8, max_size=100))
def test_nothing_of_it_is_seen_and_no_two_seals_are_alike(plain: bytes):
    first, second = (KEY.seal(plain, purpose="p", subject="thing:1") for _ in range(2))
    assert first != second
    assert plain not in base64.urlsafe_b64decode(first)


def test_another_master_key_purpose_or_subject_opens_nothing():
    sealed = KEY.seal(b"plain", purpose="p", subject="thing:1")
    broken(sealed, OTHER)
    broken(sealed, purpose="q")
    broken(sealed, subject="thing:2")


@given(st.binary(max_size=40), st.integers(min_value=0), st.integers(0, 7))
def test_any_bit_changed_breaks_the_seal(plain: bytes, place: int, bit: int):
    content = bytearray(base64.urlsafe_b64decode(KEY.seal(plain, purpose="p", subject="thing:1")))
    content[place % len(content)] ^= 1 << bit
    broken(base64.urlsafe_b64encode(content).decode())


@given(st.integers(0, 60))
def test_any_cut_breaks_the_seal(length: int):
    sealed = KEY.seal(b"0123456789abcdef", purpose="p", subject="thing:1")
    assert len(sealed) == 60
    if length < 60:
        broken(sealed[:length])
    broken(sealed + sealed[:4])


@given(st.text(max_size=100))
def test_what_was_never_sealed_is_not_opened(text: str):
    broken(text)


def test_derived_keys_are_fixed_and_differ_by_purpose_and_master_key():
    # Pinned: what lies in data directories was sealed and signed with these.
    assert (
        MasterKey("a" * 32).derive("signing keys").hex()
        == "a1a04fb9cf3fd8c2fccfec0d99decf7b74b5eaa6f30eca1a6e9b2b512405b7e4"
    )
    keys = {key.derive(purpose) for key in (KEY, OTHER) for purpose in ("", "a", "b", "ab", "signing keys")}
    assert len(keys) == 10
    assert {len(key) for key in keys} == {32}
    assert MasterKey(SECRET).derive("a") == KEY.derive("a")


def test_no_text_form_shows_the_secret():
    KEY.derive("p")
    for text in (repr(KEY), str(KEY), f"{KEY}"):
        assert SECRET not in text
        assert KEY.derive("p").hex() not in text


def test_a_seal_that_was_stored_before_is_opened():
    sealed = "AfcM3tkm8620WPAYCnsU2u9s7NxSWxJea_Nl9kticGXSnw=="
    assert MasterKey("a" * 32).open(sealed, purpose="signing keys", subject="signing-key:0") == b"plain"
