"""What requests bear as credentials, and what is plainly none.

The gateway holds no signing secret and verifies nothing: it asks the core whose a credential is. Only what cannot be
one whatever the keys are is answered here, so that it costs the core nothing and is a 401 even while the core is away.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode
from typing import Final

import msgspec

from allsource_control_plane.asgi import RawHeaders
from allsource_shared.problems import ApiError

__all__ = [
    "API_KEY",
    "AUTHORIZATION",
    "CREDENTIAL_BYTES_MAX",
    "CREDENTIAL_FIELDS",
    "check_tenant",
    "named_tenant",
    "read_credential",
]

CREDENTIAL_BYTES_MAX: Final = 8192
"""Longest header value that is looked at; as long as the longest token that the core accepts."""

_TENANT_CHARACTERS_MAX: Final = 128
"""No tenant has a longer name. The core is not asked about one: it would take a long question for a broken one."""

AUTHORIZATION: Final = b"authorization"
API_KEY: Final = b"x-api-key"
_TENANT: Final = b"x-tenant-id"

CREDENTIAL_FIELDS: Final = frozenset({AUTHORIZATION, API_KEY, _TENANT})
"""The header fields that say who calls, and for which tenant."""

# JWS compact serialization, RFC 7515 section 7.1: three base64url parts, none of them empty.
_JWS: Final = re.compile(rb"([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\Z")
_API_KEY_FORM: Final = re.compile(rb"ask_[!-~]+\Z")


class _TokenHeader(msgspec.Struct, frozen=True):
    alg: str


_token_header: Final = msgspec.json.Decoder(_TokenHeader)


def read_credential(headers: RawHeaders) -> str:
    """The credential of a request, as the core reads it: of two that may be one, that of ``Authorization``.

    Raises:
        ApiError: ``unauthorized`` for no credential, two of the same header, a scheme other than Bearer, and a token
            that has the form of neither an access token nor an API key.
    """
    authorization = _only(headers, AUTHORIZATION)
    if authorization is not None:
        token = _bearer_token(authorization)
        _check_token(token)
        return token.decode("ascii")
    api_key = _only(headers, API_KEY)
    if api_key is not None:
        _check_token(api_key)
        return api_key.decode("ascii")
    raise ApiError("unauthorized", "this route needs a credential: Authorization: Bearer <token>, or X-API-Key")


def check_tenant(headers: RawHeaders) -> None:
    """Refuse a request that names one of the store's own tenants.

    Raises:
        ApiError: ``reserved_tenant`` where ``X-Tenant-ID`` begins with ``_``.
    """
    for name, value in headers:
        if name == _TENANT and value.strip().startswith(b"_"):
            raise ApiError("reserved_tenant", "tenants whose name begins with _ belong to the store itself")


def named_tenant(headers: RawHeaders) -> str | None:
    """The tenant that a request names, or None.

    Raises:
        ApiError: ``bad_header`` for more than one, and for a name that is too long or not UTF-8.
    """
    values = [value for name, value in headers if name == _TENANT]
    if len(values) > 1:
        raise ApiError("bad_header", "there is more than one X-Tenant-ID header")
    if not values:
        return None
    try:
        tenant = values[0].decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError("bad_header", "the value of x-tenant-id is not UTF-8") from None
    if len(tenant) > _TENANT_CHARACTERS_MAX:
        raise ApiError("bad_header", f"the value of x-tenant-id is longer than {_TENANT_CHARACTERS_MAX} characters")
    return tenant


def _only(headers: RawHeaders, wanted: bytes) -> bytes | None:
    values = [value for name, value in headers if name == wanted]
    if len(values) > 1:
        raise ApiError("unauthorized", f"the header {wanted.decode()} was sent {len(values)} times")
    if not values:
        return None
    if len(values[0]) > CREDENTIAL_BYTES_MAX:
        raise ApiError("unauthorized", f"the header {wanted.decode()} is longer than {CREDENTIAL_BYTES_MAX} bytes")
    return values[0].strip()


def _bearer_token(authorization: bytes) -> bytes:
    scheme, space, token = authorization.partition(b" ")
    if not space:
        return authorization
    if scheme.lower() != b"bearer":
        raise ApiError("unauthorized", "the Authorization header has a scheme other than Bearer")
    return token.strip()


def _check_token(token: bytes) -> None:
    if _API_KEY_FORM.match(token):
        return
    parts = _JWS.match(token)
    if parts is None:
        raise ApiError("unauthorized", "the credential has the form of neither an access token nor an API key")
    encoded = parts[1]
    try:
        header = _token_header.decode(urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4)))
    except (ValueError, msgspec.DecodeError, RecursionError):  # no base64url, not UTF-8; no JSON; nested too deeply
        raise ApiError("unauthorized", "the access token has no readable header") from None
    if header.alg.lower() == "none":
        raise ApiError("unauthorized", "the access token is not signed")
