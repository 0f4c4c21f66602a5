"""The names of files in a data directory: built and read here alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

__all__ = ["StorePaths"]

_NUMBERED: Final = re.compile(r"(\d{12})\.(log|parquet|index|entities|ids)\Z")


class StorePaths:
    """Where everything of a store is. Numbers have twelve digits, so that names sort as numbers.

    Args:
        root: the data directory.
        run: tells the temporary files of one opening from those of the one before, whose maintenance process may live
            for a moment longer than the process that it served.
    """

    def __init__(self, root: Path, run: str = "") -> None:
        self.root = root
        self.run = run
        self.lock = root / "LOCK"
        self.identity = root / "STORE"
        self.manifest = root / "MANIFEST"
        self.log = root / "log"
        self.segments = root / "segments"
        self.keys = root / "keys"
        self.temporary = root / "tmp"

    def log_file(self, number: int) -> Path:
        return self.log / f"{number:012d}.log"

    def segment(self, number: int) -> Path:
        return self.segments / f"{number:012d}.parquet"

    def segment_index(self, number: int) -> Path:
        return self.segments / f"{number:012d}.index"

    def key_file(self, number: int, kind: str) -> Path:
        """Of a kind of the manifest: ``entities`` or ``ids``."""
        return self.keys / f"{number:012d}.{kind}"

    @staticmethod
    def numbered(directory: Path, *suffixes: str) -> list[tuple[int, Path]]:
        """The files of these kinds in a directory as (number, path), lowest number first. Others are passed over."""
        found = []
        for path in directory.iterdir() if directory.is_dir() else ():
            match = _NUMBERED.match(path.name)
            if match is not None and match[2] in suffixes:
                found.append((int(match[1]), path))
        return sorted(found)
