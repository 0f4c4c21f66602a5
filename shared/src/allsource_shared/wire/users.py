"""Users: registering them, changing them, and who one is."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from allsource_shared.permissions import Permission, Role
from allsource_shared.wire.api_keys import ApiKeyView
from allsource_shared.wire.identity import UserView

__all__ = [
    "Me",
    "PasswordChange",
    "RegisteredUser",
    "Registration",
    "UserChange",
    "UserPage",
    "UserParameters",
]

_PAGE_LIMIT_DEFAULT: Final = 100
_PAGE_LIMIT_MAX: Final = 10_000

_RoleName = Annotated[str, Meta(max_length=64, description="A role; `Admin`, `read_only` and the like are understood.")]
_NewPassword = Annotated[
    str,
    Meta(description="At least `auth.password_min_length` characters, at most 1,024 bytes, not the user's own name."),
]


class Registration(msgspec.Struct, frozen=True):
    """A user that is to be made.

    Attributes:
        username: 1 to 256 printable characters, none of them a space at either end. Kept and compared in Unicode's
            normalization form C, else as it is written.
        email: an address, or empty.
        role: `developer` unless given; of the first user `admin`.
        tenant_id: the tenant that the request works in unless given; in open registration the configured one.
        setup_token: for the first user, where the core asks for it.
    """

    username: str
    password: _NewPassword
    email: str = ""
    role: _RoleName | None = None
    tenant_id: str | None = None
    setup_token: str | None = None

    def __repr__(self) -> str:
        return f"Registration(username={self.username!r})"


class RegisteredUser(msgspec.Struct, frozen=True):
    """A user that was made."""

    user_id: str
    username: str
    email: str
    role: Role
    tenant_id: str


class UserParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Query parameters of ``GET auth/users``.

    Attributes:
        tenant_id: only the users of this tenant.
        cursor: `next_cursor` of the page before.
    """

    tenant_id: str | None = None
    limit: Annotated[int, Meta(ge=1, le=_PAGE_LIMIT_MAX)] = _PAGE_LIMIT_DEFAULT
    cursor: str | None = None


class UserPage(msgspec.Struct, frozen=True):
    """Users, the oldest first. `next_cursor` is null on the last page."""

    users: list[UserView]
    count: int
    next_cursor: str | None


class UserChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be different of a user; at least one field.

    Attributes:
        active: an inactive user can't sign in, and its sessions end.
        password: the user has to change it at the next sign-in; its sessions end.
    """

    role: _RoleName | UnsetType = UNSET
    active: bool | UnsetType = UNSET
    password: _NewPassword | UnsetType = UNSET
    email: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"UserChange(role={self.role!r}, active={self.active!r})"


class PasswordChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's own password, and the one that takes its place."""

    current: Annotated[str, Meta(min_length=1, max_length=1024)]
    new: _NewPassword

    def __repr__(self) -> str:
        return "PasswordChange()"


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Who calls.

    Attributes:
        id: of the user, or of the API key.
        user_id, username, email: the user, or the owner of the key.
        tenant_id: that the request works in.
        permissions: what the caller may do now.
        must_change_password: nothing else is allowed before that.
        key: of an API key; null for a user.
    """

    kind: Literal["user", "api_key"]
    id: str
    user_id: str
    username: str
    email: str
    role: Role
    tenant_id: str
    permissions: list[Permission]
    must_change_password: bool
    key: ApiKeyView | None = None
