"""Access tokens: whoever has no key gets nowhere, whatever the token says of itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError
from allsource_shared.tokens import Claims, SigningKey, TokenSigner, TokenVerifier

SECRET = "a secret of the tests that is long enough"
KEY = SigningKey.from_secret(SECRET)
VERIFIER = TokenVerifier([KEY], issuer="allsource", audience="clients")


def signer(key: SigningKey = KEY, **changes: Any) -> TokenSigner:
    arguments: dict[str, Any] = {
        "issuer": "allsource",
        "audience": "clients",
        "lifetime_seconds": 900,
        "now": time.time,
        **changes,
    }
    return TokenSigner(key, **arguments)


def sign(key: SigningKey = KEY, role: Role = Role.DEVELOPER, **changes: Any) -> str:
    return signer(key, **changes).sign(user_id="u-1", username="ann", tenant_id="default", role=role, session_id="s1")[
        0
    ]


def encode(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def good_claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "sub": "u-1",
        "username": "ann",
        "tenant_id": "default",
        "role": "developer",
        "exp": now + 600,
        "iat": now,
        "iss": "allsource",
        "aud": "clients",
        "jti": "j-1",
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not ...}


def craft(header: Any, payload: Any, secret: str = SECRET, digest: Any = hashlib.sha256) -> str:
    """A token with a correct signature by `secret` over whatever header and payload."""
    signed = f"{encode(header)}.{encode(payload)}"
    return f"{signed}.{encode(hmac.new(secret.encode(), signed.encode(), digest).digest())}"


HEADER = {"alg": "HS256", "typ": "JWT", "kid": KEY.kid}


def refused(token: str, verifier: TokenVerifier = VERIFIER) -> str:
    with pytest.raises(ApiError) as caught:
        verifier.verify(token)
    assert caught.value.code == "unauthorized"
    assert SECRET not in caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize("role", list(Role))
def test_a_signed_token_gives_its_claims_back(role: Role):
    token, claims = signer().sign(user_id="u-1", username="ann", tenant_id="default", role=role, session_id="s1")
    assert VERIFIER.verify(token) == claims
    assert (claims.role, claims.exp - claims.iat, claims.iss, claims.aud) == (role, 900, "allsource", "clients")


def test_a_crafted_token_of_the_right_key_is_good():
    assert isinstance(VERIFIER.verify(craft(HEADER, good_claims())), Claims)


def test_the_id_of_a_token_names_its_session():
    token, claims = signer().sign(
        user_id="u-1", username="ann", tenant_id="default", role=Role.READONLY, session_id="0a1b2c"
    )
    assert VERIFIER.verify(token).session_id == "0a1b2c"
    assert claims.jti.startswith("0a1b2c.")
    assert len(claims.jti) > 7 + 20


@pytest.mark.parametrize("jti", ["", "x", ".x", "j-1"])
def test_a_token_without_a_session_is_of_the_session_that_nobody_has(jti: str):
    assert VERIFIER.verify(craft(HEADER, good_claims(jti=jti))).session_id == ""


def test_no_two_tokens_have_one_id():
    assert len({VERIFIER.verify(sign()).jti for _ in range(50)}) == 50


def test_the_token_names_its_key_and_algorithm():
    assert jwt.get_unverified_header(sign()) == {"alg": "HS256", "kid": KEY.kid, "typ": "JWT"}


def test_the_key_id_is_a_digest_and_the_same_in_every_process():
    assert KEY.kid == hashlib.sha256(b"allsource kid\0" + SECRET.encode()).hexdigest()[:16]
    assert KEY.kid not in SECRET


def test_an_expired_token_is_refused():
    assert "expired" in refused(sign(now=lambda: time.time() - 1000))


def test_a_clock_that_is_a_little_off_is_forgiven_both_ways():
    now = int(time.time())
    verifier = TokenVerifier([KEY], issuer="allsource", audience="clients", now=lambda: now)
    assert verifier.verify(craft(HEADER, good_claims(iat=now, exp=now - 1)))
    assert verifier.verify(craft(HEADER, good_claims(iat=now + 2)))


def test_a_clock_that_is_far_off_is_not():
    now = int(time.time())
    verifier = TokenVerifier([KEY], issuer="allsource", audience="clients", now=lambda: now)
    refused(craft(HEADER, good_claims(iat=now, exp=now - 60)), verifier)
    refused(craft(HEADER, good_claims(iat=now + 60)), verifier)
    refused(craft(HEADER, good_claims(iat=now, nbf=now + 3600)))


@pytest.mark.parametrize("changes", [{"issuer": "other"}, {"audience": "other"}])
def test_a_token_of_another_issuer_or_audience_is_refused(changes: dict[str, str]):
    refused(sign(**changes))


def test_a_key_that_is_not_in_the_ring_is_refused():
    refused(sign(SigningKey.from_secret("another secret that is long enough as well")))


def test_a_retired_key_is_refused_and_its_successor_accepted():
    successor = SigningKey.from_secret("the secret that came after the first one")
    both = TokenVerifier([successor, KEY], issuer="allsource", audience="clients")
    assert both.verify(sign())
    assert both.verify(sign(successor))
    after = TokenVerifier([successor], issuer="allsource", audience="clients")
    assert after.verify(sign(successor))
    refused(sign(), after)


def test_a_key_does_not_verify_what_another_key_of_the_ring_signed():
    second = SigningKey.from_secret("the secret that came after the first one")
    both = TokenVerifier([KEY, second], issuer="allsource", audience="clients")
    refused(craft({**HEADER, "kid": KEY.kid}, good_claims(), second.secret), both)


def test_a_changed_payload_is_refused():
    header, _, signature = sign(role=Role.READONLY).split(".")
    refused(f"{header}.{encode(good_claims(role='admin'))}.{signature}")


@given(st.integers(min_value=0), st.integers(1, 63))
def test_a_signature_with_any_character_changed_is_refused(place: int, shift: int):
    token = sign()
    head, _, signature = token.rpartition(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    # The last character carries only four bits of the signature.
    place %= len(signature) - 1
    other = alphabet[(alphabet.index(signature[place]) + shift) % 64]
    refused(f"{head}.{signature[:place]}{other}{signature[place + 1 :]}")


@pytest.mark.parametrize("signature", ["", "AAAA", encode(b"\0" * 32), encode(b"\0" * 31), "!!", "="])
def test_no_or_a_made_up_signature_is_refused(signature: str):
    head = sign().rpartition(".")[0]
    refused(f"{head}.{signature}")


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "NoNe", "", " none", None, 0, [], ["none"], {}])
@pytest.mark.parametrize("signature", ["", "AAAA"])
def test_the_algorithm_none_has_no_way_in(name: Any, signature: str):
    refused(f"{encode({'alg': name, 'typ': 'JWT', 'kid': KEY.kid})}.{encode(good_claims())}.{signature}")


@pytest.mark.parametrize(
    ("name", "digest"),
    [("HS384", hashlib.sha384), ("HS512", hashlib.sha512), ("HS256 ", hashlib.sha256), ("hs256", hashlib.sha256)],
)
def test_another_hmac_than_that_of_the_key_is_refused(name: str, digest: Any):
    refused(craft({**HEADER, "alg": name}, good_claims(), digest=digest))


@pytest.mark.parametrize("name", ["RS256", "ES256", "PS256", "EdDSA"])
@pytest.mark.parametrize("material", [KEY.kid, SECRET])
def test_an_asymmetric_algorithm_in_the_header_is_refused(name: str, material: str):
    refused(craft({**HEADER, "alg": name}, good_claims(), material))


def test_a_token_signed_with_what_is_public_of_the_key_is_refused():
    for material in (KEY.kid, "", "allsource"):
        refused(craft(HEADER, good_claims(), material))


@pytest.mark.parametrize(
    "kid", ["", "unknown", KEY.kid.upper(), KEY.kid + "\0", " " + KEY.kid, 0, 1.5, True, None, [KEY.kid], {"a": 1}, ...]
)
def test_a_key_id_that_names_no_key_is_refused(kid: Any):
    header = {name: value for name, value in {**HEADER, "kid": kid}.items() if value is not ...}
    refused(craft(header, good_claims()))


@pytest.mark.parametrize("extra", [{"crit": ["b64"]}, {"crit": ["x"], "x": 1}, {"b64": False}])
def test_a_header_that_asks_for_what_we_do_not_know_is_refused(extra: dict[str, Any]):
    refused(craft({**HEADER, **extra}, good_claims()))


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c"])
def test_a_key_that_the_token_brings_along_is_not_used(member: str):
    own = "the attacker's own secret, long enough for it"
    jwk = {"kty": "oct", "k": encode(own.encode()), "alg": "HS256", "kid": "mine"}
    refused(craft({**HEADER, "kid": "mine", member: jwk}, good_claims(), own))
    refused(craft({**HEADER, member: jwk}, good_claims(), own))


@pytest.mark.parametrize("name", list(good_claims()))
def test_a_missing_claim_is_refused(name: str):
    refused(craft(HEADER, good_claims(**{name: ...})))


WRONG_VALUES = [None, [], {}, ["clients"], [["clients"]], float("inf"), float("nan"), -1, "", "x"]
TEXTS = {"username", "tenant_id", "sub", "jti"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in good_claims()
        for value in WRONG_VALUES
        # Any text is of the right type for these, and a time long ago is a time.
        if not (name in TEXTS and value in ("", "x")) and not (name == "iat" and value == -1)
    ],
)
def test_a_claim_of_the_wrong_type_is_refused(name: str, value: Any):
    refused(craft(HEADER, good_claims(**{name: value})))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b'"x"', b"1", b"{", b"\xff", b"[" * 3000, b'{"a":' * 1000])
def test_a_payload_that_is_no_object_is_refused(payload: bytes):
    refused(craft(HEADER, payload))


@pytest.mark.parametrize(
    "header", [b"", b"[]", b"null", b"1", b"{", b"\xff", b"[" * 4000, b'{"kid":' * 800, b'{"kid":' + b"1" * 5000 + b"}"]
)
def test_a_header_that_is_no_object_is_refused(header: bytes):
    refused(craft(header, good_claims()))


def test_a_giant_token_is_refused_before_it_is_looked_at():
    assert "too long" in refused(craft(HEADER, good_claims(username="x" * 10_000_000)))


@given(st.text(max_size=300))
def test_garbage_is_refused(token: str):
    refused(token)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5))
def test_garbage_in_the_form_of_a_token_is_refused(parts: list[bytes]):
    refused(".".join(encode(part) for part in parts))


@pytest.mark.parametrize("token", ["", ".", "..", "...", "a.b.c", "ask_0123456789", "null", "\0", "\ud800", "ä.ö.ü"])
def test_what_is_no_token_is_refused(token: str):
    refused(token)


def test_white_space_around_a_token_is_refused():
    refused(" " + sign())
    refused(sign() + "\n")


def test_no_text_form_of_a_key_shows_its_secret():
    for text in (repr(KEY), str(KEY), f"{KEY}", repr([KEY]), repr(signer()), repr(VERIFIER)):
        assert SECRET not in text


def test_a_token_that_was_verified_is_refused_once_it_has_expired() -> None:
    """What the verifier remembers of a token must not outlive it."""
    clock = [time.time()]
    key = SigningKey.from_secret("k" * 32)
    signer = TokenSigner(key, issuer="i", audience="a", lifetime_seconds=60, now=lambda: clock[0])
    verifier = TokenVerifier([key], issuer="i", audience="a", now=lambda: clock[0])
    token, claims = signer.sign(user_id="u", username="n", tenant_id="default", role=Role.ADMIN, session_id="s1")
    assert verifier.verify(token) == claims == verifier.verify(token)
    clock[0] += 64
    assert verifier.verify(token) == claims
    clock[0] += 2
    for _ in range(2):
        with pytest.raises(ApiError, match="expired"):
            verifier.verify(token)


def test_the_verifier_remembers_a_bounded_number_of_tokens() -> None:
    key = SigningKey.from_secret("k" * 32)
    signer = TokenSigner(key, issuer="i", audience="a", lifetime_seconds=3600, now=time.time)
    verifier = TokenVerifier([key], issuer="i", audience="a")
    for number in range(4200):
        token, _ = signer.sign(user_id=str(number), username="n", tenant_id="default", role=Role.ADMIN, session_id="s1")
        assert verifier.verify(token).sub == str(number)
    assert len(verifier._verified) == 4096
