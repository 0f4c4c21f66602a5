"""From the format of an older release to that of this one, when asked for."""

from __future__ import annotations

from pathlib import Path

from allsource_core.engine.directory import StoreDirectory
from allsource_core.engine.filesystem import Filesystem, LocalFilesystem

__all__ = ["upgrade_store"]


def upgrade_store(path: Path, filesystem: Filesystem | None = None) -> tuple[int, int]:
    """Make a stopped store one of this release's format. A crash leaves the old format or the new one, whole.

    Returns:
        The format before and the format now; equal where there was nothing to do.

    Raises:
        StoreLockedError, ForeignDirectoryError, CorruptionError, OSError: as `EventStore.open`; nothing has changed.
    """
    directory = StoreDirectory.open(path, filesystem or LocalFilesystem(), create=False)
    try:
        before = directory.format
        directory.upgrade()
        return before, directory.format
    finally:
        directory.close()
