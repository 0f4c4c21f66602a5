"""What a reader reads from: segments, memtables and removals as they were at one moment.

Immutable but for the growing memtable, which only ever gets longer; so sealing and compaction never surprise a reader,
and what it reads from stays there until it lets go of the view.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final
from uuid import UUID

import msgspec

from allsource_core.engine.appends import PreparedAppend
from allsource_core.engine.conditions import AppendCondition
from allsource_core.engine.decisions import SealedFacts
from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.engine.errors import ConditionTooBroadError
from allsource_core.engine.events import Event, has_server_form, position_of_server_id
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.key_directory import EntityHead, KeyDirectory
from allsource_core.engine.markers import Marker
from allsource_core.engine.memtable import Memtable
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.removals import Removed
from allsource_core.engine.segment_format import ROW_GROUP_ROWS
from allsource_core.engine.segment_reader import SegmentReader
from allsource_core.engine.segments_in_use import SegmentInUse, SegmentsInUse
from allsource_core.engine.tenants import TenantKey

__all__ = ["READS_FILES", "View"]

READS_FILES: Final[list[Event]] = []
"""Among the lists of a read, told by its identity: the next step may read files, or take long."""

_CONDITION_SECONDS_MAX = 2.0
_CONDITION_ROW_GROUPS_MAX = 8192
"""Bounds of looking for events that a condition excludes: all of 16M events, if that takes less than two seconds."""


class View:
    """One moment of a store.

    Args:
        segments: by position, disjoint.
        tables: memtables behind them, oldest first.
        removed: removals that segments or memtables don't show yet. It may grow while the view is used.
        keys: of the segments.
        cache: of decoded segments.
        in_use: the segments of reads under way.
        hasher: of the store.
    """

    def __init__(
        self,
        segments: Sequence[SegmentReader],
        tables: Sequence[Memtable],
        removed: Removed,
        keys: KeyDirectory,
        cache: DecodedCache,
        in_use: SegmentsInUse,
        hasher: Hasher,
    ) -> None:
        self.segments = tuple(segments)
        self.tables = tuple(tables)
        self.removed = removed
        self.keys = keys
        self._cache = cache
        self._in_use = in_use
        self._hasher = hasher
        self.no_facts = SealedFacts(sealed_through=self.sealed_through)

    @property
    def sealed_through(self) -> int:
        """The last position that is not in a memtable."""
        return self.tables[0].first_position - 1

    # --- ranges ---

    def read(self, tenant: TenantKey, query: EventQuery, up_to: int) -> Iterator[list[Event]]:
        """Events that a query selects at positions of at most `up_to`, its limit aside, as lists in its order."""
        parts = [self.cold(tenant, query, up_to), self.warm(tenant, query, up_to)]
        return chain.from_iterable(reversed(parts) if query.descending else parts)

    def warm(self, tenant: TenantKey, query: EventQuery, up_to: int) -> Iterator[list[Event]]:
        """Those of them that are in memory. A list, perhaps empty, after about a millisecond of work."""
        number = tenant.number
        floor = self.removed.floor(number, query.entity_id) if query.entity_id is not None else 0
        for table in reversed(self.tables) if query.descending else self.tables:
            for events in table.scan(number, query, up_to, floor=floor):
                yield self._readable(number, query, events) if self.removed else events

    def cold(self, tenant: TenantKey, query: EventQuery, up_to: int) -> Iterator[list[Event]]:
        """Those of them that are in segments, as lists, some of them empty. `READS_FILES` comes before each step that
        may read files: that is not for an event loop, and whoever wants no more can stop there.
        """
        if not self.segments or not tenant.number:
            return
        if self.sealed_through > up_to and (query.before_position is None or query.before_position > up_to + 1):
            # The view is newer than the position that the reader asked for.
            query = msgspec.structs.replace(query, before_position=up_to + 1)
        if not all(segment.has_index for segment in self.segments):
            yield READS_FILES
        segments = self._segments_of(tenant, query)
        if query.descending:
            segments.reverse()
        chunks = self._of_entity if query.entity_id is not None else self._by_position
        for events in chunks(segments, tenant, query):
            yield self._readable(tenant.number, query, events) if self.removed and events else events

    def _by_position(
        self, segments: list[SegmentReader], tenant: TenantKey, query: EventQuery
    ) -> Iterator[list[Event]]:
        """What segments have of a query, each of them decoded as a whole, the next one ahead."""
        for index, reader in enumerate(segments):
            yield READS_FILES
            segment = self._in_use.open(reader)
            if index + 1 < len(segments):
                self._cache.prefetch(segments[index + 1])
            for events in self._decoded_events(segment, tenant.number, query):
                yield events
                # A list may take 20 ms to make, and the segment may have to be decoded again.
                yield READS_FILES

    def _of_entity(self, segments: list[SegmentReader], tenant: TenantKey, query: EventQuery) -> Iterator[list[Event]]:
        """What segments have of a query for one entity, from the row groups that hold it."""
        is_all = query.event_type is None and query.since is None and query.until is None and not query.tags
        entity_id = query.entity_id or ""
        cache = self._cache
        for segment in segments:
            numbers = segment.index.row_groups(tenant.number, entity_id, query.from_version, query.to_version)
            for number in reversed(numbers) if query.descending else numbers:
                selection = cache.selection(segment, number, tenant.number, query)
                if selection is None:
                    if not cache.has_row_group(segment, number):
                        yield READS_FILES
                    selection = cache.row_group(segment, number).select(tenant, query)
                    cache.keep_selection(segment, number, tenant.number, query, selection)
                yield selection.first[:] if is_all else list(filter(query.selects, selection.first))
                for piece in selection.rest:
                    if not cache.has_row_group(segment, number):
                        yield READS_FILES
                    events = cache.row_group(segment, number).events(piece, tenant, query)
                    yield events if is_all else list(filter(query.selects, events))

    def _decoded_events(self, segment: SegmentInUse, tenant: int, query: EventQuery) -> Iterator[list[Event]]:
        """What a segment has of what a query selects: at least as many as its limit, if there are so many to read.

        How many of them are removed is known only afterwards; so the limit counts only while nothing is.
        """
        limited = msgspec.structs.replace(query, limit=None) if self.removed else query
        last = None
        for indices in segment.select(tenant, limited):
            events = segment.events(indices)
            last = events[-1].position
            yield events
        if last is not None and limited.limit is not None and self.removed:
            # A removal came meanwhile, and may have taken some of those.
            bound = {"before_position" if query.descending else "after_position": last}
            for indices in segment.select(tenant, msgspec.structs.replace(query, limit=None, **bound)):
                yield segment.events(indices)

    def _readable(self, tenant: int, query: EventQuery, events: list[Event]) -> list[Event]:
        """What may be read of events that a query selected before removals were looked at."""
        events = self.removed.apply(tenant, events)
        # What is erased bears no tags any more.
        return [event for event in events if not event.erased] if query.tags else events

    def _segments_of(self, tenant: TenantKey, query: EventQuery) -> list[SegmentReader]:
        """The segments that may hold what a query selects, oldest first. Costs about 1 µs a segment."""
        number = tenant.number
        start = bisect_left(self.segments, query.after_position + 1, key=_last_position)
        before = query.before_position
        hashes = []
        if query.entity_id is not None:
            hashes.append(self._hasher.entity(number, query.entity_id))
        if query.event_type is not None:
            hashes.append(self._hasher.event_type(number, query.event_type))
        hashes += [self._hasher.tag(number, tag) for tag in query.tags]
        found = []
        for segment in self.segments[start:]:
            if before is not None and segment.entry.first_position >= before:
                break
            index = segment.index
            if (
                number in index.tenant_events
                and index.may_reach(query.since, query.until)
                and all(map(index.may_contain, hashes))
            ):
                found.append(segment)
        return found

    # --- single events ---

    def get(self, tenant: TenantKey, event_id: UUID, up_to: int) -> Event | None:
        """The tenant's event of an id, whether its author gave it or the engine. May read files."""
        if not tenant.number:
            return None
        client_id = event_id.bytes
        event = self.in_memory(tenant, event_id)
        if event is None and self.segments:
            position = self.keys.client_ids(tenant.number, [client_id]).get(client_id)
            if position is not None:
                event = self.sealed_events(tenant, [position]).get(position)
                if event is not None and event.client_id != client_id:
                    event = None
            if event is None and has_server_form(client_id):
                position = position_of_server_id(event_id)
                event = self.sealed_events(tenant, [position]).get(position)
                if event is not None and event.id != event_id:
                    event = None
        if event is None or event.position > up_to:
            return None
        return next(iter(self.removed.apply(tenant.number, [event])), None)

    def in_memory(self, tenant: TenantKey, event_id: UUID) -> Event | None:
        """The same, if it is in a memtable; removals aside."""
        client_id = event_id.bytes
        for table in reversed(self.tables):
            index = table.find_tenant(tenant.number)
            position = index.by_client_id.get(client_id) if index is not None else None
            if position is not None:
                return table.at(position)
        if has_server_form(client_id):
            position = position_of_server_id(event_id)
            for table in self.tables:
                if table.first_position <= position < table.next_position and table.has_event(tenant.number, position):
                    event = table.at(position)
                    return event if event is not None and event.id == event_id else None
        return None

    def sealed_events(self, tenant: TenantKey, positions: Sequence[int]) -> dict[int, Event]:
        """Events of a tenant in segments, by position; without those that are not there. Reads files."""
        found: dict[int, Event] = {}
        for position in sorted(set(positions)):
            if position in found:
                continue
            at = bisect_left(self.segments, position, key=_last_position)
            if at == len(self.segments) or self.segments[at].entry.first_position > position:
                continue
            last = self.segments[at].entry.last_position
            wanted = [other for other in positions if position <= other <= last]
            decoded = self._cache.get(self.segments[at])
            for event in decoded.events(decoded.indices_of(tenant.number, wanted)):
                found[event.position] = event
        return found

    # --- what an append must know ---

    def head(self, tenant: TenantKey, entity_id: str) -> EntityHead | None:
        """Where an entity stands, removals aside; None if it never had an event. May read key files."""
        for table in reversed(self.tables):
            found = table.last_version(tenant.number, entity_id)
            if found is not None:
                return EntityHead(*found, removed=False)
        head = self.keys.entities(tenant.number, [entity_id]).get(entity_id)
        floor = self.removed.floor(tenant.number, entity_id)
        if floor > (0 if head is None else head.version):
            # What was removed may be gone from every file before the record that removed it is in a segment.
            return EntityHead(floor, 0, removed=True)
        return head

    def is_in_memory(self, tenant: TenantKey, prepared: PreparedAppend | Event) -> bool:
        """Whether nothing that an append asks for needs a look into a file."""
        if isinstance(prepared, Event):
            return not self.segments or not self._entities_elsewhere(tenant, prepared)
        if not self.segments:
            return prepared.condition is None
        if prepared.columns.client_ids is not None or prepared.condition is not None:
            return False
        return not self._entities_elsewhere(tenant, prepared)

    def _entities_elsewhere(self, tenant: TenantKey, prepared: PreparedAppend | Event) -> set[str]:
        """The entities of an append that are in no memtable."""
        if isinstance(prepared, Event):
            wanted = {prepared.entity_id}
        else:
            wanted = set(prepared.columns.entity_ids)
            wanted.update(prepared.expected_by_entity)
        for table in self.tables:
            index = table.find_tenant(tenant.number)
            if index is not None:
                # Not `difference_update`, which walks the whole of its argument.
                wanted = wanted.difference(index.streams)
        return wanted

    def facts(self, tenant: TenantKey, prepared: PreparedAppend | Event, up_to: int) -> SealedFacts:
        """What the sequencer must know of sealed events, all at once. Reads files unless `is_in_memory`.

        Raises:
            ConditionTooBroadError: the condition would have to look at too much.
            KeysDamagedError, CorruptionError: what had to be looked at is damaged; keys are being made anew.
        """
        facts = SealedFacts(self.sealed_through, tenant.number, checked_through=up_to)
        append = None if isinstance(prepared, Event) else prepared
        if append is not None and append.condition is not None and tenant.number:
            facts.matched = self._find_match(tenant, append.condition, up_to)
        if not self.segments or not tenant.number:
            return facts
        elsewhere = list(self._entities_elsewhere(tenant, prepared))
        if elsewhere:
            facts.entities = self.keys.entities(tenant.number, elsewhere)
        if append is not None and append.columns.client_ids is not None:
            self._add_known_ids(facts, tenant, append.columns.client_ids)
        return facts

    def _add_known_ids(self, facts: SealedFacts, tenant: TenantKey, client_ids: Sequence[bytes | None]) -> None:
        given = [client_id for client_id in client_ids if client_id is not None]
        known = self.keys.client_ids(tenant.number, given)
        for client_id in given:
            if client_id not in known and has_server_form(client_id):
                known[client_id] = position_of_server_id(UUID(bytes=client_id))
        if not known:
            return
        events = self.sealed_events(tenant, list(known.values()))
        for client_id, position in known.items():
            event = events.get(position)
            if event is not None and event.has_id(client_id):
                facts.by_client_id[client_id] = event
        if len(given) < len(client_ids) and facts.by_client_id:
            # Events without an id are told by where they stand; see Sequencer.
            index = next(index for index, client_id in enumerate(client_ids) if client_id in facts.by_client_id)
            first = facts.by_client_id[client_ids[index] or b""].position - index
            facts.at = self.sealed_events(tenant, range(max(first, 1), max(first, 1) + len(client_ids)))

    def _find_match(self, tenant: TenantKey, condition: AppendCondition, up_to: int) -> Event | None:
        """An event that a condition excludes, at a position of at most `up_to`."""
        deadline = time.monotonic() + _CONDITION_SECONDS_MAX
        row_groups = 0
        for item in condition.fail_if_events_match:
            for query in item.queries(condition.after):
                if query.entity_id is None:
                    row_groups += sum(
                        -(-segment.entry.rows // ROW_GROUP_ROWS) for segment in self._segments_of(tenant, query)
                    )
                    if row_groups > _CONDITION_ROW_GROUPS_MAX:
                        raise ConditionTooBroadError(
                            f"the condition would have to look at more than {_CONDITION_ROW_GROUPS_MAX} row groups "
                            "of 2,048 events; give a later `after`, or narrower items"
                        )
                for events in self.read(tenant, query, up_to):
                    for event in events:
                        if item.selects(event):
                            return event
                    if time.monotonic() > deadline:
                        raise ConditionTooBroadError(
                            f"looking for what the condition excludes took more than {_CONDITION_SECONDS_MAX:g} s; "
                            "give a later `after`, or narrower items"
                        )
        return None

    # --- states ---

    def is_unchanged(self, tenant: int, entity_id: str, version: int, read_through: int) -> bool:
        """Whether an entity is still at a version that it was at when everything up to a position was read."""
        for table in reversed(self.tables):
            found = table.last_version(tenant, entity_id)
            if found is not None:
                return found[0] == version
        if read_through >= self.sealed_through:
            return True
        head = self.keys.entities(tenant, [entity_id]).get(entity_id)
        return (0 if head is None else head.version) == version

    def marker(self, tenant: TenantKey, entity_id: str) -> Marker | None:
        """What is left of an entity's events that were removed; None where none was.

        1 µs a segment that has any markers; reads those that may have one of this entity.
        """
        found = self.removed.markers.get((tenant.number, entity_id))
        for segment in self.marking_segments(tenant, entity_id):
            for marker in segment.entity_rows(tenant, entity_id).markers:
                if marker.counts_more_than(found):
                    found = marker
        return found

    def marking_segments(self, tenant: TenantKey, entity_id: str) -> list[SegmentReader]:
        """The segments that may have a marker of an entity."""
        marking = [segment for segment in self.segments if segment.index.has_markers]
        if not marking or not tenant.number:
            return []
        key = self._hasher.entity(tenant.number, entity_id)
        return [segment for segment in marking if segment.may_contain(key)]


def _last_position(segment: SegmentReader) -> int:
    return segment.entry.last_position
