"""States of entities as of now, from a cache that only new events are merged into, and as of any moment."""

from __future__ import annotations

from itertools import chain

from allsource_core.engine.queries import EventQuery
from allsource_core.engine.states import EntityState, StateCache, fold
from allsource_core.engine.tenants import TenantKey
from allsource_core.engine.view import View

__all__ = ["StateReader", "state_as_of"]


class StateReader:
    """Gives present states. Thread-safe."""

    def __init__(self) -> None:
        self._cache = StateCache()
        self.clear = self._cache.clear

    def present(self, view: View, tenant: TenantKey, entity_id: str, up_to: int) -> EntityState:
        """The state that an entity's events up to a position make. 1 µs where none is new. May read files."""
        generation = self._cache.generation
        cached = self._cache.get(tenant.number, entity_id)
        if cached is None:
            state = view.snapshot_state(tenant, entity_id)
            query = EventQuery(entity_id=entity_id, from_version=state.version + 1)
        else:
            state, read_through = cached
            if read_through == up_to or view.is_unchanged(tenant.number, entity_id, state.version, read_through):
                return state
            query = EventQuery(entity_id=entity_id, after_position=read_through)
        state = fold(state, chain.from_iterable(view.read(tenant, query, up_to)))
        if tenant.number:
            self._cache.put(tenant.number, entity_id, state, up_to, generation)
        return state


def state_as_of(
    view: View,
    tenant: TenantKey,
    entity_id: str,
    up_to: int,
    *,
    timestamp: int | None,
    position: int | None,
    version: int | None,
) -> EntityState:
    """The state that those events make which are not after any of the bounds that are given. May read files."""
    start = view.snapshot_state(tenant, entity_id, version=version)
    query = EventQuery(
        entity_id=entity_id,
        until=timestamp,
        from_version=start.version + 1,
        to_version=version,
        before_position=None if position is None else position + 1,
    )
    return fold(start, chain.from_iterable(view.read(tenant, query, up_to)))
