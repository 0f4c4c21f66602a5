"""Work that goes on after its request was answered, in the one form that all of it has."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

__all__ = ["Operation", "OperationKind", "OperationPage", "OperationParameters"]

_PAGE_LIMIT_DEFAULT: Final = 100
_PAGE_LIMIT_MAX: Final = 10_000

OperationKind = Literal["remove_entity", "erase_event", "remove_tenant"]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of long work; can be asked about for 7 days after its end.

    A removal is effective for every read once it is answered. It is ``running`` until its bytes are gone from the disk.

    Attributes:
        status: ``running`` or ``done``; what fails for a while is tried again by itself.
        progress: from 0 to 1; null where there is no telling.
        rate: of what it does, a second; null where nothing is counted.
        seconds_left: an estimate; null without one.
        result: what it came to so far. Of a removal: `entity_id`, `events_removed`, and where one event was erased its
            `event_position` and `version`.
        error: in words, or null.
        position: in the global order of the store: reads with `min_position` find it done.
        created_at, finished_at: RFC 3339.
    """

    operation_id: str
    kind: OperationKind
    status: Literal["running", "done", "failed"]
    progress: float | None
    rate: float | None
    seconds_left: float | None
    result: dict[str, Any] | None
    error: str | None
    position: int
    created_at: str
    finished_at: str | None


class OperationParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Query parameters of ``GET operations``.

    Attributes:
        status: only those.
        cursor: `next_cursor` of the page before.
    """

    status: Literal["running", "done"] | None = None
    limit: Annotated[int, Meta(ge=1, le=_PAGE_LIMIT_MAX)] = _PAGE_LIMIT_DEFAULT
    cursor: str | None = None


class OperationPage(msgspec.Struct, frozen=True):
    """Operations of the tenant, the newest first. `next_cursor` is null on the last page."""

    operations: list[Operation]
    count: int
    next_cursor: str | None
