"""What verification says: findings, how grave each is, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filenames import StorePaths

__all__ = [
    "Area",
    "Finding",
    "ProgressMeter",
    "ReportVerification",
    "Reporter",
    "Severity",
    "VerificationProgress",
    "first_ones",
]

_Item = TypeVar("_Item")

_REPEATED_MAX: Final = 20
"""So many findings of one kind are told of one by one; of more, only how many they are."""


class Severity(StrEnum):
    """How grave a finding is."""

    INFORMATION = "information"
    """Nothing is wrong: what a crash leaves, and the next start removes."""
    WARNING = "warning"
    """No event is concerned: a derived file, a permission, a file of somebody else's."""
    ERROR = "error"
    """Stored data is damaged or missing, or the store does not open."""


class Area(StrEnum):
    """What a finding is about."""

    DIRECTORY = "directory"
    STORE = "store"
    MANIFEST = "manifest"
    LOG = "log"
    SEGMENT = "segment"
    INDEX = "index"
    KEYS = "keys"
    STRAY = "stray"
    FOREIGN = "foreign"
    PERMISSION = "permission"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that verification has found.

    Attributes:
        severity, area: how grave, and about what.
        file: relative to the data directory.
        offset: in bytes, where in the file; 0 where it is about the file as a whole.
        text: what is wrong.
        remedy: what can be done; empty where nothing need be.
        number: of the log file, segment or key file; None for other files.
    """

    severity: Severity
    area: Area
    file: str
    offset: int = 0
    text: str
    remedy: str = ""
    number: int | None = None

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.severity.upper()} {self.file}@{self.offset}: {self.text}{remedy}"


class Reporter:
    """Makes findings about the files of one store.

    Args:
        paths: of the store.
    """

    def __init__(self, paths: StorePaths) -> None:
        self._root = paths.root

    def name(self, path: Path) -> str:
        """A path as findings name it."""
        return path.relative_to(self._root).as_posix()

    def error(
        self, area: Area, path: Path, text: str, remedy: str = "", *, offset: int = 0, number: int | None = None
    ) -> Finding:
        return self._finding(Severity.ERROR, area, path, text, remedy, offset, number)

    def warning(
        self, area: Area, path: Path, text: str, remedy: str = "", *, offset: int = 0, number: int | None = None
    ) -> Finding:
        return self._finding(Severity.WARNING, area, path, text, remedy, offset, number)

    def information(self, area: Area, path: Path, text: str, *, offset: int = 0, number: int | None = None) -> Finding:
        return self._finding(Severity.INFORMATION, area, path, text, "", offset, number)

    def corruption(self, area: Area, error: CorruptionError, remedy: str, number: int | None = None) -> Finding:
        return self.error(area, error.path, error.reason, remedy, offset=error.offset, number=number)

    def _finding(
        self, severity: Severity, area: Area, path: Path, text: str, remedy: str, offset: int, number: int | None
    ) -> Finding:
        return Finding(
            severity=severity,
            area=area,
            file=self.name(path),
            offset=offset,
            text=text,
            remedy=remedy,
            number=number,
        )


class VerificationProgress(msgspec.Struct, frozen=True):
    """How far verification is.

    Attributes:
        phase: ``log``, ``segments``, ``keys`` or ``versions``.
        bytes_done, bytes_total: of the files that are read.
    """

    phase: str
    bytes_done: int
    bytes_total: int


ReportVerification = Callable[[VerificationProgress], None]


class ProgressMeter:
    """Adds up what was read.

    Args:
        bytes_total: of the files that will be read.
        report: called after each of them.
    """

    def __init__(self, bytes_total: int, report: ReportVerification) -> None:
        self._total = bytes_total
        self._done = 0
        self._report = report

    def add(self, phase: str, size: int) -> None:
        self._done = min(self._done + size, self._total)
        self._report(VerificationProgress(phase, self._done, self._total))


def first_ones(
    items: Iterable[_Item], make: Callable[[_Item], Finding], rest: Callable[[int], Finding]
) -> Iterator[Finding]:
    """Findings of the first twenty items, and one that counts the others."""
    left = 0
    for count, item in enumerate(items):
        if count < _REPEATED_MAX:
            yield make(item)
        else:
            left += 1
    if left:
        yield rest(left)
