"""A description of a store as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from allsource_core.engine import StoreDescription

__all__ = ["description_text"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_MAX: Final = 100
"""Of a table: retention alone may have removed something of 50,000 entities at once."""


def description_text(store: StoreDescription) -> str:
    """Figures, then a table for each kind of thing that there is any of."""
    return "\n".join(_lines(store))


def _lines(store: StoreDescription) -> Iterator[str]:
    figures = {
        "format": store.format,
        "store id": store.store_id,
        "manifest": f"generation {store.generation}",
        "events": store.events,
        "positions": f"up to {'unknown' if store.last_position is None else store.last_position}",
        "sealed": f"up to {store.sealed_through}",
        "times": f"{_time(store.first_event_us)} to {_time(store.last_event_us)}",
        "segments": _files([segment.bytes + segment.index_bytes for segment in store.segments]),
        "log": _files([file.bytes for file in store.log_files]),
        "keys": _files([file.bytes for file in store.key_files]),
    }
    yield from (f"{name:10}{value}" for name, value in figures.items())
    yield from _table("tenants", ("number", "events", "id"), ((t.number, t.events, t.id) for t in store.tenants))
    yield from _table(
        "segments",
        ("file", "first", "last", "rows", "events", "bytes", "removals through"),
        (
            (s.file, s.first_position, s.last_position, s.rows, s.events, s.bytes, s.removals_through)
            for s in store.segments
        ),
    )
    yield from _table("log files", ("file", "bytes"), ((file.file, file.bytes) for file in store.log_files))
    yield from _table(
        "key files",
        ("file", "kind", "entries", "bytes"),
        ((k.file, k.kind, k.entries, k.bytes) for k in store.key_files),
    )
    yield from _table(
        "pending removals",
        ("position", "kind", "tenant", "version", "recorded at", "entity"),
        ((r.position, r.kind, r.tenant, r.version, _time(r.recorded_at), r.entity_id) for r in store.removals_pending),
    )
    yield from _table(
        "retention policies",
        ("tenant", "max age", "max count", "prefix"),
        ((p.tenant, _age(p.max_age_us), p.max_count or "", repr(p.prefix)) for p in store.policies),
    )
    yield from _table(
        "given up by repairs",
        ("first", "last", "at"),
        ((loss.first_position, loss.last_position, _time(loss.repaired_at)) for loss in store.losses),
    )
    yield from _table("faults", (), ((fault,) for fault in store.faults))


def _table(title: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    rows = list(rows)
    if not rows:
        return
    lines = [names, *rows[:_ROWS_MAX]] if names else rows[:_ROWS_MAX]
    cells = [[str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    yield ""
    yield f"{title}:"
    for line in cells:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))).rstrip()
    if len(rows) > _ROWS_MAX:
        yield f"  … and {len(rows) - _ROWS_MAX} more; --json has all"


def _files(sizes: Sequence[int]) -> str:
    return f"{len(sizes)} files, {sum(sizes)} bytes"


def _time(microseconds: int | None) -> str:
    return "none" if microseconds is None else (_EPOCH + timedelta(microseconds=microseconds)).isoformat()


def _age(microseconds: int | None) -> str:
    return "" if microseconds is None else str(timedelta(microseconds=microseconds))
