"""What is decoded of segments and kept, within a bound of bytes; and decoding ahead."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from allsource_core.engine.decoded_segment import DecodedSegment
from allsource_core.engine.errors import EngineError, without_frames
from allsource_core.engine.queries import EventQuery
from allsource_core.engine.row_group import RowGroup, Selection
from allsource_core.engine.segment_reader import SegmentReader

__all__ = ["DecodedCache"]

_log = logging.getLogger(__name__)

_WHOLE: Final = -1
"""In the place of a row group's number."""


_SELECTION_EVENTS_MIN: Final = 32
"""Selections of fewer events are made anew, in 15 µs: readers of chance entities would push out what others need."""

_Decoded = DecodedSegment | RowGroup | Selection
_Key = tuple[int, int] | tuple[int, int, int, EventQuery]


class DecodedCache:
    """What was asked for last: whole segments, which reads in the order of positions go through; row groups, which
    entities are read from; and the events that were made of these. A segment is decoded once at a time: others who want
    it wait.

    Segments are immutable, so nothing that is kept is ever out of date.

    Args:
        bytes_max: how much to keep of all together. What is larger alone is decoded for whoever asks, and not kept.
            What callers hold themselves is beyond the bound.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._lock = threading.Lock()
        # By number of the file, which is never used twice, and of the row group. The one asked for last comes last.
        self._kept: OrderedDict[_Key, _Decoded] = OrderedDict()
        self._pending: dict[int, Future[DecodedSegment]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Of what is kept, in bytes."""
        return self._bytes

    def get(self, reader: SegmentReader) -> DecodedSegment:
        """The segment of a reader. Raises what `SegmentReader.decode` does."""
        file = reader.entry.file
        with self._lock:
            segment = self._find((file, _WHOLE))
            if isinstance(segment, DecodedSegment):
                return segment
            future = self._pending.get(file)
            is_ours = future is None
            if future is None:
                future = self._pending[file] = Future()
        try:
            if is_ours:
                self._decode(reader, future)
            return future.result()
        finally:
            # An error that it ended with keeps this frame, and would keep itself alive by it, and the callers' views.
            del future

    def row_group(self, reader: SegmentReader, number: int) -> RowGroup:
        """A row group of a reader's segment. Raises what `SegmentReader.row_group` does.

        Two threads may decode one at the same time: that costs no more than waiting.
        """
        key = reader.entry.file, number
        with self._lock:
            group = self._find(key)
        if not isinstance(group, RowGroup):
            group = reader.row_group(number)
            with self._lock:
                if not reader.is_obsolete:
                    self._keep(key, group)
        return group

    def has_row_group(self, reader: SegmentReader, number: int) -> bool:
        """Whether it is kept: then to get it reads nothing, unless others push it out just then."""
        return (reader.entry.file, number) in self._kept

    def selection(self, reader: SegmentReader, number: int, tenant: int, query: EventQuery) -> Selection | None:
        """What a row group has of a tenant's query for an entity, if it is kept; reads nothing."""
        with self._lock:
            selection = self._find((reader.entry.file, number, tenant, query))
        return selection if isinstance(selection, Selection) else None

    def keep_selection(
        self, reader: SegmentReader, number: int, tenant: int, query: EventQuery, selection: Selection
    ) -> None:
        """Keep what `RowGroup.select` made, if it is worth it: a few events are made as fast as they are kept."""
        if len(selection.first) >= _SELECTION_EVENTS_MIN:
            with self._lock:
                self._keep((reader.entry.file, number, tenant, query), selection)

    def prefetch(self, reader: SegmentReader) -> None:
        """Decode a segment in a thread beside, unless it is there or on its way, or another one is."""
        file = reader.entry.file
        with self._lock:
            is_kept = reader.entry.content_bytes <= self._bytes_max and not reader.is_obsolete
            if self._closed or self._pending or (file, _WHOLE) in self._kept or not is_kept:
                return
            future = self._pending[file] = Future()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "allsource-decode")
            self._executor.submit(self._decode, reader, future)

    def drop(self, file: int) -> None:
        """Forget everything of the segment of this file number."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == file]:
                self._forget(key)

    def close(self) -> None:
        """Forget everything, once the decoding under way has ended."""
        with self._lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown()
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def _decode(self, reader: SegmentReader, future: Future[DecodedSegment]) -> None:
        file = reader.entry.file
        try:
            segment = reader.decode()
        except BaseException as error:  # whoever waits must learn of it, whatever it is
            with self._lock:
                del self._pending[file]
            if not isinstance(error, EngineError | OSError | MemoryError):
                _log.error("segment %d could not be decoded", file, exc_info=error)
            # Without its frames, which lead to the future again, and to whoever called.
            future.set_exception(without_frames(error))
            return
        with self._lock:
            del self._pending[file]
            if not reader.is_obsolete:
                self._keep((file, _WHOLE), segment)
        future.set_result(segment)

    # --- under the lock ---

    def _find(self, key: _Key) -> _Decoded | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def _keep(self, key: _Key, decoded: _Decoded) -> None:
        if self._closed or decoded.nbytes > self._bytes_max:
            return
        self._forget(key)
        self._kept[key] = decoded
        self._bytes += decoded.nbytes
        while self._bytes > self._bytes_max:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: _Key) -> None:
        decoded = self._kept.pop(key, None)
        if decoded is not None:
            self._bytes -= decoded.nbytes
