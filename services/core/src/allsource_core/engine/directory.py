"""The data directory: whose it is, which format it has, and that one process at a time has it."""

from __future__ import annotations

import secrets
import uuid
from pathlib import Path
from typing import Final, Self

import msgspec

from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.log_format import FILE_HEADER_BYTES, LogFileHeader, encode_file_header
from allsource_core.engine.manifest import Manifest, read_manifest, write_manifest
from allsource_core.engine.store_lock import StoreLock

__all__ = ["DIRECTORY_FORMAT", "StoreDirectory"]

DIRECTORY_FORMAT: Final = 2
_FIRST_FORMAT: Final = 1


class _Identity(msgspec.Struct, frozen=True):
    format: int
    store_id: str


class StoreDirectory:
    """A data directory that this process has to itself.

    Attributes:
        paths: of its files.
        format: 2, or 1 for a directory that can only be read until it is upgraded.
        manifest: which files count.
    """

    def __init__(self, paths: StorePaths, filesystem: Filesystem, lock: StoreLock, identity: _Identity) -> None:
        """Use `open`."""
        self.paths = paths
        self.filesystem = filesystem
        self.format = identity.format
        self.store_id = identity.store_id
        self._lock = lock
        self.manifest = Manifest.new() if self.format == _FIRST_FORMAT else read_manifest(paths.manifest)

    @classmethod
    def open(cls, path: Path, filesystem: Filesystem, *, create: bool = True) -> Self:
        """Lock a data directory, making it a store's if it is missing or empty.

        Args:
            path: of the directory.
            filesystem: to make files with.
            create: whether a missing or empty directory becomes a store's.

        Raises:
            StoreLockedError: another process has it.
            ForeignDirectoryError: it is not empty and not a store's, or of another format.
            CorruptionError: its manifest is damaged or missing.
            OSError: it can't be made or used.
        """
        # Absolute: whoever embeds the store may change the working directory.
        path = path.absolute()
        paths = StorePaths(path, secrets.token_hex(8))
        if not paths.identity.exists() and not create:
            raise ForeignDirectoryError(f"{path} is no store of AllSource")
        filesystem.make_directory(path)
        if not paths.identity.exists():
            _check_empty(paths)
        lock = StoreLock(paths)
        try:
            if not paths.identity.exists():
                _make_store(paths, filesystem)
            return cls(paths, filesystem, lock, _read_identity(paths))
        except BaseException:
            lock.release()
            raise

    def check_files(self) -> None:
        """See that every file of the manifest is there in its size, without reading it.

        Raises:
            CorruptionError: a segment is missing or has another size. What is derived can be made anew.
        """
        for entry in self.manifest.segments:
            path = self.paths.segment(entry.file)
            if not path.exists():
                raise CorruptionError(path, 0, "the file is missing")
            if path.stat().st_size != entry.bytes:
                raise CorruptionError(path, 0, f"it has {path.stat().st_size} bytes, not {entry.bytes}")

    def stray_files(self) -> list[Path]:
        """Files of a store that no manifest names: what a crash left, of no meaning."""
        manifest, paths = self.manifest, self.paths
        segments = {entry.file for entry in manifest.segments}
        keys = {(entry.file, entry.kind) for entry in manifest.key_files}
        stray = [path for number, path in paths.numbered(paths.log, "log") if number < manifest.first_log_file]
        stray += [path for number, path in paths.numbered(paths.segments, "parquet", "index") if number not in segments]
        stray += [
            path
            for number, path in paths.numbered(paths.keys, "entities", "ids")
            if (number, path.suffix[1:]) not in keys
        ]
        asides = [path.with_name(f"{path.name}.tmp") for path in (paths.manifest, paths.identity)]
        stray += [path for path in asides if path.exists()]
        if paths.temporary.is_dir():
            stray += sorted(paths.temporary.iterdir())
        return stray

    def remove_stray_files(self) -> None:
        """Remove what a crash left. Raises OSError: some are left for the next start."""
        for path in self.stray_files():
            self.filesystem.remove(path)

    def make_missing_directories(self) -> None:
        """Make those directories that may be missing: a copy may have left empty ones out. Raises OSError.

        Not that of the log, which is never empty: where it is missing, nothing is changed.
        """
        for directory in (self.paths.segments, self.paths.keys, self.paths.temporary):
            self.filesystem.make_directory(directory)

    def upgrade(self) -> None:
        """Make a directory of format 1 one of this release's. Nothing to do for one that is.

        Log files of both formats may stand in it, so none is touched. A crash leaves format 1 or 2, whole.
        """
        if self.format == DIRECTORY_FORMAT:
            return
        _make_directories(self.paths, self.filesystem)
        write_manifest(self.paths.manifest, self.manifest, self.filesystem)
        self.filesystem.create(self.paths.identity, msgspec.json.encode(_Identity(DIRECTORY_FORMAT, self.store_id)))
        self.format = DIRECTORY_FORMAT

    def close(self) -> None:
        """Let others have the directory."""
        self._lock.release()


def _check_empty(paths: StorePaths) -> None:
    """Refuse a directory in which somebody else has something; what a crash left of `_make_store` is ours."""
    ours = {"LOCK", "STORE.tmp", "MANIFEST", "MANIFEST.tmp", "log", "segments", "keys", "tmp", "lost+found"}
    begun = {paths.log_file(1).name, f"{paths.log_file(1).name}.tmp"}
    foreign = sorted(entry.name for entry in paths.root.iterdir() if entry.name not in ours)
    for directory in (paths.log, paths.segments, paths.keys, paths.temporary):
        for entry in directory.iterdir() if directory.is_dir() else ():
            is_begun = directory == paths.log and entry.name in begun and entry.stat().st_size <= FILE_HEADER_BYTES
            if not is_begun:
                foreign.append(f"{directory.name}/{entry.name}")
    if foreign:
        raise ForeignDirectoryError(f"{paths.root} holds {foreign[0]!r} and is no store: name an empty directory")


def _make_store(paths: StorePaths, filesystem: Filesystem) -> None:
    """Make a directory a store's. The identity comes last: where it is, the rest is, or was."""
    _make_directories(paths, filesystem)
    filesystem.create(paths.log_file(1), encode_file_header(LogFileHeader(1, 1)))
    write_manifest(paths.manifest, Manifest.new(), filesystem)
    filesystem.create(paths.identity, msgspec.json.encode(_Identity(DIRECTORY_FORMAT, str(uuid.uuid4()))))


def _make_directories(paths: StorePaths, filesystem: Filesystem) -> None:
    for directory in (paths.log, paths.segments, paths.keys, paths.temporary):
        filesystem.make_directory(directory)


def _read_identity(paths: StorePaths) -> _Identity:
    try:
        identity = msgspec.json.decode(paths.identity.read_bytes(), type=_Identity)
    except ValueError as error:
        raise ForeignDirectoryError(f"{paths.identity} can't be read: {error}") from error
    if identity.format not in (_FIRST_FORMAT, DIRECTORY_FORMAT):
        raise ForeignDirectoryError(
            f"{paths.identity}: format {identity.format} of the data directory; this release reads formats "
            f"{_FIRST_FORMAT} and {DIRECTORY_FORMAT}"
        )
    return identity
