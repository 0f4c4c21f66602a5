"""What was removed and may still be in files: readers are kept from it until it is gone."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from allsource_core.engine.events import Event
from allsource_core.engine.manifest import Removal

__all__ = ["Removed", "erased_form"]

_ERASED_PAYLOAD = b"null"


class Removed:
    """Removals that are not yet applied to every file.

    Attributes:
        floors: (tenant, entity id) to the version up to which its events are removed.
        erased: positions of events without their bodies.
        snapshots: (tenant, entity id) to what the newest record that no segment has yet leaves of the removed events:
            (version, state that they made, or nothing, position of the record, `recorded_at`).
    """

    __slots__ = ("erased", "floors", "snapshots")

    def __init__(self, pending: Iterable[Removal] = ()) -> None:
        self.floors: dict[tuple[int, str], int] = {}
        self.erased: set[int] = set()
        self.snapshots: dict[tuple[int, str], tuple[int, bytes, int, int]] = {}
        for removal in pending:
            self.add(removal)

    def __bool__(self) -> bool:
        return bool(self.floors or self.erased)

    def add(self, removal: Removal) -> None:
        """Keep readers from what this one removed, from now on."""
        if removal.kind == "event":
            self.erased.add(removal.event_position)
        elif removal.kind != "tenant":
            key = removal.tenant, removal.entity_id
            self.floors[key] = max(self.floors.get(key, 0), removal.version)

    def floor(self, tenant: int, entity_id: str) -> int:
        """The version up to which the events of an entity are removed; 0 for none."""
        return self.floors.get((tenant, entity_id), 0)

    def apply(self, tenant: int, events: list[Event]) -> list[Event]:
        """The events of a tenant that may be read, in the form in which they may."""
        if self.floors:
            floors = self.floors
            events = [event for event in events if event.version > floors.get((tenant, event.entity_id), 0)]
        if self.erased:
            erased = self.erased
            events = [erased_form(event) if event.position in erased else event for event in events]
        return events


def erased_form(event: Event) -> Event:
    """What is left of an erased event."""
    return msgspec.structs.replace(event, payload=_ERASED_PAYLOAD, metadata=None, tags=(), erased=True)
