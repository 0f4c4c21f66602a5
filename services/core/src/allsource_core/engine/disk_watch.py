"""Free space: appends are refused while there is little of it, so that what must go on can."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Final

from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.writability import ReadOnlyCode, Writability

__all__ = ["DiskWatch"]

_log = logging.getLogger(__name__)

_HARD_RESERVE_SHARE: Final = 8
"""Below this part of the reserve nothing at all is appended."""
_AGAIN_SHARE: Final = 4
_MEBIBYTE: Final = 1024 * 1024
_LOOK_SECONDS: Final = 0.1
"""Between two looks, which take some microseconds: a fast disk writes a hundred MiB meanwhile."""


class DiskWatch:
    """Compares the free space with two marks.

    Below the reserve, appends of tenants are refused; reserved tenants, removals, sealing and compaction go on, so that
    an operator can always sign in, revoke, delete and free space. Below an eighth of it, every append is refused.
    Tenants may append again when a quarter more than the reserve is free.

    Once `start` was called it looks by itself, in a thread that does nothing else: whatever maintenance does may take
    minutes, and the disk fills meanwhile.

    Args:
        root: a directory on the disk.
        filesystem: that knows it.
        writability: which is told.
        reserve_bytes: 0 for no marks.
    """

    def __init__(self, root: Path, filesystem: Filesystem, writability: Writability, reserve_bytes: int) -> None:
        self._root = root
        self._filesystem = filesystem
        self._writability = writability
        self._reserve_bytes = reserve_bytes
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look now and then from now on, if there are marks."""
        if self._reserve_bytes:
            self._thread = threading.Thread(target=self._run, name="allsource-disk-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        failed = False
        while not self._stop.is_set():
            try:
                self.look()
                failed = False
            except OSError as error:
                if not failed:
                    _log.warning("the free space can't be found out: %s", error)
                failed = True
            self._stop.wait(_LOOK_SECONDS)

    def look(self) -> None:
        """Compare. Raises OSError: it could not be found out."""
        reserve = self._reserve_bytes
        if not reserve:
            return
        free = self._filesystem.free_bytes(self._root)
        writability = self._writability
        low = f"less than {reserve // _MEBIBYTE} MiB are free on the disk of the store; free some, and it goes on"
        was_low = writability.forbids("disk_space_low")
        # A little more than the mark before it is enough again, or every segment would turn it on and off.
        is_low = free < reserve + (reserve // _AGAIN_SHARE if was_low else 0)
        if is_low != was_low:
            _log.warning("free space is %s: %d bytes", "low" if is_low else "enough again", free)
        marks: tuple[tuple[ReadOnlyCode, bool], ...] = (
            ("disk_space_low", is_low),
            ("disk_full", free < reserve // _HARD_RESERVE_SHARE),
        )
        for code, applies in marks:
            if applies:
                writability.forbid(code, low)
            else:
                writability.allow(code)
