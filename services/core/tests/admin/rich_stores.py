"""Stores that have everything in them, and copies of them to damage."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from uuid import UUID

from allsource_core.engine import EventQuery, EventStore, NewEvent, Raw, StoreOptions
from allsource_core.engine.maintenance import Maintenance
from allsource_core.engine.manifest import Manifest, read_manifest

OPTIONS = StoreOptions(
    maintenance="thread",
    segment_rows_max=50,
    log_file_bytes_max=2048,
    removal_seconds=0,
    reserve_bytes=0,
    # Whoever waits for sealing gets room, however slow the disk is.
    wait_seconds_max=600,
)


def event(entity_id: str, number: int = 0, *, full: bool = False) -> NewEvent:
    """A plain event, or one that has all that is optional."""
    if not full:
        return NewEvent("order.placed", entity_id, Raw(b'{"n":%d}' % number))
    return NewEvent(
        "order.changed",
        entity_id,
        Raw(b'{"name":"\xc3\xa4"}'),
        metadata=Raw(b'{"by":"me"}'),
        tags=["full", f"tag-{number % 3}"],
        event_id=UUID(int=number + 1),
    )


def make_rich_store(path: Path) -> Path:
    """A stopped store of several segments, key files and log files, in which everything was removed that can be: an
    event, an entity, a tenant, and what retention removes. Nothing is left to be done in it, but the log has records.
    """
    # No maintenance in the background: what a test damages must be there every time.
    start, Maintenance.start = Maintenance.start, lambda _self: None  # type: ignore[method-assign]
    try:
        with EventStore.open(path, options=OPTIONS) as store:
            _fill(store)
    finally:
        Maintenance.start = start  # type: ignore[method-assign]
    return path


def _fill(store: EventStore) -> None:
    for batch in range(12):
        store.append("shop", [event(f"order-{n % 7}", batch * 20 + n, full=n % 2 == 0) for n in range(20)])
        store.append("other", [event(f"order-{batch % 3}")])
        store.append("leaving", [event("order-1")])
        store.append("_system", [event("user-1")])
        store.seal()
    erased = list(store.read("shop", EventQuery(entity_id="order-2")))[3]
    store.removals.event("shop", erased.id)
    store.removals.entity("shop", "order-1")
    store.removals.tenant("leaving")
    for _ in range(3):
        store.seal()
    store.removals.set_policy("shop", "order-3", max_count=5)
    for _ in range(3):
        store.seal()
    store.append("shop", [event("order-1"), event("order-new")])
    store.seal()
    # Of these nothing is sealed.
    store.removals.entity("other", "order-1")
    for number in range(30):
        store.append("shop", [event(f"late-{number % 4}", 1000 + number, full=True), event("order-2")])
    store.append("newcomer", [event("order-1")])


def copied(path: Path, to: Path) -> Path:
    """A copy of a store, files with their modes."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(path, to)
    return to


def digest(path: Path) -> str:
    """Of every name, mode and byte below a directory."""
    sum_ = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        sum_.update(f"{file.relative_to(path)} {file.stat().st_mode:o} {file.stat().st_mtime_ns}\n".encode())
        if file.is_file():
            sum_.update(file.read_bytes())
    return sum_.hexdigest()


def manifest_of(path: Path) -> Manifest:
    return read_manifest(path / "MANIFEST")


def flip(path: Path, bit: int) -> int:
    """Flip a bit of a file, counted from its beginning; returns the byte that it is in."""
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return bit // 8


def log_files(path: Path) -> list[Path]:
    return sorted((path / "log").glob("*.log"))


def segment_files(path: Path) -> list[Path]:
    return [path / "segments" / f"{entry.file:012d}.parquet" for entry in manifest_of(path).segments]
