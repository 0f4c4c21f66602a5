"""Keys that change, and keys of two algorithms: each verifies what it signed, as long as it may, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError
from allsource_shared.tokens import Claims, SigningKey, TokenSigner, TokenVerifier


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def edwards_key(kid: str, number: int = 1) -> SigningKey:
    private = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return SigningKey(
        kid, "EdDSA", encode(private.private_bytes_raw()), encode(private.public_key().public_bytes_raw())
    )


HMAC = SigningKey.from_secret("a secret of the tests that is long enough")
EDWARDS = edwards_key("edwards")
KEYS = [HMAC, EDWARDS, SigningKey.from_secret("another secret that is just as long as that"), edwards_key("other", 2)]


class Clock:
    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def until(key: SigningKey, verifies_until: float) -> SigningKey:
    return SigningKey(key.kid, key.algorithm, key.secret, key.public, verifies_until)


def verifier(*keys: SigningKey, now: Any = time.time) -> TokenVerifier:
    return TokenVerifier(keys, issuer="allsource", audience="clients", now=now)


def sign(key: SigningKey, now: Any = time.time, lifetime: int = 900) -> str:
    signer = TokenSigner(key, issuer="allsource", audience="clients", lifetime_seconds=lifetime, now=now)
    return signer.sign(user_id="u-1", username="ann", tenant_id="default", role=Role.READONLY, session_id="s1")[0]


def refused(verifier: TokenVerifier, token: str) -> str:
    with pytest.raises(ApiError) as caught:
        verifier.verify(token)
    assert caught.value.code == "unauthorized"
    for key in KEYS:
        assert key.secret not in caught.value.detail
    return caught.value.detail


def with_parts(token: str, *, header: dict[str, Any] | None = None, payload: dict[str, Any] | None = None) -> str:
    """The token with members replaced, its signature as it was."""
    parts = token.split(".")
    for place, changes in ((0, header), (1, payload)):
        if changes is not None:
            old = json.loads(base64.urlsafe_b64decode(parts[place] + "=="))
            parts[place] = encode(json.dumps({**old, **changes}).encode())
    return ".".join(parts)


# --- EdDSA ---


def test_a_token_of_an_edwards_key_gives_its_claims_back():
    token = sign(EDWARDS)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "edwards", "typ": "JWT"}
    assert isinstance(verifier(EDWARDS).verify(token), Claims)


def test_anybody_verifies_it_with_the_public_half():
    public = jwt.PyJWK(EDWARDS.public_jwk)
    claims = jwt.decode(sign(EDWARDS), public, algorithms=["EdDSA"], audience="clients", issuer="allsource")
    assert claims["sub"] == "u-1"
    assert EDWARDS.public_jwk == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": EDWARDS.public,
        "kid": "edwards",
        "use": "sig",
        "alg": "EdDSA",
    }
    assert EDWARDS.secret not in json.dumps(EDWARDS.public_jwk)


def test_nothing_of_an_hmac_key_is_public():
    with pytest.raises(ValueError, match="no public half"):
        _ = HMAC.public_jwk


def test_the_verifier_keeps_nothing_that_could_sign_with_an_edwards_key():
    assert not hasattr(EDWARDS.verifying_material, "sign")


def public_forms() -> dict[str, bytes]:
    public = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32).public_key()
    return {
        "raw": public.public_bytes_raw(),
        "base64url": EDWARDS.public.encode(),
        "JWK": json.dumps(EDWARDS.public_jwk).encode(),
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "SSH": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    }


@pytest.mark.parametrize("form", list(public_forms()))
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret_of_an_hmac(form: str, algorithm: str):
    header, payload, _ = with_parts(sign(EDWARDS), header={"alg": algorithm}).split(".")
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    signature = hmac.new(public_forms()[form], f"{header}.{payload}".encode(), digest).digest()
    for ring in (verifier(EDWARDS), verifier(EDWARDS, HMAC), verifier(HMAC, EDWARDS)):
        refused(ring, f"{header}.{payload}.{encode(signature)}")


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "", "HS256", "RS256", "ES256", "PS256", "ES256K", "Ed448", "eddsa"]
)
def test_what_the_header_says_of_the_algorithm_opens_nothing(algorithm: str):
    for key in (EDWARDS, HMAC):
        if algorithm == key.algorithm:
            continue
        token = with_parts(sign(key), header={"alg": algorithm})
        refused(verifier(HMAC, EDWARDS), token)
        refused(verifier(HMAC, EDWARDS), token.rpartition(".")[0] + ".")


@given(st.sampled_from(KEYS), st.sampled_from(KEYS))
def test_no_key_vouches_for_what_another_signed(signer: SigningKey, named: SigningKey):
    claims = jwt.decode(sign(signer), options={"verify_signature": False})
    headers = {"kid": named.kid}
    token = jwt.encode(claims, signer.signing_material, algorithm=signer.algorithm, headers=headers)
    if signer is named:
        verifier(*KEYS).verify(token)
    else:
        refused(verifier(*KEYS), token)


@given(st.sampled_from([HMAC, EDWARDS]), st.integers(min_value=0), st.integers(0, 7))
def test_a_token_with_any_bit_of_its_parts_changed_is_refused(key: SigningKey, place: int, bit: int):
    token = sign(key)
    parts = [bytearray(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")]
    place %= sum(map(len, parts))
    for part in parts:
        if place < len(part):
            part[place] ^= 1 << bit
            break
        place -= len(part)
    refused(verifier(HMAC, EDWARDS), ".".join(encode(bytes(part)) for part in parts))


@pytest.mark.parametrize("key", [HMAC, EDWARDS], ids=["HS256", "EdDSA"])
@pytest.mark.parametrize("claims", [{"role": "admin"}, {"tenant_id": "b"}, {"sub": "u-2"}, {"exp": 9_999_999_999}])
def test_tampered_claims_are_refused(key: SigningKey, claims: dict[str, Any]):
    refused(verifier(key), with_parts(sign(key), payload=claims))


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.kid)
def test_no_text_form_of_a_key_shows_its_secret(key: SigningKey):
    for text in (repr(key), str(key), repr([key]), repr(verifier(key)), repr(TokenSigner)):
        assert key.secret not in text


# --- clocks ---


@pytest.mark.parametrize("key", [HMAC, EDWARDS], ids=["HS256", "EdDSA"])
def test_a_token_from_the_future_is_refused_beyond_the_skew(key: SigningKey):
    clock = Clock()
    signed = {ahead: sign(key, lambda ahead=ahead: clock.now + ahead) for ahead in (0, 5, 6, 600)}
    ring = verifier(key, now=clock)
    ring.verify(signed[0])
    ring.verify(signed[5])
    assert "future" in refused(ring, signed[6])
    assert "future" in refused(ring, signed[600])
    clock.now += 1
    ring.verify(signed[6])


@given(st.integers(-20, 1000), st.integers(60, 900))
def test_a_token_is_good_from_its_time_to_its_end_and_five_seconds_around(offset: int, lifetime: int):
    clock = Clock()
    token = sign(HMAC, clock, lifetime)
    ring = verifier(HMAC, now=lambda: clock.now + offset)
    if -5 <= offset < lifetime + 5:
        ring.verify(token)
        ring.verify(token)
    else:
        refused(ring, token)


# --- keys that change ---


def test_the_present_key_is_asked_for_each_token():
    present = [HMAC]
    signer = TokenSigner(lambda: present[0], issuer="allsource", audience="clients", lifetime_seconds=900)

    def kid() -> Any:
        token, _ = signer.sign(user_id="u", username="n", tenant_id="t", role=Role.ADMIN, session_id="s")
        verifier(present[0]).verify(token)
        return jwt.get_unverified_header(token)["kid"]

    assert kid() == HMAC.kid
    present[0] = EDWARDS
    assert kid() == EDWARDS.kid


def test_a_verifier_without_keys_accepts_nothing():
    refused(verifier(), sign(HMAC))


def test_a_remembered_token_is_refused_once_its_key_is_taken_away():
    ring = verifier(HMAC)
    token = sign(HMAC)
    ring.verify(token)
    ring.replace_keys([EDWARDS])
    assert "not signed by a key" in refused(ring, token)
    ring.verify(sign(EDWARDS))
    ring.replace_keys([EDWARDS, HMAC])
    ring.verify(token)


@pytest.mark.parametrize("remembered", [True, False])
def test_a_retired_key_is_refused_at_its_time_whatever_its_tokens_say(remembered: bool):
    clock = Clock()
    token = sign(HMAC, clock, lifetime=90_000)
    ring = verifier(until(HMAC, clock.now + 100), EDWARDS, now=clock)
    clock.now += 99.9
    if remembered:
        ring.verify(token)
    clock.now += 0.1
    for _ in range(2):
        assert "not signed by a key" in refused(ring, token)


def test_what_is_remembered_of_keys_and_tokens_is_dropped_together():
    ring = verifier(HMAC)
    for _ in range(10):
        ring.verify(sign(HMAC))
    ring.replace_keys([HMAC])
    assert len(ring._verified) == 0
