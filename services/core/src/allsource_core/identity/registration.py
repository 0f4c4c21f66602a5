"""Registering users: who may, as what, and where."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import structlog

from allsource_core.facts import DEFAULT_TENANT, Facts
from allsource_core.identity.errors import IdentityRuleError, InvalidUserError, UsernameTakenError
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.principals import Principal
from allsource_core.identity.rules import PasswordRules, checked_email, checked_username
from allsource_core.identity.setup_token import SetupToken
from allsource_core.identity.users import User, UserDirectory
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role, parse_role
from allsource_shared.wire.users import Registration

__all__ = ["FirstUser", "Registrar", "RegistrationMode", "RegistrationRules"]

RegistrationMode = Literal["bootstrap", "closed", "open"]
FirstUser = Literal["anybody", "local", "token"]

_OPEN_ROLES: Final = frozenset({Role.READONLY, Role.DEVELOPER})
_DEFAULT_ROLE: Final = Role.DEVELOPER
"""As AllSource v1.0 had it."""


class RegistrationRules(NamedTuple):
    """Who may register.

    Attributes:
        mode: as the setting ``auth.registration`` describes it.
        open_tenant: of those who register themselves.
        first_user: who may register as the first one: anybody, whoever comes from an address of this machine, or who
            has the setup token.
    """

    mode: RegistrationMode
    open_tenant: str
    first_user: FirstUser


class _Place(NamedTuple):
    role: Role
    tenant_id: str


class Registrar:
    """Makes users.

    Args:
        users, passwords, facts: of the service.
        rules: who may register.
        password_rules: which passwords may be chosen.
        setup: the token for the first user; discarded when there is one.
        tenant_exists: whether there is a tenant of this id, and it is active.
    """

    def __init__(
        self,
        users: UserDirectory,
        passwords: Passwords,
        facts: Facts,
        *,
        rules: RegistrationRules,
        password_rules: PasswordRules,
        setup: SetupToken,
        tenant_exists: Callable[[str], bool],
    ) -> None:
        self._users = users
        self._passwords = passwords
        self._facts = facts
        self._rules = rules
        self._password_rules = password_rules
        self._setup = setup
        self._tenant_exists = tenant_exists

    def check_caller(self, by: Principal | None) -> None:
        """Refuse those who may register nobody at all, whatever they would send. Cheap.

        Args:
            by: who calls; None without a credential.

        Raises:
            IdentityRuleError: ``unauthorized``, ``forbidden``.
        """
        if by is not None:
            if Permission.ADMIN not in by.permissions:
                raise IdentityRuleError("forbidden", "only an administrator registers users")
        elif not self._first_is_wanted() and self._rules.mode != "open":
            raise IdentityRuleError("unauthorized", "only an administrator registers users: sign in as one")

    async def register(
        self,
        wanted: Registration,
        by: Principal | None,
        *,
        is_local: bool,
        again: Callable[[], Principal | None] | None = None,
    ) -> User:
        """Make a user, durably.

        What is allowed is looked at before the password is hashed, and again when nothing can change any more: of two
        who want to be the first user one is.

        Args:
            wanted: the user.
            by: who calls; None without a credential.
            is_local: whether the call comes from an address of this machine.
            again: who calls, looked at once more: hashing takes a while.

        Raises:
            IdentityRuleError: ``unauthorized``, ``forbidden``, ``admin_outside_default``; ``reserved_tenant`` and
                ``not_found`` for a tenant that nobody can be in.
            InvalidUserError: a field is wrong, or the password too weak.
            UsernameTakenError: somebody has the name.
            SignInQueueFullError: too many passwords wait to be hashed.
            EngineError: as `EventStore.append`.
        """
        place = self._place(wanted, by, is_local)
        username = checked_username(wanted.username)
        email = checked_email(wanted.email)
        self._password_rules.check(wanted.password, username=username)
        if self._users.named(username) is not None:
            raise UsernameTakenError(f"the username {username!r} is taken")
        password_hash = await self._passwords.hash_async(wanted.password, anonymous=by is None)
        async with self._facts.changing:
            if self._place(wanted, by if again is None else again(), is_local) != place:
                raise IdentityRuleError("unauthorized", "there is a first user by now: sign in as an administrator")
            user = await self._users.create_async(
                username=username,
                email=email,
                password_hash=password_hash,
                role=place.role,
                tenant_id=place.tenant_id,
            )
        log = structlog.get_logger()
        log.info("user_registered", user_id=user.id, role=str(user.role), by=by.user_id if by is not None else None)
        try:
            await asyncio.to_thread(self._setup.discard)
        except OSError as error:
            log.warning("setup_file_left", path=str(self._setup.path), reason=str(error))
        return user

    def _first_is_wanted(self) -> bool:
        """Whether there is no user, and who registers may become the first."""
        return not len(self._users) and self._rules.mode != "closed"

    def _place(self, wanted: Registration, by: Principal | None, is_local: bool) -> _Place:
        """The role and the tenant that the new user is to have, if the caller may give them.

        Raises:
            IdentityRuleError, InvalidUserError: as `register`.
        """
        self.check_caller(by)
        try:
            role = None if wanted.role is None else parse_role(wanted.role)
        except ValueError as error:
            raise InvalidUserError("role", str(error)) from None
        if by is not None:
            place = _place_by_admin(by, role, wanted.tenant_id)
        elif self._first_is_wanted():
            place = self._place_of_first(wanted, role, is_local)
        else:
            place = self._place_of_anybody(role, wanted.tenant_id)
        tenant_id = place.tenant_id
        if tenant_id.startswith("_"):
            raise IdentityRuleError("reserved_tenant", "tenant_id names a reserved tenant")
        if place.role is Role.ADMIN and tenant_id != DEFAULT_TENANT:
            raise IdentityRuleError(
                "admin_outside_default", f"administrators exist in the tenant {DEFAULT_TENANT} only"
            )
        if not self._tenant_exists(tenant_id):
            raise IdentityRuleError("not_found", f"there is no active tenant {tenant_id[:128]!r}")
        return place

    def _place_of_first(self, wanted: Registration, role: Role | None, is_local: bool) -> _Place:
        if self._rules.first_user == "local" and not is_local:
            raise IdentityRuleError(
                "unauthorized",
                "the first user is registered from the machine that the core runs on, or made by its environment",
            )
        if self._rules.first_user == "token" and not self._setup.matches(wanted.setup_token):
            raise IdentityRuleError(
                "unauthorized",
                "the first user is registered with setup_token, which the core has logged at its start and left in "
                "its data directory",
            )
        if role not in (None, Role.ADMIN):
            raise InvalidUserError("role", "the first user must be an administrator: give admin, or nothing")
        return _Place(Role.ADMIN, DEFAULT_TENANT if wanted.tenant_id is None else wanted.tenant_id)

    def _place_of_anybody(self, role: Role | None, tenant_id: str | None) -> _Place:
        role = _DEFAULT_ROLE if role is None else role
        if role not in _OPEN_ROLES:
            raise IdentityRuleError("forbidden", f"only an administrator registers users of the role {role}")
        if tenant_id not in (None, self._rules.open_tenant):
            raise IdentityRuleError("forbidden", "only an administrator registers users of another tenant")
        return _Place(role, self._rules.open_tenant)


def _place_by_admin(by: Principal, role: Role | None, tenant_id: str | None) -> _Place:
    role = _DEFAULT_ROLE if role is None else role
    if not ROLE_PERMISSIONS[role] <= by.permissions:
        raise IdentityRuleError("forbidden", f"the role {role} has permissions that you lack")
    if by.kind == "api_key" and role is Role.ADMIN:
        raise IdentityRuleError("forbidden", "an API key makes no administrators; sign in")
    return _Place(role, by.tenant_id if tenant_id is None else tenant_id)
