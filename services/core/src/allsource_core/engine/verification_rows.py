"""Verification of the rows of a segment: their order, their numbers, and what each kind may hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from allsource_core.engine.manifest import SegmentEntry
from allsource_core.engine.segment_columns import integers, one_chunk
from allsource_core.engine.segment_format import REMOVED, SHORTENED

__all__ = ["SegmentRows", "faults_of_rows"]

Bools = npt.NDArray[np.bool_]

_RESERVED: Final = "_"


class SegmentRows:
    """Columns of a whole segment without its bodies.

    Attributes:
        tenant, version, position, kind, recorded_at: arrays of integers.
        entity_id, tenant_id, event_type, event_id: Arrow arrays.
        same_entity: whether the entity of each row but the first is that of the row before.
    """

    def __init__(self, table: pa.Table) -> None:
        columns: dict[str, Any] = {name: one_chunk(table[name]) for name in table.column_names}
        self.tenant = integers(columns["tenant"])
        self.version = integers(columns["version"])
        self.position = integers(columns["position"])
        self.kind = integers(columns["kind"])
        self.recorded_at = integers(columns["recorded_at"])
        self.entity_id = columns["entity_id"]
        self.tenant_id = columns["tenant_id"]
        self.event_type = columns["event_type"]
        self.event_id = columns["event_id"]
        before, behind = self.entity_id[:-1], self.entity_id[1:]
        self._same_name = _bools(pc.equal(before, behind))
        self._name_ascends = _bools(pc.less(before, behind))
        self.same_entity: Bools = self._same_name & (self.tenant[:-1] == self.tenant[1:])

    def __len__(self) -> int:
        return len(self.tenant)

    @property
    def is_event(self) -> Bools:
        return np.asarray(self.kind < SHORTENED)

    def out_of_order(self) -> list[int]:
        """Rows that do not follow the one before them by tenant, entity, version and kind."""
        follows: Bools = self.kind[:-1] < self.kind[1:]
        for less, equal in (
            (self.version[:-1] < self.version[1:], self.version[:-1] == self.version[1:]),
            (self._name_ascends, self._same_name),
            (self.tenant[:-1] < self.tenant[1:], self.tenant[:-1] == self.tenant[1:]),
        ):
            follows = less | (equal & follows)
        return _rows(~follows, 1)

    def entity(self, row: int) -> str:
        """The entity of a row, for people."""
        return f"{self.entity_id[row].as_py()!r} of tenant {self.tenant_id[row].as_py()!r}"


def faults_of_rows(rows: SegmentRows, entry: SegmentEntry, tenants: dict[int, str | None]) -> Iterator[tuple[int, str]]:
    """(row, what is wrong) of rows that can't be right."""
    for row in rows.out_of_order():
        yield row, f"row {row} is out of order: it follows version {rows.version[row - 1]} of {rows.entity(row - 1)}"
    outside = (rows.position < entry.first_position) | (rows.position > entry.last_position)
    for row in _rows(outside):
        yield (
            row,
            f"row {row} has position {rows.position[row]}, the segment {entry.first_position} to {entry.last_position}",
        )
    order = rows.position.argsort(kind="stable")
    for place in _rows(rows.position[order][1:] == rows.position[order][:-1], 1):
        row = int(order[place])
        yield row, f"position {rows.position[row]} is there twice"
    for place in _rows(rows.recorded_at[order][1:] < rows.recorded_at[order][:-1], 1):
        row = int(order[place])
        yield row, f"position {rows.position[row]} was recorded before the position before it"
    for row in _rows(rows.version < 1):
        yield row, f"row {row} has version {rows.version[row]}"
    for row in _rows((rows.kind < 0) | (rows.kind > REMOVED)):
        yield row, f"row {row} is of kind {rows.kind[row]}, which nobody knows"
    has_type = _bools(pc.not_equal(rows.event_type, pa.scalar("")))
    for row in _rows(has_type != rows.is_event):
        yield row, f"row {row} is of kind {rows.kind[row]} and has the event type {rows.event_type[row].as_py()!r}"
    has_client_id = _bools(pc.is_valid(rows.event_id))
    for row in _rows(has_client_id & ~rows.is_event):
        yield row, f"row {row} is of kind {rows.kind[row]} and has an event id"
    yield from _faults_of_tenants(rows, tenants)
    counted = int((rows.is_event & ~_bools(pc.starts_with(rows.tenant_id, _RESERVED))).sum())
    if counted != entry.events:
        yield 0, f"it has {counted} events, the manifest says {entry.events}"


def _faults_of_tenants(rows: SegmentRows, tenants: dict[int, str | None]) -> Iterator[tuple[int, str]]:
    table: Any = pa.table(
        {"tenant": pa.array(rows.tenant), "id": rows.tenant_id, "row": pa.array(np.arange(len(rows)))}
    )
    firsts = table.group_by(["tenant", "id"], use_threads=False).aggregate([("row", "min")])
    for tenant, tenant_id, row in zip(*(firsts[name].to_pylist() for name in ("tenant", "id", "row_min")), strict=True):
        if tenant not in tenants:
            yield row, f"row {row} is of tenant {tenant} ({tenant_id!r}), which the manifest does not know"
        elif tenants[tenant] not in (None, tenant_id):
            yield row, f"row {row} calls tenant {tenant} {tenant_id!r}, the manifest {tenants[tenant]!r}"


def _rows(where: Any, shift: int = 0) -> list[int]:
    found: list[int] = (np.flatnonzero(where) + shift).tolist()
    return found


def _bools(array: Any) -> Bools:
    values: Bools = array.to_numpy(zero_copy_only=False)
    return values
