"""API keys: facts of the system tenant, folded at start. Of a key's secret nothing is known but its hash.

A key is written ``ask_<id>_<secret>``, so that looking it up is one look into a dict and one comparison of hashes. The
secret has 256 random bits: a fast hash is as good as a slow one, there is nothing to guess.

What people call a key is in an event of its own, which is erased when the key has ended: they write names of people
there.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from allsource_core.changes import Changes
from allsource_core.engine import Event
from allsource_core.facts import Fact, Facts
from allsource_core.identity.errors import UnknownKeyError
from allsource_core.identity.key_uses import KeyUses
from allsource_core.identity.users import User
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role

__all__ = ["ApiKey", "ApiKeyDirectory", "permissions_of"]

_KIND: Final = "api-key"
_CREATED: Final = "api-key.created"
_NAMED: Final = "api-key.named"
_ROTATED: Final = "api-key.rotated"
_REVOKED: Final = "api-key.revoked"
# All keys that a user or a tenant has at that moment end with one fact: one for each key might not fit into an append.
_USER_KIND: Final = "api-keys-of-user"
_TENANT_KIND: Final = "api-keys-of-tenant"
_ALL_REVOKED: Final = "api-keys.revoked"

_CREDENTIAL: Final = re.compile("ask_([0-9a-f]{20})_([0-9a-f]{64})\\Z")
_ID_BYTES: Final = 10
_SECRET_BYTES: Final = 32
_SECOND_US: Final = 1_000_000

_SHARED_PERMISSIONS: Final = {
    (one, other): ROLE_PERMISSIONS[one] & ROLE_PERMISSIONS[other] for one in Role for other in Role
}


class _Created(msgspec.Struct, frozen=True):
    user_id: str
    tenant_id: str
    role: Role
    secret_sha256: str
    expires_at: int | None


class _Named(msgspec.Struct, frozen=True):
    name: str


class _Rotated(msgspec.Struct, frozen=True):
    secret_sha256: str


class _Revoked(msgspec.Struct, frozen=True):
    pass


class ApiKey(msgspec.Struct, frozen=True, gc=False):
    """A key that was not revoked; it may have expired.

    Attributes:
        id: 20 hex digits.
        user_id: who made it, and owns it.
        tenant_id: what it works in.
        role: what it may do at most; `permissions_of` says what it may do now.
        created_at: microseconds since the epoch.
        expires_at: likewise: from then on it is no credential any more. None is never.
        position: of the event that made it; keys are in this order.
        secret_sha256: of its present secret.
    """

    id: str
    name: str
    user_id: str
    tenant_id: str
    role: Role
    created_at: int
    expires_at: int | None
    position: int
    secret_sha256: bytes

    def __repr__(self) -> str:
        return f"ApiKey(id={self.id!r}, user_id={self.user_id!r}, tenant_id={self.tenant_id!r}, role={self.role!r})"


def permissions_of(key: ApiKey, owner: User) -> frozenset[Permission]:
    """What a key may do now: what its role and that of its owner have in common.

    Nothing if the owner is not active; nor in another tenant than the owner's, unless the owner may still choose.
    """
    if not owner.active:
        return frozenset()
    if key.tenant_id != owner.tenant_id and Permission.MANAGE_TENANTS not in ROLE_PERMISSIONS[owner.role]:
        return frozenset()
    return _SHARED_PERMISSIONS[key.role, owner.role]


class ApiKeyDirectory:
    """All keys that were not revoked, by id.

    What changes something is called with `Facts.changing` held. Who may do it, and how often, is for `KeyIssuer`.

    Args:
        facts: of the service; this class owns those of API keys.
        changes: told of every key that is not good for what it was.
        uses: of the keys; told of those that are gone.
        now: seconds since the epoch.
    """

    def __init__(self, facts: Facts, changes: Changes, uses: KeyUses, now: Callable[[], float]) -> None:
        self._facts = facts
        self._changes = changes
        self._uses = uses
        self._now = now
        self._by_id: dict[str, ApiKey] = {}
        self._named: dict[str, Event] = {}
        # Ids, the oldest first.
        self._of_user: dict[str, dict[str, None]] = {}
        self._of_tenant: dict[str, dict[str, None]] = {}
        # What the secret of an unknown key is compared with, so that it takes as long as that of a known one.
        self._nobody = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).digest()
        facts.own(_KIND, self._apply)
        facts.own(_USER_KIND, lambda user_id, _event: self._remove_all(self._of_user.get(user_id, ())))
        facts.own(_TENANT_KIND, lambda tenant_id, _event: self._remove_all(self._of_tenant.get(tenant_id, ())))

    def __len__(self) -> int:
        return len(self._by_id)

    def identify(self, credential: str) -> ApiKey | None:
        """The key that a credential is; None for what is none, or was revoked, rotated away or has expired.

        Whether the key's owner and tenant are active is for the caller to ask. Costs one comparison of hashes in
        constant time for known and unknown ids alike, and no more than a match of the pattern for what is no key.
        """
        match = _CREDENTIAL.match(credential)
        if match is None:
            return None
        key_id, secret = match.groups()
        key = self._by_id.get(key_id)
        expected = self._nobody if key is None else key.secret_sha256
        matches = hmac.compare_digest(hashlib.sha256(secret.encode()).digest(), expected)
        if key is None or not matches or self.has_expired(key):
            return None
        return key

    def get(self, key_id: str) -> ApiKey | None:
        """The key of this id, expired or not."""
        return self._by_id.get(key_id)

    def find(self, key_id: str) -> ApiKey:
        """The key of this id, expired or not. Raises UnknownKeyError."""
        key = self._by_id.get(key_id)
        if key is None:
            # Not the id: who mistakes the credential for it should not find it in an error.
            raise UnknownKeyError("there is no such API key")
        return key

    def all(self) -> Iterable[ApiKey]:
        """Every key, the oldest first."""
        return self._by_id.values()

    def of_user(self, user_id: str) -> Iterable[ApiKey]:
        """The keys of a user, the oldest first."""
        return map(self._by_id.__getitem__, self._of_user.get(user_id, ()))

    def active_in(self, tenant_id: str) -> int:
        """How many keys of a tenant have not expired."""
        keys = map(self._by_id.__getitem__, self._of_tenant.get(tenant_id, ()))
        return sum(not self.has_expired(key) for key in keys)

    def has_expired(self, key: ApiKey) -> bool:
        """Whether the time of a key is over."""
        return key.expires_at is not None and key.expires_at <= self._now() * _SECOND_US

    # --- changes ---

    async def create(
        self, *, name: str, user_id: str, tenant_id: str, role: Role, expires_at: int | None
    ) -> tuple[ApiKey, str]:
        """Store a new key, durably.

        Returns:
            The key, and the credential, which nobody can ever learn again.

        Raises:
            EngineError: as `EventStore.append`.
        """
        key_id = secrets.token_hex(_ID_BYTES)
        credential, secret_sha256 = _new_secret(key_id)
        subject = _subject(key_id)
        created = _Created(user_id, tenant_id, role, secret_sha256, expires_at)
        await self._facts.append_async([Fact(subject, _CREATED, created), Fact(subject, _NAMED, _Named(name))])
        return self._by_id[key_id], credential

    async def rotate(self, key_id: str) -> tuple[ApiKey, str]:
        """Give a key another secret, durably. The one before is good for nothing from then on.

        Returns:
            The key, and the new credential, which nobody can ever learn again.

        Raises:
            UnknownKeyError: there is no such key.
            EngineError: as `EventStore.append`.
        """
        self.find(key_id)
        credential, secret_sha256 = _new_secret(key_id)
        await self._facts.append_async([Fact(_subject(key_id), _ROTATED, _Rotated(secret_sha256))])
        # An append whose outcome was uncertain may turn out to have revoked it.
        return self.find(key_id), credential

    async def revoke(self, key_id: str) -> None:
        """End a key, durably. Its name is left for `Facts.erase_owed`, as wherever keys end.

        Raises:
            UnknownKeyError: there is no such key.
            EngineError: as `EventStore.append`.
        """
        self.find(key_id)
        await self._facts.append_async([Fact(_subject(key_id), _REVOKED, _Revoked())])

    def revoke_all_of(self, user_id: str) -> list[Fact]:
        """What ends every key of a user, to be appended together with what ends the user: one fact, or none."""
        return [Fact(f"{_USER_KIND}:{user_id}", _ALL_REVOKED, _Revoked())] if user_id in self._of_user else []

    def revoke_all_in(self, tenant_id: str) -> list[Fact]:
        """What ends every key of a tenant, to be appended together with what ends the tenant: one fact, or none."""
        return [Fact(f"{_TENANT_KIND}:{tenant_id}", _ALL_REVOKED, _Revoked())] if tenant_id in self._of_tenant else []

    # --- folding ---

    def _apply(self, key_id: str, event: Event) -> None:
        if event.event_type == _CREATED:
            created = msgspec.json.decode(event.payload, type=_Created)
            self._by_id[key_id] = ApiKey(
                id=key_id,
                name="",
                user_id=created.user_id,
                tenant_id=created.tenant_id,
                role=created.role,
                created_at=event.recorded_at,
                expires_at=created.expires_at,
                position=event.position,
                secret_sha256=bytes.fromhex(created.secret_sha256),
            )
            self._of_user.setdefault(created.user_id, {})[key_id] = None
            self._of_tenant.setdefault(created.tenant_id, {})[key_id] = None
            return
        key = self._by_id.get(key_id)
        if key is None:
            return
        if event.event_type == _NAMED:
            self._named[key_id] = event
            if not event.erased:
                named = msgspec.json.decode(event.payload, type=_Named)
                self._by_id[key_id] = msgspec.structs.replace(key, name=named.name)
        elif event.event_type == _ROTATED:
            rotated = msgspec.json.decode(event.payload, type=_Rotated)
            self._by_id[key_id] = msgspec.structs.replace(key, secret_sha256=bytes.fromhex(rotated.secret_sha256))
            self._changes.publish("api_key", key_id)
        elif event.event_type == _REVOKED:
            self._remove_all([key_id])

    def _remove_all(self, key_ids: Iterable[str]) -> None:
        for key_id in list(key_ids):
            key = self._by_id.pop(key_id)
            named = self._named.pop(key_id, None)
            if named is not None:
                self._facts.erase_later([named])
            _remove(self._of_user, key.user_id, key_id)
            _remove(self._of_tenant, key.tenant_id, key_id)
            self._uses.forget(key_id)
            self._changes.publish("api_key", key_id)


def _new_secret(key_id: str) -> tuple[str, str]:
    """A new credential of a key, and the hash of its secret."""
    secret = secrets.token_hex(_SECRET_BYTES)
    return f"ask_{key_id}_{secret}", hashlib.sha256(secret.encode()).hexdigest()


def _remove(index: dict[str, dict[str, None]], name: str, key_id: str) -> None:
    ids = index[name]
    del ids[key_id]
    if not ids:
        del index[name]


def _subject(key_id: str) -> str:
    return f"{_KIND}:{key_id}"
