"""From log files to a segment, and from segments to fewer or cleaner ones.

Pure functions over files: they read what is immutable, write files under temporary names, and touch nothing that the
serving process has in memory. They run in a process of their own (`job_runners.py`), or wherever a test wants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.log_format import Record
from allsource_core.engine.recovery import positions_of, read_header, read_log_file
from allsource_core.engine.segment_format import ERASED, EVENT, SCHEMA, SHORTENED

__all__ = ["RemovalSet", "apply_removals", "read_records"]


class RemovalSet:
    """Removals to apply to rows.

    Args:
        floors: (tenant, entity id, version up to which its events are removed).
        deleted: those of them that take with them what retention left of the events before.
        erased: positions of events that lose their bodies.
        tenants: numbers of tenants of which nothing is kept.
    """

    def __init__(
        self,
        floors: Iterable[tuple[int, str, int]],
        deleted: Iterable[tuple[int, str, int]],
        erased: Iterable[int],
        tenants: Iterable[int],
    ) -> None:
        self.floors = {(tenant, entity_id): version for tenant, entity_id, version in floors}
        self.deleted: dict[tuple[int, str], int] = {}
        for tenant, entity_id, version in deleted:
            self.deleted[tenant, entity_id] = max(version, self.deleted.get((tenant, entity_id), 0))
        self.erased = sorted(erased)
        self.tenants = sorted(tenants)


def read_records(paths: StorePaths, numbers: Sequence[int], first: int, last: int) -> Iterator[Record]:
    """The records of log files whose positions lie between two, inclusive.

    Raises:
        CorruptionError: a file is damaged, or one of these records is not there.
    """
    expected = first
    path, end = paths.log, 0
    for number in numbers:
        path = paths.log_file(number)
        for record, behind in read_log_file(path, read_header(path, number), is_last=False):
            end = behind
            if record is None:
                continue
            first_position, last_position = positions_of(record)
            if first_position < first:
                continue
            if first_position != expected:
                break
            yield record
            if last_position >= last:
                # What follows may be half a write that failed.
                return
            expected = last_position + 1
    raise CorruptionError(path, end, f"position {expected} is missing here")


def apply_removals(table: pa.Table, removals: RemovalSet) -> pa.Table:
    """The rows that are left, erased events without their bodies.

    Events of an entity up to its floor go; so do markers below it, which a later one supersedes.
    """
    if removals.tenants:
        gone = pc.is_in(table["tenant"], value_set=pa.array(removals.tenants, pa.int32()))
        table = table.filter(pc.invert(gone))
    if removals.floors:
        table = table.filter(pa.array(_kept(table, removals)))
    if removals.erased:
        table = _erase(table, removals.erased)
    return table


def _kept(table: pa.Table, removals: RemovalSet) -> np.ndarray[Any, np.dtype[np.bool_]]:
    kept = np.ones(table.num_rows, np.bool_)
    names = pa.array(sorted({entity_id for _, entity_id in removals.floors}))
    candidates = np.flatnonzero(pc.is_in(table["entity_id"], value_set=names).to_numpy())
    rows = table.select(["tenant", "entity_id", "version", "kind"]).take(candidates)
    for index, tenant, entity_id, version, kind in zip(
        candidates.tolist(), *(column.to_pylist() for column in rows.columns), strict=True
    ):
        floor = removals.floors.get((tenant, entity_id), 0)
        if kind == SHORTENED and version <= removals.deleted.get((tenant, entity_id), 0):
            kept[index] = False
        else:
            kept[index] = version > floor if kind in (EVENT, ERASED) else version >= floor
    return kept


def _erase(table: pa.Table, positions: Sequence[int]) -> pa.Table:
    hit = pc.and_(
        pc.is_in(table["position"], value_set=pa.array(positions, pa.int64())),
        pc.less_equal(table["kind"], pa.scalar(ERASED, pa.int8())),
    )
    if not pc.any(hit).as_py():
        return table
    for name, value in (
        ("kind", pa.scalar(ERASED, pa.int8())),
        ("payload", pa.scalar("null")),
        ("metadata", pa.scalar(None, pa.string())),
        ("tags", pa.scalar(None, SCHEMA.field("tags").type)),
    ):
        column = table.column_names.index(name)
        table = table.set_column(column, SCHEMA.field(name), pc.if_else(hit, value, table[name]))
    return table


def temporary(paths: StorePaths, name: str) -> Path:
    """Where a file is made before it gets its name."""
    return paths.temporary / f"{name}.{paths.run}.new"
