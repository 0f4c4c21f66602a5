"""Signing in."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from allsource_shared.permissions import Permission, Role

__all__ = ["Login", "SignedIn", "UserView"]


class Login(msgspec.Struct, frozen=True):
    """Name and password of a user."""

    username: Annotated[str, Meta(min_length=1, max_length=256)]
    password: Annotated[str, Meta(min_length=1, max_length=1024)]

    def __repr__(self) -> str:
        return f"Login(username={self.username!r})"


class UserView(msgspec.Struct, frozen=True):
    """A user as others may see it."""

    id: str
    username: str
    email: str
    role: Role
    tenant_id: str
    active: bool
    created_at: str
    permissions: list[Permission]


class SignedIn(msgspec.Struct, frozen=True):
    """A fresh access token for ``Authorization: Bearer …``, and until when it is good (RFC 3339)."""

    token: str
    expires_at: str
    user: UserView
