"""A whole segment in memory, in the order of positions: what pages, queries and catch-up read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from allsource_core.engine import segment_columns as columns
from allsource_core.engine.events import Event
from allsource_core.engine.limits import CHUNK_BYTES, EVENT_BYTES
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.segment_format import ERASED, SHORTENED

__all__ = ["DecodedSegment", "Indices", "Scan"]

Indices = npt.NDArray[np.integer[Any]]
"""Of events in a decoded segment: from 0, in the order of positions."""

_SCAN_CHUNK_MIN: Final = 1024
_SCAN_CHUNK_MAX: Final = 65_536
"""Events that are looked at between two pauses of a scan: few at first, for those who want only a few events."""

_NAMES_SHARED_MAX: Final = 65_536
"""Up to so many distinct entities are kept as Python strings, for all events to share; more are made when asked for."""
_NAME_BYTES: Final = 57
"""What a short Python string takes beside its characters, with its place in a list."""


@dataclass(slots=True)
class Scan:
    """How far a read has come in a segment. It has nothing of the segment, which may be decoded anew in between.

    Attributes:
        query: that selects.
        candidates: indices of the events to look at, ascending; at most 4 bytes for each event of the segment.
        code: of the type that is wanted; -1 for any.
        rows: within which all that is wanted stands; None if all candidates do.
        left: of the limit of the query.
        start: of the candidates, in the order of the query, so many have been looked at.
        size: so many are looked at next.
    """

    query: EventQuery
    candidates: Indices
    code: int
    rows: tuple[int, int] | None
    left: int | None
    start: int = 0
    size: int = _SCAN_CHUNK_MIN

    @property
    def has_ended(self) -> bool:
        """Whether there is nothing left to look at, or to find."""
        return self.start >= len(self.candidates) or self.left == 0


class DecodedSegment:
    """The events of a segment. Removed ones and markers of removals are not among them. Immutable, but for what is
    made when it is first asked for; may be used by several threads.

    Strings stay in the order of the segment, where an entity's are together, and only numbers are reordered: half the
    time and half the memory of reordering everything.

    Args:
        table: the rows of a segment, as they stand in it. Of the optional columns those may be left out that have no
            value; `event_type` and `tenant_id` are dictionary arrays.

    Attributes:
        positions: of the events, ascending.
        nbytes: memory that this takes, in bytes.
    """

    def __init__(self, table: pa.Table) -> None:
        kinds = columns.one_chunk(table["kind"])
        if (columns.integers(kinds) >= SHORTENED).any():
            table = table.filter(pc.less(table["kind"], pa.scalar(SHORTENED, pa.int8())))
        rows = {name: columns.one_chunk(table[name]) for name in table.column_names}
        positions = columns.integers(rows["position"])
        # Indices of events to rows of the table.
        self._rows = np.argsort(positions).astype(np.int32)
        self.positions = positions[self._rows]
        self._versions = columns.integers(rows["version"])[self._rows]
        self._recorded_at = self._times = columns.integers(rows["recorded_at"])[self._rows]
        if "timestamp" in rows:
            self._times = columns.timestamps(rows["timestamp"], rows["recorded_at"])[self._rows]
        erased = columns.integers(rows["kind"]) == ERASED
        self._erased = erased[self._rows] if erased.any() else None
        self._type_codes = columns.integers(rows["event_type"].indices)[self._rows]
        self._types = np.array(columns.texts(rows["event_type"].dictionary), dtype=object)
        self._payloads = rows["payload"].view(pa.binary())
        self._metadata = rows["metadata"].view(pa.binary()) if "metadata" in rows else None
        self._tags = rows.get("tags")
        self._client_ids = rows.get("event_id")
        bodies = (self._payloads, self._metadata, self._tags)
        self._ends = [columns.ends(array) for array in bodies if array is not None]
        # One sum instead of a look at every event, where no chunk can be too large.
        self._bytes_max = EVENT_BYTES + sum(int(np.diff(ends).max(initial=0)) for ends in self._ends)
        self._take_tenants(rows)
        self._take_entities(rows)
        self._indices_of_rows: Indices | None = None
        self.nbytes = self._count_bytes()

    def __len__(self) -> int:
        return len(self.positions)

    def indices_of(self, tenant: int, positions: Sequence[int]) -> Indices:
        """The indices of a tenant's events at these positions, in their order; those that are not there left out."""
        wanted = np.asarray(positions, dtype=np.int64)
        indices = np.searchsorted(self.positions, wanted)
        within = indices < len(self.positions)
        indices, wanted = indices[within], wanted[within]
        indices = indices[self.positions[indices] == wanted]
        low, high = self._rows_of_tenant(tenant)
        rows = self._rows[indices]
        found: Indices = indices[(rows >= low) & (rows < high)]
        return found

    def events(self, indices: slice | Indices) -> list[Event]:
        """Events by index, in the order asked for. 0.3 µs an event, 40 µs at least."""
        rows = self._rows[indices]
        taken = pa.array(rows)
        times = self._times[indices].tolist()
        return list(
            map(
                Event,
                repeat(self._types[0]) if len(self._types) == 1 else self._types[self._type_codes[indices]].tolist(),
                self._entities_of(self._entity_codes[indices]),
                self._tenants_of(rows),
                columns.texts(self._payloads.take(taken)),
                columns.NONE if self._metadata is None else columns.texts(self._metadata.take(taken)),
                columns.NO_TAGS if self._tags is None else columns.tag_tuples(self._tags.take(taken)),
                times,
                times if self._times is self._recorded_at else self._recorded_at[indices].tolist(),
                self._versions[indices].tolist(),
                self.positions[indices].tolist(),
                columns.NONE if self._client_ids is None else columns.texts(self._client_ids.take(taken)),
                repeat(False) if self._erased is None else self._erased[indices].tolist(),
            )
        )

    def scan(self, tenant: int, query: EventQuery) -> Scan:
        """A scan for a tenant's events that a query selects, at its beginning."""
        low, high = self._rows_of_tenant(tenant)
        if query.entity_id is not None:
            low, high = self._rows_of_entity(query.entity_id, low, high)
        code = self._type_code(query.event_type)
        if low == high or code is None:
            return Scan(query, np.empty(0, dtype=np.int32), -1, None, query.limit)
        # The candidates of an entity are its own; those of a tag are all tenants'.
        is_known = (low, high) == (0, len(self.positions)) or (query.entity_id is not None and not query.tags)
        return Scan(query, self._candidates(query, low, high), code, None if is_known else (low, high), query.limit)

    def scan_on(self, scan: Scan) -> Indices:
        """Go on with a scan that began here, or in this segment when it was decoded before.

        Returns:
            Indices of what is selected among the next candidates, 65,536 at most, in the order of the query; perhaps
            none. After `Scan.has_ended` there is nothing more.
        """
        query, start, count = scan.query, scan.start, len(scan.candidates)
        end = min(start + scan.size, count)
        found = scan.candidates[start:end]
        if query.descending:
            found = scan.candidates[count - end : count - start][::-1]
        if scan.rows is not None or scan.code >= 0 or not query.is_plain:
            found = found[self._mask(found, query, scan.code, scan.rows)]
        if scan.left is not None:
            found = found[: scan.left]
            scan.left -= len(found)
        scan.start, scan.size = end, min(2 * scan.size, _SCAN_CHUNK_MAX)
        return found

    def cut(self, indices: Indices) -> list[Indices]:
        """The indices in stretches whose `events` are not too large to hold."""
        if len(indices) * self._bytes_max <= CHUNK_BYTES:
            return [indices] if len(indices) else []
        rows = self._rows[indices]
        sizes = np.full(len(rows), EVENT_BYTES, dtype=np.int64)
        for ends in self._ends:
            sizes += ends[rows + 1] - ends[rows]
        return [indices[start:end] for start, end in pairwise(columns.cuts(sizes, CHUNK_BYTES))]

    def _mask(
        self, found: Indices, query: EventQuery, code: int, rows: tuple[int, int] | None
    ) -> npt.NDArray[np.bool_]:
        """Which of these events match. Rows: those that are the tenant's, or the entity's; None if that is known."""
        mask = np.ones(len(found), dtype=np.bool_)
        if rows is not None:
            own = self._rows[found]
            mask &= (own >= rows[0]) & (own < rows[1])
        if code >= 0:
            mask &= self._type_codes[found] == code
        if query.since is not None:
            mask &= self._times[found] >= query.since
        if query.until is not None:
            mask &= self._times[found] <= query.until
        if query.from_version > 1:
            mask &= self._versions[found] >= query.from_version
        if query.to_version is not None:
            mask &= self._versions[found] <= query.to_version
        return mask

    def _candidates(self, query: EventQuery, low: int, high: int) -> Indices:
        """Indices to look at, ascending: within the bounds of the position, and as few as tags or entity allow."""
        first = int(np.searchsorted(self.positions, query.after_position, side="right"))
        end = len(self.positions)
        if query.before_position is not None:
            end = int(np.searchsorted(self.positions, query.before_position))
        if query.tags:
            found = self._bearing(query.tags[0])
            for tag in query.tags[1:]:
                found = np.intersect1d(found, self._bearing(tag), assume_unique=True)
        elif query.entity_id is not None:
            found = np.sort(self._indices()[low:high])
        else:
            # In half the bytes: a reader who stalls holds them.
            return np.arange(first, max(first, end), dtype=np.int32)
        return found[np.searchsorted(found, first) : np.searchsorted(found, end)]

    def _bearing(self, tag: str) -> Indices:
        """Indices of all events, of any tenant, that bear a tag; ascending."""
        if self._tags is None:
            return np.empty(0, dtype=np.int32)
        bearing = pc.list_parent_indices(self._tags).filter(pc.equal(pc.list_flatten(self._tags), pa.scalar(tag)))
        return np.unique(self._indices()[columns.integers(bearing)])

    def _indices(self) -> Indices:
        """Of each row of the table the index of its event."""
        if self._indices_of_rows is None:
            indices = np.empty(len(self._rows), dtype=np.int32)
            indices[self._rows] = np.arange(len(self._rows), dtype=np.int32)
            self._indices_of_rows = indices
        return self._indices_of_rows

    def _take_tenants(self, rows: dict[str, Any]) -> None:
        # Rows are sorted by tenant: each one has a stretch of them.
        numbers, starts = np.unique(columns.integers(rows["tenant"]), return_index=True)
        self._tenant_numbers, self._tenant_starts = numbers, starts
        self._tenant_ids = np.array(rows["tenant_id"].take(pa.array(starts)).to_pylist(), dtype=object)

    def _take_entities(self, rows: dict[str, Any]) -> None:
        ids = rows["entity_id"]
        is_first = np.ones(len(ids), dtype=np.bool_)
        if len(ids) > 1:
            is_first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
        # Two tenants may have entities of one id, one behind the other.
        is_first[self._tenant_starts] = True
        self._entity_starts = np.flatnonzero(is_first).astype(np.int32)
        self._entity_codes = (np.cumsum(is_first, dtype=np.int32) - 1)[self._rows]
        self._entities = ids.take(pa.array(self._entity_starts))
        self._names: npt.NDArray[np.object_] | None = None

    def _entities_of(self, codes: Indices) -> list[str]:
        if len(self._entities) > _NAMES_SHARED_MAX or (self._names is None and len(codes) < len(self._entities)):
            return columns.texts(self._entities.take(pa.array(codes)))
        if self._names is None:
            self._names = np.array(columns.texts(self._entities), dtype=object)
        names: list[str] = self._names[codes].tolist()
        return names

    def _tenants_of(self, rows: Indices) -> Any:
        if len(self._tenant_ids) == 1:
            return repeat(self._tenant_ids[0])
        return self._tenant_ids[np.searchsorted(self._tenant_starts, rows, side="right") - 1].tolist()

    def _rows_of_tenant(self, tenant: int) -> tuple[int, int]:
        place = int(np.searchsorted(self._tenant_numbers, tenant))
        if place == len(self._tenant_numbers) or self._tenant_numbers[place] != tenant:
            return 0, 0
        bounds = [*self._tenant_starts.tolist(), len(self._rows)]
        return bounds[place], bounds[place + 1]

    def _rows_of_entity(self, entity_id: str, low: int, high: int) -> tuple[int, int]:
        """Of a tenant's stretch of rows the entity's."""
        first, end = np.searchsorted(self._entity_starts, (low, high)).tolist()
        first, end = columns.entity_range(self._entities, entity_id, first, end)
        if first == end:
            return low, low
        return int(self._entity_starts[first]), high if end == len(self._entity_starts) else int(
            self._entity_starts[end]
        )

    def _type_code(self, event_type: str | None) -> int | None:
        """-1 for any type; None for one that no event has."""
        if event_type is None:
            return -1
        found = np.flatnonzero(self._types == event_type)
        return int(found[0]) if found.size else None

    def _count_bytes(self) -> int:
        entities = len(self._entities)
        arrays: list[Any] = [
            *(self._rows, self.positions, self._versions, self._recorded_at, self._type_codes),
            *(self._entity_starts, self._entity_codes, self._entities, self._payloads),
            # Once for the rows, and once for the indices of the rows.
            self._rows,
            # Of tags they are no view of the column.
            *(self._ends[-1:] if self._tags is not None else ()),
            *(array for array in (self._metadata, self._tags, self._client_ids, self._erased) if array is not None),
        ]
        if self._times is not self._recorded_at:
            arrays.append(self._times)
        names = self._entities.nbytes + entities * _NAME_BYTES if entities <= _NAMES_SHARED_MAX else 0
        return names + sum(int(array.nbytes) for array in arrays)
