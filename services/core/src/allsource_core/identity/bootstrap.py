"""The first administrator."""

from __future__ import annotations

import structlog

from allsource_core.identity.passwords import Passwords
from allsource_core.identity.users import DEFAULT_TENANT, UserDirectory
from allsource_shared.permissions import Role

__all__ = ["create_first_admin"]


def create_first_admin(users: UserDirectory, passwords: Passwords, *, username: str, password: str, email: str) -> bool:
    """Store the first administrator if there is no user yet; afterwards this does nothing.

    Returns:
        Whether one was made.
    """
    if len(users):
        return False
    user = users.create(
        username=username,
        email=email,
        password_hash=passwords.hash(password),
        role=Role.ADMIN,
        tenant_id=DEFAULT_TENANT,
    )
    structlog.get_logger().info("first_admin_created", user_id=user.id)
    return True
