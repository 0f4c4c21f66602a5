"""The events in memory and the indexes over them.

Events enter when the sequencer has assigned their positions, before they are durable; so every read is bounded by a
position up to which they are. All of a store's events are here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

from allsource_core.engine.events import Event, position_of_server_id
from allsource_core.engine.queries import EventQuery

__all__ = ["EventTable"]

_SCAN_CHUNK_MIN: Final = 64
_SCAN_CHUNK_MAX: Final = 1024
"""Candidates that are looked at between two pauses of a scan: few at first, for those who want only a few events, then
about a millisecond's worth."""

_NOTHING: Final = array("Q")


class _Tenant:
    """What one tenant's events are found by: ascending positions (8 bytes each) by entity, type, tag."""

    __slots__ = ("by_client_id", "by_entity", "by_tag", "by_type", "positions")

    def __init__(self) -> None:
        self.positions = array("Q")
        self.by_entity: dict[str, array[int]] = {}
        self.by_type: dict[str, array[int]] = {}
        self.by_tag: dict[str, array[int]] = {}
        self.by_client_id: dict[bytes, int] = {}


class EventTable:
    """Every event by position, with indexes by tenant."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._tenants: dict[str, _Tenant] = {}
        self._names: dict[str, str] = {}
        self._append_starts = array("Q")

    @property
    def last_position(self) -> int:
        """Of the last event that entered, durable or not; 0 for none."""
        return len(self._events)

    @property
    def last_recorded_at(self) -> int:
        """`recorded_at` of that event, 0 for none."""
        return self._events[-1].recorded_at if self._events else 0

    def counts(self) -> tuple[int, int]:
        """How many events and entities there are, those of reserved tenants left out."""
        tenants = [tenant for name, tenant in list(self._tenants.items()) if not name.startswith("_")]
        return sum(len(tenant.positions) for tenant in tenants), sum(len(tenant.by_entity) for tenant in tenants)

    def add(self, tenant_id: str, events: Sequence[Event]) -> None:
        """Take the events of one append, whose positions follow on the last one."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = _Tenant()
        # The events first: another thread that finds one in an index must find it here as well.
        self._append_starts.append(events[0].position)
        self._events.extend(events)
        for event in events:
            position = event.position
            tenant.positions.append(position)
            _append(tenant.by_entity, event.entity_id, position)
            _append(tenant.by_type, event.event_type, position)
            for tag in event.tags:
                _append(tenant.by_tag, tag, position)
            if event.client_id is not None:
                tenant.by_client_id[event.client_id] = position

    def add_recovered(self, events: Sequence[Event]) -> None:
        """Take the events of a record read back, sharing equal names: a decoder makes each one anew."""
        share = self._names.setdefault
        for event in events:
            event.tenant_id = share(event.tenant_id, event.tenant_id)
            event.event_type = share(event.event_type, event.event_type)
            event.entity_id = share(event.entity_id, event.entity_id)
            event.tags = tuple([share(tag, tag) for tag in event.tags])
        self.add(events[0].tenant_id, events)

    def recovered(self) -> None:
        """Recovery is over: drop what only it needed."""
        self._names = {}

    def at(self, position: int) -> Event:
        """The event at a position that exists."""
        return self._events[position - 1]

    def were_appended_together(self, position: int, other: int) -> bool:
        """Whether the events at two positions came with one append."""
        starts = self._append_starts
        return bisect_right(starts, position) == bisect_right(starts, other) and other <= len(self._events)

    def version(self, tenant_id: str, entity_id: str) -> tuple[int, int]:
        """(last version, last position) of an entity; (0, 0) for one without events."""
        tenant = self._tenants.get(tenant_id)
        positions = tenant.by_entity.get(entity_id) if tenant is not None else None
        if not positions:
            return 0, 0
        return self.at(positions[-1]).version, positions[-1]

    def find(self, tenant_id: str, event_id: UUID) -> Event | None:
        """The tenant's event of this id, durable or not."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            return None
        position = tenant.by_client_id.get(event_id.bytes)
        if position is not None:
            return self.at(position)
        position = position_of_server_id(event_id)
        if not 1 <= position <= len(self._events):
            return None
        event = self.at(position)
        return event if event.tenant_id == tenant_id and event.id == event_id else None

    def scan(self, tenant_id: str, query: EventQuery, up_to: int) -> Iterator[list[Event]]:
        """Matching events at positions of at most `up_to`, in the order of the query.

        Yields a list, perhaps empty, after at most 1,024 candidates, so that a caller on an event loop can let others
        run. Candidates are the shortest of the position lists that the query names; where that list is all that the
        query asks for, they are taken without another look.
        """
        candidates, is_exact = self._candidates(tenant_id, query)
        low = bisect_right(candidates, query.after_position)
        bound = up_to if query.before_position is None else min(up_to, query.before_position - 1)
        high = bisect_right(candidates, bound)
        left = query.limit
        selects, events = query.selects, self._events
        start, size = low, _SCAN_CHUNK_MIN if left is None else min(max(left, _SCAN_CHUNK_MIN), _SCAN_CHUNK_MAX)
        while start < high:
            end = min(start + size, high)
            if query.descending:
                # Mirror the chunk: count from the end of the range instead of its beginning.
                positions = candidates[low + high - end : low + high - start][::-1]
            else:
                positions = candidates[start:end]
            found = [events[position - 1] for position in positions]
            if not is_exact:
                found = [event for event in found if selects(event)]
            start, size = end, min(2 * size, _SCAN_CHUNK_MAX)
            if left is not None:
                found = found[:left]
                left -= len(found)
            yield found
            if left == 0:
                return

    def _candidates(self, tenant_id: str, query: EventQuery) -> tuple[array[int], bool]:
        """The positions to look at, and whether all of them are known to match."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            return _NOTHING, True
        lists = [tenant.by_tag.get(tag, _NOTHING) for tag in query.tags]
        if query.entity_id is not None:
            lists.append(tenant.by_entity.get(query.entity_id, _NOTHING))
        if query.event_type is not None:
            lists.append(tenant.by_type.get(query.event_type, _NOTHING))
        is_exact = len(lists) <= 1 and query.since is None and query.until is None
        return min(lists, key=len, default=tenant.positions), is_exact


def _append(index: dict[str, array[int]], key: str, position: int) -> None:
    positions = index.get(key)
    if positions is None:
        positions = index[key] = array("Q")
    # A tag that an event bears twice is in its list once.
    if not positions or positions[-1] != position:
        positions.append(position)
