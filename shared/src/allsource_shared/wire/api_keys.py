"""API keys: how they are asked for, and what is told of them. The key itself is told once."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from allsource_shared.permissions import Role

__all__ = ["ApiKeyPage", "ApiKeyParameters", "ApiKeyView", "IssuedApiKey", "NewApiKey"]

_PAGE_LIMIT_DEFAULT: Final = 100
_PAGE_LIMIT_MAX: Final = 10_000


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that is to be made.

    Attributes:
        name: 1 to 128 printable characters, for people; need not be unique.
        role: none that grants what its owner doesn't hold; `serviceaccount` by default, or the owner's role where
            that holds less.
        tenant_id: what it works in: by default the tenant of the request; another one needs `manage_tenants`.
        expires_in_days: from now; without it the key is good until it is revoked.
    """

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    role: Annotated[str, Meta(max_length=64)] | None = None
    tenant_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None


class IssuedApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was made or rotated. `key` is the credential: this answer is the only one that has it."""

    id: str
    name: str
    key: str
    role: Role
    tenant_id: str
    expires_at: str | None

    def __repr__(self) -> str:
        return f"IssuedApiKey(id={self.id!r})"


class ApiKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of a key afterwards. Times are RFC 3339.

    Attributes:
        user_id: who made and owns it.
        role: what it may do at most; never more than its owner may.
        expires_at: null if it doesn't; one in the past is that of a key that is good for nothing.
        last_used_at: null if it never was used; may lag a second behind.
    """

    id: str
    name: str
    user_id: str
    role: Role
    tenant_id: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class ApiKeyParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Query parameters of ``GET auth/api-keys``. They narrow down what the caller may see: their own, or as admin all.

    Attributes:
        user_id: keys of this user.
        tenant_id: keys that work in this tenant.
        cursor: `next_cursor` of the page before.
    """

    user_id: str | None = None
    tenant_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=_PAGE_LIMIT_MAX)] = _PAGE_LIMIT_DEFAULT
    cursor: str | None = None


class ApiKeyPage(msgspec.Struct, frozen=True):
    """Keys, the oldest first; revoked ones are gone. `next_cursor` is null on the last page."""

    api_keys: list[ApiKeyView]
    count: int
    next_cursor: str | None
