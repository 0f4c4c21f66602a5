"""Removing: entities, single events' bodies, tenants; and what retention is told to remove."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec

from allsource_core.engine.errors import EngineError, NotFoundError, without_frames
from allsource_core.engine.log_format import (
    AnyControlRecord,
    EntityRemoved,
    EventErased,
    PolicySet,
    TenantRemoved,
)
from allsource_core.engine.manifest import Policy, Removal
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.tenants import TenantKey
from allsource_core.engine.view import View

if TYPE_CHECKING:
    from allsource_core.engine.opening import OpenStore

__all__ = ["RemovalRequests"]

_NO_PREFIX: Final = "\0"
"""No id of an entity begins so."""

_Make = Callable[[int, int], AnyControlRecord]
"""Makes a record for its position and `recorded_at`."""


class RemovalRequests:
    """Takes requests to remove. Each is durable, and effective for every reader that comes later, when it returns; the
    bytes are gone when `find` says so. All of it raises StoreClosedError once the store was closed.

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
            StoreReadOnlyError, AppendUncertainError, OverloadedError, StoreClosedError: as `EventStore.append`.
        """

        def look(view: View, tenant: TenantKey) -> _Make:
            query = EventQuery(entity_id=entity_id, limit=1)
            first = next((events[0] for events in view.read(tenant, query, self._bound()) if events), None)
            query = msgspec.structs.replace(query, descending=True)
            last = next((events[0] for events in view.read(tenant, query, self._bound()) if events), None)
            if first is None or last is None:
                # Retention may have taken all of them, and left what they amount to.
                marker = view.marker(tenant, entity_id)
                last_version = 0 if marker is None else marker.state().version
                first_version = last_version + 1
                if not last_version:
                    raise NotFoundError(f"entity {entity_id!r} has no events")
            else:
                first_version, last_version = first.version, last.version

            def make(position: int, recorded_at: int) -> AnyControlRecord:
                # What was appended since the look above is removed as well.
                found = self._parts.sequencer.memory.last_version(tenant.number, entity_id)
                version = last_version if found is None else max(last_version, found[0])
                # And what retention removed since was none that this removes.
                first = max(first_version, self._parts.sequencer.removed.floor(tenant.number, entity_id) + 1)
                count = max(version - first + 1, 0)
                return EntityRemoved(tenant.number, position, recorded_at, entity_id, version, count)

            return make

        return self._remove(tenant_id, look)

    def event(self, tenant_id: str, event_id: UUID) -> Removal:
        """Erase payload, metadata and tags of an event; its id, type, entity, version, position and times stay.

        Raises:
            NotFoundError: there is no such event, or it is erased already.
            KeysDamagedError: it can't be looked up now; try again soon.
            StoreReadOnlyError, AppendUncertainError, OverloadedError, StoreClosedError: as `EventStore.append`.
        """

        def look(view: View, tenant: TenantKey) -> _Make:
            event = view.get(tenant, event_id, self._bound())
            if event is None or event.erased:
                raise NotFoundError(f"there is no event {event_id} that could be erased")
            entity_id, version, at = event.entity_id, event.version, event.position

            def make(position: int, recorded_at: int) -> AnyControlRecord:
                removed = self._parts.sequencer.removed
                if version <= removed.floor(tenant.number, entity_id) or at in removed.erased:
                    raise NotFoundError(f"event {event_id} was removed just now")
                return EventErased(tenant.number, position, recorded_at, entity_id, version, at)

            return make

        return self._remove(tenant_id, look)

    def tenant(self, tenant_id: str) -> Removal:
        """Remove everything of a tenant. Appended to again, it begins from nothing.

        Raises:
            NotFoundError: it has no events.
            StoreReadOnlyError, AppendUncertainError, OverloadedError, StoreClosedError: as `EventStore.append`.
        """
        self._check_open()
        numbers = self._parts.sequencer.numbers
        self._number_all()

        def look(view: View, tenant: TenantKey) -> _Make:
            if not tenant.number:
                raise NotFoundError(f"tenant {tenant_id!r} has no events")
            count = sum(segment.index.tenant_events.get(tenant.number, 0) for segment in view.segments)
            for table in view.tables:
                index = table.find_tenant(tenant.number)
                count += 0 if index is None else len(index.places)

            def make(position: int, recorded_at: int) -> AnyControlRecord:
                if numbers.get(tenant_id) != tenant.number:
                    raise NotFoundError(f"tenant {tenant_id!r} was removed just now")
                return TenantRemoved(tenant.number, position, recorded_at, count)

            return make

        return self._remove(tenant_id, look)

    def number(self, tenant_id: str) -> int:
        """The number under which everything of a tenant is stored, durably: no other tenant ever has it, one that gets
        the same id later neither. A tenant that never had an event gets one.

        Raises: StoreReadOnlyError, AppendUncertainError, OverloadedError, StoreClosedError: as `EventStore.append`.
        """
        self._check_open()
        self._number_all()
        # To end a policy that there can't be is the smallest record that names a tenant. It is written also where there
        # is a number already, as that may be of an append that never reached the disk.
        self.set_policy(tenant_id, _NO_PREFIX)
        return self._parts.sequencer.numbers.get(tenant_id)

    def of_tenant(self, number: int) -> Removal | None:
        """The removal of the tenant that had this number, with everything; None if there was none, or it was done more
        than seven days ago.
        """
        self._check_open()
        found = list(self._parts.catalog.removals.values())
        return next((one for one in found if one.kind == "tenant" and one.tenant == number), None)

    def set_policy(
        self, tenant_id: str, prefix: str, *, max_age_us: int | None = None, max_count: int | None = None
    ) -> None:
        """Keep at most so many events, or so old ones, of each entity whose id begins with a prefix; None for both
        ends that.

        Raises: StoreReadOnlyError, AppendUncertainError, OverloadedError, StoreClosedError: as `EventStore.append`.
        """

        def make(position: int, recorded_at: int) -> AnyControlRecord:
            # Under the lock, like every assignment of a number: two tenants must not get the same one.
            number = self._parts.sequencer.numbers.assign(tenant_id)
            return PolicySet(number, position, recorded_at, tenant_id, prefix, max_age_us, max_count)

        self._parts.path.append_controls([make])
        if self._parts.maintenance is not None:
            self._parts.maintenance.retain_now()

    def policies(self, tenant_id: str) -> list[Policy]:
        """The retention policies of a tenant, by prefix."""
        self._check_open()
        number = self._parts.sequencer.numbers.get(tenant_id)
        found = [policy for policy in list(self._parts.catalog.policies.values()) if policy.tenant == number]
        return sorted(found, key=lambda policy: policy.prefix)

    def find(self, tenant_id: str, position: int, *, tenants: bool = False) -> Removal | None:
        """The removal of this position, if it is one of the tenant's own and not of retention; kept for seven days
        after it is done.

        Args:
            tenant_id: whose.
            position: of its record.
            tenants: find removals of whole tenants too, which belong to nobody any more.
        """
        self._check_open()
        removal = self._parts.catalog.removals.get(position)
        number = self._parts.sequencer.numbers.get(tenant_id)
        return removal if removal is not None and _is_shown(removal, number, tenants) else None

    def latest(
        self,
        tenant_id: str,
        *,
        limit: int,
        before: int | None = None,
        finished: bool | None = None,
        tenants: bool = False,
    ) -> list[Removal]:
        """The tenant's newest removals, the newest first: those that `find` finds.

        Args:
            tenant_id: whose.
            limit: at most so many.
            before: only those of a lower position.
            finished: only those whose bytes are gone, or only the others; None for both.
            tenants: removals of whole tenants too.
        """
        self._check_open()
        number = self._parts.sequencer.numbers.get(tenant_id)
        found = [
            removal
            for removal in list(self._parts.catalog.removals.values())
            if _is_shown(removal, number, tenants)
            and (before is None or removal.position < before)
            and (finished is None or bool(removal.finished_at) == finished)
        ]
        return heapq.nlargest(limit, found, key=lambda removal: removal.position)

    def _number_all(self) -> None:
        memory = self._parts.sequencer.memory
        if memory.sealed_through < memory.unnumbered_through:
            # Records of format 1 get their tenants' numbers when they are sealed; this one is about to be forgotten.
            self._parts.seal()

    def _check_open(self) -> None:
        self._parts.path.writability.check_open()

    def _bound(self) -> int:
        return self._parts.path.durable_position

    def _remove(self, tenant_id: str, look: Callable[[View, TenantKey], _Make]) -> Removal:
        """Append what removes something.

        Args:
            tenant_id: whose.
            look: looks up what is to be removed, and gives what makes the record, under the lock. If what was looked at
                was replaced in between, by segments or removals that it did not show, it looks again.
        """
        self._check_open()
        made: list[AnyControlRecord] = []
        while not made:
            try:
                self._look_and_append(tenant_id, look, made)
            except (EngineError, OSError, MemoryError) as error:
                # Its frames have a view, whose files nothing is removed from while somebody keeps the error.
                raise without_frames(error)  # noqa: B904 - it is the same
        self._on_removed()
        return self._parts.catalog.removals[made[0].position]

    def _look_and_append(
        self, tenant_id: str, look: Callable[[View, TenantKey], _Make], made: list[AnyControlRecord]
    ) -> None:
        view = self._parts.catalog.view
        make = look(view, self._parts.sequencer.numbers.key(tenant_id))
        self._parts.path.append_controls([partial(self._make_if_present, view, make, made)])

    def _make_if_present(
        self, view: View, make: _Make, made: list[AnyControlRecord], position: int, recorded_at: int
    ) -> AnyControlRecord | None:
        if self._parts.catalog.view is not view:
            return None
        record = make(position, recorded_at)
        made.append(record)
        return record


def _is_shown(removal: Removal, number: int, tenants: bool) -> bool:
    """Whether a removal is to be told of: to the tenant of a number, or to who asks for those of whole tenants too."""
    return (removal.kind == "tenant" and tenants) or (removal.kind != "shortened" and removal.tenant == number)
