"""What tenants use: the events that are kept and their bytes, and how many were appended behind a position."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.memtable import Memtable
from allsource_core.engine.segment_columns import integers, one_chunk
from allsource_core.engine.segment_format import SHORTENED
from allsource_core.engine.tenants import TenantKey
from allsource_core.engine.view import View

__all__ = ["DAY_US", "Appends", "TenantUsage", "appends_since", "usage_of"]

DAY_US: Final = 24 * 3600 * 1_000_000


class TenantUsage(msgspec.Struct, frozen=True):
    """What a tenant has in a store.

    Attributes:
        events: that are kept.
        bytes: of their entity ids, event types, payloads, metadata and tags, as UTF-8 and as they were accepted.
    """

    events: int
    bytes: int


class Appends(msgspec.Struct, frozen=True):
    """Events that a tenant appended on one day.

    Attributes:
        day: of their `recorded_at`: days since the epoch, UTC.
        last_position: the highest of them.
    """

    tenant_id: str
    day: int
    events: int
    last_position: int


def usage_of(view: View, tenant: TenantKey, up_to: int) -> TenantUsage:
    """What a tenant has at a position: `EventStore.tenant_usage`.

    Appends that are not durable don't count. Events that were removed, and the bodies of those that were erased, count
    until their bytes go: when they are sealed or their segment is rewritten. What retention and removals leave of an
    entity doesn't count, nor does anything of a tenant that was removed.

    Two look-ups a segment, and 0.1 to 0.3 µs for each event in memory that nobody has counted yet. The first call reads
    the indexes of segments that nobody has read.

    Args:
        view: that has everything up to `up_to`. Segments count as a whole, newer ones too.
        tenant: whose usage.
        up_to: the last durable position.
    """
    number, events, size = tenant.number, 0, 0
    for segment in view.segments:
        index = segment.index
        events += index.tenant_events.get(number, 0)
        size += index.tenant_bytes.get(number, 0)
    for table in view.tables:
        counted = _usage_in_memory(table, number, up_to)
        events += counted[0]
        size += counted[1]
    return TenantUsage(events, size)


def _usage_in_memory(table: Memtable, tenant: int, up_to: int) -> tuple[int, int]:
    """How many events of a tenant are at positions up to one, all of which are durable, and their bytes."""
    index = table.find_tenant(tenant)
    if index is None or up_to < table.first_position:
        return 0, 0
    places = index.places
    count = bisect_right(places, up_to - table.first_position)
    known, size = index.counted
    if count < known:
        # Another thread has counted further meanwhile.
        known, size = 0, 0
    at = known
    while at < count:
        slot = table.at_place(places[at])
        if isinstance(slot, StoredEvents):
            # Its events stand together, whatever readers have made of some of them.
            start = places[at] + table.first_position - slot.first_position
            end = min(len(slot), start + count - at)
            size += slot.content_bytes(start, end)
            at += end - start
        else:
            size += slot.content_bytes
            at += 1
    index.counted = count, size
    return count, size


def appends_since(
    view: View, names: Mapping[int, str], position: int, up_to: int, recorded_since: int
) -> Iterator[Appends]:
    """What tenants appended, by tenant and day, the newest first: `EventStore.appended_since`. Not reserved tenants.

    Every event at these positions counts once, in one item or another of its tenant and day. Events that were removed
    count while they are in memory: those that were appended since the last sealing surely. Where they are in a segment
    they count until it is rewritten. Those of a tenant that was removed don't count, also where its id has come again.

    From memory it costs some look-ups for each tenant that has events there; from segments 10 ms for each that has
    anything behind the position and is not older than `recorded_since`. Nothing is read before the first item is asked
    for.

    Args:
        view: that has everything up to `up_to`.
        names: number to id of tenants.
        position, up_to: exclusive and inclusive.
        recorded_since: microseconds since the epoch, inclusive.
    """
    names = {number: tenant_id for number, tenant_id in names.items() if not tenant_id.startswith("_")}
    for table in reversed(view.tables):
        if table.next_position - 1 > position:
            yield from _appends_in_memory(table, names, position, up_to, recorded_since)
    for segment in reversed(view.segments):
        entry = segment.entry
        if entry.last_position <= position:
            return
        if entry.first_position > up_to:
            continue
        rows = segment.columns("tenant", "position", "kind", "recorded_at")
        times = integers(one_chunk(rows["recorded_at"]))
        yield from _appends_in_segment(rows, times, names, position, up_to, recorded_since)
        if times.min() < recorded_since:
            # Times never go back: older segments have older events.
            return


def _appends_in_memory(
    table: Memtable, names: Mapping[int, str], position: int, up_to: int, recorded_since: int
) -> Iterator[Appends]:
    def recorded_at(place: int) -> int:
        return table.at_place(place).recorded_at

    first = table.first_position
    for number, index in list(table.tenants.items()):
        if number not in names or up_to < first:
            continue
        places = index.places
        start, end = bisect_right(places, position - first), bisect_right(places, up_to - first)
        start = max(start, bisect_right(places, recorded_since - 1, hi=end, key=recorded_at))
        while start < end:
            day = recorded_at(places[start]) // DAY_US
            behind = bisect_right(places, (day + 1) * DAY_US - 1, start, end, key=recorded_at)
            yield Appends(names[number], day, behind - start, first + places[behind - 1])
            start = behind


def _appends_in_segment(
    rows: pa.Table,
    times: npt.NDArray[np.int64],
    names: Mapping[int, str],
    position: int,
    up_to: int,
    recorded_since: int,
) -> Iterator[Appends]:
    positions = integers(one_chunk(rows["position"]))
    wanted = (positions > position) & (positions <= up_to) & (times >= recorded_since)
    wanted &= integers(one_chunk(rows["kind"])) < SHORTENED
    columns = {"tenant": integers(one_chunk(rows["tenant"])), "day": times // DAY_US, "position": positions}
    table = pa.table({name: pa.array(values[wanted]) for name, values in columns.items()})
    days = table.group_by(["tenant", "day"], use_threads=False).aggregate([("position", "count"), ("position", "max")])
    for row in days.to_pylist():
        if row["tenant"] in names:
            yield Appends(names[row["tenant"]], row["day"], row["position_count"], row["position_max"])
