"""Key files: which keys the store knows, and their last versions and positions. docs/storage-format.md, Key file.

A file is mapped, not read. No byte of it counts before the checksum of its block was compared, the first time that a
look-up touches the block. That holds for the bytes that a search merely compares with, too: a flipped bit there
would make it turn the wrong way and miss a key that is present. Hence the fence, the first upper half of every block,
which the checksum in the manifest covers: it says in which block a key must be, and the search stays within that one.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from allsource_core.engine.errors import StoreClosedError
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.hashes import Words
from allsource_core.engine.key_columns import Bools, KeyColumns, Rows
from allsource_core.engine.key_file_format import (
    HEADER_WORDS,
    WORDS_PER_BLOCK,
    WORDS_PER_BLOCK_LOG2,
    KeyFileMapping,
    decode_columns,
)
from allsource_core.engine.manifest import KeyFileEntry

__all__ = ["Found", "KeyFile", "Lookup"]

_log = logging.getLogger(__name__)

_STEPS: Final = tuple(WORDS_PER_BLOCK >> n for n in range(1, WORDS_PER_BLOCK_LOG2 + 1))


class Lookup(NamedTuple):
    """What a file knows of the keys that were asked for, in their order. Where `found` is false the rest is 0."""

    found: Bools
    position: Words
    version: Words
    removed: Bools


class Found(NamedTuple):
    """What a file knows of one key."""

    version: int
    position: int
    removed: bool


class KeyFile:
    """A key file, opened by its first use. Safe to use from several threads.

    Anonymous memory: 13 bytes for each 64 KiB that the file has. One descriptor.

    Every method that reads raises CorruptionError if the file is missing or if what it needs is damaged,
    ForeignDirectoryError if the format is that of another release, StoreClosedError after `close`, and OSError.

    Args:
        entry: what the manifest says of the file.
        path: of the file.
    """

    def __init__(self, entry: KeyFileEntry, path: Path) -> None:
        self.entry = entry
        self.path = path
        self._opening = threading.Lock()
        self._mapping: KeyFileMapping | None = None
        self._closed = False
        self._removal: Callable[[], object] | None = None

    def __len__(self) -> int:
        return self.entry.entries

    def lookup(self, hi: Words, lo: Words) -> Lookup:
        """Look many keys up at once: 0.2 to 0.3 µs a key in batches of 1,000. 7 µs for each block on first touch.

        Args:
            hi, lo: the halves of the keys' hashes, in any order; quickest when sorted by `hi`.
        """
        count = len(hi)
        result = Lookup(
            np.zeros(count, np.bool_),
            np.zeros(count, np.uint64),
            np.zeros(count, np.uint64),
            np.zeros(count, np.bool_),
        )
        mapping = self._mapping or self._open()
        if mapping.entries == 0 or count == 0:
            return result
        at = _first_of(mapping, hi)
        asked = np.flatnonzero(mapping.words.take(at) == hi)
        rows = at[asked] - HEADER_WORDS
        mapping.check_rows(1, rows)
        differs = mapping.lower.take(rows) != lo[asked]
        if differs.any():
            # Keys that share an upper half: chance makes none below billions of entries.
            for n in np.flatnonzero(differs).tolist():
                rows[n] = _row_in_run(mapping, int(rows[n]), int(hi[asked[n]]), int(lo[asked[n]]))
            asked, rows = asked[rows >= 0], rows[rows >= 0]
        entries = self._decode(mapping, rows)
        result.found[asked] = True
        result.position[asked] = entries.position
        result.version[asked] = entries.version
        result.removed[asked] = entries.removed
        return result

    def find(self, hi: int, lo: int) -> Found | None:
        """Look one key up: 1 to 2 µs."""
        mapping = self._mapping or self._open()
        if mapping.entries == 0:
            return None
        word = _first_of_one(mapping, hi)
        if word == mapping.words_end or mapping.words_view[word] != hi:
            return None
        row = word - HEADER_WORDS
        mapping.check_row(1, row)
        if mapping.lower_view[row] != lo:
            row = _row_in_run(mapping, row, hi, lo)
            if row < 0:
                return None
        for column in mapping.value_columns:
            mapping.check_row(column, row)
        return Found(*mapping.values_of_row(row))

    def first_row_from(self, hi: int) -> int:
        """How many entries have an upper half below `hi`."""
        mapping = self._mapping or self._open()
        return _first_of_one(mapping, hi) - HEADER_WORDS if mapping.entries else 0

    def fence(self) -> Words:
        """The upper half of the first entry of each block, 8,192 entries apart: for splitting the range of keys."""
        return (self._mapping or self._open()).fence

    def columns(self, start: int, stop: int) -> KeyColumns:
        """The entries of these rows, checked."""
        mapping = self._mapping or self._open()
        for column in range(len(mapping.columns)):
            mapping.check_range(column, start, stop)
        return decode_columns(self.entry.kind, [column[start:stop] for column in mapping.columns])

    def verify(self) -> None:
        """Compare every checksum that was not compared before."""
        mapping = self._mapping or self._open()
        mapping.check_blocks(np.arange(len(mapping.table)))

    def mark_obsolete(self, filesystem: Filesystem) -> None:
        """Remove the file once nobody has this object any more, or once it is closed. Call it when a manifest without
        the file is on disk. A failure to remove is logged; the next start tries again.
        """
        if self._removal is None:
            self._removal = weakref.finalize(self, _remove, filesystem, self.path)

    def close(self) -> None:
        """Let go of the file; look-ups under way end as they would have. It is removed if it is obsolete."""
        with self._opening:
            self._closed = True
            self._mapping = None
        if self._removal is not None:
            self._removal()

    def _open(self) -> KeyFileMapping:
        with self._opening:
            if self._closed:
                raise StoreClosedError(f"{self.path} was closed")
            if self._mapping is None:
                self._mapping = KeyFileMapping(self.entry, self.path)
            return self._mapping

    def _decode(self, mapping: KeyFileMapping, rows: Rows) -> KeyColumns:
        for column in mapping.value_columns:
            mapping.check_rows(column, rows)
        return decode_columns(self.entry.kind, [column.take(rows) for column in mapping.columns])


def _first_of(mapping: KeyFileMapping, hi: Words) -> Rows:
    """For each key the first word of the file's upper halves that is not below it, or the last word of all. The words
    that these are, and those that were compared, are in checked blocks.

    `searchsorted` would do the same, but probes all over the column, and takes longer over 10M entries.
    """
    block = mapping.fence.searchsorted(hi)
    np.maximum(block - 1, 0, out=block)
    mapping.check_blocks(block)
    # The header stands where the first words of block 0 would be. In any other block the first word is below the key.
    below = np.maximum(block << WORDS_PER_BLOCK_LOG2, HEADER_WORDS - 1)
    last = np.minimum((block + 1) << WORDS_PER_BLOCK_LOG2, mapping.words_end) - 1
    for step in _STEPS:
        probe = below + step
        np.minimum(probe, last, out=probe)
        below += step * (mapping.words.take(probe) < hi)
    first: Rows = np.minimum(below, last) + 1
    # The first word of the next block, for a key above all of its own block.
    np.minimum(first, mapping.words_end - 1, out=first)
    mapping.check_blocks(first >> WORDS_PER_BLOCK_LOG2)
    return first


def _first_of_one(mapping: KeyFileMapping, hi: int) -> int:
    """The first word that is not below the key, in a checked block, or `words_end`."""
    block = bisect_left(mapping.fence_view, hi) - 1
    if block <= 0:
        block, start = 0, HEADER_WORDS
    else:
        start = block << WORDS_PER_BLOCK_LOG2
    if not mapping.checked[block]:
        mapping.check_block(block)
    end = min((block + 1) << WORDS_PER_BLOCK_LOG2, mapping.words_end)
    word = bisect_left(mapping.words_view, hi, start, end)
    if word == end and end != mapping.words_end:
        mapping.check_block(block + 1)
    return word


def _row_in_run(mapping: KeyFileMapping, row: int, hi: int, lo: int) -> int:
    """The row of a key among those that share its upper half, the first of which is `row`; -1 if it is not there."""
    block = bisect_right(mapping.fence_view, hi) - 1
    mapping.check_block(block)
    start = max(block << WORDS_PER_BLOCK_LOG2, HEADER_WORDS)
    end = min((block + 1) << WORDS_PER_BLOCK_LOG2, mapping.words_end)
    stop = bisect_right(mapping.words_view, hi, start, end) - HEADER_WORDS
    mapping.check_range(1, row, stop)
    found = bisect_left(mapping.lower_view, lo, row, stop)
    return found if found < stop and mapping.lower_view[found] == lo else -1


def _remove(filesystem: Filesystem, path: Path) -> None:
    try:
        filesystem.remove(path)
    except OSError:
        # It may run while the interpreter ends, or in whatever thread dropped the last reference: nobody to raise to.
        with contextlib.suppress(Exception):
            _log.warning("an obsolete key file could not be removed", exc_info=True)
