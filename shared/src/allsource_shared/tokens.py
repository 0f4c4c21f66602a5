"""Access tokens: their claims, how they are signed and how they are verified.

A token names its key (``kid``), and the key alone says which algorithm is used with it: what the token's header
claims about the algorithm decides nothing, so ``alg: none`` and the confusion of algorithms have no way in.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import jwt
import msgspec

from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError

__all__ = ["SECRET_BYTES_MIN", "Claims", "SigningKey", "TokenSigner", "TokenVerifier"]

SECRET_BYTES_MIN: Final = 32
"""A shorter HMAC-SHA256 key is weaker than its digest (RFC 7518, section 3.2)."""

_CLOCK_SKEW_SECONDS: Final = 5
_TOKEN_BYTES_MAX: Final = 8192
_REMEMBERED_MAX: Final = 4096


class Claims(msgspec.Struct, frozen=True):
    """What a token says of its bearer.

    Attributes:
        sub: the user's id.
        username: for people who read logs; `sub` identifies.
        tenant_id: the tenant that the bearer works in.
        role: the role at the time of signing.
        exp, iat: seconds since the epoch.
        iss, aud: who signed and for whom.
        jti: unique id of the token.
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


class SigningKey(msgspec.Struct, frozen=True):
    """One key of the ring: its id, its only algorithm and its secret."""

    kid: str
    algorithm: str
    secret: str

    @classmethod
    def from_secret(cls, secret: str) -> SigningKey:
        """The HS256 key of a configured secret; its id is a digest, so every process gives it the same one."""
        digest = hashlib.sha256(b"allsource kid\0" + secret.encode()).hexdigest()
        return cls(kid=digest[:16], algorithm="HS256", secret=secret)

    def __repr__(self) -> str:
        return f"SigningKey(kid={self.kid!r}, algorithm={self.algorithm!r})"


class TokenSigner:
    """Signs access tokens.

    Args:
        key: the key that signs.
        issuer, audience: the `iss` and `aud` of every token.
        lifetime_seconds: how long a token is good for.
        now: seconds since the epoch.
    """

    def __init__(
        self, key: SigningKey, *, issuer: str, audience: str, lifetime_seconds: int, now: Callable[[], float]
    ) -> None:
        self._key = key
        self._issuer = issuer
        self._audience = audience
        self._lifetime_seconds = lifetime_seconds
        self._now = now

    def sign(self, *, user_id: str, username: str, tenant_id: str, role: Role) -> tuple[str, Claims]:
        """Make a token for a user; returns it with its claims."""
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
            jti=secrets.token_urlsafe(16),
        )
        headers = {"kid": self._key.kid}
        payload: dict[str, Any] = msgspec.to_builtins(claims)
        return jwt.encode(payload, self._key.secret, algorithm=self._key.algorithm, headers=headers), claims


class TokenVerifier:
    """Verifies access tokens against a ring of keys.

    A token that was verified is remembered, to the last character, until it expires: checking a signature and reading
    the claims takes as long as the rest of a small request.

    Args:
        keys: the keys whose tokens are accepted.
        issuer, audience: what `iss` and `aud` must be.
        now: seconds since the epoch.
    """

    def __init__(
        self, keys: Iterable[SigningKey], *, issuer: str, audience: str, now: Callable[[], float] = time.time
    ) -> None:
        self._keys = {key.kid: key for key in keys}
        self._issuer = issuer
        self._audience = audience
        self._now = now
        self._verified: dict[str, Claims] = {}

    def verify(self, token: str) -> Claims:
        """The claims of a token that one of our keys signed, for us, and that has not expired.

        Raises:
            ApiError: ``unauthorized`` otherwise. Clocks may differ by 5 seconds.
        """
        claims = self._verified.get(token) or self._verify(token)
        if claims.exp + _CLOCK_SKEW_SECONDS <= self._now():
            self._verified.pop(token, None)
            raise ApiError("unauthorized", "the access token has expired; sign in again")
        if token not in self._verified:
            if len(self._verified) >= _REMEMBERED_MAX:
                self._verified.pop(next(iter(self._verified)))
            self._verified[token] = claims
        return claims

    def _verify(self, token: str) -> Claims:
        """Everything but the expiry, which changes with time."""
        if len(token) > _TOKEN_BYTES_MAX:
            raise ApiError("unauthorized", "the access token is too long")
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                raise ApiError("unauthorized", "the access token was not signed by a key of this installation")
            claims = jwt.decode(
                token,
                key.secret,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "iat", "iss", "aud", "sub", "jti"], "verify_exp": False},
            )
            return msgspec.convert(claims, Claims)
        except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError):
            raise ApiError("unauthorized", "the access token is not valid") from None
