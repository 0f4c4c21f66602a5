"""Decoded segments that reads go through, held within a bound of bytes. docs/decisions/0020."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Final
from weakref import WeakValueDictionary

from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.engine.decoded_segment import DecodedSegment, Indices, Scan
from allsource_core.engine.events import Event
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.segment_reader import SegmentReader

__all__ = ["SegmentInUse", "SegmentsInUse"]


_STALLED_SECONDS: Final = 1.0
"""Whoever has taken no step of a read for so long is the first whose segment goes."""

_STEP_SECONDS: Final = 0.05
"""Whoever has taken one within so long may be in the middle of it, and would have the segment decoded at once again."""


class SegmentsInUse:
    """The segments of all reads under way.

    A reader may stall between two steps of a read for as long as it likes. What it goes through stays decoded only
    while there is room; those who have stalled give it up first.

    Args:
        cache: that decodes.
        bytes_max: of all that are held decoded together; the one that was read from last is held however large it is.
            What a thread reads from just then is beyond the bound.
    """

    def __init__(self, cache: DecodedCache, bytes_max: int) -> None:
        self._cache = cache
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        # By number of the file. They go with the last read that has them: nothing has to be closed.
        self._segments: WeakValueDictionary[int, SegmentInUse] = WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        """Of what is held decoded, in bytes."""
        return sum([decoded.nbytes for _, decoded in self._held()])

    def open(self, reader: SegmentReader) -> SegmentInUse:
        """The segment of a reader, decoded; all reads of it share it. Raises what `SegmentReader.decode` does."""
        file = reader.entry.file
        with self._lock:
            segment = self._segments.get(file)
            if segment is None:
                segment = self._segments[file] = SegmentInUse(self, reader)
        segment.decoded()
        return segment

    def decode(self, segment: SegmentInUse, reader: SegmentReader) -> DecodedSegment:
        """Decode a segment, hold it, and let go of those that there is no room for beside it."""
        decoded = self._cache.get(reader)
        segment._held = decoded
        segment._last_step = time.monotonic()
        self.trim(segment)
        return decoded

    def trim(self, keep: SegmentInUse | None = None) -> None:
        """Let go of what is beyond the bound, but for what may be read from just now: to be called again soon."""
        held = self._held()
        excess = sum([decoded.nbytes for _, decoded in held]) - self._bytes_max
        if excess <= 0:
            return
        now = time.monotonic()
        if keep is None:
            # However large it is, one stays.
            keep = max(held, key=lambda pair: pair[0]._last_step)[0]
        idle = [pair for pair in held if pair[0] is not keep and pair[0]._last_step < now - _STEP_SECONDS]
        idle.sort(key=lambda pair: pair[0]._last_step)
        while excess > 0 and idle:
            # Were it always the one that was read from longest ago, many readers in turn would find none held.
            segment, decoded = idle.pop(0 if idle[0][0]._last_step < now - _STALLED_SECONDS else -1)
            segment._held = None
            excess -= decoded.nbytes

    def _held(self) -> list[tuple[SegmentInUse, DecodedSegment]]:
        # Without the lock: what is given up here may be the last of a segment, whose files go then.
        found = [(each, each._held) for reference in self._segments.valuerefs() if (each := reference()) is not None]
        return [(segment, decoded) for segment, decoded in found if decoded is not None]


class SegmentInUse:
    """A segment that reads go through, in steps. Made by `SegmentsInUse.open`; may be used by several threads."""

    __slots__ = ("__weakref__", "_held", "_in_use", "_last_step", "_reader")

    def __init__(self, in_use: SegmentsInUse, reader: SegmentReader) -> None:
        self._in_use = in_use
        self._reader = reader
        self._held: DecodedSegment | None = None
        self._last_step = 0.0

    def decoded(self) -> DecodedSegment:
        """It, for one step: whoever kept it while its reader stalls would hold it beyond the bound.

        0.2 µs while it is held; else it is decoded again, 40 ms for 262,144 events, unless the cache has it. Raises
        what `SegmentReader.decode` does.
        """
        self._last_step = time.monotonic()
        # Others may let go of it just now.
        held = self._held
        return self._in_use.decode(self, self._reader) if held is None else held

    def select(self, tenant: int, query: EventQuery) -> Iterator[Indices]:
        """Indices of a tenant's events that a query selects, in its order, at most its limit of them: one at least,
        and never so many that their events are too large to hold.
        """
        scan = self.decoded().scan(tenant, query)
        while not scan.has_ended:
            yield from self._cut(self.decoded(), scan)

    @staticmethod
    def _cut(decoded: DecodedSegment, scan: Scan) -> list[Indices]:
        # In a function of its own: a generator's variables would hold the segment while its reader stalls.
        return decoded.cut(decoded.scan_on(scan))

    def events(self, indices: Indices) -> list[Event]:
        """As `DecodedSegment.events`."""
        return self.decoded().events(indices)
