"""What was removed and may still be in files: readers are kept from it until it is gone."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from allsource_core.engine.events import Event
from allsource_core.engine.manifest import Removal
from allsource_core.engine.markers import Marker

__all__ = ["Removed", "erased_form"]

_ERASED_PAYLOAD = b"null"


class Removed:
    """Removals that are not yet applied to every file.

    Attributes:
        floors: (tenant, entity id) to the version up to which its events are removed.
        erased: positions of events without their bodies.
        markers: (tenant, entity id) to what the record that counts leaves of the removed events, of those records that
            no segment has yet.
    """

    __slots__ = ("erased", "floors", "markers")

    def __init__(self, pending: Iterable[Removal] = ()) -> None:
        self.floors: dict[tuple[int, str], int] = {}
        self.erased: set[int] = set()
        self.markers: dict[tuple[int, str], Marker] = {}
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

    def mark(self, tenant: int, entity_id: str, marker: Marker) -> None:
        """Know what a record leaves. To be called before `add`: who finds that events are gone must find this."""
        key = tenant, entity_id
        if marker.counts_more_than(self.markers.get(key)):
            self.markers[key] = marker

    def without_sealed(self, sealed_through: int) -> Removed:
        """The same removals, which both go on to share, without the markers that segments have by now."""
        made = Removed()
        made.floors, made.erased = self.floors, self.erased
        made.markers = {key: marker for key, marker in self.markers.items() if marker.position > sealed_through}
        return made

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
