"""The cache of decoded segments: its bound, one decoding for all who wait, decoding ahead, and damage."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.segment_reader import SegmentReader

from .segment_rows import Segment, usual_rows


class CountingReader:
    """Stands for a reader: counts how often it decodes, and waits until it may."""

    def __init__(self, reader: SegmentReader, *, may: bool = True) -> None:
        self.entry = reader.entry
        self.is_obsolete = False
        self._reader = reader
        self.may = threading.Event()
        self.count = 0
        if may:
            self.may.set()

    def decode(self) -> Any:
        self.count += 1
        assert self.may.wait(60)
        return self._reader.decode()


def counting(tmp_path: Path, count: int, *, may: bool = True) -> list[Any]:
    return [
        CountingReader(Segment(tmp_path, usual_rows(1000), number).reader(), may=may) for number in range(1, count + 1)
    ]


def test_the_cache_keeps_the_segments_used_last_within_its_bound(tmp_path: Path) -> None:
    readers = counting(tmp_path, 4)
    size = readers[0].decode().nbytes
    cache = DecodedCache(size * 2 + size // 2)
    for number in (0, 1, 0, 2, 0, 1):
        assert len(cache.get(readers[number])) == 1000
        assert cache.nbytes <= size * 2.5
    assert [reader.count for reader in readers] == [2, 2, 1, 0]
    cache.drop(1)
    cache.get(readers[0])
    assert readers[0].count == 3
    small = DecodedCache(10)
    assert len(small.get(readers[3])) == 1000
    assert small.nbytes == 0
    cache.close()
    assert cache.nbytes == 0


def test_those_who_want_one_segment_wait_for_one_decoding(tmp_path: Path) -> None:
    (reader,) = counting(tmp_path, 1, may=False)
    cache = DecodedCache(10**9)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(reader))) for _ in range(4)]
    for thread in threads:
        thread.start()
    reader.may.set()
    for thread in threads:
        thread.join()
    assert reader.count == 1
    assert len({id(segment) for segment in found}) == 1


def test_a_prefetched_segment_is_decoded_once(tmp_path: Path) -> None:
    first, second = counting(tmp_path, 2, may=False)
    cache = DecodedCache(10**9)
    cache.prefetch(first)
    cache.prefetch(first)
    cache.prefetch(second)  # one at a time
    first.may.set()
    second.may.set()
    assert len(cache.get(first)) == len(cache.get(second)) == 1000
    assert (first.count, second.count) == (1, 1)
    cache.close()
    cache.prefetch(first)
    assert first.count == 1


def test_damage_reaches_whoever_asks_the_cache_every_time(tmp_path: Path) -> None:
    segment = Segment(tmp_path, usual_rows(100))
    segment.path.unlink()
    cache = DecodedCache(10**9)
    cache.prefetch(segment.reader())
    for _ in range(2):
        with pytest.raises(CorruptionError):
            cache.get(segment.reader())
    cache.close()
