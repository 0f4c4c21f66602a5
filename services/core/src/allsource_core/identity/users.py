"""Users: facts of the system tenant, folded at start.

A user is an entity ``user:<id>``. Name and e-mail address are in events of their own, so that they can be erased
without losing the rest.
"""

from __future__ import annotations

import unicodedata
import uuid
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from allsource_core.changes import Changes
from allsource_core.engine import Event
from allsource_core.facts import DEFAULT_TENANT, Fact, Facts
from allsource_core.identity.errors import IdentityRuleError, UnknownUserError, UsernameTakenError
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role
from allsource_shared.wire.identity import UserView
from allsource_shared.wire.times import format_instant

__all__ = ["ALL_SESSIONS", "User", "UserDirectory"]

ALL_SESSIONS: Final = "*"

_KIND: Final = "user"
_CREATED: Final = "user.created"
_PROFILE_SET: Final = "user.profile_set"
_PASSWORD_SET: Final = "user.password_set"  # noqa: S105 - an event type
_ROLE_SET: Final = "user.role_set"
_ACTIVITY_SET: Final = "user.activity_set"
_DELETED: Final = "user.deleted"


class _Created(msgspec.Struct):
    role: Role
    tenant_id: str


class _ProfileSet(msgspec.Struct):
    username: str
    email: str


class _PasswordSet(msgspec.Struct, omit_defaults=True):
    """`keeps` is the session that goes on, or `ALL_SESSIONS`; every other one ends."""

    password_hash: str
    must_change: bool = False
    keeps: str = ""


class _RoleSet(msgspec.Struct):
    role: Role


class _ActivitySet(msgspec.Struct):
    active: bool


class _Deleted(msgspec.Struct):
    pass


class User(msgspec.Struct):
    """A user as folded from events.

    Attributes:
        password_hash: argon2id's encoding.
        must_change: the password was set by somebody else, and is to be changed at the next sign-in.
        created_at: microseconds since the epoch.
        position: of its first fact: later users have higher ones.
        personal: the events that name it, or hold a hash of a password of its.
        sessions_since, kept_session: sessions that began before, in microseconds since the epoch, have ended, but for
            the one of this id. That they have is a fact; the file of sessions may be older.
    """

    id: str
    role: Role
    tenant_id: str
    created_at: int
    position: int
    username: str = ""
    email: str = ""
    password_hash: str = ""
    must_change: bool = False
    active: bool = True
    personal: list[Event] = []
    sessions_since: int = 0
    kept_session: str = ""

    def __repr__(self) -> str:
        return f"User(id={self.id!r}, role={self.role.value!r}, tenant_id={self.tenant_id!r}, active={self.active})"

    @property
    def permissions(self) -> frozenset[Permission]:
        return ROLE_PERMISSIONS[self.role] if self.active else frozenset()

    def has_ended(self, session_id: str, began_at: int) -> bool:
        """Whether a session that began then must not go on, whatever the file of sessions says."""
        return not self.active or (began_at < self.sessions_since and session_id != self.kept_session)

    def end_sessions(self, at: int, keeps: str = "") -> None:
        """Note that the sessions that began before have ended, but for one."""
        if keeps != ALL_SESSIONS:
            self.sessions_since, self.kept_session = at, keeps

    def view(self) -> UserView:
        """What others may see."""
        return UserView(
            id=self.id,
            username=self.username,
            email=self.email,
            role=self.role,
            tenant_id=self.tenant_id,
            active=self.active,
            created_at=format_instant(self.created_at),
            permissions=sorted(ROLE_PERMISSIONS[self.role]),
            must_change_password=self.must_change,
        )


