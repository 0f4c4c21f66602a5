"""Verification of a data directory as such: whose it is, who has it, which files are in it, who may read them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from allsource_core.engine.directory import DIRECTORY_FORMAT
from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import DIRECTORY_MODE, FILE_MODE
from allsource_core.engine.manifest import Manifest, read_manifest
from allsource_core.engine.store_lock import StoreLock
from allsource_core.engine.verification_findings import Area, Finding, Reporter

__all__ = ["StoreFiles", "held", "read_store", "stray_files", "verify_files"]

_FORMATS: Final = (1, DIRECTORY_FORMAT)
_FROM_BACKUP: Final = "it can't be made anew: restore it from a backup"
_SYSTEM_DIRECTORIES: Final = ("lost+found",)
_SETUP_TOKEN: Final = "setup-token"  # noqa: S105 - a name
"""Of the service that uses the store: there while the service has no user."""
_DERIVED: Final = "derived"
"""Files of whoever uses the store: of its meaning nothing is known here."""
_PREPARED: Final = "prepared.log"
"""The next log file, filled with zeros beforehand: in `tmp/` after every clean shutdown."""


class StoreFiles(msgspec.Struct):
    """What the two files say that come before all others.

    Attributes:
        format: of the directory.
        store_id: of the store.
        manifest: an empty one for format 1.
    """

    paths: StorePaths
    format: int
    store_id: str
    manifest: Manifest


class _Identity(msgspec.Struct, frozen=True):
    format: int
    store_id: str


@contextmanager
def held(path: Path) -> Iterator[StorePaths]:
    """Keep other processes from opening the store in a directory; several may verify it at once. Changes nothing.

    Raises:
        StoreLockedError: another process has the store open.
        ForeignDirectoryError: the directory is no store's.
    """
    paths = StorePaths(path)
    if not any(file.exists() for file in (paths.identity, paths.manifest, paths.log)):
        raise ForeignDirectoryError(f"{path} is no store of AllSource")
    lock = StoreLock(paths, shared=True)
    try:
        yield paths
    finally:
        lock.release()


def read_store(paths: StorePaths, findings: list[Finding]) -> StoreFiles | None:
    """Read STORE and MANIFEST; None where nothing else can be read without them. What is wrong joins `findings`."""
    reporter = Reporter(paths)
    identity = _read_identity(paths, reporter, findings)
    if identity is not None and identity.format == 1:
        return StoreFiles(paths, 1, identity.store_id, Manifest.new())
    if identity is None and not paths.manifest.exists():
        return None
    try:
        manifest = read_manifest(paths.manifest)
        if len(bytes.fromhex(manifest.hash_key)) != 32:
            raise ValueError("not 32 bytes")  # noqa: TRY301 - told as what `fromhex` says is
    except CorruptionError as error:
        findings.append(reporter.corruption(Area.MANIFEST, error, _FROM_BACKUP))
        return None
    except ForeignDirectoryError as error:
        findings.append(reporter.error(Area.MANIFEST, paths.manifest, str(error), "use the release that wrote it"))
        return None
    except ValueError as error:
        text = f"its hash_key is not 32 bytes in hex: {error}"
        findings.append(reporter.error(Area.MANIFEST, paths.manifest, text, _FROM_BACKUP))
        return None
    if identity is None:
        identity = _Identity(DIRECTORY_FORMAT, "")
    return StoreFiles(paths, identity.format, identity.store_id, manifest)


def _read_identity(paths: StorePaths, reporter: Reporter, findings: list[Finding]) -> _Identity | None:
    path = paths.identity
    remedy = 'write {"format": 2, "store_id": "<a UUID>"} into it, or restore it from a backup'
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=_Identity)
    except FileNotFoundError:
        findings.append(reporter.error(Area.STORE, path, "the file is missing", remedy))
        return None
    except ValueError as error:
        findings.append(reporter.error(Area.STORE, path, f"it can't be decoded: {error}", remedy))
        return None
    if identity.format not in _FORMATS:
        text = f"format {identity.format} of the data directory; this release reads formats 1 and {DIRECTORY_FORMAT}"
        findings.append(reporter.error(Area.STORE, path, text, "use the release that wrote it"))
        return None
    try:
        is_uuid = str(UUID(identity.store_id)) == identity.store_id
    except ValueError:
        is_uuid = False
    if not is_uuid:
        findings.append(reporter.error(Area.STORE, path, "its store_id is no UUID", remedy))
    return identity


def stray_files(store: StoreFiles) -> list[Path]:
    """Files of a store that its manifest does not name: what a crash left. `tmp/` whole, but for the log file that is
    prepared there. A store of format 1 has none.
    """
    paths, manifest = store.paths, store.manifest
    if store.format != DIRECTORY_FORMAT:
        return []
    segments = {entry.file for entry in manifest.segments}
    keys = {(entry.file, f".{entry.kind}") for entry in manifest.key_files}
    stray = [path for number, path in paths.numbered(paths.log, "log") if number < manifest.first_log_file]
    stray += [path for number, path in paths.numbered(paths.segments, "parquet", "index") if number not in segments]
    stray += [
        path for number, path in paths.numbered(paths.keys, "entities", "ids") if (number, path.suffix) not in keys
    ]
    if paths.temporary.is_dir():
        stray += [path for path in sorted(paths.temporary.iterdir()) if path.name != _PREPARED and path.is_file()]
    begun = (_aside(paths.identity), _aside(paths.manifest), _aside(paths.log_file(1)))
    return stray + [path for path in begun if path.exists()]


def _aside(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def verify_files(store: StoreFiles) -> Iterator[Finding]:
    """Which files are in the directory that should not be, which directory is missing, and who may read them."""
    paths = store.paths
    reporter = Reporter(paths)
    stray = stray_files(store)
    for path in stray:
        yield reporter.information(Area.STRAY, path, "no manifest names it: a crash left it, and it is of no meaning")
    expected = _expected_files(store) | set(stray)
    for directory in _directories(store):
        if not directory.is_dir():
            remedy = "make it, with mode 0700"
            yield reporter.error(Area.DIRECTORY, directory, "the directory is missing", remedy)
    if not paths.lock.exists():
        yield reporter.information(Area.DIRECTORY, paths.lock, "it is missing; the next start makes it")
    yield from _verify_mode(paths.root, DIRECTORY_MODE, reporter)
    for path in sorted(paths.root.rglob("*")):
        relative = path.relative_to(paths.root)
        if relative.parts[0] in _SYSTEM_DIRECTORIES:
            continue
        if path not in expected and path not in _directories(store) and relative.parts[0] != _DERIVED:
            text = "it is no file of a store"
            yield reporter.warning(Area.FOREIGN, path, text, "the store leaves it alone: take it away by hand")
        elif path.is_symlink() or path.exists():
            yield from _verify_mode(path, DIRECTORY_MODE if path.is_dir() else FILE_MODE, reporter)


def _directories(store: StoreFiles) -> list[Path]:
    paths = store.paths
    if store.format != DIRECTORY_FORMAT:
        return [paths.log]
    return [paths.log, paths.segments, paths.keys, paths.temporary]


def _expected_files(store: StoreFiles) -> set[Path]:
    paths, manifest = store.paths, store.manifest
    expected = {paths.lock, paths.identity, paths.manifest, paths.temporary / _PREPARED, paths.root / _SETUP_TOKEN}
    expected.update(path for _, path in paths.numbered(paths.log, "log"))
    for entry in manifest.segments:
        expected.update((paths.segment(entry.file), paths.segment_index(entry.file)))
    expected.update(paths.key_file(entry.file, entry.kind) for entry in manifest.key_files)
    return expected


def _verify_mode(path: Path, mode: int, reporter: Reporter) -> Iterator[Finding]:
    """Others than the owner must have no access; the owner may have less, as on a read-only copy."""
    actual = stat.S_IMODE(path.stat().st_mode)
    if actual & ~mode:
        text = f"its mode is {actual:04o}, at most {mode:04o} is right"
        yield reporter.warning(Area.PERMISSION, path, text, f"chmod {mode:04o}")
