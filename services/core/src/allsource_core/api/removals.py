"""Removing over HTTP: entities, and single events' bodies.

Each removal waits for the disk before it is answered, and looks things up in files: in other threads, so that
everybody else is served meanwhile.
"""

from __future__ import annotations

from functools import partial

import structlog
from aiohttp.web import StreamResponse

from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.operations import removal_operation
from allsource_core.api.requests import parse_event_id, parse_query, refuse_query
from allsource_core.engine import EventStore, Removal
from allsource_core.tenancy.metering import Metering
from allsource_shared.wire.removal import EntitySelection

__all__ = ["RemovalRoutes"]


class RemovalRoutes:
    """Handlers of ``DELETE entities/{entity_id}``, ``DELETE entities`` and ``POST events/{event_id}/erase``.

    Args:
        store, metering: of the service.
    """

    def __init__(self, store: EventStore, metering: Metering) -> None:
        self._removals = store.removals
        self._metering = metering

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "erase_event": self.erase_event,
            "remove_entity": self.remove_entity,
            "remove_entity_by_query": self.remove_entity_by_query,
        }

    async def remove_entity(self, call: Call) -> StreamResponse:
        """``DELETE entities/{entity_id}``."""
        refuse_query(call)
        return await self._remove_entity(call, call.match.parameters["entity_id"])

    async def remove_entity_by_query(self, call: Call) -> StreamResponse:
        """``DELETE entities?entity_id=``."""
        return await self._remove_entity(call, parse_query(call, EntitySelection).entity_id)

    async def _remove_entity(self, call: Call, entity_id: str) -> StreamResponse:
        tenant_id = call.principal.tenant_id
        removal = await self._metering.work(tenant_id, partial(self._removals.entity, tenant_id, entity_id))
        return _accepted(call, removal)

    async def erase_event(self, call: Call) -> StreamResponse:
        """``POST events/{event_id}/erase``."""
        refuse_query(call)
        event_id = parse_event_id(call.match.parameters["event_id"])
        tenant_id = call.principal.tenant_id
        removal = await self._metering.work(tenant_id, partial(self._removals.event, tenant_id, event_id))
        return _accepted(call, removal)


def _accepted(call: Call, removal: Removal) -> StreamResponse:
    operation = removal_operation(removal)
    # No entity id: it may be what had to be removed.
    structlog.get_logger().info(
        "removal_accepted",
        operation_id=operation.operation_id,
        kind=operation.kind,
        user_id=call.principal.user_id,
        tenant_id=call.principal.tenant_id,
    )
    return json_response(operation, 202)
