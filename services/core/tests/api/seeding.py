"""People that a service finds in its store when it first starts: those whom the tokens of the tests are about.

Written as the service itself would write them, so that no test has to hash a password to make somebody.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

from allsource_core.changes import Changes
from allsource_core.engine import EventStore
from allsource_core.facts import Facts
from allsource_core.identity import users as users_module
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.session_file import SESSIONS_FILE, Session, SessionFile
from allsource_core.identity.users import UserDirectory
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_shared.permissions import Role
from allsource_shared.wire.tenants import Quotas

OTHER_TENANT = "other"
_YEAR_US = 365 * 24 * 3600 * 1_000_000


def user_id_of(role: str, tenant_id: str) -> str:
    """The id of the user with this role in a tenant; the id of its session, too."""
    return f"u-{role}-{tenant_id}"


@cache
def _hash_of(password: str) -> str:
    passwords = Passwords(1)
    try:
        return passwords.hash(password)
    finally:
        passwords.close()


async def seed(data: Path, *, admin: str, password: str) -> None:
    """Make a store with an administrator of this name and password, and one user of each role in each tenant."""
    with EventStore.open(data) as store:
        facts, changes = Facts(store), Changes()
        users, tenants = UserDirectory(facts, changes), TenantDirectory(facts, changes)
        tenants.store_default()
        async with facts.changing:
            await tenants.create(OTHER_TENANT, name="Other", description="", quotas=Quotas(), limits=None)
        users.create(username=admin, email="", password_hash=_hash_of(password), role=Role.ADMIN, tenant_id="default")
        ids = []
        for tenant_id in ("default", OTHER_TENANT):
            for role in Role:
                if role is not Role.ADMIN or tenant_id == "default":
                    ids.append(_create(users, role, tenant_id))
    file = SessionFile(data / SESSIONS_FILE)
    now = int(time.time() * 1_000_000)
    file.write([Session(id_, id_, b"", 0, now, now, now, now + _YEAR_US, "", "") for id_ in ids], [])
    file.close()


def _create(users: UserDirectory, role: Role, tenant_id: str) -> str:
    """Make a user whose id is known beforehand."""
    user_id = user_id_of(role, tenant_id)
    make_id, users_module.uuid.uuid4 = users_module.uuid.uuid4, lambda: user_id  # type: ignore[assignment]
    try:
        users.create(username=f"{role}@{tenant_id}", email="", password_hash="", role=role, tenant_id=tenant_id)
    finally:
        users_module.uuid.uuid4 = make_id
    return user_id
