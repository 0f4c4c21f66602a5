"""Access tokens: their claims, how they are signed and how they are verified.

A token names its key (``kid``), and the key alone says which algorithm is used with it: what the token's header
claims about the algorithm decides nothing, so ``alg: none`` and the confusion of algorithms have no way in.

EdDSA needs the package ``cryptography``, which PyJWT finds where it is installed: in the core.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, NamedTuple

import jwt
import msgspec

from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError

__all__ = [
    "CLOCK_SKEW_SECONDS",
    "SECRET_BYTES_MIN",
    "Algorithm",
    "Claims",
    "SigningKey",
    "TokenSigner",
    "TokenVerifier",
]

Algorithm = Literal["HS256", "EdDSA"]
"""How tokens may be signed: HMAC-SHA256, or Ed25519 (RFC 8037)."""

SECRET_BYTES_MIN: Final = 32
"""A shorter HMAC-SHA256 key is weaker than its digest (RFC 7518, section 3.2)."""

CLOCK_SKEW_SECONDS: Final = 5
"""How far the clocks of those who sign and those who verify may be apart."""

_TOKEN_BYTES_MAX: Final = 8192
_REMEMBERED_MAX: Final = 4096
_REQUIRED_CLAIMS: Final = ["exp", "iat", "iss", "aud", "sub", "jti"]


class Claims(msgspec.Struct, frozen=True):
    """What a token says of its bearer.

    Attributes:
        sub: the user's id.
        username: for people who read logs; `sub` identifies.
        tenant_id: the tenant that the bearer works in.
        role: the role at the time of signing.
        exp, iat: seconds since the epoch.
        iss, aud: who signed and for whom.
        jti: unique id of the token: ``<session id>.<random>``.
    """

    sub: str
    username: str
    tenant_id: str
    role: Role
    exp: int
    iat: int
    iss: str
    aud: str
    jti: str

    @property
    def session_id(self) -> str:
        """The session that the token belongs to; a token of none is of the session ``""``, which nobody has."""
        return self.jti.rpartition(".")[0]


class SigningKey(msgspec.Struct, frozen=True):
    """One key of the ring.

    Attributes:
        kid: its id, which tokens name.
        algorithm: the only one that it is used with.
        secret: with HS256 the text whose UTF-8 is the key of the HMAC; with EdDSA the private key, 32 bytes in
            base64url, as ``d`` of a JWK (RFC 8037).
        public: with EdDSA the public key, as ``x`` of a JWK; empty with HS256.
        verifies_until: seconds since the epoch from which on its tokens are refused; None while it signs.
    """

    kid: str
    algorithm: Algorithm
    secret: str
    public: str = ""
    verifies_until: float | None = None

    @classmethod
    def from_secret(cls, secret: str) -> SigningKey:
        """The HS256 key of a configured secret; its id is a digest, so every process gives it the same one."""
        digest = hashlib.sha256(b"allsource kid\0" + secret.encode()).hexdigest()
        return cls(kid=digest[:16], algorithm="HS256", secret=secret)

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r}, algorithm={self.algorithm!r})"

    @property
    def signing_material(self) -> Any:
        """What PyJWT signs with."""
        if self.algorithm == "HS256":
            return self.secret
        return jwt.PyJWK({**self.public_jwk, "d": self.secret}).key

    @property
    def verifying_material(self) -> Any:
        """What PyJWT verifies with: of an EdDSA key nothing that is secret."""
        return self.secret if self.algorithm == "HS256" else jwt.PyJWK(self.public_jwk).key

    @property
    def public_jwk(self) -> dict[str, Any]:
        """The public half of an EdDSA key as a JWK. Raises ValueError: nothing of an HS256 key is public."""
        if self.algorithm == "HS256":
            raise ValueError(f"the key {self.kid} has no public half")
        return {"kty": "OKP", "crv": "Ed25519", "x": self.public, "kid": self.kid, "use": "sig", "alg": "EdDSA"}


class TokenSigner:
    """Signs access tokens.

    Args:
        key: the key that signs, or what tells it anew for each token.
        issuer, audience: the `iss` and `aud` of every token.
        lifetime_seconds: how long a token is good for.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        key: SigningKey | Callable[[], SigningKey],
        *,
        issuer: str,
        audience: str,
        lifetime_seconds: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._lifetime_seconds = lifetime_seconds
        self._now = now

    def sign(self, *, user_id: str, username: str, tenant_id: str, role: Role, session_id: str) -> tuple[str, Claims]:
        """Make a token for a user in a session of theirs; returns it with its claims."""
        key = self._key if isinstance(self._key, SigningKey) else self._key()
        issued_at = int(self._now())
        claims = Claims(
            sub=user_id,
            username=username,
            tenant_id=tenant_id,
            role=role,
            exp=issued_at + self._lifetime_seconds,
            iat=issued_at,
            iss=self._issuer,
            aud=self._audience,
            jti=f"{session_id}.{secrets.token_urlsafe(16)}",
        )
        payload: dict[str, Any] = msgspec.to_builtins(claims)
        return jwt.encode(payload, key.signing_material, algorithm=key.algorithm, headers={"kid": key.kid}), claims


