"""Events: what is appended, what is answered, what is read back."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Raw

__all__ = [
    "BATCH_EVENTS_MAX",
    "PAGE_LIMIT_DEFAULT",
    "PAGE_LIMIT_MAX",
    "WAIT_MS_MAX",
    "AppendCondition",
    "AppendOptions",
    "AppendedBatch",
    "AppendedEvent",
    "ConditionItem",
    "EventBatch",
    "EventPage",
    "EventView",
    "ExpectedVersion",
    "Instant",
    "NewEvent",
    "QueryParameters",
    "ReadOptions",
]

BATCH_EVENTS_MAX: Final = 10_000
PAGE_LIMIT_DEFAULT: Final = 100
PAGE_LIMIT_MAX: Final = 10_000
WAIT_MS_MAX: Final = 30_000

if TYPE_CHECKING:
    OptionalRaw = Raw | bytes | None
    Payload = Raw | bytes
else:
    # msgspec takes `Raw | None` for null alone and refuses every object; `Raw` takes null as well. A program that
    # embeds the engine may give bytes, which a decoder must not: it would take base64.
    OptionalRaw = Raw
    Payload = Raw

Instant = Annotated[datetime, Meta(tz=True, description="RFC 3339, with `Z` or an offset.")]

ExpectedVersion = Annotated[
    int | str,
    Meta(description='The entity\'s last version, 0 or "none" for an entity without events, "exists" or "any".'),
]


class NewEvent(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An event as its author gives it.

    Attributes:
        event_type: 1–256 bytes, ``order.placed``.
        entity_id: 1–512 bytes: the stream that the event belongs to.
        payload: any JSON up to 1 MiB; kept as the bytes that came.
        metadata: a JSON object up to 16 KiB, or null.
        tags: up to 32 of up to 256 bytes.
        timestamp: when it happened, RFC 3339; the time of recording where absent.
        event_id: a UUID as idempotency key; assigned where absent.
        expected_version: refuse the append unless the entity is at this version.
    """

    event_type: str
    entity_id: str
    payload: Payload
    metadata: OptionalRaw = None
    # The default of a list would be a new one for each event, and those make the garbage collector run.
    tags: Sequence[str] = ()
    timestamp: Instant | None = None
    event_id: UUID | None = None
    expected_version: ExpectedVersion | None = None


class ConditionItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events that bear one of the types, all of the tags, and belong to one of the entities; whichever are given.

    Attributes:
        event_types, tags, entity_ids: up to 64 of each, and at least one in all.
    """

    event_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    entity_ids: tuple[str, ...] = ()


class AppendCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuse the append if any event matches one of the items.

    Attributes:
        fail_if_events_match: 1 to 16 items.
        after: only events behind this position count; that of the read which the append rests on.
    """

    fail_if_events_match: tuple[ConditionItem, ...]
    after: Annotated[int, Meta(ge=0, lt=2**53)] = 0


class EventBatch(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Up to 10,000 events that are appended whole or not at all.

    Attributes:
        events: in the order in which they get their positions.
        expected_versions: entity id to the version it must be at before the batch.
        condition: over the events that are stored already.
    """

    events: list[NewEvent]
    expected_versions: dict[str, ExpectedVersion] = {}
    condition: AppendCondition | None = None


class AppendOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameters of an append. `dry_run` answers what would happen and stores nothing."""

    dry_run: bool = False


class AppendedEvent(msgspec.Struct, omit_defaults=True, gc=False):
    """Where an event was put.

    Attributes:
        duplicate: it was there before; this is its first answer again.
        dry_run: nothing was stored.
        durable: false where the store answers before the disk has it; otherwise left out.
    """

    event_id: str
    timestamp: str
    recorded_at: str
    version: int
    position: int
    duplicate: bool = False
    dry_run: bool = False
    durable: bool = True


class AppendedBatch(msgspec.Struct, omit_defaults=True):
    """Where a batch was put; the marks are those of `AppendedEvent`, and stand here once for all events.

    Attributes:
        events: one an event, in order; left out with ``Prefer: return=minimal``.
    """

    count: int
    first_position: int
    last_position: int
    duplicate: bool = False
    dry_run: bool = False
    durable: bool = True
    events: list[AppendedEvent] | None = None


class EventView(msgspec.Struct, omit_defaults=True, gc=False):
    """An event as it is read back. Times are RFC 3339 in UTC with microseconds.

    Attributes:
        erased: payload, metadata and tags were removed: they are null. Left out where it is false.
    """

    id: str
    event_type: str
    entity_id: str
    tenant_id: str
    payload: Raw
    metadata: OptionalRaw
    tags: tuple[str, ...] | None
    timestamp: str
    recorded_at: str
    version: int
    position: int
    erased: bool = False


class ReadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Query parameters of every read: wait until the store holds this position.

    Attributes:
        min_position: the position of an append that the answer must reflect.
        wait_ms: how long to wait for it, at most.
    """

    min_position: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    wait_ms: Annotated[int, Meta(ge=0, le=WAIT_MS_MAX)] = 0


class QueryParameters(ReadOptions, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Query parameters of ``GET events/query``. All that are given must hold.

    Attributes:
        tag: may be given several times; an event must bear all of them.
        since, until, as_of: bounds of `timestamp`, RFC 3339, all inclusive.
        after_position, before_position: exclusive bounds of `position`.
        order: of positions.
        cursor: `next_cursor` of the page before, with the same other parameters.
    """

    entity_id: str | None = None
    event_type: str | None = None
    tag: list[str] = []
    since: Instant | None = None
    until: Instant | None = None
    as_of: Instant | None = None
    after_position: Annotated[int, Meta(ge=0, lt=2**53)] | None = None
    before_position: Annotated[int, Meta(ge=1, le=2**53)] | None = None
    order: Literal["asc", "desc"] = "asc"
    limit: Annotated[int, Meta(ge=1, le=PAGE_LIMIT_MAX)] | None = None
    cursor: str | None = None


class EventPage(msgspec.Struct, omit_defaults=True):
    """One page of a query.

    Attributes:
        next_cursor: null on the last page there is at present.
        first_version: only on the first page of one entity: from which version on its events can be read. More than 1
            where retention or a removal took those before.
    """

    events: list[EventView]
    count: int
    next_cursor: str | None
    first_version: int | None = None
