"""Verification of what is derived: the index of a segment, and key files by themselves and against the segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import google_crc32c
import numpy as np

from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.hashes import Hasher, Words
from allsource_core.engine.key_columns import Bools, KeyColumns, Rows, concatenate, newest_of_each_key
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.key_file_format import KeyFileMapping
from allsource_core.engine.manifest import KeyFileEntry, SegmentEntry
from allsource_core.engine.segment_index import (
    FIRST_INDEX_FORMAT,
    INDEX_FORMAT,
    SegmentIndex,
    build_index,
    index_format_of,
)
from allsource_core.engine.verification_findings import Area, Finding, Reporter, first_ones
from allsource_core.engine.verification_ledger import Part, Table, bound_of
from allsource_core.engine.verification_versions import Heads, Holes, heads_of, key_numbers

__all__ = ["KeyFiles", "verify_index", "verify_key_file"]

REBUILD: Final = "repair --rebuild-derived makes it anew"
_ROWS_AT_A_TIME: Final = 1 << 20


def verify_index(paths: StorePaths, entry: SegmentEntry, hasher: Hasher, *, is_sound: bool) -> Iterator[Finding]:
    """Compare an index with the manifest and, if its segment is sound, with one that is made anew."""
    reporter, path = Reporter(paths), paths.segment_index(entry.file)

    def finding(text: str, offset: int = 0) -> Finding:
        return reporter.warning(Area.INDEX, path, text, REBUILD, offset=offset, number=entry.file)

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        yield finding("the file is missing; a start makes it anew")
        return
    # One of the format before is right until a start makes it anew.
    index_format = FIRST_INDEX_FORMAT if index_format_of(data) == FIRST_INDEX_FORMAT else INDEX_FORMAT
    made = build_index(paths.segment(entry.file), hasher, index_format=index_format) if is_sound else None
    place = 0 if made is None else _first_difference(data, made)
    if len(data) != entry.index_bytes:
        yield finding(f"it has {len(data)} bytes, not {entry.index_bytes}", place)
    elif google_crc32c.value(data) != entry.index_checksum:
        yield finding("its checksum does not match", place)
    else:
        try:
            SegmentIndex(data, path)
        except CorruptionError as error:
            yield finding(error.reason, error.offset)
            return
        if made is not None and data != made:
            yield finding("it is not the index that its segment makes", place)


def _first_difference(one: bytes, other: bytes) -> int:
    length = min(len(one), len(other))
    differs = np.frombuffer(one, np.uint8, length) != np.frombuffer(other, np.uint8, length)
    return int(differs.argmax()) if differs.any() else length


def verify_key_file(paths: StorePaths, entry: KeyFileEntry) -> Iterator[Finding]:
    """Every block of a key file, and that its keys are sorted and unique."""
    reporter, path = Reporter(paths), paths.key_file(entry.file, entry.kind)

    def finding(text: str, offset: int = 0) -> Finding:
        return reporter.warning(Area.KEYS, path, text, REBUILD, offset=offset, number=entry.file)

    try:
        mapping = KeyFileMapping(entry, path)
    except (CorruptionError, ForeignDirectoryError) as error:
        yield finding(error.reason if isinstance(error, CorruptionError) else str(error))
        return
    damaged = False
    for block in range(mapping.blocks):
        try:
            mapping.check_block(block)
        except CorruptionError as error:
            damaged = True
            yield finding(error.reason, error.offset)
    if damaged:
        return
    file = KeyFile(entry, path)
    if len(file) and (file.fence() != mapping.columns[0][:, 0]).any():
        yield finding("its fence does not agree with its keys")
    for start in range(0, len(file), _ROWS_AT_A_TIME):
        # One row of the next part: neighbours across the border are compared too.
        columns = file.columns(start, min(len(file), start + _ROWS_AT_A_TIME + 1))
        hi, lo = columns.hi, columns.lo
        ascends = (hi[:-1] < hi[1:]) | ((hi[:-1] == hi[1:]) & (lo[:-1] < lo[1:]))
        if not ascends.all():
            yield finding(f"its keys are out of order behind entry {start + int(ascends.argmin())}")
            break
    file.close()


def _highest(keys: Rows, of_values: Rows, values: Words) -> Words:
    """The highest of the values that each key has; 0 for none. Keys are numbers of `key_numbers`."""
    highest = np.zeros(int(max(keys.max(initial=0), of_values.max(initial=0))) + 1, np.uint64)
    np.maximum.at(highest, of_values, values)
    return highest[keys]


class KeyFiles:
    """The key files of a store against what its segments say. Every file must be sound by itself.

    Args:
        paths: of the store.
        entries: of the manifest.
        holes: positions of which nothing is known.
        is_complete: no tenant was ever removed and nothing is unknown, so every entity that key files know is in a
            segment.
        removals_pending: some removal may be applied to some segments and not to others.
    """

    def __init__(
        self,
        paths: StorePaths,
        entries: Sequence[KeyFileEntry],
        holes: Holes,
        *,
        is_complete: bool,
        removals_pending: bool,
    ) -> None:
        self._removals_pending = removals_pending
        self._paths = paths
        self._reporter = Reporter(paths)
        self._holes = holes
        self._is_complete = is_complete
        self._files = {
            kind: [KeyFile(entry, paths.key_file(entry.file, entry.kind)) for entry in entries if entry.kind == kind]
            for kind in ("entities", "ids")
        }

    def findings(self, part: Part, number: int, parts: int) -> Iterator[Finding]:
        """What does not agree among the keys of a part."""
        yield from self._compare("entities", heads_of(part), part.floors, number, parts)
        ids = part.ids
        newest = ids[np.lexsort((ids[:, 2], ids[:, 1], ids[:, 0]))]
        is_last = np.ones(len(newest), np.bool_)
        is_last[:-1] = (newest[1:, :2] != newest[:-1, :2]).any(axis=1)
        hi, lo, position, source, row = newest[is_last].T
        nothing = np.zeros(len(hi), np.uint64)
        heads = Heads(hi, lo, nothing, position, nothing.astype(np.bool_), source, row)
        yield from self._compare("ids", heads, part.floors[:0], number, parts)

    def _compare(self, kind: str, heads: Heads, floors: Table, number: int, parts: int) -> Iterator[Finding]:
        entries = self._entries(kind, number, parts)
        of_heads, of_entries, of_floors = key_numbers(
            (heads.hi, heads.lo), (entries.hi, entries.lo), (floors[:, 0], floors[:, 1])
        )
        at = of_entries.searchsorted(of_heads)
        known = np.zeros(len(of_heads), np.bool_)
        if len(entries):
            known = of_entries.take(at, mode="clip") == of_heads
        what = "entities" if kind == "entities" else "client event ids"
        missing = int((~known).sum())
        if missing:
            yield self._reporter.warning(
                Area.KEYS, self._paths.keys, f"no key file knows {missing} {what} that segments have", REBUILD
            )
        excused = self._excused(kind, entries, _highest(of_entries, of_floors, floors[:, 2]))
        rows = at[known]
        position, version = entries.position.take(rows), entries.version.take(rows)
        differs = (position != heads.position[known]) | (version != heads.version[known])
        differs |= entries.removed.take(rows) != heads.removed[known]
        knows_more = (version > heads.version[known]) | (position > heads.position[known])
        differs &= ~(knows_more & excused.take(rows))
        wrong = np.flatnonzero(known)[differs]
        yield from first_ones(
            wrong.tolist(), lambda row: self._difference(kind, heads, row), lambda count: self._more(count, what)
        )
        # Of a removed event the id stays known; of a removed entity there is a row, once its removal is sealed.
        if self._is_complete and kind == "entities":
            has_head = np.zeros(len(entries), np.bool_)
            has_head[rows] = True
            surplus = int((~has_head & ~excused).sum())
            if surplus:
                text = f"key files know {surplus} {what} that no segment has: a segment may have been lost"
                yield self._reporter.error(Area.KEYS, self._paths.keys, text, "restore the store from a backup")

    def _excused(self, kind: str, entries: KeyColumns, floor: Words) -> Bools:
        """Which entries may know more than segments: of what was given up, or can't be read, or was removed and left
        some segments already, while the row that tells of it is not in one yet.
        """
        in_hole = self._holes.between(entries.position - np.uint64(1), entries.position + np.uint64(1))
        if kind == "ids":
            return in_hole | self._removals_pending
        return in_hole | (entries.version <= floor)

    def _entries(self, kind: str, number: int, parts: int) -> KeyColumns:
        low, high = int(bound_of(number, parts)), int(bound_of(number + 1, parts))
        pieces = []
        for file in self._files[kind]:
            stop = file.first_row_from(high) if high else len(file)
            pieces.append(file.columns(file.first_row_from(low) if low else 0, stop))
        if not pieces:
            nothing: Words = np.zeros(0, np.uint64)
            return KeyColumns.of(nothing, nothing, nothing)
        return newest_of_each_key(concatenate(pieces))

    def _difference(self, kind: str, heads: Heads, row: int) -> Finding:
        """Names the file that has the entry which is wrong."""
        hi, lo = int(heads.hi[row]), int(heads.lo[row])
        found = max((one, file.entry.file) for file in self._files[kind] if (one := file.find(hi, lo)) is not None)
        (version, position, removed), number = found
        says = _head(kind, version, position, removed=removed)
        right = _head(kind, int(heads.version[row]), int(heads.position[row]), removed=bool(heads.removed[row]))
        path = self._paths.key_file(number, kind)
        text = f"of a key it says {says}, segments say {right}"
        return self._reporter.warning(Area.KEYS, path, text, REBUILD, number=number)

    def _more(self, count: int, what: str) -> Finding:
        return self._reporter.warning(Area.KEYS, self._paths.keys, f"{count} more {what} are not right", REBUILD)

    def close(self) -> None:
        for files in self._files.values():
            for file in files:
                file.close()


def _head(kind: str, version: int, position: int, *, removed: bool) -> str:
    if kind == "ids":
        return f"position {position}"
    return f"version {version} at position {position}{', removed' if removed else ''}"
