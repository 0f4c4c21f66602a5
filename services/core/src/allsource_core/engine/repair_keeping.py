"""Where a repair keeps what it takes out of a store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from allsource_core.engine.clock import Clock
from allsource_core.engine.filesystem import Filesystem

__all__ = ["KeptAside"]

_PIECE_BYTES: Final = 1024 * 1024


class KeptAside:
    """A directory beside that of the store, made when something comes into it. Nothing in it is ever replaced.

    Args:
        root: the data directory.
        filesystem: to write with.
        clock: microseconds since the epoch; part of the name.
        directory: another one than ``<data directory>.damaged-<time>``.
    """

    def __init__(self, root: Path, filesystem: Filesystem, clock: Clock, directory: Path | None = None) -> None:
        root = root.resolve()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(clock() // 1_000_000))
        self.directory = (directory or root.parent / f"{root.name}.damaged-{moment}").resolve()
        self._filesystem = filesystem
        if self.directory == root or root in self.directory.parents:
            raise ValueError(f"{self.directory} is in the data directory; name one outside of it")

    def copy(self, path: Path, name: str, *, start: int = 0) -> None:
        """Copy a file, from a byte on. It is on disk on return.

        Raises:
            FileExistsError: something of that name is there already.
            OSError: it could not be written.
        """
        to = self.directory / name
        pieces = _pieces(path, start)
        if to.exists():
            if b"".join(pieces) == to.read_bytes():
                # A repair that was broken off has kept it.
                return
            raise FileExistsError(f"{to} is there already; name another directory to keep files in")
        self._filesystem.make_directory(to.parent)
        # Renamed when it is whole: what is there under its name is never a part.
        aside = to.with_name(to.name + ".tmp")
        self._filesystem.write_new(aside, pieces)
        self._filesystem.rename(aside, to)
        self._filesystem.sync_directory(to.parent)


def _pieces(path: Path, start: int) -> list[bytes]:
    pieces = []
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(_PIECE_BYTES):
            pieces.append(piece)
    return pieces
