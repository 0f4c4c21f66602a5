"""Records of the log as rows of a segment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.log_format import EntityRemoved, EntityShortened, Record
from allsource_core.engine.markers import marker_of
from allsource_core.engine.segment_format import EVENT, OPTIONAL_COLUMNS, SCHEMA

__all__ = ["table_of_records"]


def table_of_records(records: Iterable[Record], numbers: dict[str, int], tenant_ids: dict[int, str]) -> pa.Table:
    """The rows that records of the log become, in the order of their positions. 0.3 µs an event.

    Args:
        records: in the order of the log.
        numbers: of tenants by id, for records of format 1, which say none.
        tenant_ids: by number, for records that name a tenant by its number alone. Those that are met are added.
    """
    rows = _Rows()
    for record in records:
        if isinstance(record, StoredEvents):
            tenant = record.tenant or numbers[record.tenant_id]
            tenant_ids[tenant] = record.tenant_id
            rows.add_events(tenant, record)
        elif isinstance(record, EntityRemoved | EntityShortened):
            rows.add_marker(record)
    return rows.table(tenant_ids)


class _Rows:
    """Columns that grow a record at a time. What all rows of a record share is kept once for each record."""

    def __init__(self) -> None:
        self._counts: list[int] = []
        self._tenants: list[int] = []
        self._first_positions: list[int] = []
        self._recorded_at: list[int] = []
        self._kinds: list[int] = []
        self._event_types: list[str | list[str]] = []
        self._entity_ids: list[str] = []
        self._versions: list[int] = []
        self._payloads: list[bytes] = []
        # Of the optional columns only the parts that have values: the index of the first row, and the values.
        self._optional: dict[str, list[tuple[int, Sequence[Any]]]] = {name: [] for name in OPTIONAL_COLUMNS}

    def add_events(self, tenant: int, stored: StoredEvents) -> None:
        columns = stored.columns
        optional = (
            ("metadata", columns.metadatas),
            ("tags", None if columns.tags is None else [tags or None for tags in columns.tags]),
            ("timestamp", _unless_recorded_at(columns.timestamps, stored.recorded_at)),
            ("event_id", columns.client_ids),
        )
        for name, values in optional:
            if values is not None:
                self._optional[name].append((len(self._entity_ids), values))
        self._add(len(stored), tenant, stored.first_position, stored.recorded_at, EVENT, columns.event_types)
        self._entity_ids += columns.entity_ids
        self._versions += stored.versions
        self._payloads += columns.payloads

    def add_marker(self, record: EntityRemoved | EntityShortened) -> None:
        marker = marker_of(record)
        if marker.summary is not None:
            self._optional["metadata"].append((len(self._entity_ids), [marker.summary]))
        self._add(1, record.tenant, marker.position, marker.recorded_at, marker.kind, "")
        self._entity_ids.append(record.entity_id)
        self._versions.append(marker.version)
        self._payloads.append(marker.payload)

    def _add(
        self, count: int, tenant: int, first_position: int, recorded_at: int, kind: int, types: str | list[str]
    ) -> None:
        self._counts.append(count)
        self._tenants.append(tenant)
        self._first_positions.append(first_position)
        self._recorded_at.append(recorded_at)
        self._kinds.append(kind)
        self._event_types.append(types)

    def table(self, tenant_ids: dict[int, str]) -> pa.Table:
        """All rows. `tenant_ids` is by number."""
        counts = np.array(self._counts, np.int64)
        firsts = np.repeat(np.array(self._first_positions, np.int64), counts)
        # How far into its record each row is.
        within = np.arange(len(firsts)) - np.repeat(np.cumsum(counts) - counts, counts)
        columns: dict[str, Any] = {
            "tenant": np.repeat(np.array(self._tenants, np.int32), counts),
            "tenant_id": _named([tenant_ids.get(tenant, "") for tenant in self._tenants], counts),
            "entity_id": pa.array(self._entity_ids, pa.string()),
            "version": np.array(self._versions, np.int64),
            "position": firsts + within,
            "kind": np.repeat(np.array(self._kinds, np.int8), counts),
            "event_type": self._types(counts),
            # Stored as the bytes that came, which were checked to be UTF-8 when they did.
            "payload": pa.array(self._payloads, pa.binary()).view(pa.string()),
            "recorded_at": pa.array(np.repeat(np.array(self._recorded_at, np.int64), counts)),
        }
        columns |= {name: self._optional_column(name, len(firsts)) for name in OPTIONAL_COLUMNS}
        arrays = [
            column.cast(field.type) if (column := pa.array(columns[field.name])).type != field.type else column
            for field in SCHEMA
        ]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)

    def _types(self, counts: npt.NDArray[np.int64]) -> Any:
        if all(isinstance(types, str) for types in self._event_types):
            return _named(self._event_types, counts)  # type: ignore[arg-type] # each is a str
        names: list[str] = []
        for types, count in zip(self._event_types, self._counts, strict=True):
            names += [types] * count if isinstance(types, str) else types
        return pa.array(names, pa.string())

    def _optional_column(self, name: str, count: int) -> Any:
        data_type = SCHEMA.field(name).type
        parts = self._optional[name]
        if not parts:
            return pa.nulls(count, data_type)
        values: list[Any] = [None] * count
        for start, part in parts:
            values[start : start + len(part)] = part
        if name == "metadata":
            return pa.array(values, pa.binary()).view(pa.string())
        return pa.array(values, data_type)


def _named(names: Sequence[str], counts: npt.NDArray[np.int64]) -> Any:
    """A string column in which each name stands as often as its count says."""
    distinct = {name: code for code, name in enumerate(dict.fromkeys(names))}
    codes: Any = pa.array(np.repeat(np.array([distinct[name] for name in names], np.int32), counts))
    return pa.array(list(distinct), pa.string()).take(codes)


def _unless_recorded_at(timestamps: Sequence[int | None] | None, recorded_at: int) -> list[int | None] | None:
    """Times that say more than `recorded_at` does."""
    if timestamps is None:
        return None
    return [None if timestamp == recorded_at else timestamp for timestamp in timestamps]
