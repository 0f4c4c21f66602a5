"""What verification remembers of every segment until all were read, in temporary files: for versions that must follow
on each other over the whole store, and for key files that must say what segments say.

Memory does not grow with the store: what is remembered is laid down sorted by the hash of its key, and taken up again
a part of the keys at a time. Disk, outside the data directory (TMPDIR): 64 bytes for each entity of each segment, 40
for each client event id. Time: 1 µs for each of these.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from allsource_core.engine.hashes import Hasher, Hashes
from allsource_core.engine.manifest import Removal
from allsource_core.engine.verification_log import LogRun
from allsource_core.engine.verification_rows import SegmentRows

__all__ = ["LOG", "Ledger", "Part", "Spool", "Table", "bound_of"]

LOG: Final = 0
"""Stands for the log where otherwise the number of a segment stands; segments have numbers from 1."""
_PART_ITEMS: Final = 1_000_000
_PARTS_MAX: Final = 256
_ITEM_BYTES: Final = 8

Table = npt.NDArray[np.uint64]


class Spool:
    """Rows of 64-bit numbers in a temporary file, of which the first is the upper half of a hash, by ranges of it.

    Args:
        width: numbers a row.
        parts: into how many ranges.
    """

    def __init__(self, width: int, parts: int) -> None:
        self._width = width
        self._parts = parts
        self._file = tempfile.TemporaryFile(prefix="allsource-verify-")  # noqa: SIM115 - closed by `close`
        self._slices: list[tuple[int, list[int]]] = []
        self._rows = 0

    def append(self, *columns: npt.NDArray[Any]) -> None:
        if not len(columns[0]):
            return
        table: Table = np.stack([column.astype(np.uint64, copy=False) for column in columns], axis=1)
        table = table[table[:, 0].argsort(kind="stable")]
        bounds = table[:, 0].searchsorted([bound_of(part, self._parts) for part in range(1, self._parts)])
        self._file.seek(self._rows * self._width * _ITEM_BYTES)
        self._file.write(table.tobytes())
        self._slices.append((self._rows, [0, *bounds.tolist(), len(table)]))
        self._rows += len(table)

    def part(self, number: int) -> Table:
        """All rows whose first number lies in a range, in the order in which they were appended."""
        pieces: list[Table] = []
        for first, bounds in self._slices:
            start, stop = bounds[number], bounds[number + 1]
            if start < stop:
                self._file.seek((first + start) * self._width * _ITEM_BYTES)
                data = self._file.read((stop - start) * self._width * _ITEM_BYTES)
                pieces.append(np.frombuffer(data, np.uint64).reshape(-1, self._width))
        return np.concatenate(pieces) if pieces else np.zeros((0, self._width), np.uint64)

    def close(self) -> None:
        self._file.close()


def bound_of(part: int, parts: int) -> np.uint64:
    """The lowest upper half of a hash in a range of them."""
    return np.uint64((part << 64) // parts) if part < parts else np.uint64(0)


class Part:
    """What was remembered of a range of keys. Rows of numbers, in columns:

    Attributes:
        runs: versions of an entity that follow on each other: hi, lo, first and last version, first and last position,
            number of the segment, row of the first.
        floors: what says that events are removed: hi, lo, version, position, whether it is a row of a segment.
        ids: client event ids: hi, lo, position, number of the segment, row.
    """

    def __init__(self, runs: Table, floors: Table, ids: Table) -> None:
        self.runs = runs
        self.floors = floors
        self.ids = ids


class Ledger:
    """Takes every segment, then gives everything back by ranges of keys.

    Args:
        hasher: of the store.
        items: about how many rows are to come.
        left_out: numbers of tenants that are being removed, of whom anything may be there or not.
    """

    def __init__(self, hasher: Hasher, items: int, left_out: set[int]) -> None:
        self._hasher = hasher
        self._left_out = sorted(left_out)
        self.parts = min(max(1, items // _PART_ITEMS), _PARTS_MAX)
        self._runs = Spool(8, self.parts)
        self._floors = Spool(5, self.parts)
        self._ids = Spool(5, self.parts)
        self.log_entities: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for spool in (self._runs, self._floors, self._ids):
            spool.close()

    def add_segment(self, number: int, rows: SegmentRows) -> None:
        """Remember what a segment has."""
        kept = ~np.isin(rows.tenant, self._left_out)
        begins = np.ones(len(rows), np.bool_)
        begins[1:] = ~rows.same_entity
        firsts = np.flatnonzero(begins)
        entity = begins.cumsum() - 1
        hi, lo = self._hasher.entities(rows.tenant[firsts], rows.entity_id.take(firsts))
        events = np.flatnonzero(kept & rows.is_event)
        starts, ends = _run_bounds(entity[events], rows.version[events], rows.position[events])
        first, last = events[starts], events[ends]
        self._runs.append(
            hi[entity[first]],
            lo[entity[first]],
            rows.version[first],
            rows.version[last],
            rows.position[first],
            rows.position[last],
            np.full(len(first), number),
            first,
        )
        markers = np.flatnonzero(kept & ~rows.is_event)
        at = entity[markers]
        self._floors.append(hi[at], lo[at], rows.version[markers], rows.position[markers], np.ones(len(markers)))
        given = np.flatnonzero(kept & rows.is_event & pc.is_valid(rows.event_id).to_numpy(zero_copy_only=False))
        if given.size:
            hi, lo = self._hasher.client_ids(rows.tenant[given], rows.event_id.take(given))
            self._ids.append(hi, lo, rows.position[given], np.full(given.size, number), given)

    def add_log(self, runs: dict[tuple[int, str], list[LogRun]]) -> None:
        """Remember what the log has beyond segments."""
        keys = [key for key in runs if key[0] not in self._left_out for _ in runs[key]]
        if not keys:
            return
        found = [run for key in dict.fromkeys(keys) for run in runs[key]]
        hi, lo = self._hashes(keys)
        self._runs.append(
            hi,
            lo,
            np.array([run.first_version for run in found]),
            np.array([run.last_version for run in found]),
            np.array([run.first_position for run in found]),
            np.array([run.last_position for run in found]),
            np.full(len(found), LOG),
            np.arange(len(self.log_entities), len(self.log_entities) + len(keys)),
        )
        self.log_entities += [f"{entity_id!r} of tenant number {tenant}" for tenant, entity_id in keys]

    def add_removals(self, removals: Sequence[Removal]) -> None:
        """Remember removals of entities that are told of elsewhere than in segments."""
        if removals:
            hi, lo = self._hashes([(removal.tenant, removal.entity_id) for removal in removals])
            versions = np.array([removal.version for removal in removals])
            positions = np.array([removal.position for removal in removals])
            self._floors.append(hi, lo, versions, positions, np.zeros(len(removals)))

    def part(self, number: int) -> Part:
        return Part(self._runs.part(number), self._floors.part(number), self._ids.part(number))

    def _hashes(self, keys: Sequence[tuple[int, str]]) -> Hashes:
        tenants, entity_ids = zip(*keys, strict=True)
        return self._hasher.entities(np.array(tenants), pa.array(entity_ids, pa.string()))


def _run_bounds(
    entity: npt.NDArray[Any], version: npt.NDArray[Any], position: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last index of each stretch of one entity whose versions follow on each other, positions ascending."""
    if not len(entity):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    breaks = (entity[1:] != entity[:-1]) | (version[1:] != version[:-1] + 1) | (position[1:] <= position[:-1])
    starts = np.concatenate(([0], np.flatnonzero(breaks) + 1))
    return starts, np.concatenate((starts[1:] - 1, [len(entity) - 1]))