class UserDirectory:
    """All users, by id and by name.

    Names are compared in Unicode's normalization form C, in which they are kept: systems differ in how they write an
    `é`, and nobody sees it. Otherwise they are compared as they are written.

    The methods that change something are called with `Facts.changing` held, `create` at start aside: what they check
    still holds when it is stored.

    Args:
        facts: of the service; this class owns those of users.
        changes: told of every user that is not what it was.
    """

    def __init__(self, facts: Facts, changes: Changes) -> None:
        self._facts = facts
        self._changes = changes
        self._by_id: dict[str, User] = {}
        # The oldest first; those of each tenant, and of all under None.
        self._by_age: defaultdict[str | None, list[User]] = defaultdict(list)
        self._by_name: dict[str, User] = {}
        facts.own(_KIND, self._apply)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, user_id: str) -> User | None:
        """The user of this id."""
        return self._by_id.get(user_id)

    def named(self, username: str) -> User | None:
        """The user of this name."""
        return self._by_name.get(unicodedata.normalize("NFC", username))

    def all(self) -> list[User]:
        """Every user, the oldest first."""
        return list(self._by_id.values())

    def behind(self, position: int, count: int, tenant_id: str | None = None) -> list[User]:
        """The oldest users that are newer than a position, so many at most; of one tenant, if it is given."""
        users = self._by_age.get(tenant_id, [])
        first = bisect_right(users, position, key=_position)
        return users[first : first + count]

    def find(self, user_id: str) -> User:
        """The user of this id. Raises UnknownUserError."""
        user = self._by_id.get(user_id)
        if user is None:
            raise UnknownUserError(f"there is no user {user_id!r}")
        return user

    # --- changes ---

    def create(self, *, username: str, email: str, password_hash: str, role: Role, tenant_id: str) -> User:
        """Store a new user, durably. Blocks: for the start of the service.

        Raises:
            UsernameTakenError, IdentityRuleError: as `create_async`.
        """
        user_id, facts = self._creation(username, email, password_hash, role, tenant_id)
        self._facts.append(facts)
        return self._by_id[user_id]

    async def create_async(self, *, username: str, email: str, password_hash: str, role: Role, tenant_id: str) -> User:
        """Store a new user, durably.

        Raises:
            UsernameTakenError: somebody has the name.
            IdentityRuleError: an administrator outside the default tenant.
            EngineError: as `EventStore.append`.
        """
        user_id, facts = self._creation(username, email, password_hash, role, tenant_id)
        await self._facts.append_async(facts)
        return self._by_id[user_id]

    def _creation(
        self, username: str, email: str, password_hash: str, role: Role, tenant_id: str
    ) -> tuple[str, list[Fact]]:
        username = unicodedata.normalize("NFC", username)
        if username in self._by_name:
            raise UsernameTakenError(f"the username {username!r} is taken")
        _check_place(role, tenant_id)
        user_id = str(uuid.uuid4())
        subject = _subject(user_id)
        return user_id, [
            Fact(subject, _CREATED, _Created(role, tenant_id)),
            Fact(subject, _PROFILE_SET, _ProfileSet(username, email)),
            Fact(subject, _PASSWORD_SET, _PasswordSet(password_hash)),
        ]

    async def change(
        self,
        user_id: str,
        *,
        role: Role | None = None,
        active: bool | None = None,
        email: str | None = None,
        password_hash: str | None = None,
        must_change: bool = False,
        keeps: str = "",
    ) -> User:
        """Change what is given, all of it or nothing. `keeps` is the session that a new password does not end, or
        `ALL_SESSIONS`.

        Raises:
            UnknownUserError: there is no such user.
            IdentityRuleError: it would leave no active administrator, or make one outside the default tenant.
        """
        user = self.find(user_id)
        facts: list[Fact] = []
        subject = _subject(user_id)
        if role is not None and role is not user.role:
            _check_place(role, user.tenant_id)
            self._check_not_last_admin(user, "demoted")
            facts.append(Fact(subject, _ROLE_SET, _RoleSet(role)))
        if active is not None and active is not user.active:
            if not active:
                self._check_not_last_admin(user, "deactivated")
            facts.append(Fact(subject, _ACTIVITY_SET, _ActivitySet(active)))
        if email is not None and email != user.email:
            facts.append(Fact(subject, _PROFILE_SET, _ProfileSet(user.username, email)))
        if password_hash is not None:
            facts.append(Fact(subject, _PASSWORD_SET, _PasswordSet(password_hash, must_change, keeps)))
        if facts:
            await self._facts.append_async(facts)
        return user

    async def delete(self, user_id: str, also: Sequence[Fact] = ()) -> None:
        """Forget a user. The facts that name it are left for `Facts.erase_owed`.

        Args:
            user_id: of the user.
            also: facts to be stored together with that.

        Raises:
            UnknownUserError: there is no such user.
            IdentityRuleError: it is the last active administrator.
        """
        user = self.find(user_id)
        self._check_not_last_admin(user, "deleted")
        await self._facts.append_async([Fact(_subject(user_id), _DELETED, _Deleted()), *also])

    def in_tenant(self, tenant_id: str) -> list[User]:
        """Every user of a tenant."""
        return list(self._by_age.get(tenant_id, []))

    def facts_of_removal(self, tenant_id: str) -> list[Fact]:
        """What makes every user of a tenant forgotten, none of whom may sign in any more."""
        return [Fact(_subject(user.id), _DELETED, _Deleted()) for user in self.in_tenant(tenant_id)]

    def personal_events(self, tenant_id: str) -> list[Event]:
        """The facts that name the users of a tenant, or hold hashes of their passwords."""
        return [event for user in self.in_tenant(tenant_id) for event in user.personal]

    def _check_not_last_admin(self, user: User, what: str) -> None:
        if user.role is not Role.ADMIN or not user.active:
            return
        if not any(other.role is Role.ADMIN and other.active for other in self._by_id.values() if other is not user):
            raise IdentityRuleError("last_admin", f"the last active administrator can't be {what}")

    # --- folding ---

    def _apply(self, user_id: str, event: Event) -> None:
        if event.event_type == _CREATED:
            created = msgspec.json.decode(event.payload, type=_Created)
            new = User(user_id, created.role, created.tenant_id, event.recorded_at, event.position)
            self._by_id[user_id] = new
            for tenant_id in (None, new.tenant_id):
                insort(self._by_age[tenant_id], new, key=_position)
            return
        user = self._by_id.get(user_id)
        if user is None:
            return
        match event.event_type:
            case "user.profile_set":
                self._name(user, event)
            case "user.password_set":
                user.personal = [*user.personal, event]
                if event.erased:
                    return
                password = msgspec.json.decode(event.payload, type=_PasswordSet)
                ends = user.password_hash != "" and password.keeps != ALL_SESSIONS
                if ends or user.must_change is not password.must_change:
                    self._changes.publish("user", user_id)
                user.password_hash, user.must_change = password.password_hash, password.must_change
                user.end_sessions(event.recorded_at, password.keeps)
            case "user.role_set":
                user.role = msgspec.json.decode(event.payload, type=_RoleSet).role
                self._changes.publish("user", user_id)
            case "user.activity_set":
                user.active = msgspec.json.decode(event.payload, type=_ActivitySet).active
                user.end_sessions(event.recorded_at)
                self._changes.publish("user", user_id)
            case "user.deleted":
                del self._by_id[user_id]
                for tenant_id in (None, user.tenant_id):
                    users = self._by_age[tenant_id]
                    del users[bisect_left(users, user.position, key=_position)]
                    if not users:
                        del self._by_age[tenant_id]
                name = unicodedata.normalize("NFC", user.username)
                if self._by_name.get(name) is user:
                    del self._by_name[name]
                user.active = False
                self._facts.erase_later(user.personal)
                self._changes.publish("user", user_id)

    def _name(self, user: User, event: Event) -> None:
        user.personal = [*user.personal, event]
        if event.erased:
            return
        profile = msgspec.json.decode(event.payload, type=_ProfileSet)
        user.username, user.email = profile.username, profile.email
        self._by_name[unicodedata.normalize("NFC", user.username)] = user


def _check_place(role: Role, tenant_id: str) -> None:
    if role is Role.ADMIN and tenant_id != DEFAULT_TENANT:
        raise IdentityRuleError("admin_outside_default", f"administrators exist in the tenant {DEFAULT_TENANT} only")


def _subject(user_id: str) -> str:
    return f"{_KIND}:{user_id}"


def _position(user: User) -> int:
    return user.position
