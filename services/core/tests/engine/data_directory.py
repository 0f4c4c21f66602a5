"""Looks at the files of a data directory from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from allsource_core.engine import EventStore
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.manifest import read_manifest
from allsource_core.engine.verification import Severity, verify_store

__all__ = ["check_names", "contents_of", "errors_of", "files_with", "strange_files"]

_LOG_TO_COME = {"prepared.log", "preparing.log", "begun.log"}


def strange_files(root: Path) -> list[str]:
    """Files that a store which is at rest should not have: those that neither its manifest nor its log needs."""
    paths = StorePaths(root)
    manifest = read_manifest(paths.manifest)
    known = {paths.lock, paths.identity, paths.manifest}
    known |= {paths.temporary / name for name in _LOG_TO_COME}
    known |= {path for number, path in paths.numbered(paths.log, "log") if number >= manifest.first_log_file}
    for entry in manifest.segments:
        known |= {paths.segment(entry.file), paths.segment_index(entry.file)}
    known |= {paths.key_file(entry.file, entry.kind) for entry in manifest.key_files}
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path not in known)


def check_names(store: EventStore) -> None:
    """Every file has a meaning, and every file that the manifest names is there."""
    paths, manifest = store._catalog.paths, store._catalog.manifest
    strange = strange_files(paths.root)
    assert not strange, strange
    for entry in manifest.segments:
        assert paths.segment(entry.file).stat().st_size == entry.bytes
        assert paths.segment_index(entry.file).stat().st_size == entry.index_bytes
    for key_entry in manifest.key_files:
        assert paths.key_file(key_entry.file, key_entry.kind).stat().st_size == key_entry.bytes


def errors_of(root: Path) -> list[str]:
    """What is wrong with the directory of a store that is closed."""
    return [str(finding) for finding in verify_store(root) if finding.severity is Severity.ERROR]


def contents_of(root: Path) -> Iterator[tuple[Path, bytes]]:
    """All files and what is in them. Whoever has the directory open may take one away before it is read."""
    for path in sorted(root.rglob("*")):
        with suppress(FileNotFoundError, IsADirectoryError):
            yield path, path.read_bytes()


def files_with(root: Path, needle: bytes) -> list[str]:
    """The files in which some bytes are: as they are or, in segments, once they are decoded."""
    found = []
    for path, content in contents_of(root):
        if content.startswith(b"PAR1") and content.endswith(b"PAR1"):
            content += repr(pq.read_table(pa.BufferReader(content)).to_pylist()).encode()
        if needle in content:
            found.append(path.name)
    return found
