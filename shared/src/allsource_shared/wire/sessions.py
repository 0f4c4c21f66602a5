"""Signing in, staying signed in, and the sessions of a user."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from allsource_shared.wire.identity import UserView

__all__ = ["Login", "Refresh", "SessionList", "SessionView", "SignedIn"]


class Login(msgspec.Struct, frozen=True):
    """Name and password of a user."""

    username: Annotated[str, Meta(min_length=1, max_length=256)]
    password: Annotated[str, Meta(min_length=1, max_length=1024)]

    def __repr__(self) -> str:
        return f"Login(username={self.username!r})"


class Refresh(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest refresh token of a session."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=256)]

    def __repr__(self) -> str:
        return "Refresh()"


class SignedIn(msgspec.Struct, frozen=True):
    """A fresh access token for ``Authorization: Bearer …``, and what to get the next one with.

    Attributes:
        token: the access token.
        refresh_token: good once, for ``POST auth/refresh``.
        expires_at: of the access token (RFC 3339).
        user: who signed in.
    """

    token: str
    refresh_token: str
    expires_at: str
    user: UserView

    def __repr__(self) -> str:
        return f"SignedIn(user={self.user!r})"


class SessionView(msgspec.Struct, frozen=True):
    """A session of the caller; times in RFC 3339.

    Attributes:
        last_used_at: when it was begun or last refreshed.
        expires_at: when it ends unless it is refreshed before.
        address, user_agent: of who began or refreshed it last.
        current: whether it is the one of this request.
    """

    id: str
    created_at: str
    last_used_at: str
    expires_at: str
    address: str
    user_agent: str
    current: bool


class SessionList(msgspec.Struct, frozen=True):
    """All sessions of the caller, the one that was used last first."""

    sessions: list[SessionView]
    count: int
