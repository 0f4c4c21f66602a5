"""Users as others see them."""

from __future__ import annotations

import msgspec

from allsource_shared.permissions import Permission, Role

__all__ = ["UserView"]


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
    must_change_password: bool
