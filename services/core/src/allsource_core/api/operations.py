"""Long work over HTTP: today removals, which are done when their bytes are gone from the disk."""

from __future__ import annotations

import re
from typing import Any, Final

from aiohttp.web import StreamResponse

from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.cursors import cut_page
from allsource_core.api.requests import parse_query, refuse_query
from allsource_core.engine import EventStore, Removal
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_shared.permissions import Permission
from allsource_shared.problems import ApiError
from allsource_shared.wire.operations import Operation, OperationKind, OperationPage, OperationParameters
from allsource_shared.wire.times import format_instant

__all__ = ["OperationRoutes", "removal_operation"]

_KINDS: Final[dict[str, OperationKind]] = {
    "entity": "remove_entity",
    "event": "erase_event",
    "tenant": "remove_tenant",
}
_ID: Final = re.compile("removal-([1-9][0-9]{0,15})\\Z")


def removal_operation(removal: Removal, tenant_id: str | None = None) -> Operation:
    """A removal as a caller sees it; `tenant_id` is the tenant that it removed, if it did and that is known."""
    result: dict[str, Any] = {} if tenant_id is None else {"tenant_id": tenant_id}
    if removal.kind != "tenant":
        result.update(entity_id=removal.entity_id, version=removal.version)
    if removal.kind == "event":
        result.update(event_position=removal.event_position)
    else:
        result.update(events_removed=removal.events_removed)
    finished_at = removal.finished_at
    return Operation(
        operation_id=f"removal-{removal.position}",
        kind=_KINDS[removal.kind],
        status="done" if finished_at else "running",
        progress=1.0 if finished_at else None,
        rate=None,
        seconds_left=None,
        result=result,
        error=None,
        position=removal.position,
        created_at=format_instant(removal.recorded_at),
        finished_at=format_instant(finished_at) if finished_at else None,
    )


class OperationRoutes:
    """Handlers of ``operations/…``. Whoever asks sees those of the own tenant alone; who manages tenants also the
    removals of whole ones, which belong to nobody any more.
    """

    def __init__(self, store: EventStore, tenants: TenantDirectory) -> None:
        self._store = store
        self._tenants = tenants

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "list_operations": self.list_operations,
            "get_operation": self.get_operation,
        }

    async def get_operation(self, call: Call) -> StreamResponse:
        """``GET operations/{operation_id}``."""
        refuse_query(call)
        position = _position(call.match.parameters["operation_id"])
        removal = None
        if position is not None:
            removal = self._store.removals.find(call.principal.tenant_id, position, tenants=_sees_tenants(call))
        if removal is None:
            raise ApiError("not_found", "there is no such operation, or it ended more than 7 days ago")
        return json_response(self._operation(removal))

    async def list_operations(self, call: Call) -> StreamResponse:
        """``GET operations``."""
        parameters = parse_query(call, OperationParameters)
        before = None
        if parameters.cursor is not None:
            before = _position(parameters.cursor)
            if before is None:
                raise ApiError("invalid_cursor", "cursor: not one that this service gave out")
        finished = None if parameters.status is None else parameters.status == "done"
        found = self._store.removals.latest(
            call.principal.tenant_id,
            limit=parameters.limit + 1,
            before=before,
            finished=finished,
            tenants=_sees_tenants(call),
        )
        removals, more = cut_page(found, parameters.limit)
        operations = [self._operation(removal) for removal in removals]
        page = OperationPage(operations, len(operations), operations[-1].operation_id if more else None)
        return json_response(page)

    def _operation(self, removal: Removal) -> Operation:
        return removal_operation(removal, self._tenants.removed_by(removal.position))


def _sees_tenants(call: Call) -> bool:
    return Permission.MANAGE_TENANTS in call.principal.permissions


def _position(operation_id: str) -> int | None:
    """The position of a removal, which names it; None for a text that is no operation's id."""
    match = _ID.match(operation_id)
    return int(match[1]) if match is not None else None
