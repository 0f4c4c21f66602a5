"""Decoded segments that are kept, within a bound of bytes, and decoded ahead."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from allsource_core.engine.decoded_segment import DecodedSegment
from allsource_core.engine.segment_reader import SegmentReader

__all__ = ["DecodedCache"]


class DecodedCache:
    """The segments that were asked for last. Each is decoded once at a time: others who want it wait.

    Args:
        bytes_max: how much to keep. A segment that is larger alone is decoded for whoever asks, and not kept. What
            callers hold themselves is beyond the bound.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._lock = threading.Lock()
        # By number of the file, which is never used twice.
        self._segments: OrderedDict[int, DecodedSegment] = OrderedDict()
        self._pending: dict[int, Future[DecodedSegment]] = {}
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    @property
    def nbytes(self) -> int:
        """Of the segments that are kept, in bytes."""
        return self._bytes

    def get(self, reader: SegmentReader) -> DecodedSegment:
        """The segment of a reader. Raises what `SegmentReader.decode` does."""
        file = reader.entry.file
        with self._lock:
            segment = self._segments.get(file)
            if segment is not None:
                self._segments.move_to_end(file)
                return segment
            future = self._pending.get(file)
            is_ours = future is None
            if future is None:
                future = self._pending[file] = Future()
        if is_ours:
            self._decode(reader, future)
        return future.result()

    def prefetch(self, reader: SegmentReader) -> None:
        """Decode a segment in a thread beside, unless it is there or on its way, or another one is."""
        file = reader.entry.file
        with self._lock:
            if self._closed or self._pending or file in self._segments or reader.entry.bytes > self._bytes_max:
                return
            future = self._pending[file] = Future()
            if self._executor is None:
                self._executor = ThreadPoolExecutor(1, "allsource-decode")
            self._executor.submit(self._decode, reader, future)

    def drop(self, file: int) -> None:
        """Forget the segment of this file number."""
        with self._lock:
            self._forget(file)

    def close(self) -> None:
        """Forget everything, once the decoding under way has ended."""
        with self._lock:
            self._closed = True
            executor = self._executor
        if executor is not None:
            executor.shutdown()
        with self._lock:
            self._segments.clear()
            self._bytes = 0

    def _decode(self, reader: SegmentReader, future: Future[DecodedSegment]) -> None:
        file = reader.entry.file
        try:
            segment = reader.decode()
        except BaseException as error:  # whoever waits must learn of it, whatever it is
            with self._lock:
                del self._pending[file]
            future.set_exception(error)
            return
        with self._lock:
            del self._pending[file]
            if not self._closed and segment.nbytes <= self._bytes_max:
                self._segments[file] = segment
                self._bytes += segment.nbytes
                while self._bytes > self._bytes_max:
                    self._forget(next(iter(self._segments)))
        future.set_result(segment)

    def _forget(self, file: int) -> None:
        segment = self._segments.pop(file, None)
        if segment is not None:
            self._bytes -= segment.nbytes
