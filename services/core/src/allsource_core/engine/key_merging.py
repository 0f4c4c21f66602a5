"""Merging key files: which ones, so that there are few and none is rewritten often, and how."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.key_columns import KeyColumns, concatenate, newest_of_each_key
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.key_file_format import Kind, write_sorted
from allsource_core.engine.manifest import KeyFileEntry

__all__ = ["files_to_merge", "files_worth_one", "merge_key_files"]

# With files of 250k entries an entry is rewritten 1.8 times up to 10M of them, 3.6 times up to 100M, 8 times up to
# 1,000M. A look-up of 1,000 keys takes 0.2 ms for each file, hence the limit.
FILES_OF_ONE_SIZE_MAX: Final = 3
SIZE_RATIO: Final = 4
FILES_MAX: Final = 8

# Nine entries at most are written for each that is new to the largest file; a key that is in it and in others as well
# takes an eighth more than one entry.
WORTH_RATIO: Final = 8

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


def files_worth_one(files: Sequence[KeyFileEntry]) -> list[KeyFileEntry]:
    """Which files are to become one while there is nothing else to do; none if few bytes would be gained by it. To be
    asked again after the merge.

    All of them where those beside the largest have an eighth of its entries; else the same among the others.

    Args:
        files: those of one kind, in any order.
    """
    by_size = sorted(files, key=lambda file: (file.entries, file.file))
    while len(by_size) > 1:
        *smaller, largest = by_size
        if WORTH_RATIO * sum(file.entries for file in smaller) >= largest.entries:
            return by_size
        by_size = smaller
    return []


def merge_key_files(
    files: Sequence[KeyFile],
    path: Path,
    *,
    file: int,
    filesystem: Filesystem,
    slice_entries: int = SLICE_ENTRIES,
) -> KeyFileEntry:
    """Make one file of several ones of a kind: content synced, name not. The old ones stay as they are.

    Memory: about 150 bytes for each entry of a slice. Time: about 0.2 s for a million entries.

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
    return write_sorted(path, kind, _merged_slices(files, slice_entries), file=file, filesystem=filesystem)


def _merged_slices(files: Sequence[KeyFile], slice_entries: int) -> Iterator[KeyColumns]:
    """The merged entries in the order of their keys, cut between two upper halves."""
    total = sum(map(len, files))
    # Every key of a fence stands for as many entries from it on, whatever the keys are like.
    fences = np.sort(np.concatenate([file.fence() for file in files]))
    slices = -(-total // slice_entries)
    cuts = np.unique(fences[[len(fences) * n // slices for n in range(1, slices)]]).tolist()
    bounds = [[0, *(file.first_row_from(cut) for cut in cuts), len(file)] for file in files]
    for of_slice in zip(*(pairwise(of_file) for of_file in bounds), strict=True):
        parts = [file.columns(start, stop) for file, (start, stop) in zip(files, of_slice, strict=True)]
        yield newest_of_each_key(concatenate(parts))
