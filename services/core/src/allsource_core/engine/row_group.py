"""A row group of a segment in memory: what one entity's events are made from."""

from __future__ import annotations

from itertools import pairwise, repeat
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from allsource_core.engine import segment_columns as columns
from allsource_core.engine.events import Event
from allsource_core.engine.limits import CHUNK_BYTES, EVENT_BYTES
from allsource_core.engine.markers import Marker
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.segment_format import ERASED, SHORTENED
from allsource_core.engine.tenants import TenantKey

__all__ = ["COLUMNS", "EntityRows", "RowGroup", "Selection"]

COLUMNS: Final = ("entity_id", "version", "position", "kind", "event_type", "payload", "recorded_at")
"""What every row group is made from."""

_OBJECT_BYTES: Final = 4096
"""What a row group takes beside its columns, about."""


class EntityRows(msgspec.Struct, frozen=True, gc=False):
    """What there is of an entity: events, and markers of removals; both by ascending version."""

    events: list[Event]
    markers: list[Marker]


class Selection(msgspec.Struct, frozen=True):
    """What a row group has of a query for one entity.

    Attributes:
        first: events, in the order of the query, and not more than its limit; not to be changed.
        rest: pieces of the row group, from which `RowGroup.events` makes those that follow.
        nbytes: memory that this takes, about, in bytes.
    """

    first: list[Event]
    rest: list[tuple[int, int]]
    nbytes: int


_NOTHING: Final = Selection([], [], 0)


