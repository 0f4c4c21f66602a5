"""Append conditions over queries: a dynamic consistency boundary for batches that touch several entities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from allsource_core.engine.errors import InvalidEventError
from allsource_core.engine.events import Event
from allsource_core.engine.limits import ENTITY_ID_BYTES_MAX, EVENT_TYPE_BYTES_MAX, POSITION_MAX, TAG_BYTES_MAX
from allsource_core.engine.names import name_fault
from allsource_core.engine.queries import EventQuery

__all__ = ["CONDITION_ITEMS_MAX", "CONDITION_VALUES_MAX", "AppendCondition", "ConditionItem", "check_condition"]

CONDITION_ITEMS_MAX: Final = 16
CONDITION_VALUES_MAX: Final = 64


class ConditionItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events that bear one of the types, all of the tags, and belong to one of the entities; whichever are given."""

    event_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    entity_ids: tuple[str, ...] = ()

    def queries(self, after: int) -> list[EventQuery]:
        """What to read to find whether any such event exists behind a position: one query an entity, else a type."""
        limited = EventQuery(tags=self.tags, after_position=after)
        replace = msgspec.structs.replace
        if self.entity_ids:
            return [replace(limited, entity_id=entity_id) for entity_id in self.entity_ids]
        if self.event_types:
            return [replace(limited, event_type=event_type) for event_type in self.event_types]
        return [limited]

    def selects(self, event: Event) -> bool:
        """Whether an event is one of these."""
        return (
            (not self.event_types or event.event_type in self.event_types)
            and (not self.entity_ids or event.entity_id in self.entity_ids)
            and all(tag in event.tags for tag in self.tags)
        )


class AppendCondition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refuse the append if any event matches one of the items.

    Attributes:
        fail_if_events_match: 1 to 16 items, none empty, of at most 64 values each way.
        after: only events behind this position count.
    """

    fail_if_events_match: tuple[ConditionItem, ...]
    after: int = 0


def check_condition(condition: AppendCondition) -> None:
    """Refuse a condition that is out of bounds.

    Raises:
        InvalidEventError: naming the item.
    """
    items = condition.fail_if_events_match
    if not 1 <= len(items) <= CONDITION_ITEMS_MAX:
        message = f"must have 1 to {CONDITION_ITEMS_MAX} items, has {len(items)}"
        raise InvalidEventError(None, "condition.fail_if_events_match", message)
    if not 0 <= condition.after <= POSITION_MAX:
        raise InvalidEventError(None, "condition.after", f"must be from 0 to {POSITION_MAX}")
    for index, item in enumerate(items):
        place = f"condition.fail_if_events_match[{index}]"
        if not (item.event_types or item.tags or item.entity_ids):
            raise InvalidEventError(None, place, "must name at least one type, tag or entity")
        _check_names(f"{place}.event_types", item.event_types, EVENT_TYPE_BYTES_MAX)
        _check_names(f"{place}.tags", item.tags, TAG_BYTES_MAX)
        _check_names(f"{place}.entity_ids", item.entity_ids, ENTITY_ID_BYTES_MAX)


def _check_names(place: str, names: Sequence[str], bytes_max: int) -> None:
    if len(names) > CONDITION_VALUES_MAX:
        raise InvalidEventError(None, place, f"must have at most {CONDITION_VALUES_MAX} values, has {len(names)}")
    for name in names:
        fault = name_fault(name, bytes_max)
        if fault is not None:
            raise InvalidEventError(None, place, fault)
