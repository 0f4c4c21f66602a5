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
from typing import NamedTuple

import numpy as np

from allsource_core.engine.errors import StoreClosedError
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.hashes import Words
from allsource_core.engine.key_columns import Bools, KeyColumns
from allsource_core.engine.key_file_format import HEADER_WORDS, KeyFileMapping, Places, decode_columns
from allsource_core.engine.manifest import KeyFileEntry

__all__ = ["Found", "KeyFile", "Lookup"]

_log = logging.getLogger(__name__)


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

    Anonymous memory: 13 bytes for each 8 KB that the file has. One descriptor.

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
        """Look many keys up at once: 0.1 µs a key in batches of 1,000. 3 µs for each block on first touch.

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
        places = _places_of(mapping, hi)
        asked = np.flatnonzero(mapping.words.take(places.upper) == hi)
        places = Places(places.block.take(asked), places.upper.take(asked))
        entries = mapping.columns_at(places)
        result.found[asked] = True
        result.position[asked] = entries.position
        result.version[asked] = entries.version
        result.removed[asked] = entries.removed
        differs = entries.lo != lo[asked]
        if differs.any() or (places.upper >= mapping.words_end).any():
            # Keys that share an upper half, which chance makes none of below billions of entries; or the filled-up end.
            for row in asked.tolist():
                found = self.find(int(hi[row]), int(lo[row]))
                values = (False, 0, 0, False) if found is None else (True, found.position, found.version, found.removed)
                for column, value in zip(result, values, strict=True):
                    column[row] = value
        return result

    def find(self, hi: int, lo: int) -> Found | None:
        """Look one key up: 1 to 2 µs."""
        mapping = self._mapping or self._open()
        block = bisect_right(mapping.fence_view, hi) - 1
        if block < 0:
            return None
        first, word = _first_of_block(mapping, block, hi)
        view, room = mapping.words_view, mapping.block_entries
        if word == min(first + room, mapping.words_end) or view[word] != hi:
            return None
        if view[word + room] != lo:
            row = _row_among_equals(mapping, hi, lo)
            if row is None:
                return None
            first = mapping.first_word(row // room)
            word = first + row % room
        return Found(*mapping.values_at(first, word))

    def first_row_from(self, hi: int) -> int:
        """How many entries have an upper half below `hi`."""
        mapping = self._mapping or self._open()
        block = bisect_left(mapping.fence_view, hi) - 1
        if block < 0:
            return 0
        first, word = _first_of_block(mapping, block, hi)
        return block * mapping.block_entries + word - first

    def fence(self) -> Words:
        """The upper half of the first entry of each block, some 300 entries apart: for splitting the range of keys."""
        return (self._mapping or self._open()).fence

    def columns(self, start: int, stop: int) -> KeyColumns:
        """The entries of these rows, checked."""
        mapping = self._mapping or self._open()
        room = max(mapping.block_entries, 1)
        first, end = start // room, -(-stop // room)
        mapping.check_blocks(np.arange(first, end))
        rows = slice(start - first * room, stop - first * room)
        return decode_columns(self.entry.kind, [column[first:end].reshape(-1)[rows] for column in mapping.columns])

    def verify(self) -> None:
        """Compare every checksum that was not compared before."""
        mapping = self._mapping or self._open()
        mapping.check_blocks(np.arange(mapping.blocks))

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


def _places_of(mapping: KeyFileMapping, hi: Words) -> Places:
    """For each key the first entry of a checked block that is not below it, or the block's last one; where the key is
    in the file, an entry of its upper half.

    `searchsorted` over the whole column would read what was not checked. Within a block it takes nine steps.
    """
    block = mapping.fence.searchsorted(hi, "right") - 1
    np.maximum(block, 0, out=block)
    mapping.check_blocks(block)
    block *= mapping.block_words
    block += HEADER_WORDS
    # In place: what is made anew for each step takes as long as the steps do.
    upper, probe, found, step = block.copy(), np.empty_like(block), np.empty_like(hi), np.empty_like(block)
    below = np.empty(len(hi), np.bool_)
    left = mapping.block_entries - 1
    while left:
        half = left - left // 2
        np.add(upper, half - 1, out=probe)
        mapping.words.take(probe, out=found, mode="clip")
        np.less(found, hi, out=below)
        np.multiply(below, half, out=step)
        upper += step
        left //= 2
    return Places(block, upper)


def _first_of_block(mapping: KeyFileMapping, block: int, hi: int) -> tuple[int, int]:
    """The first word of a block, which is checked, and the first one of its upper halves that is not below the key."""
    if not mapping.checked[block]:
        mapping.check_block(block)
    first = mapping.first_word(block)
    return first, bisect_left(mapping.words_view, hi, first, min(first + mapping.block_entries, mapping.words_end))


def _row_among_equals(mapping: KeyFileMapping, hi: int, lo: int) -> int | None:
    """The row of a key that shares its upper half with others, if it is there."""
    view, room = mapping.words_view, mapping.block_entries

    def key(row: int) -> tuple[int, int]:
        block = row // room
        if not mapping.checked[block]:
            mapping.check_block(block)
        word = mapping.first_word(block) + row % room
        return view[word], view[word + room]

    rows = range(mapping.entries)
    row = bisect_left(rows, (hi, lo), key=key)
    return row if row < len(rows) and key(row) == (hi, lo) else None


def _remove(filesystem: Filesystem, path: Path) -> None:
    try:
        filesystem.remove(path)
    except OSError:
        # It may run while the interpreter ends, or in whatever thread dropped the last reference: nobody to raise to.
        with contextlib.suppress(Exception):
            _log.warning("an obsolete key file could not be removed", exc_info=True)
