"""Principals: who calls."""

from __future__ import annotations

from typing import Literal

import msgspec

from allsource_shared.permissions import Permission, Role

__all__ = ["Principal"]


class Principal(msgspec.Struct, frozen=True):
    """Who calls, as it is now.

    Attributes:
        kind: a signed-in user, or an API key of one.
        user_id, username: the user, or the owner of the key.
        role: of the user, or of the key.
        permissions: what it may do; of a key no more than its owner may.
        tenant_id: the tenant that this request works in.
        home_tenant_id: the tenant that it belongs to.
        key_id: of the API key.
        session_id: of the user's session.
        expires_at: when the credential does, in seconds since the epoch; None for one that does not by itself.
        must_change_password: it may do nothing but change its password, and leave.
    """

    kind: Literal["user", "api_key"]
    user_id: str
    username: str
    role: Role
    permissions: frozenset[Permission]
    tenant_id: str
    home_tenant_id: str
    key_id: str = ""
    session_id: str = ""
    expires_at: float | None = None
    must_change_password: bool = False
