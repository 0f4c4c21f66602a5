"""What one tenant's events in a memtable are found by."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from allsource_core.engine.events import Event
from allsource_core.engine.queries import EventQuery

__all__ = ["TenantIndex", "add_place"]

_NOTHING: Final = array("Q")


class TenantIndex:
    """What one tenant's events in a memtable are found by.

    Events are told by where they stand in the memtable, from 0. In arrays, which the garbage collector need not walk.

    Attributes:
        streams: entity id to the version before its first event here, followed by the places of its events here; so the
            last version is the first number plus the count of the others.
        by_type, by_tag: to ascending places.
        by_client_id: 16 bytes to position.
        places: of all events of the tenant, ascending.
        found: the identity of one of these arrays to the events at its first places, for those who ask again.
        counted: of how many of the first places the bytes are known, all of them durable, and how many these are.
    """

    __slots__ = ("by_client_id", "by_tag", "by_type", "counted", "found", "places", "streams")

    def __init__(self) -> None:
        self.places = array("Q")
        self.streams: dict[str, array[int]] = {}
        self.by_type: dict[str, array[int]] = {}
        self.by_tag: dict[str, array[int]] = {}
        self.by_client_id: dict[bytes, int] = {}
        self.found: dict[int, list[Event]] = {}
        self.counted = (0, 0)

    def candidates(self, query: EventQuery, floor: int) -> tuple[array[int], bool, int]:
        """The shortest array that names all events that a query selects, positions aside.

        Args:
            query: what to select.
            floor: events of the query's entity up to this version are not wanted.

        Returns:
            The array; whether all that it names is known to match; and where the first place stands that is wanted,
            which is 0 but for a stream: that has a number before its places.
        """
        lists = [self.by_tag.get(tag, _NOTHING) for tag in query.tags] if query.tags else []
        if query.event_type is not None:
            lists.append(self.by_type.get(query.event_type, _NOTHING))
        if query.entity_id is not None:
            stream = self.streams.get(query.entity_id)
            if stream is None:
                return _NOTHING, True, 0
            if floor or not lists or len(stream) - 1 <= min(map(len, lists)):
                # The place of version v stands at v minus the number before the first one.
                start = max(1, min(floor - stream[0] + 1, len(stream))) if floor else 1
                return stream, not lists and query.is_plain, start
        is_exact = len(lists) + (query.entity_id is not None) <= 1 and query.is_plain
        return min(lists, key=len, default=self.places), is_exact, 0

    def forget(self, keep: int, next_position: int) -> None:
        """Forget the places from one on, of which the names are forgotten already, and positions from one on."""
        _cut(self.places, keep)
        # An array that is gone by now had nothing that a reader might see, and so might keep afterwards.
        self.found.clear()
        self.by_client_id = {key: at for key, at in self.by_client_id.items() if at < next_position}

    def forget_names(self, entity_id: str, event_type: str, tags: Sequence[str], keep: int) -> None:
        """Forget the places from one on that these names lead to."""
        stream = self.streams.get(entity_id)
        if stream is not None:
            while len(stream) > 1 and stream[-1] >= keep:
                stream.pop()
            if len(stream) == 1:
                del self.streams[entity_id]
        for names, name in ((self.by_type, event_type), *((self.by_tag, tag) for tag in tags)):
            places = names.get(name)
            if places is not None:
                _cut(places, keep)


def add_place(places: dict[str, array[int]], name: str, place: int) -> None:
    """Put a place behind those that a name leads to."""
    known = places.get(name)
    if known is None:
        known = places[name] = array("Q")
    known.append(place)


def _cut(places: array[int], keep: int) -> None:
    while places and places[-1] >= keep:
        places.pop()
