"""Who may make, rotate and revoke API keys, and which ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from allsource_core.facts import DEFAULT_TENANT, Facts
from allsource_core.identity.api_keys import ApiKey, ApiKeyDirectory
from allsource_core.identity.errors import IdentityRuleError, UnknownKeyError
from allsource_core.identity.users import User, UserDirectory
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role

__all__ = ["KeyIssuer"]

_DAY_US: Final = 24 * 3600 * 1_000_000
_SECOND_US: Final = 1_000_000


class KeyIssuer:
    """Makes, rotates and revokes keys on behalf of users, by what they are at that moment.

    Args:
        facts, keys, users: of the service.
        tenant_exists: whether there is a tenant of this id.
        check_quota: given a tenant and how many keys it has that did not expire, raises what the caller of `create` is
            to be told if it may not have one more.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        facts: Facts,
        keys: ApiKeyDirectory,
        users: UserDirectory,
        *,
        tenant_exists: Callable[[str], bool],
        check_quota: Callable[[str, int], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._facts = facts
        self._keys = keys
        self._users = users
        self._tenant_exists = tenant_exists
        self._check_quota = check_quota
        self._now = now

    async def create(
        self,
        owner_id: str,
        *,
        name: str,
        tenant_id: str,
        role: Role | None = None,
        expires_in_days: int | None = None,
        recheck: Callable[[], None] = lambda: None,
    ) -> tuple[ApiKey, str]:
        """Make a key.

        Args:
            owner_id: the user who asks for it, and will own it.
            name: need not be unique.
            tenant_id: what it is to work in.
            role: None is `Role.SERVICEACCOUNT`, or the owner's role where that would grant more than the owner holds.
            expires_in_days: None is never.
            recheck: called before anything is stored: others may have changed something first, and the caller may not
                be who it was.

        Returns:
            The key, and the credential, which nobody can ever learn again.

        Raises:
            IdentityRuleError: ``unauthorized`` if the owner is gone or inactive; ``reserved_tenant``; ``forbidden`` for
                another tenant than the owner's, unless the owner may choose, and for a role that grants what the owner
                doesn't hold; ``admin_outside_default``; ``not_found`` for a tenant that there isn't.
            EngineError: as `EventStore.append`.
            Exception: whatever `check_quota` and `recheck` raise.
        """
        async with self._facts.changing:
            recheck()
            owner = self._active(owner_id)
            _check_tenant(owner, tenant_id)
            role = _granted_role(owner, role, tenant_id)
            if not self._tenant_exists(tenant_id):
                raise IdentityRuleError("not_found", f"there is no tenant {tenant_id!r}")
            self._check_quota(tenant_id, self._keys.active_in(tenant_id))
            expires_at = None
            if expires_in_days is not None:
                expires_at = int(self._now() * _SECOND_US) + expires_in_days * _DAY_US
            key, credential = await self._keys.create(
                name=name, user_id=owner_id, tenant_id=tenant_id, role=role, expires_at=expires_at
            )
        structlog.get_logger().info(
            "api_key_created", key_id=key.id, user_id=owner_id, tenant_id=tenant_id, role=str(role)
        )
        return key, credential

    async def rotate(
        self, owner_id: str, key_id: str, *, recheck: Callable[[], None] = lambda: None
    ) -> tuple[ApiKey, str]:
        """Give a key of one's own another secret; the credential before is dead at once. It expires when it did.
        `recheck` is as of `create`.

        Raises:
            UnknownKeyError: the user has no such key, or it has expired.
            IdentityRuleError: ``unauthorized`` if the user is gone or inactive.
            EngineError: as `EventStore.append`.
        """
        async with self._facts.changing:
            recheck()
            self._active(owner_id)
            key = self._keys.find(key_id)
            if key.user_id != owner_id:
                # In the same words: that somebody else has it is nobody's business.
                raise UnknownKeyError("there is no such API key")
            if self._keys.has_expired(key):
                raise UnknownKeyError("the API key has expired; make a new one")
            key, credential = await self._keys.rotate(key_id)
        structlog.get_logger().info("api_key_rotated", key_id=key_id, user_id=owner_id)
        return key, credential

    async def revoke(
        self, key_id: str, *, by: str, any_owner: Callable[[], bool], recheck: Callable[[], None] = lambda: None
    ) -> None:
        """End a key, and erase its name.

        Args:
            key_id: of the key.
            by: the user who asks for it.
            any_owner: whether that may be a key of somebody else; asked after `recheck`.
            recheck: as of `create`.

        Raises:
            UnknownKeyError: there is no such key that this user may revoke.
            EngineError: as `EventStore.append`.
        """
        async with self._facts.changing:
            recheck()
            key = self._keys.find(key_id)
            if key.user_id != by and not any_owner():
                raise UnknownKeyError("there is no such API key")
            await self._keys.revoke(key_id)
        structlog.get_logger().info("api_key_revoked", key_id=key_id, user_id=by, owner_id=key.user_id)
        await self._facts.try_to_erase()

    def _active(self, user_id: str) -> User:
        """A user, who may have been deleted or deactivated since the request was let in."""
        user = self._users.get(user_id)
        if user is None or not user.active:
            raise IdentityRuleError("unauthorized", "your account was deleted or deactivated")
        return user


def _check_tenant(owner: User, tenant_id: str) -> None:
    if tenant_id.startswith("_"):
        raise IdentityRuleError("reserved_tenant", "tenant_id names a reserved tenant")
    if tenant_id != owner.tenant_id and Permission.MANAGE_TENANTS not in owner.permissions:
        raise IdentityRuleError("forbidden", "tenant_id names another tenant than yours")


def _granted_role(owner: User, role: Role | None, tenant_id: str) -> Role:
    """The role of a new key."""
    held = owner.permissions
    if role is None:
        return Role.SERVICEACCOUNT if held >= ROLE_PERMISSIONS[Role.SERVICEACCOUNT] else owner.role
    lacking = ROLE_PERMISSIONS[role] - held
    if lacking:
        names = ", ".join(sorted(lacking))
        raise IdentityRuleError("forbidden", f"the role {role} would grant what you don't hold: {names}")
    if role is Role.ADMIN and tenant_id != DEFAULT_TENANT:
        raise IdentityRuleError(
            "admin_outside_default", f"keys of administrators exist in the tenant {DEFAULT_TENANT} only"
        )
    return role
