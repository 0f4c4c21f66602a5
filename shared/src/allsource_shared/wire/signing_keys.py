"""The keys that sign access tokens, as others may see them."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["PublicKey", "PublicKeys", "SigningKeyList", "SigningKeyView"]


class SigningKeyView(msgspec.Struct, frozen=True):
    """A key of the ring, without its secret.

    Attributes:
        kid: its id, which is in the header of every token that it signed.
        created_at, verifies_until: RFC 3339. Until the latter its tokens are accepted; null while it signs.
        status: it signs, or its tokens are still accepted, or not any more.
    """

    kid: str
    algorithm: Literal["HS256", "EdDSA"]
    created_at: str
    status: Literal["signing", "verifying", "retired"]
    verifies_until: str | None


class SigningKeyList(msgspec.Struct, frozen=True):
    """Every key of the ring, the newest first."""

    keys: list[SigningKeyView]


class PublicKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public Ed25519 key as a JWK (RFC 7517, RFC 8037): `x` is its 32 bytes in base64url."""

    kty: Literal["OKP"] = "OKP"
    crv: Literal["Ed25519"] = "Ed25519"
    x: str
    kid: str
    use: Literal["sig"] = "sig"
    alg: Literal["EdDSA"] = "EdDSA"


class PublicKeys(msgspec.Struct, frozen=True):
    """The keys that access tokens can be verified with, as a JWK set; none while tokens are signed with HS256."""

    keys: list[PublicKey]
