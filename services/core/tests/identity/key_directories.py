"""Users and their API keys over a store, at a time of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allsource_core.changes import Changes
from allsource_core.engine import EventStore
from allsource_core.facts import Facts
from allsource_core.identity.api_keys import ApiKey, ApiKeyDirectory
from allsource_core.identity.key_issuing import KeyIssuer
from allsource_core.identity.key_uses import KeyUses
from allsource_core.identity.users import User, UserDirectory
from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError

DAY = 24 * 3600
QUOTA = 3
"""Of the tenant `small`."""


class Directories:
    """Everything that keys need, folded from the store; `time` is in seconds."""

    def __init__(self, store: EventStore, path: Path, time: float = 1_700_000_000.0) -> None:
        self.time = time
        self.store, self.path = store, path
        self.facts, self.changes = Facts(store), Changes()
        self.users = UserDirectory(self.facts, self.changes)
        self.uses = KeyUses(path / "derived" / "api_keys.sqlite", self.now)
        self.keys = ApiKeyDirectory(self.facts, self.changes, self.uses, self.now)
        self.issuer = KeyIssuer(
            self.facts,
            self.keys,
            self.users,
            tenant_exists={"default", "acme", "small"}.__contains__,
            check_quota=self._check_quota,
            now=self.now,
        )
        self.facts.fold()

    def now(self) -> float:
        return self.time

    def _check_quota(self, tenant_id: str, active: int) -> None:
        if tenant_id == "small" and active >= QUOTA:
            raise ApiError("quota_exceeded", "API keys", expected=QUOTA, actual=active, other_status=True)

    def user(self, name: str, role: Role = Role.DEVELOPER, tenant: str = "default") -> User:
        return self.users.create(username=name, email="", password_hash="", role=role, tenant_id=tenant)

    async def make(self, owner: User, **wanted: Any) -> tuple[ApiKey, str]:
        """Make a key in the owner's tenant, unless `wanted` names another."""
        return await self.issuer.create(owner.id, **{"name": "ci", "tenant_id": owner.tenant_id, **wanted})
