"""The newest events, in memory, and the indexes over them.

A memtable covers a range of positions without a gap. The newest one grows; the ones before it are complete and wait to
become segments. Events enter when the sequencer has assigned their positions, before they are durable; so every read is
bounded by a position up to which they are.
"""

from __future__ import annotations

import threading
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Final

import numpy as np

from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.events import Event
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.tenant_index import TenantIndex, add_place

__all__ = ["Memtable"]

_SCAN_CHUNK_MIN: Final = 64
_SCAN_CHUNK_MAX: Final = 1024
"""Candidates that are looked at between two pauses of a scan: few at first, for those who want only a few events, then
about a millisecond's worth."""

_KEPT_MIN: Final = 16
"""A list of fewer events than this is not kept for those who ask again: the list costs more than it spares."""

_DISPOSED_TOGETHER: Final = 2000

_EVENT_BYTES: Final = 300
"""What an event costs in memory beside what it holds, in round figures (measured: 230 to 330)."""
_TAG_BYTES: Final = 60
"""What a tag of an event costs beside its text."""
_DISTINCT_TAG_BYTES: Final = 220
"""What a tag that no event before had costs in the index."""


class Memtable:
    """Events from one position on.

    Args:
        first_position: of the first record that enters.

    Attributes:
        next_position: behind the last record.
        held_bytes: what its records hold: as they stand in the log, which whoever adds them counts, and what tags
            take beside. It decides when the memtable is complete.
        recorded_at: of the last record.
        tenants: number to index, of those that have events here.
    """

    def __init__(self, first_position: int) -> None:
        self.first_position = first_position
        self.next_position = first_position
        self.held_bytes = 0
        self.recorded_at = 0
        # An event that nobody read yet stands as the append that it came with; a record without events as None.
        self._slots: list[Event | StoredEvents | None] = []
        # How many slots ever held an append, counted by the sequencer, and in how many of them readers have put the
        # event since, counted by one of them at a time: while the two are equal, readers need not look.
        self._unmade_once = 0
        self._made = 0
        self._making = threading.Lock()
        self.tenants: dict[int, TenantIndex] = {}

    def __len__(self) -> int:
        """How many positions it covers."""
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """That it takes in memory, about."""
        return self.held_bytes + _EVENT_BYTES * len(self._slots)

    def tenant(self, tenant: int) -> TenantIndex:
        """The index of a tenant, made if it is not there."""
        index = self.tenants.get(tenant)
        if index is None:
            index = self.tenants[tenant] = TenantIndex()
        return index

    def find_tenant(self, tenant: int) -> TenantIndex | None:
        """The index of a tenant, if it has events here."""
        return self.tenants.get(tenant)

    # --- writing: by the sequencer alone ---

    def add(self, stored: StoredEvents) -> None:
        """Take the events of one append, whose streams the sequencer has extended already."""
        columns = stored.columns
        index = self.tenants[stored.tenant]
        place, count = stored.first_position - self.first_position, len(stored.versions)
        self.recorded_at = stored.recorded_at
        # The events first: another thread that finds one in an index must find it here as well.
        if count == 1:
            self._slots.append(stored)
            places = array("Q", (place,))
        else:
            self._slots.extend(repeat(stored, count))
            # As an array of numpy first: filled from a range it would take ten times as long.
            places = array("Q", np.arange(place, place + count, dtype=np.uint64).tobytes())
        self._unmade_once += count
        self.next_position = stored.first_position + count
        # Arrays are extended by arrays in one go, by anything else item by item.
        index.places.extend(places)
        event_types = columns.event_types
        if type(event_types) is str:
            by_type = index.by_type.get(event_types)
            if by_type is None:
                index.by_type[event_types] = places
            else:
                by_type.extend(places)
        else:
            for place, event_type in zip(places, event_types, strict=True):
                add_place(index.by_type, event_type, place)
        if columns.tags is not None:
            known = len(index.by_tag)
            for place, tags in zip(places, columns.tags, strict=True):
                for tag in set(tags):
                    add_place(index.by_tag, tag, place)
            self.held_bytes += _TAG_BYTES * sum(map(len, columns.tags))
            self.held_bytes += _DISTINCT_TAG_BYTES * (len(index.by_tag) - known)
        if columns.client_ids is not None:
            by_client_id = index.by_client_id
            for position, client_id in enumerate(columns.client_ids, stored.first_position):
                if client_id is not None:
                    by_client_id[client_id] = position

    def add_event(self, index: TenantIndex, stream: array[int], event: Event, recorded_at: int) -> None:
        """`add` for one event that has nothing optional, which gets its place here.

        Args:
            index: of its tenant.
            stream: of its entity, which is extended.
            event: that lacks its place.
            recorded_at: when the engine took it.
        """
        position = self.next_position
        place = position - self.first_position
        stream.append(place)
        event.position = position
        event.version = stream[0] + len(stream) - 1
        event.recorded_at = event.timestamp = self.recorded_at = recorded_at
        self._slots.append(event)
        self.next_position = position + 1
        index.places.append(place)
        by_type = index.by_type.get(event.event_type)
        if by_type is None:
            index.by_type[event.event_type] = array("Q", (place,))
        else:
            by_type.append(place)

    def add_recovered(self, stored: StoredEvents) -> None:
        """Take the events of a record that was read back, with the versions it says."""
        streams = self.tenant(stored.tenant).streams
        place = stored.first_position - self.first_position
        for entity_id, version in zip(stored.columns.entity_ids, stored.versions, strict=True):
            stream = streams.get(entity_id)
            if stream is None:
                stream = streams[entity_id] = array("Q", (version - 1,))
            stream.append(place)
            place += 1
        self.add(stored)

    def add_control(self, recorded_at: int) -> None:
        """Take the position of a record that holds no events."""
        self._slots.append(None)
        self.next_position += 1
        self.recorded_at = recorded_at

    def roll_back(self, next_position: int, broken_off: StoredEvents | Event | None = None) -> None:
        """Forget every record from a position on: they did not reach the disk.

        Args:
            next_position: of the first record to forget.
            broken_off: an append that may have entered in part.
        """
        keep = max(next_position - self.first_position, 0)
        for append in [*{id(slot): slot for slot in self._slots[keep:]}.values(), broken_off]:
            if isinstance(append, Event):
                self._forget_names(append.entity_id, append.event_type, append.tags, keep)
            elif isinstance(append, StoredEvents):
                columns = append.columns
                for number, entity_id in enumerate(columns.entity_ids):
                    tags = columns.tags[number] if columns.tags is not None else ()
                    self._forget_names(entity_id, columns.event_type(number), tags, keep)
        for index in self.tenants.values():
            index.forget(keep, next_position)
        del self._slots[keep:]
        self._unmade_once = self._made + sum(isinstance(slot, StoredEvents) for slot in self._slots)
        self.next_position = self.first_position + len(self._slots)

    def _forget_names(self, entity_id: str, event_type: str, tags: Sequence[str], keep: int) -> None:
        for index in self.tenants.values():
            index.forget_names(entity_id, event_type, tags, keep)

    def dispose(self) -> None:
        """Give the memory back in small pieces: all at once would stop everybody else for some 50 ms.

        Only for one who knows that nobody reads from it any more.
        """
        for index in self.tenants.values():
            # Or the events would go with these lists, all at once.
            while index.found:
                index.found.popitem()
                time.sleep(0)
        slots = self._slots
        while slots:
            del slots[-_DISPOSED_TOGETHER:]
            time.sleep(0)
        for index in self.tenants.values():
            while index.streams:
                for _ in range(min(_DISPOSED_TOGETHER, len(index.streams))):
                    index.streams.popitem()
                time.sleep(0)
        self.tenants.clear()

    # --- reading ---

    def at(self, position: int) -> Event | None:
        """The event at a position that this memtable covers; None if a record without events is there."""
        place = position - self.first_position
        slot = self._slots[place]
        return self._make(place) if isinstance(slot, StoredEvents) else slot

    def at_place(self, place: int) -> Event | StoredEvents:
        """What stands at the place of an event: the event itself or the append that it came with."""
        slot = self._slots[place]
        assert slot is not None
        return slot

    def _make(self, place: int) -> Event:
        with self._making:
            slot = self._slots[place]
            if isinstance(slot, StoredEvents):
                event = self._slots[place] = slot.event(place + self.first_position - slot.first_position)
                self._made += 1
                return event
        # Another reader was faster.
        assert slot is not None
        return slot

    def _events(self, places: Sequence[int]) -> list[Event]:
        """The events at ascending places, every one of which is an event's. 25 ns each if all are made already."""
        slots = self._slots
        count = len(places)
        are_made = self._made == self._unmade_once
        if count > 1 and places[-1] - places[0] == count - 1:
            start, end = places[0], places[-1] + 1
            if not are_made:
                self._make_run(start, end)
            return slots[start:end]  # type: ignore[return-value] # all of them are made
        found: Sequence[Event | StoredEvents | None] = itemgetter(*places)(slots) if count > 1 else (slots[places[0]],)
        if are_made or StoredEvents not in set(map(type, found)):
            return list(found)  # type: ignore[arg-type]
        return [
            self._make(place) if isinstance(slot, StoredEvents) else slot  # type: ignore[misc]
            for place, slot in zip(places, found, strict=True)
        ]

    def _make_run(self, start: int, end: int) -> None:
        """Make all events between two places, an append's together: a fifth of the time that single ones take."""
        slots = self._slots
        place = start
        while place < end:
            slot = slots[place]
            if not isinstance(slot, StoredEvents):
                place += 1
                continue
            begin = slot.first_position - self.first_position
            place = begin + len(slot)
            events = slot.events()
            with self._making:
                unmade = [at for at in range(begin, place) if slots[at] is slot]
                if len(unmade) == len(events):
                    slots[begin:place] = events
                else:
                    # Who got one of these events before must not get another object for it later.
                    for at in unmade:
                        slots[at] = events[at - begin]
                self._made += len(unmade)

    def last_version(self, tenant: int, entity_id: str) -> tuple[int, int] | None:
        """(last version, last position) of an entity that has events here; else None."""
        index = self.tenants.get(tenant)
        stream = index.streams.get(entity_id) if index is not None else None
        return None if stream is None else (stream[0] + len(stream) - 1, self.first_position + stream[-1])

    def has_event(self, tenant: int, position: int) -> bool:
        """Whether an event of a tenant is at a position."""
        index = self.tenants.get(tenant)
        if index is None:
            return False
        place = position - self.first_position
        found = bisect_left(index.places, place)
        return found < len(index.places) and index.places[found] == place

    def scan(self, tenant: int, query: EventQuery, up_to: int, *, floor: int = 0) -> Iterator[list[Event]]:
        """Matching events at positions of at most `up_to`, in the order of the query, its limit aside.

        Yields a list, perhaps empty, after at most 1,024 candidates, so that a caller on an event loop can let others
        run. Candidates are the shortest of the position lists that the query names; where that list is all that the
        query asks for, they are taken without another look.

        Args:
            tenant: its number.
            query: what to select.
            up_to: the last position that readers may see.
            floor: events of the query's entity up to this version are removed.
        """
        index = self.tenants.get(tenant)
        if index is None:
            return
        candidates, is_exact, start_at = index.candidates(query, floor)
        first = self.first_position
        low = start_at
        if query.after_position >= first:
            low = bisect_right(candidates, query.after_position - first, start_at)
        bound = up_to if query.before_position is None else min(up_to, query.before_position - 1)
        if bound < first:
            return
        high = bisect_right(candidates, bound - first, start_at)
        wanted = query.limit
        start, size = low, _SCAN_CHUNK_MAX if wanted is None else min(max(wanted, _SCAN_CHUNK_MIN), _SCAN_CHUNK_MAX)
        # Only a stream has a number before its first place.
        before = 1 if start_at else 0
        known = index.found.get(id(candidates)) or []
        while start < high:
            end = min(start + size, high)
            # Of a descending scan mirror the chunk: count from the end of the range instead of its beginning.
            begin, behind = (low + high - end, low + high - start) if query.descending else (start, end)
            if behind - before <= len(known):
                found = known[begin - before : behind - before]
            else:
                found = self._events(candidates[begin:behind])
                self._keep(index, candidates, begin - before, found)
            if query.descending:
                found.reverse()
            if not is_exact:
                found = [event for event in found if query.selects(event)]
            start, size = end, min(2 * size, _SCAN_CHUNK_MAX)
            yield found

    def _keep(self, index: TenantIndex, candidates: array[int], start: int, events: list[Event]) -> None:
        """Keep what was found for those who ask again, if it goes on where what is kept ends.

        Not what stands together in the slots, and is found as quickly there.
        """
        count = len(events)
        if count < _KEPT_MIN or events[-1].position - events[0].position == count - 1:
            return
        with self._making:
            known = index.found.get(id(candidates))
            if known is None and not start:
                index.found[id(candidates)] = events.copy()
            elif known is not None and start <= len(known) < start + count:
                known += events[len(known) - start :]
