"""A directory of users over a store of its own, with everything that registering and changing them needs."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from allsource_core.changes import Change, Changes
from allsource_core.engine import EventStore
from allsource_core.facts import Fact, Facts
from allsource_core.identity.accounts import Accounts
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.principals import Principal
from allsource_core.identity.registration import FirstUser, Registrar, RegistrationMode, RegistrationRules
from allsource_core.identity.rules import PasswordRules
from allsource_core.identity.setup_token import SetupToken
from allsource_core.identity.users import User, UserDirectory
from allsource_shared.permissions import ROLE_PERMISSIONS, Role

PASSWORD = "correct horse battery"


def principal(role: Role = Role.ADMIN, user: User | None = None, tenant: str = "default", **fields: Any) -> Principal:
    user_id, username = ("somebody", "somebody") if user is None else (user.id, user.username)
    return Principal("user", user_id, username, role, ROLE_PERMISSIONS[role], tenant, tenant, **fields)


class Nothing(msgspec.Struct):
    """The body of a fact that has none."""


class People:
    """Users, and what registers and changes them; `ended` has the sessions that were to end, as (user, except)."""

    def __init__(
        self,
        store: EventStore,
        directory: Path,
        *,
        mode: RegistrationMode = "bootstrap",
        first_user: FirstUser = "anybody",
        queue_max: int = 64,
    ) -> None:
        self.store = store
        self.facts = Facts(store)
        self.changes = Changes()
        self.users = UserDirectory(self.facts, self.changes)
        self.passwords = Passwords(queue_max)
        self.setup = SetupToken(directory / "setup-token")
        self.tenants = {"default", "guests", "acme"}
        self.ended: list[tuple[str, str]] = []
        self.rules = RegistrationRules(mode, "guests", first_user)
        rules = PasswordRules(12)
        self.registrar = Registrar(
            self.users,
            self.passwords,
            self.facts,
            rules=self.rules,
            password_rules=rules,
            setup=self.setup,
            tenant_exists=lambda tenant_id: tenant_id in self.tenants,
        )

        async def check_password(user: User, password: str, _address: str) -> bool:
            return await self.passwords.verify(user.password_hash, password)

        async def end_sessions(user_id: str, except_session: str) -> None:
            assert not self.facts.changing.locked()
            self.ended.append((user_id, except_session))

        self.accounts = Accounts(
            self.users,
            self.passwords,
            self.facts,
            password_rules=rules,
            check_password=check_password,
            revoke_keys=lambda user_id: [Fact(f"api-keys-of-user:{user_id}", "api-keys.revoked", Nothing())],
            end_sessions=end_sessions,
            tenant_is_open=lambda tenant_id: tenant_id in self.tenants,
        )
        self.facts.fold()

    def add(self, username: str = "root", role: Role = Role.ADMIN, tenant: str = "default", password: str = "") -> User:
        return self.users.create(
            username=username,
            email=f"{username}@example.org",
            password_hash=self.passwords.hash(password) if password else "$hash",
            role=role,
            tenant_id=tenant,
        )

    def published(self, since: int) -> list[tuple[str, str]]:
        changes: list[Change] | None = self.changes.since(since)
        assert changes is not None
        return [(change.kind, change.id) for change in changes]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
