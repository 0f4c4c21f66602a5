"""Verification over all segments and the log: versions follow on each other, and what was removed is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from allsource_core.engine.hashes import Words
from allsource_core.engine.verification_ledger import Part

__all__ = ["Heads", "Holes", "VersionFault", "faults_of_versions", "heads_of", "key_numbers"]

Table = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


class Holes:
    """Ranges of positions of which nothing is known: segments that can't be read, damage in the log, known losses.

    Args:
        ranges: (first, last), in any order.
    """

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        joined: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            if joined and first <= joined[-1][1] + 1:
                joined[-1] = joined[-1][0], max(joined[-1][1], last)
            else:
                joined.append((first, last))
        self._firsts = np.array([first for first, _ in joined], np.uint64)
        self._lasts = np.array([last for _, last in joined], np.uint64)

    def __bool__(self) -> bool:
        return len(self._firsts) > 0

    def between(self, after: Words, before: Words) -> Bools:
        """Whether any such position lies between two others, exclusive."""
        if not self:
            return np.zeros(len(after), np.bool_)
        at = self._lasts.searchsorted(after, side="right")
        inside: Bools = (at < len(self._firsts)) & (self._firsts.take(at, mode="clip") < before)
        return inside


class VersionFault(NamedTuple):
    """An entity whose versions are not right: the segment (0: the log) and its row, a position, what is wrong."""

    source: int
    row: int
    text: str


class Heads(NamedTuple):
    """Where entities stand by what segments have; one row an entity."""

    hi: Words
    lo: Words
    version: Words
    position: Words
    removed: Bools
    source: Words
    row: Words


def key_numbers(*tables: tuple[Words, Words]) -> list[npt.NDArray[np.int64]]:
    """Number the keys (hi, lo) of several tables together: equal numbers, equal keys; they ascend as keys do."""
    hi = np.concatenate([table[0] for table in tables])
    lo = np.concatenate([table[1] for table in tables])
    order = np.lexsort((lo, hi))
    changes = np.ones(len(order), np.bool_)
    changes[1:] = (hi[order][1:] != hi[order][:-1]) | (lo[order][1:] != lo[order][:-1])
    numbers = np.empty(len(order), np.int64)
    numbers[order] = changes.cumsum() - 1
    return np.split(numbers, np.cumsum([len(table[0]) for table in tables])[:-1])


def faults_of_versions(part: Part, holes: Holes, removals_through: Callable[[Words], Words]) -> Iterator[VersionFault]:
    """What is wrong with the versions of a part of the entities.

    Versions begin at 1, or behind the highest one that a removal names, and each follows on the one before; so do
    positions. Whatever a hole may explain is passed over: it has a finding of its own.

    Args:
        part: of the entities.
        holes: positions of which nothing is known.
        removals_through: from numbers of segments to the positions of the removals that were applied to them.
    """
    runs, floors = part.runs, part.floors
    if not len(runs):
        return
    of_runs, of_floors = key_numbers((runs[:, 0], runs[:, 1]), (floors[:, 0], floors[:, 1]))
    order = np.lexsort((runs[:, 2], of_runs))
    runs, of_runs = runs[order], of_runs[order]
    _, _, first, last, first_position, last_position, source, row = runs.T
    floor, floor_position = _floor_of_each(of_runs, of_floors, floors)
    same = np.zeros(len(runs), np.bool_)
    same[1:] = of_runs[1:] == of_runs[:-1]
    before = np.where(same, np.concatenate((last[:1], last[:-1])), 0)
    before_position = np.where(same, np.concatenate((last_position[:1], last_position[:-1])), 0)
    overlaps = same & (first <= before)
    disordered = same & ~overlaps & (first_position <= before_position)
    expected = np.maximum(before, floor) + np.uint64(1)
    gap = (last > floor) & ~overlaps & (first > expected)
    # A row that told of a removal may be in any hole; versions that were in the middle, only in one between.
    gap &= ~(holes.between(before_position, first_position) | (~same & bool(holes)))
    left = (first <= floor) & (source > 0) & (removals_through(source) >= floor_position) & (floor > 0)
    for at in np.flatnonzero(overlaps).tolist():
        yield VersionFault(int(source[at]), int(row[at]), f"version {first[at]} is there twice, in {{}}")
    for at in np.flatnonzero(disordered).tolist():
        yield VersionFault(
            int(source[at]), int(row[at]), f"version {first[at]} has a position below its predecessor's, in {{}}"
        )
    for at in np.flatnonzero(gap).tolist():
        text = f"versions {expected[at]} to {first[at] - np.uint64(1)} are missing, in {{}}"
        yield VersionFault(int(source[at]), int(row[at]), text)
    for at in np.flatnonzero(left).tolist():
        removed = f"removed up to {floor[at]} at position {floor_position[at]}"
        text = f"versions from {first[at]} on are there, but {removed}, in {{}}"
        yield VersionFault(int(source[at]), int(row[at]), text)


def _floor_of_each(
    of_runs: npt.NDArray[np.int64], of_floors: npt.NDArray[np.int64], floors: Table
) -> tuple[Words, Words]:
    """Of each run's entity the highest version that a removal names, and the position of that removal."""
    count = int(max(of_runs.max(), of_floors.max(initial=0))) + 1
    versions, positions = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    # The last one written stands: that of the highest version, and of it the first removal.
    order = np.lexsort((~floors[:, 3], floors[:, 2]))
    versions[of_floors[order]] = floors[order, 2]
    positions[of_floors[order]] = floors[order, 3]
    return versions[of_runs], positions[of_runs]


def heads_of(part: Part) -> Heads:
    """The last version of each entity that a segment tells of, by event or by marker."""
    runs = part.runs[part.runs[:, 6] > 0]
    markers = part.floors[part.floors[:, 4] > 0]
    zeros = np.zeros(len(markers), np.uint64)
    columns: list[Any] = [
        np.concatenate((runs[:, 0], markers[:, 0])),
        np.concatenate((runs[:, 1], markers[:, 1])),
        np.concatenate((runs[:, 3], markers[:, 2])),
        np.concatenate((runs[:, 5], markers[:, 3])),
        np.concatenate((np.zeros(len(runs), np.bool_), np.ones(len(markers), np.bool_))),
        np.concatenate((runs[:, 6], zeros)),
        np.concatenate((runs[:, 7], zeros)),
    ]
    hi, lo, version, position = columns[:4]
    order = np.lexsort((position, version, lo, hi))
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = (hi[order][1:] != hi[order][:-1]) | (lo[order][1:] != lo[order][:-1])
    return Heads(*(column[order[is_last]] for column in columns))
