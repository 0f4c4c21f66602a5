"""Users: facts of the system tenant, folded at start.

A user is an entity ``user:<id>`` of the reserved tenant ``_system``. Name and e-mail address are in an event of their
own, so that they can be erased without losing the rest.
"""

from __future__ import annotations

import uuid
from typing import Final

import msgspec
from msgspec import Raw

from allsource_core.engine import Event, EventStore
from allsource_shared.permissions import ROLE_PERMISSIONS, Role
from allsource_shared.wire.events import NewEvent
from allsource_shared.wire.identity import UserView

__all__ = ["DEFAULT_TENANT", "SYSTEM_TENANT", "User", "UserDirectory"]

SYSTEM_TENANT: Final = "_system"
DEFAULT_TENANT: Final = "default"
"""Where administrators live, and all users until tenants can be made."""

_CREATED: Final = "user.created"
_PROFILE_SET: Final = "user.profile_set"
_PASSWORD_SET: Final = "user.password_set"  # noqa: S105 - an event type


class _Created(msgspec.Struct):
    role: Role
    tenant_id: str


class _ProfileSet(msgspec.Struct):
    username: str
    email: str


class _PasswordSet(msgspec.Struct):
    password_hash: str


class User(msgspec.Struct):
    """A user as folded from events; `password_hash` is argon2id's encoding."""

    id: str
    role: Role
    tenant_id: str
    username: str = ""
    email: str = ""
    password_hash: str = ""

    def view(self) -> UserView:
        """What others may see."""
        return UserView(
            id=self.id,
            username=self.username,
            email=self.email,
            role=self.role,
            tenant_id=self.tenant_id,
            permissions=sorted(ROLE_PERMISSIONS[self.role]),
        )


class UserDirectory:
    """All users, by id and by name. Folds what the store has when it is made.

    Args:
        store: of events; this class is the only one that writes users to it.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._by_id: dict[str, User] = {}
        self._by_name: dict[str, User] = {}
        for event in store.read(SYSTEM_TENANT):
            self._apply(event)

    def __len__(self) -> int:
        return len(self._by_id)

    def named(self, username: str) -> User | None:
        """The user of this name. Names are compared as they are written."""
        return self._by_name.get(username)

    def create(self, *, username: str, email: str, password_hash: str, role: Role, tenant_id: str) -> User:
        """Store a new user, durably.

        Raises:
            ValueError: the name is taken.
            EngineError: as `EventStore.append`.
        """
        if username in self._by_name:
            raise ValueError(f"the username {username!r} is taken")
        user_id = str(uuid.uuid4())
        facts: list[tuple[str, msgspec.Struct]] = [
            (_CREATED, _Created(role, tenant_id)),
            (_PROFILE_SET, _ProfileSet(username, email)),
            (_PASSWORD_SET, _PasswordSet(password_hash)),
        ]
        entity_id = f"user:{user_id}"
        appended = self._store.append(
            SYSTEM_TENANT,
            [NewEvent(kind, entity_id, Raw(msgspec.json.encode(fact))) for kind, fact in facts],
            expected_versions={entity_id: "none"},
        )
        for event in appended.events:
            self._apply(event)
        return self._by_id[user_id]

    def _apply(self, event: Event) -> None:
        user_id = event.entity_id.removeprefix("user:")
        if event.event_type == _CREATED:
            created = msgspec.json.decode(event.payload, type=_Created)
            self._by_id[user_id] = User(user_id, created.role, created.tenant_id)
        elif event.event_type == _PROFILE_SET:
            profile = msgspec.json.decode(event.payload, type=_ProfileSet)
            user = self._by_id[user_id]
            user.username, user.email = profile.username, profile.email
            self._by_name[user.username] = user
        elif event.event_type == _PASSWORD_SET:
            password = msgspec.json.decode(event.payload, type=_PasswordSet)
            self._by_id[user_id].password_hash = password.password_hash
