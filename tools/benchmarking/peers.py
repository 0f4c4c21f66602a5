"""The table of what people would pick instead: the peers' figures as they were measured once, and ours beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tools.benchmarking.results import Result

__all__ = ["peers_table"]

COLUMNS: Final = {
    "a": "a",
    "b": "b",
    "c": "c",
    "d": "d p50 µs",
    "e": "e p50 µs",
    "catch-up": "catch-up",
    "bytes": "bytes",
    "MB": "MB",
    "restart s": "restart s",
}
"""Of a result to that of the page."""

_LEGEND: Final = """\
Writes: *a* one writer, one event a call; *b* 16 writers, one event a call; *c* batches of 1,000 (events/s). Reads: *d*
100 events of one entity out of 10,000; *e* 10 events of one entity out of 1,000,000 in 100,000 entities; catch-up of
all of them (events/s). Bytes an event on disk, logs included; memory; restart to a first read.

The peers' rows were measured for the design on 2026-11-23, on two cores of an AMD EPYC with ext4 and a bare fdatasync
of 104–189 µs: the same event, one harness, each peer's client in Python, the better of two rounds; two whole runs
differed by up to 1.8 times. They are not measured again by `make bench`; set them against ours with that in mind, and
with the bare fdatasync of our run, which is above. Ours: medians; `RssAnon` of all our processes; over HTTP one
connection for *a*, *d* and *e*, four processes of four connections for *b* and *c*; a restart over HTTP includes
starting Python.
"""

_PEERS: Final = (
    # Name, whether it syncs before it acknowledges, then the columns.
    "SQLite, WAL, FULL, in process|yes|4,612|4,934|235,822|80|31|1,406,024|98|24|0.001",
    "eventsourcing 9.5, memory, in process|no|297,121|265,711|479,612|13|10|389,007||346|",
    "eventsourcing 9.5, SQLite, in process|yes|4,123|3,522|145,557|212|67|423,177|98|30|0.001",
    "eventsourcing 9.5, Postgres|yes|1,023|1,270|47,182|495|271|235,491|564|165|0.075",
    "message-db on Postgres 15|yes|2,352|2,688|71,240|484|333|410,352|844|162|0.044",
    "Postgres 15, plain table, COPY|yes|3,111|8,766|135,278|421|181|352,465|548|161|0.047",
    "Redis 7 Streams, appendfsync always|yes|2,663|13,870|127,534|252|160|303,661|64|522|0.75",
    "Redis 7 Streams, everysec|no|6,511|18,528|149,712|227|129|320,549|67|523|0.73",
    "NATS JetStream 2.9, file store|no|3,821|13,081|40,978|2,884|9,811|191,147|152|350|0.76",
    "UmaDB 0.7.8|yes|1,880|9,978|200,019|1,571|476|1,318,970|268|31|0.056",
)


def peers_table(results: Sequence[Result]) -> str:
    """The table with its legend, ours first."""
    ours: dict[str, dict[str, float]] = {}
    for result in results:
        if result.peer is not None:
            row, column = result.peer
            ours.setdefault(row, {})[column] = result.median
    rows = [(row, "yes", *(_figure(found.get(column)) for column in COLUMNS)) for row, found in ours.items()]
    heads = ("", "fsync before ack", *COLUMNS.values())
    rule = ("---", "---", *("---:" for _ in COLUMNS))
    peers = [tuple(peer.split("|")) for peer in _PEERS]
    return _LEGEND + "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows, *peers)) + "\n"


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 20 else f"{value:,.3g}"
