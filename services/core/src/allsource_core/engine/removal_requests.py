"""Removing: entities, single events' bodies, tenants; and what retention is told to remove."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from allsource_core.engine.errors import NotFoundError
from allsource_core.engine.log_format import (
    AnyControlRecord,
    EntityRemoved,
    EventErased,
    PolicySet,
    TenantRemoved,
)
from allsource_core.engine.manifest import Policy, Removal
from allsource_core.engine.queries import EventQuery

if TYPE_CHECKING:
    from allsource_core.engine.opening import OpenStore

__all__ = ["RemovalRequests"]


class RemovalRequests:
    """Takes requests to remove. Each is durable, and effective for every reader that comes later, when it returns; the
    bytes are gone when `find` says so.

    Args:
        parts: of the store.
        on_removed: called after each.
    """

    def __init__(self, parts: OpenStore, on_removed: Callable[[], None]) -> None:
        self._parts = parts
        self._on_removed = on_removed
        if parts.maintenance is not None:
            parts.maintenance.on_removed(on_removed)

    def entity(self, tenant_id: str, entity_id: str) -> Removal:
        """Remove all events of an entity, and what retention kept of it. Its last version stays known: it is never
        assigned again.

        Raises:
            NotFoundError: nothing of it can be read.
            StoreReadOnlyError, AppendUncertainError, StoreClosedError: as `EventStore.append`.
        """
        view, tenant = self._parts.catalog.view, self._parts.sequencer.numbers.key(tenant_id)
        query = EventQuery(entity_id=entity_id, limit=1)
        first = next((events[0] for events in view.read(tenant, query, self._bound()) if events), None)
        last_query = msgspec.structs.replace(query, descending=True)
        last = next((events[0] for events in view.read(tenant, last_query, self._bound()) if events), None)
        if first is None or last is None:
            # Retention may have taken all of them, and left what they amount to.
            last_version = view.snapshot_state(tenant, entity_id).version
            first_version = last_version + 1
            if not last_version:
                raise NotFoundError(f"entity {entity_id!r} has no events")
        else:
            first_version, last_version = first.version, last.version

        def make(position: int, recorded_at: int) -> AnyControlRecord:
            # What was appended since the look above is removed as well.
            found = self._parts.sequencer.memory.last_version(tenant.number, entity_id)
            version = last_version if found is None else max(last_version, found[0])
            count = version - first_version + 1
            return EntityRemoved(tenant.number, position, recorded_at, entity_id, version, count)

        return self._remove(make)

    def event(self, tenant_id: str, event_id: UUID) -> Removal:
        """Erase payload, metadata and tags of an event; its id, type, entity, version, position and times stay.

        Raises:
            NotFoundError: there is no such event, or it is erased already.
            StoreReadOnlyError, AppendUncertainError, StoreClosedError: as `EventStore.append`.
        """
        tenant = self._parts.sequencer.numbers.key(tenant_id)
        event = self._parts.catalog.view.get(tenant, event_id, self._bound())
        if event is None or event.erased:
            raise NotFoundError(f"there is no event {event_id} that could be erased")
        return self._remove(
            lambda position, recorded_at: EventErased(
                tenant.number, position, recorded_at, event.entity_id, event.version, event.position
            )
        )

    def tenant(self, tenant_id: str) -> Removal:
        """Remove everything of a tenant. Appended to again, it begins from nothing.

        Raises:
            NotFoundError: it has no events.
            StoreReadOnlyError, AppendUncertainError, StoreClosedError: as `EventStore.append`.
        """
        number = self._parts.sequencer.numbers.get(tenant_id)
        if not number:
            raise NotFoundError(f"tenant {tenant_id!r} has no events")
        memory = self._parts.sequencer.memory
        if memory.sealed_through < memory.unnumbered_through:
            # Records of format 1 get their tenants' numbers when they are sealed; this one is about to be forgotten.
            self._parts.seal()
        view = self._parts.catalog.view
        count = sum(segment.index.tenant_events.get(number, 0) for segment in view.segments)
        for table in view.tables:
            index = table.find_tenant(number)
            count += 0 if index is None else len(index.places)
        return self._remove(lambda position, recorded_at: TenantRemoved(number, position, recorded_at, count))

    def set_policy(
        self, tenant_id: str, prefix: str, *, max_age_us: int | None = None, max_count: int | None = None
    ) -> None:
        """Keep at most so many events, or so old ones, of each entity whose id begins with a prefix; None for both
        ends that.

        Raises: StoreReadOnlyError, AppendUncertainError, StoreClosedError: as `EventStore.append`.
        """

        def make(position: int, recorded_at: int) -> AnyControlRecord:
            # Under the lock, like every assignment of a number: two tenants must not get the same one.
            number = self._parts.sequencer.numbers.assign(tenant_id)
            return PolicySet(number, position, recorded_at, tenant_id, prefix, max_age_us, max_count)

        self._parts.path.append_control(make)
        if self._parts.maintenance is not None:
            self._parts.maintenance.retain_now()

    def policies(self, tenant_id: str) -> list[Policy]:
        """The retention policies of a tenant, by prefix."""
        number = self._parts.sequencer.numbers.get(tenant_id)
        found = [policy for policy in list(self._parts.catalog.policies.values()) if policy.tenant == number]
        return sorted(found, key=lambda policy: policy.prefix)

    def find(self, tenant_id: str, position: int) -> Removal | None:
        """The removal of this position, if it is the tenant's; kept for seven days after it is done."""
        removal = self._parts.catalog.removals.get(position)
        number = self._parts.sequencer.numbers.get(tenant_id)
        return removal if removal is not None and removal.tenant == number else None

    def latest(
        self, tenant_id: str, *, limit: int, before: int | None = None, finished: bool | None = None
    ) -> list[Removal]:
        """The tenant's newest removals, the newest first: those that `find` finds.

        Args:
            tenant_id: whose.
            limit: at most so many.
            before: only those of a lower position.
            finished: only those whose bytes are gone, or only the others; None for both.
        """
        number = self._parts.sequencer.numbers.get(tenant_id)
        found = [
            removal
            for removal in list(self._parts.catalog.removals.values())
            if removal.tenant == number
            and (before is None or removal.position < before)
            and (finished is None or bool(removal.finished_at) == finished)
        ]
        return heapq.nlargest(limit, found, key=lambda removal: removal.position)

    def _bound(self) -> int:
        return self._parts.path.durable_position

    def _remove(self, make: Callable[[int, int], AnyControlRecord]) -> Removal:
        made: list[AnyControlRecord] = []

        def remember(position: int, recorded_at: int) -> AnyControlRecord:
            made.append(make(position, recorded_at))
            return made[-1]

        self._parts.path.append_control(remember)
        self._on_removed()
        return self._parts.catalog.removals[made[-1].position]