class RowGroup:
    """The rows of a row group. Immutable; may be used by several threads.

    Args:
        table: `COLUMNS`, one chunk each, with the optional columns that have any value in the segment; `event_type` is
            a dictionary array. With `tenant`, unless all rows are one tenant's.
        tenant: number of the tenant whose rows all of them are, if that is known.

    Attributes:
        nbytes: memory that this takes, in bytes.
    """

    __slots__ = (
        "_characters",
        "_client_ids",
        "_entity_ids",
        "_kinds",
        "_metadata",
        "_offsets",
        "_payloads",
        "_positions",
        "_recorded_at",
        "_rows",
        "_tags",
        "_tenant",
        "_tenants",
        "_times",
        "_type_codes",
        "_types",
        "_versions",
        "nbytes",
    )

    def __init__(self, table: pa.Table, tenant: int | None) -> None:
        batch = columns.one_batch(table)
        rows: dict[str, Any] = dict(zip(table.column_names, batch.columns, strict=True))
        self._rows = table.num_rows
        self._tenant = tenant
        self._tenants = columns.integers(rows["tenant"]) if tenant is None else None
        self._entity_ids = rows["entity_id"]
        self._versions = columns.integers(rows["version"])
        self._positions = columns.integers(rows["position"])
        kinds = columns.integers(rows["kind"])
        # Compared as bytes, which takes a thirtieth of what numpy's `any` does.
        self._kinds = kinds if kinds.tobytes() != bytes(self._rows) else None
        self._type_codes = columns.integers(rows["event_type"].indices)
        self._types: list[str] = rows["event_type"].dictionary.to_pylist()
        self._recorded_at = self._times = columns.integers(rows["recorded_at"])
        if "timestamp" in rows:
            self._times = columns.timestamps(rows["timestamp"], rows["recorded_at"])
        self._offsets, self._characters = columns.characters(rows["payload"])
        self._metadata = rows["metadata"].view(pa.binary()) if "metadata" in rows else None
        self._tags = rows.get("tags")
        self._client_ids = rows.get("event_id")
        self.nbytes = _OBJECT_BYTES + batch.get_total_buffer_size()

    def select(self, tenant: TenantKey, query: EventQuery) -> Selection:
        """What is here of the entity that a query names, between its bounds of versions and positions.

        What else it asks for is not looked at; so the limit only says how many events are made first.
        """
        assert query.entity_id is not None
        low, high = self._range(tenant.number, query.entity_id, query.from_version, query.to_version)
        pieces: list[tuple[int, int]] = []
        runs = self._runs(low, high)
        for low, high in reversed(runs) if query.descending else runs:
            low, high = self._between(low, high, query.after_position, query.before_position)
            if query.limit is not None and high - low > query.limit and not pieces:
                middle = high - query.limit if query.descending else low + query.limit
                halves = [(low, middle), (middle, high)]
                pieces += reversed(halves) if query.descending else halves
            elif low < high:
                pieces.append((low, high))
        if not pieces:
            return _NOTHING
        pieces = [part for piece in pieces for part in self._cut(*piece, query.descending)]
        first = self.events(pieces[0], tenant, query)
        return Selection(first, pieces[1:], len(first) * (EVENT_BYTES + self.nbytes // self._rows))

    def events(self, piece: tuple[int, int], tenant: TenantKey, query: EventQuery) -> list[Event]:
        """The events of a piece of a selection, in the order of the query that was given there."""
        events = self._events(*piece, tenant.id, query.entity_id or "")
        if query.descending:
            events.reverse()
        return events

    def entity(self, tenant: TenantKey, entity_id: str, min_version: int, max_version: int | None) -> EntityRows:
        """What is here of an entity between two versions, inclusive."""
        low, high = self._range(tenant.number, entity_id, min_version, max_version)
        events: list[Event] = []
        for start, end in self._runs(low, high):
            events += self._events(start, end, tenant.id, entity_id)
        return EntityRows(events, self._markers(low, high))

    def _range(self, tenant: int, entity_id: str, min_version: int, max_version: int | None) -> tuple[int, int]:
        """The rows of an entity between two versions, inclusive."""
        low, high = 0, self._rows
        if self._tenants is not None:
            low, high = np.searchsorted(self._tenants, (tenant, tenant + 1)).tolist()
        elif tenant != self._tenant:
            return 0, 0
        low, high = columns.entity_range(self._entity_ids, entity_id, low, high)
        versions = self._versions
        if max_version is not None and low < high and versions[high - 1] > max_version:
            high = low + int(np.searchsorted(versions[low:high], max_version, "right"))
        if low < high and versions[low] < min_version:
            low += int(np.searchsorted(versions[low:high], min_version))
        return low, high

    def _runs(self, low: int, high: int) -> list[tuple[int, int]]:
        """The rows between two that are events, as ranges: without the markers among them."""
        if self._kinds is None:
            return [(low, high)] if low < high else []
        ends = [*(np.flatnonzero(self._kinds[low:high] >= SHORTENED) + low).tolist(), high]
        starts = [low, *(end + 1 for end in ends[:-1])]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]

    def _between(self, low: int, high: int, after: int, before: int | None) -> tuple[int, int]:
        """Of an entity's events those between two positions, exclusive: positions ascend as versions do."""
        positions = self._positions
        if positions[low] <= after:
            low += int(np.searchsorted(positions[low:high], after, "right"))
        if before is not None and low < high and positions[high - 1] >= before:
            high = low + int(np.searchsorted(positions[low:high], before))
        return low, high

    def _cut(self, low: int, high: int, descending: bool) -> list[tuple[int, int]]:
        """The rows between two in parts that are not too large to hold, in the order asked for."""
        size = (high - low) * EVENT_BYTES + int(self._offsets[high]) - int(self._offsets[low])
        more = [columns.ends(array) for array in (self._metadata, self._tags) if array is not None]
        if size + sum(int(ends[high]) - int(ends[low]) for ends in more) <= CHUNK_BYTES:
            return [(low, high)]
        sizes = np.full(high - low, EVENT_BYTES, dtype=np.int64)
        for ends in (self._offsets, *more):
            sizes += np.diff(ends[low : high + 1])
        parts = [(low + start, low + end) for start, end in pairwise(columns.cuts(sizes, CHUNK_BYTES))]
        return parts[::-1] if descending else parts

    def _events(self, low: int, high: int, tenant_id: str, entity_id: str) -> list[Event]:
        """The rows between two as events, which all of them are."""
        count = high - low
        times = self._times[low:high].tolist()
        types: Any = repeat(self._types[0])
        if len(self._types) > 1:
            types = map(self._types.__getitem__, self._type_codes[low:high].tolist())
        return list(
            map(
                Event,
                types,
                repeat(entity_id),
                repeat(tenant_id),
                self._bodies(low, high),
                columns.NONE if self._metadata is None else columns.texts(self._metadata.slice(low, count)),
                columns.NO_TAGS if self._tags is None else columns.tag_tuples(self._tags.slice(low, count)),
                times,
                times if self._times is self._recorded_at else self._recorded_at[low:high].tolist(),
                self._versions[low:high].tolist(),
                self._positions[low:high].tolist(),
                columns.NONE if self._client_ids is None else columns.texts(self._client_ids.slice(low, count)),
                repeat(False) if self._kinds is None else (self._kinds[low:high] == ERASED).tolist(),
            )
        )

    def _bodies(self, low: int, high: int) -> list[bytes]:
        # Slices of one copy: half the price of Arrow's values where a few are wanted.
        offsets = self._offsets[low : high + 1]
        first = offsets[0]
        characters = self._characters[first : offsets[-1]].tobytes()
        return [characters[start:end] for start, end in pairwise((offsets - first).tolist())]

    def _markers(self, low: int, high: int) -> list[Marker]:
        if self._kinds is None:
            return []
        return [
            Marker(
                int(self._versions[row]),
                int(self._positions[row]),
                int(self._kinds[row]),
                self._bodies(row, row + 1)[0],
                int(self._recorded_at[row]),
                None if self._metadata is None else self._metadata[row].as_py(),
            )
            for row in range(low, high)
            if self._kinds[row] >= SHORTENED
        ]
