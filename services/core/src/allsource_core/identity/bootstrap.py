"""The first administrator."""

from __future__ import annotations

import structlog

from allsource_core.facts import DEFAULT_TENANT
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.registration import RegistrationRules
from allsource_core.identity.setup_token import SetupToken
from allsource_core.identity.users import UserDirectory
from allsource_shared.permissions import Role

__all__ = ["create_first_admin", "prepare_first_registration"]


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


def prepare_first_registration(users: UserDirectory, rules: RegistrationRules, setup: SetupToken) -> None:
    """See that somebody can make the first user, and say how; at start. A setup token that nobody needs is removed."""
    log = structlog.get_logger()
    by_environment = "set ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME and _PASSWORD and restart"
    wanted = not len(users)
    try:
        if wanted and rules.mode != "closed" and rules.first_user == "token":
            token = setup.issue()
            hint = f"POST /api/v1/auth/register with this setup_token makes the first administrator: {token}"
            log.warning("no_users", hint=hint, path=str(setup.path))
            setup.write(token)
            return
        setup.discard()
    except OSError as error:
        log.warning("setup_file_refused", path=str(setup.path), reason=str(error))
    if wanted and rules.mode == "closed":
        log.warning("no_users", hint=f"{by_environment}: nobody can sign in")
    elif wanted and rules.first_user != "token":
        log.warning("no_users", hint=f"POST /api/v1/auth/register makes the first administrator, or {by_environment}")
