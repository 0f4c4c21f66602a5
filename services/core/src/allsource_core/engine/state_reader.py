"""States of entities as of now, from a cache that only new events are merged into, and as of any moment."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from allsource_core.engine.errors import StateNotKeptError
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.states import EntityState, StateCache, fold
from allsource_core.engine.tenants import TenantKey
from allsource_core.engine.view import View

__all__ = ["StateReader"]


class StateReader:
    """Gives states. Thread-safe.

    A removal may come between the look at what is left of an entity's events and the look at the others: then both are
    looked at again.

    Args:
        take_view: gives the present view.

    Attributes:
        clear: to be called when something was removed, before anybody is told that it was.
    """

    def __init__(self, take_view: Callable[[], View]) -> None:
        self._take_view = take_view
        self._cache = StateCache()
        self.clear = self._cache.clear

    def present(self, tenant: TenantKey, entity_id: str, up_to: int) -> EntityState:
        """The state that an entity's events up to a position make. 1 µs where none is new. May read files."""
        while True:
            # Before the view: with an older view than the last removal's nothing may be kept.
            generation = self._cache.generation
            view = self._take_view()
            floor = view.removed.floor(tenant.number, entity_id)
            cached = self._cache.get(tenant.number, entity_id)
            if cached is not None and cached[0].version >= floor:
                state, read_through = cached
                if read_through == up_to or view.is_unchanged(tenant.number, entity_id, state.version, read_through):
                    return state
                query = EventQuery(entity_id=entity_id, after_position=read_through)
            else:
                state = _beginning(view, tenant, entity_id)
                query = EventQuery(entity_id=entity_id, from_version=state.first_version)
            state = fold(state, chain.from_iterable(view.read(tenant, query, up_to)))
            if view.removed.floor(tenant.number, entity_id) == floor:
                if tenant.number:
                    self._cache.put(tenant.number, entity_id, state, up_to, generation)
                return state

    def as_of(
        self,
        tenant: TenantKey,
        entity_id: str,
        up_to: int,
        *,
        timestamp: int | None,
        position: int | None,
        version: int | None,
    ) -> EntityState:
        """The state that those events make which are not after any of the bounds that are given. May read files.

        Raises:
            StateNotKeptError: retention removed some of the events that are to be told apart.
        """
        while True:
            view = self._take_view()
            floor = view.removed.floor(tenant.number, entity_id)
            start = _beginning(view, tenant, entity_id)
            if (
                (version is not None and version < start.version)
                or (position is not None and position < start.last_position)
                or (timestamp is not None and timestamp < start.newest_timestamp)
            ):
                raise StateNotKeptError(entity_id, start.version, start.last_position, start.newest_timestamp)
            query = EventQuery(
                entity_id=entity_id,
                until=timestamp,
                from_version=start.first_version,
                to_version=version,
                before_position=None if position is None else position + 1,
            )
            state = fold(start, chain.from_iterable(view.read(tenant, query, up_to)))
            if view.removed.floor(tenant.number, entity_id) == floor:
                return state


def _beginning(view: View, tenant: TenantKey, entity_id: str) -> EntityState:
    """The state that an entity's removed events made: of none, unless retention removed some."""
    marker = view.marker(tenant, entity_id)
    return EntityState() if marker is None else marker.state()