class _VerifyingKey(NamedTuple):
    """A key as the verifier keeps it: `material` is read once, not for each token."""

    algorithm: Algorithm
    material: Any
    until: float


class VerifiedToken(NamedTuple):
    """A token that was verified: good until then, in seconds since the epoch, unless the keys change."""

    claims: Claims
    until: float


class TokenVerifier:
    """Verifies access tokens against a ring of keys.

    A token that was verified is remembered, to the last character, until it expires, its key is retired, or the keys
    change: checking a signature and reading the claims takes as long as the rest of a small request.

    Args:
        keys: the keys whose tokens are accepted, at first.
        issuer, audience: what `iss` and `aud` must be.
        now: seconds since the epoch.
    """

    def __init__(
        self, keys: Iterable[SigningKey], *, issuer: str, audience: str, now: Callable[[], float] = time.time
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._now = now
        self._keys: dict[str, _VerifyingKey] = {}
        self._verified: dict[str, VerifiedToken] = {}
        self.replace_keys(keys)

    def replace_keys(self, keys: Iterable[SigningKey]) -> None:
        """Accept the tokens of these keys from now on, each as long as it verifies, and of no other."""
        self._keys = {
            key.kid: _VerifyingKey(
                key.algorithm,
                key.verifying_material,
                math.inf if key.verifies_until is None else key.verifies_until,
            )
            for key in keys
        }
        self._verified = {}

    def verify(self, token: str) -> Claims:
        """The claims of a token that one of our keys signed, for us, and that has not expired.

        Raises:
            ApiError: ``unauthorized`` otherwise. Clocks may differ by 5 seconds.
        """
        return self.verify_token(token).claims

    def verify_token(self, token: str) -> VerifiedToken:
        """The same, and until when it is good."""
        now = self._now()
        verified = self._verified.get(token)
        if verified is not None:
            if now < verified.until:
                return verified
            del self._verified[token]
        verified = self._verify(token, now)
        if len(self._verified) >= _REMEMBERED_MAX:
            self._verified.pop(next(iter(self._verified)))
        self._verified[token] = verified
        return verified

    def _verify(self, token: str, now: float) -> VerifiedToken:
        if len(token) > _TOKEN_BYTES_MAX:
            raise ApiError("unauthorized", "the access token is too long")
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None or now >= key.until:
                raise ApiError("unauthorized", "the access token was not signed by a key that this installation uses")
            payload = jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=CLOCK_SKEW_SECONDS,
                # The times are checked below, by our clock.
                options={"require": _REQUIRED_CLAIMS, "verify_exp": False, "verify_iat": False},
            )
            claims = msgspec.convert(payload, Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError):
            raise ApiError("unauthorized", "the access token is not valid") from None
        if claims.iat > now + CLOCK_SKEW_SECONDS:
            raise ApiError("unauthorized", "the access token is from the future: a clock is wrong")
        expires = claims.exp + CLOCK_SKEW_SECONDS
        if now >= expires:
            raise ApiError("unauthorized", "the access token has expired; sign in again")
        return VerifiedToken(claims, min(expires, key.until))
