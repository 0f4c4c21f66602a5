"""Tenants: facts of the system tenant, folded at start.

A tenant is an entity ``tenant:<id>``. Name and description are in events of their own, so that they can be erased
without losing the rest. An id that was deleted may be used again: what follows in the log is another tenant.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

import msgspec
import structlog

from allsource_core.changes import Changes
from allsource_core.engine import Event, StoreReadOnlyError, name_fault, tenant_fault
from allsource_core.facts import DEFAULT_TENANT, Fact, Facts
from allsource_core.tenancy.errors import (
    DefaultTenantError,
    InvalidTenantError,
    ReservedTenantError,
    TenantExistsError,
    UnknownTenantError,
)
from allsource_core.tenancy.quotas import preset_of
from allsource_core.tenancy.rate_limits import RateLimit
from allsource_shared.wire.tenants import Quotas

__all__ = ["Tenant", "TenantDirectory"]

_KIND: Final = "tenant"
_CREATED: Final = "tenant.created"
_DESCRIBED: Final = "tenant.described"
_QUOTAS_SET: Final = "tenant.quotas_set"
_LIMITS_SET: Final = "tenant.limits_set"
_ACTIVITY_SET: Final = "tenant.activity_set"
_DELETING: Final = "tenant.deleting"
_REMOVING: Final = "tenant.removing"
_DELETED: Final = "tenant.deleted"

_NAME_BYTES_MAX: Final = 256
_REMOVED_MAX: Final = 10_000
"""Of so many deleted tenants, the newest, it is known which operation removed them."""


class _Created(msgspec.Struct):
    quotas: Quotas
    limit: RateLimit | None


class _Described(msgspec.Struct):
    name: str
    description: str


class _QuotasSet(msgspec.Struct):
    quotas: Quotas


class _LimitsSet(msgspec.Struct):
    limit: RateLimit | None


class _ActivitySet(msgspec.Struct):
    active: bool


class _Deleting(msgspec.Struct):
    pass


class _Removing(msgspec.Struct):
    number: int


class _Deleted(msgspec.Struct):
    position: int | None
    events_removed: int


class Tenant(msgspec.Struct, frozen=True):
    """A tenant as folded from events.

    Attributes:
        limits: None for as many requests as there are.
        enabled: nobody deactivated it.
        created_at, updated_at: microseconds since the epoch; 0 for one that is always there and not stored yet.
        revision: the position of the last fact about it: differs after every change, also from what other tenants of
            the same id had.
        began: the position of the fact that made it: no other tenant has it, whatever its id; 0 as of `created_at`.
        deleting: it is being deleted, which nothing stops any more.
        removing: the number under which its events are being removed; 0 before that.
    """

    id: str
    quotas: Quotas
    limits: RateLimit | None
    created_at: int
    updated_at: int
    revision: int
    name: str = ""
    description: str = ""
    enabled: bool = True
    began: int = 0
    deleting: bool = False
    removing: int = 0

    @property
    def active(self) -> bool:
        """Whether its credentials work."""
        return self.enabled and not self.deleting

    @property
    def tier(self) -> str:
        """The name of the preset that has its quotas; ``custom`` if none has."""
        return preset_of(self.quotas)


class TenantDirectory:
    """All tenants, by id.

    The methods that change something are called with `Facts.changing` held, `store_default` aside: what they check
    still holds when it is stored. Changing a tenant that is being deleted is refused as if it was gone.

    Args:
        facts: of the service; this class owns those of tenants.
        changes: told of every tenant that is not what it was.
    """

    def __init__(self, facts: Facts, changes: Changes) -> None:
        self._facts = facts
        self._changes = changes
        self._by_id = {DEFAULT_TENANT: Tenant(DEFAULT_TENANT, Quotas(), None, 0, 0, 0, name="Default")}
        self._sorted: list[str] | None = None
        self._deleting: dict[str, None] = {}
        self._descriptions: dict[str, list[Event]] = {}
        self._removed: dict[int, str] = {}
        facts.own(_KIND, self._apply)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, tenant_id: str) -> Tenant | None:
        """The tenant of this id; also one that is not active, or is being deleted."""
        return self._by_id.get(tenant_id)

    def find(self, tenant_id: str) -> Tenant:
        """The same. Raises UnknownTenantError."""
        tenant = self._by_id.get(tenant_id)
        if tenant is None:
            raise UnknownTenantError(f"there is no tenant {tenant_id[:128]!r}")
        return tenant

    def find_open(self, tenant_id: str) -> Tenant:
        """The same, if it is not being deleted. Raises UnknownTenantError."""
        tenant = self._by_id.get(tenant_id)
        if tenant is None or tenant.deleting:
            raise UnknownTenantError(f"there is no tenant {tenant_id[:128]!r}, or it is being deleted")
        return tenant

    def limit_of(self, tenant_id: str) -> RateLimit | None:
        """How fast a tenant may call; None where there is no limit, or no tenant."""
        tenant = self._by_id.get(tenant_id)
        return None if tenant is None else tenant.limits

    def is_active(self, tenant_id: str) -> bool:
        """Whether there is such a tenant, and its credentials work."""
        tenant = self._by_id.get(tenant_id)
        return tenant is not None and tenant.active

    def is_open(self, tenant_id: str) -> bool:
        """Whether anybody may work in it who may choose: there is such a tenant, and it is not being deleted."""
        tenant = self._by_id.get(tenant_id)
        return tenant is not None and not tenant.deleting

    def page(self, after: str, limit: int) -> list[Tenant]:
        """At most so many tenants with ids behind one, by id."""
        if self._sorted is None:
            self._sorted = sorted(self._by_id)
        begin = bisect_right(self._sorted, after)
        return [self._by_id[tenant_id] for tenant_id in self._sorted[begin : begin + limit]]

    def deleting(self) -> list[str]:
        """The tenants that are being deleted, the longest of them first."""
        return list(self._deleting)

    def removed_by(self, position: int) -> str | None:
        """The id of the tenant that the removal of this position removed."""
        return self._removed.get(position)

    # --- changes ---

    def store_default(self) -> None:
        """Make a fact of the tenant that is always there, if it is none yet. Blocks: for the start of the service.

        A store that can't be written is no reason not to start; then it is a fact after some later start.

        Raises:
            EngineError: as `EventStore.append`.
        """
        default = self._by_id[DEFAULT_TENANT]
        if default.created_at:
            return
        try:
            self._facts.append(_creation(DEFAULT_TENANT, default.name, default.description, default.quotas, None))
        except StoreReadOnlyError as error:
            structlog.get_logger().warning("default_tenant_not_stored", reason=error.code)

    async def create(
        self, tenant_id: str, *, name: str, description: str, quotas: Quotas, limits: RateLimit | None
    ) -> Tenant:
        """Store a new tenant, durably.

        Raises:
            ReservedTenantError, InvalidTenantError: no tenant can have this id or name.
            TenantExistsError: there is one of the id, perhaps being deleted.
            EngineError: as `EventStore.append`.
        """
        if tenant_id.startswith("_"):
            raise ReservedTenantError("id: tenants whose id begins with _ belong to the store itself")
        if tenant_fault(tenant_id) is not None:
            fault = "must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter or a digit"
            raise InvalidTenantError("id", fault)
        _check_name(name)
        known = self._by_id.get(tenant_id)
        if known is not None:
            what = "is being deleted" if known.deleting else "exists"
            raise TenantExistsError(f"the tenant {tenant_id!r} {what}")
        await self._facts.append_async(_creation(tenant_id, name, description, quotas, limits))
        return self._by_id[tenant_id]

    async def describe(self, tenant_id: str, *, name: str, description: str) -> Tenant:
        """Set what people are told about a tenant. Raises UnknownTenantError, InvalidTenantError, EngineError."""
        tenant = self.changeable(tenant_id)
        _check_name(name)
        if (name, description) != (tenant.name, tenant.description):
            await self._append(tenant_id, _DESCRIBED, _Described(name, description))
        return self._by_id[tenant_id]

    async def set_quotas(self, tenant_id: str, quotas: Quotas) -> Tenant:
        """Set all quotas, from now on. Raises UnknownTenantError, EngineError."""
        if quotas != self.changeable(tenant_id).quotas:
            await self._append(tenant_id, _QUOTAS_SET, _QuotasSet(quotas))
        return self._by_id[tenant_id]

    async def set_limits(self, tenant_id: str, limits: RateLimit | None) -> Tenant:
        """Set how fast it may call, from the next request on. Raises UnknownTenantError, EngineError."""
        if limits != self.changeable(tenant_id).limits:
            await self._append(tenant_id, _LIMITS_SET, _LimitsSet(limits))
        return self._by_id[tenant_id]

    async def set_active(self, tenant_id: str, active: bool) -> Tenant:
        """Let its credentials work or not. Raises UnknownTenantError, DefaultTenantError, EngineError."""
        tenant = self.changeable(tenant_id)
        if not active:
            _check_not_default(tenant_id, "deactivated")
        if active is not tenant.enabled:
            await self._append(tenant_id, _ACTIVITY_SET, _ActivitySet(active))
        return self._by_id[tenant_id]

    def changeable(self, tenant_id: str) -> Tenant:
        """The tenant of this id, unless it is being deleted. Raises UnknownTenantError."""
        tenant = self.find(tenant_id)
        if tenant.deleting:
            raise UnknownTenantError(f"the tenant {tenant_id!r} is being deleted")
        return tenant

    # --- deletion: the steps that `TenantDeletions` takes ---

    async def begin_deletion(self, tenant_id: str) -> Tenant:
        """From now on it is active for nobody, for ever. Does nothing if that is so already.

        Returns:
            The tenant.

        Raises:
            UnknownTenantError, DefaultTenantError, EngineError: nothing has changed.
        """
        _check_not_default(tenant_id, "deleted")
        if not self.find(tenant_id).deleting:
            await self._append(tenant_id, _DELETING, _Deleting())
        return self.find(tenant_id)

    def in_deletion(self, tenant_id: str, began: int) -> bool:
        """Whether the tenant that began there is still being deleted, for certain; its id may be another's by now."""
        self._facts.fold()
        tenant = self._by_id.get(tenant_id)
        return tenant is not None and tenant.deleting and tenant.began == began

    async def begin_removal(self, tenant_id: str, number: int) -> None:
        """Know under which number its events are, before they are removed. Raises UnknownTenantError, EngineError."""
        if self.find(tenant_id).removing != number:
            await self._append(tenant_id, _REMOVING, _Removing(number))

    def description_events(self, tenant_id: str) -> list[Event]:
        """The facts that hold names and descriptions of it, which are to be erased."""
        return list(self._descriptions.get(tenant_id, ()))

    def end_of_deletion(self, tenant_id: str, position: int | None, events_removed: int) -> Fact:
        """The fact that nothing is left of it; then its id may be used again.

        Args:
            tenant_id: the tenant.
            position: of the removal; None where that is so long ago that it is not known any more.
            events_removed: by it.
        """
        return Fact(_subject(tenant_id), _DELETED, _Deleted(position, events_removed))

    async def _append(self, tenant_id: str, type_: str, body: msgspec.Struct) -> None:
        await self._facts.append_async([Fact(_subject(tenant_id), type_, body)])

    # --- folding ---

    def _apply(self, tenant_id: str, event: Event) -> None:
        if event.event_type == _CREATED:
            created = msgspec.json.decode(event.payload, type=_Created)
            at = event.recorded_at
            position = event.position
            self._by_id[tenant_id] = Tenant(tenant_id, created.quotas, created.limit, at, at, position, began=position)
            self._sorted = None
        elif event.event_type == _DELETED:
            self._forget(tenant_id, msgspec.json.decode(event.payload, type=_Deleted))
        else:
            tenant = self._by_id.get(tenant_id)
            if tenant is None:
                return
            self._by_id[tenant_id] = self._changed(tenant, event)
        self._changes.publish("tenant", tenant_id)

    def _changed(self, tenant: Tenant, event: Event) -> Tenant:
        changed = msgspec.structs.replace(tenant, updated_at=event.recorded_at, revision=event.position)
        match event.event_type:
            case "tenant.described":
                self._descriptions.setdefault(tenant.id, []).append(event)
                if event.erased:
                    return changed
                described = msgspec.json.decode(event.payload, type=_Described)
                return msgspec.structs.replace(changed, name=described.name, description=described.description)
            case "tenant.quotas_set":
                quotas = msgspec.json.decode(event.payload, type=_QuotasSet).quotas
                return msgspec.structs.replace(changed, quotas=quotas)
            case "tenant.limits_set":
                limits = msgspec.json.decode(event.payload, type=_LimitsSet).limit
                return msgspec.structs.replace(changed, limits=limits)
            case "tenant.activity_set":
                active = msgspec.json.decode(event.payload, type=_ActivitySet).active
                return msgspec.structs.replace(changed, enabled=active)
            case "tenant.deleting":
                self._deleting[tenant.id] = None
                return msgspec.structs.replace(changed, deleting=True)
            case "tenant.removing":
                number = msgspec.json.decode(event.payload, type=_Removing).number
                return msgspec.structs.replace(changed, removing=number)
        return changed

    def _forget(self, tenant_id: str, deleted: _Deleted) -> None:
        self._by_id.pop(tenant_id, None)
        self._deleting.pop(tenant_id, None)
        self._descriptions.pop(tenant_id, None)
        self._sorted = None
        if deleted.position is not None:
            self._removed[deleted.position] = tenant_id
            if len(self._removed) > _REMOVED_MAX:
                del self._removed[next(iter(self._removed))]


def _creation(tenant_id: str, name: str, description: str, quotas: Quotas, limits: RateLimit | None) -> list[Fact]:
    subject = _subject(tenant_id)
    return [
        Fact(subject, _CREATED, _Created(quotas, limits)),
        Fact(subject, _DESCRIBED, _Described(name, description)),
    ]


def _check_name(name: str) -> None:
    fault = name_fault(name, _NAME_BYTES_MAX)
    if fault is not None:
        raise InvalidTenantError("name", fault)


def _check_not_default(tenant_id: str, what: str) -> None:
    if tenant_id == DEFAULT_TENANT:
        raise DefaultTenantError(f"the tenant {DEFAULT_TENANT} can't be {what}")


def _subject(tenant_id: str) -> str:
    return f"{_KIND}:{tenant_id}"
