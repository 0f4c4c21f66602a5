"""Merging key files: which ones, so that there are few and none is rewritten often, and how."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.key_columns import KeyColumns, concatenate, newest_of_each_key
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.key_file_format import Column, Kind, as_bytes, column_types, encode_columns, write_encoded
from allsource_core.engine.manifest import KeyFileEntry

__all__ = ["files_to_merge", "merge_key_files"]

# With files of 250k entries an entry is rewritten 1.8 times up to 10M of them, 3.6 times up to 100M, 8 times up to
# 1,000M. A look-up of 1,000 keys takes 0.2 ms for each file, hence the limit.
FILES_OF_ONE_SIZE_MAX: Final = 3
SIZE_RATIO: Final = 4
FILES_MAX: Final = 8

# 150 bytes an entry while they are sorted: 150 MB.
SLICE_ENTRIES: Final = 1024 * 1024


def files_to_merge(files: Sequence[KeyFileEntry]) -> list[KeyFileEntry]:
    """Which files are to become one now; none if they are few enough. To be asked again after the merge.

    Four files of about one size are merged, with all smaller ones. Where no four are, but all are more than eight,
    those are merged that take the least rewriting for each file that goes.

    Args:
        files: those of one kind, in any order.
    """
    by_size = sorted(files, key=lambda file: (file.entries, file.file))
    for end in range(FILES_OF_ONE_SIZE_MAX, len(by_size)):
        if by_size[end].entries < SIZE_RATIO * max(by_size[end - FILES_OF_ONE_SIZE_MAX].entries, 1):
            return by_size[: end + 1]
    if len(by_size) <= FILES_MAX:
        return []
    total, best, count = by_size[0].entries, float("inf"), 0
    for end in range(1, len(by_size)):
        total += by_size[end].entries
        if total / end < best:
            best, count = total / end, end + 1
    return by_size[:count]


def merge_key_files(
    files: Sequence[KeyFile],
    path: Path,
    *,
    file: int,
    filesystem: Filesystem,
    slice_entries: int = SLICE_ENTRIES,
) -> KeyFileEntry:
    """Make one file of several ones of a kind: content synced, name not. The old ones stay as they are.

    Memory: about 150 bytes for each entry of a slice. Time: about 0.2 s for a million entries. Disk: the merged columns
    pass through a file without a name beside `path`, since how many keys are the same is known only at the end, and a
    column begins where the one before ends.

    Args:
        files: at least one, in any order. Of a key the entry that supersedes the others is kept.
        path: of the new file.
        file: its number.
        filesystem: to write with.
        slice_entries: about how many entries are merged at a time.

    Raises:
        CorruptionError: a file is damaged.
        OSError: the new file may have been written in part.
    """
    kind: Kind = files[0].entry.kind
    with _Scratch(kind, sum(map(len, files)), path.parent) as scratch:
        for merged in _merged_slices(files, slice_entries):
            scratch.append(encode_columns(kind, merged))
        return write_encoded(path, kind, scratch.columns(), file=file, filesystem=filesystem)


def _merged_slices(files: Sequence[KeyFile], slice_entries: int) -> Iterator[KeyColumns]:
    """The merged entries in the order of their keys, cut between two upper halves."""
    total = sum(map(len, files))
    # Every key of a fence stands for the 8,192 entries from it on, whatever the keys are like.
    fences = np.sort(np.concatenate([file.fence() for file in files]))
    slices = -(-total // slice_entries)
    cuts = np.unique(fences[[len(fences) * n // slices for n in range(1, slices)]]).tolist()
    bounds = [[0, *(file.first_row_from(cut) for cut in cuts), len(file)] for file in files]
    for of_slice in zip(*(pairwise(of_file) for of_file in bounds), strict=True):
        parts = [file.columns(start, stop) for file, (start, stop) in zip(files, of_slice, strict=True)]
        yield newest_of_each_key(concatenate(parts))


class _Scratch:
    """Columns that grow side by side in a file without a name.

    Args:
        kind: of the key files.
        capacity: how many entries there may be.
        directory: where the file takes its space from.
    """

    def __init__(self, kind: Kind, capacity: int, directory: Path) -> None:
        self._types = column_types(kind)
        self._offsets = [0]
        for of_column in self._types:
            # On pages of their own, for numpy's sake.
            size = of_column.itemsize * capacity
            self._offsets.append(self._offsets[-1] + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
        self._entries = 0
        self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> _Scratch:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, columns: Sequence[Column]) -> None:
        # Written, not stored through a mapping: a full disk gives an OSError here, and would kill the process there.
        for column, of_column, offset in zip(columns, self._types, self._offsets, strict=False):
            data = as_bytes(column).data
            at = offset + self._entries * of_column.itemsize
            while data:
                written = os.pwrite(self._file.fileno(), data, at)
                data, at = data[written:], at + written
        self._entries += len(columns[0])

    def columns(self) -> list[Column]:
        """The columns as they are in the file."""
        if self._entries == 0:
            return [np.zeros(0, of_column) for of_column in self._types]
        mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        return [
            np.frombuffer(mapped, of_column, self._entries, offset)
            for of_column, offset in zip(self._types, self._offsets, strict=False)
        ]
