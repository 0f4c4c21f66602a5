"""Changing and deleting users, by administrators and by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import structlog

from allsource_core.engine import AppendUncertainError
from allsource_core.facts import Fact, Facts
from allsource_core.identity.errors import (
    IdentityRuleError,
    InvalidCredentialsError,
    InvalidUserError,
    SessionsUnavailableError,
)
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.principals import Principal
from allsource_core.identity.rules import PasswordRules, checked_email
from allsource_core.identity.users import User, UserDirectory
from allsource_shared.permissions import ROLE_PERMISSIONS, Role

__all__ = ["Accounts", "CheckPassword", "EndSessions"]

EndSessions = Callable[[str, str], Awaitable[None]]
"""Ends the sessions of a user id, but not that of a session id; an empty one is none's."""

CheckPassword = Callable[[User, str, str], Awaitable[bool]]
"""Whether a user has a password, which came from a network address. Guessing may be slowed down, as at sign-in."""


class Accounts:
    """Changes what users are.

    Args:
        users, passwords, facts: of the service.
        password_rules: which passwords may be chosen.
        check_password: compares the password that a user gives for the current one.
        revoke_keys: facts that end the API keys of a user id; stored together with its deletion.
        end_sessions: called, without any lock, whenever sessions of a user are not to go on. They have ended also where
            it raises SessionsUnavailableError.
        tenant_is_open: whether there is such a tenant, and it is not being deleted; its users don't change any more
            then.
    """

    def __init__(
        self,
        users: UserDirectory,
        passwords: Passwords,
        facts: Facts,
        *,
        password_rules: PasswordRules,
        check_password: CheckPassword,
        revoke_keys: Callable[[str], Sequence[Fact]],
        end_sessions: EndSessions,
        tenant_is_open: Callable[[str], bool],
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._facts = facts
        self._password_rules = password_rules
        self._check_password = check_password
        self._revoke_keys = revoke_keys
        self._end_sessions = end_sessions
        self._tenant_is_open = tenant_is_open

    async def change(
        self,
        user_id: str,
        *,
        by: Principal,
        role: Role | None = None,
        active: bool | None = None,
        email: str | None = None,
        password: str | None = None,
        recheck: Callable[[], None] = lambda: None,
    ) -> User:
        """Change what is given, all of it or nothing, durably. A new password is to be changed at the next sign-in;
        it ends the user's sessions, and so does deactivating. `recheck` is called before anything is stored: hashing
        takes a while, and the caller may not be who it was.

        Raises:
            UnknownUserError: there is no such user.
            IdentityRuleError: ``forbidden`` for a role with permissions that the caller lacks, and where an API key
                would change or make an administrator; ``last_admin``, ``admin_outside_default``; ``not_found`` where
                the user's tenant is being deleted.
            InvalidUserError: a field is wrong, or the password too weak.
            SignInQueueFullError: too many passwords wait to be hashed.
            EngineError: as `EventStore.append`.
        """
        user = self._users.find(user_id)
        _check_may_administrate(by, user, role)
        if role is not None and not ROLE_PERMISSIONS[role] <= by.permissions:
            raise IdentityRuleError("forbidden", f"the role {role} has permissions that you lack")
        if email is not None:
            checked_email(email)
        password_hash = None
        if password is not None:
            self._password_rules.check(password, username=user.username)
            password_hash = await self._passwords.hash_async(password)
        async with self._changing(user_id, ends_sessions=password is not None or active is False):
            recheck()
            # It may have become an administrator meanwhile.
            user = self._users.find(user_id)
            _check_may_administrate(by, user, role)
            self._check_stays(user)
            user = await self._users.change(
                user_id, role=role, active=active, email=email, password_hash=password_hash, must_change=True
            )
        structlog.get_logger().info(
            "user_changed",
            user_id=user_id,
            by=by.user_id,
            fields=[
                name
                for name, value in (("role", role), ("active", active), ("email", email), ("secret", password))
                if value is not None
            ],
        )
        return user

    async def delete(self, user_id: str, *, by: Principal, recheck: Callable[[], None] = lambda: None) -> None:
        """Forget a user, durably, and erase its name and e-mail address. Its API keys and sessions end. `recheck` is
        as of `change`.

        Raises:
            UnknownUserError: there is no such user.
            IdentityRuleError: ``forbidden`` for oneself, and where an API key would delete an administrator;
                ``last_admin``.
            EngineError: as `EventStore.append`.
        """
        if user_id == by.user_id:
            raise IdentityRuleError("forbidden", "nobody deletes their own account: another administrator has to")
        async with self._changing(user_id):
            recheck()
            _check_may_administrate(by, self._users.find(user_id))
            await self._users.delete(user_id, self._revoke_keys(user_id))
        structlog.get_logger().info("user_deleted", user_id=user_id, by=by.user_id)
        await self._facts.try_to_erase()

    async def change_password(
        self, by: Principal, *, current: str, new: str, address: str, recheck: Callable[[], None] = lambda: None
    ) -> None:
        """Change one's own password, durably; the user's other sessions end.

        Args:
            by: whose password it is; the session goes on.
            current: the password until now.
            new: the one from now on.
            address: of the caller.
            recheck: as of `change`.

        Raises:
            InvalidCredentialsError: `current` is not the password, or there is no such user any more.
            InvalidUserError: the new password is too weak, or the current one.
            IdentityRuleError: ``not_found``: the user's tenant is being deleted.
            SignInQueueFullError: too many passwords wait.
            EngineError: as `EventStore.append`.
        """
        user_id = by.user_id
        user = self._users.get(user_id)
        if user is None:
            raise InvalidCredentialsError
        self._password_rules.check(new, username=user.username, field="new")
        known_hash = user.password_hash
        if not await self._check_password(user, current, address):
            raise InvalidCredentialsError
        if new == current:
            raise InvalidUserError("new", "must not be the current password", "weak_password")
        password_hash = await self._passwords.hash_async(new)
        async with self._changing(user_id, keeps=by.session_id):
            recheck()
            user = self._users.get(user_id)
            if user is None or user.password_hash != known_hash:
                # Somebody else has set another one meanwhile.
                raise InvalidCredentialsError
            self._check_stays(user)
            await self._users.change(user_id, password_hash=password_hash, keeps=by.session_id)
        structlog.get_logger().info("own_credential_changed", user_id=user_id)

    @asynccontextmanager
    async def _changing(self, user_id: str, *, ends_sessions: bool = True, keeps: str = "") -> AsyncIterator[None]:
        """Hold `Facts.changing`, and end the sessions of a user afterwards, but for one: also where it is uncertain
        whether what ends them is stored.
        """
        try:
            async with self._facts.changing:
                yield
        except AppendUncertainError:
            if ends_sessions:
                await self._end(user_id, keeps)
            raise
        if ends_sessions:
            await self._end(user_id, keeps)

    async def _end(self, user_id: str, keeps: str) -> None:
        """End sessions. That the file of sessions can't be written takes nothing back: they have ended in memory, and
        the fact that has ended them does so at every start.
        """
        try:
            await self._end_sessions(user_id, keeps)
        except SessionsUnavailableError as error:
            structlog.get_logger().warning("end_of_sessions_not_stored", user_id=user_id, error=str(error))

    def _check_stays(self, user: User) -> None:
        """Have nothing stored of people whose names are being erased."""
        if not self._tenant_is_open(user.tenant_id):
            raise IdentityRuleError("not_found", f"the tenant {user.tenant_id!r} of this user is being deleted")


def _check_may_administrate(by: Principal, user: User, role: Role | None = None) -> None:
    """Keep API keys, which are stolen more easily than they are missed, from becoming an administrator who signs in.

    Raises:
        IdentityRuleError: ``forbidden``.
    """
    if by.kind == "api_key" and Role.ADMIN in (user.role, role):
        raise IdentityRuleError("forbidden", "an API key changes no administrators and makes none; sign in")
