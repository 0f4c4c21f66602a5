"""Which files the store is made of now, and the one view that everybody reads from.

The manifest is replaced by the maintenance thread alone (and while the store is opened), never under the lock that
appends take; only putting the new view in place happens there, and that is one assignment.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.key_directory import KeyDirectory
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.log_format import (
    AnyControlRecord,
    EntityRemoved,
    EntityShortened,
    EventErased,
    PolicySet,
    TenantRemoved,
)
from allsource_core.engine.manifest import KeyFileEntry, Manifest, Policy, Removal, SegmentEntry, write_manifest
from allsource_core.engine.markers import marker_of
from allsource_core.engine.memory import Memory
from allsource_core.engine.memtable import Memtable
from allsource_core.engine.removals import Removed
from allsource_core.engine.sealing import temporary
from allsource_core.engine.segment_reader import OpenFiles, SegmentReader
from allsource_core.engine.segments_in_use import SegmentsInUse
from allsource_core.engine.view import View

__all__ = ["Catalog", "removal_of"]

_REMOVALS_KEPT_US: Final = 7 * 24 * 3600 * 1_000_000
"""How long a finished removal can be asked about."""
_FORGOTTEN_TOGETHER: Final = 1000
"""Finished removals that are looked at in one round."""


class Catalog:
    """Files, removals and policies of a store.

    Args:
        manifest: as read.
        paths, filesystem: of the store.
        memory: whose memtables stand behind the segments.
        cache: of decoded segments.
        in_use: the segments of reads under way.

    Attributes:
        manifest: as it is on disk.
        view: what readers take. Replaced as a whole.
        removals: by position: those that are durable; but for those of retention, finished ones for a while too.
        policies: by (tenant, prefix).
        removed: what readers are kept from.
        keys_damage: what is wrong with the key files, which are to be made anew; empty if nothing is known to be.
    """

    def __init__(
        self,
        manifest: Manifest,
        paths: StorePaths,
        filesystem: Filesystem,
        memory: Memory,
        cache: DecodedCache,
        in_use: SegmentsInUse,
    ) -> None:
        self.manifest = manifest
        self.paths = paths
        self.removals = {
            removal.position: removal
            for removal in manifest.removals
            if removal.kind != "shortened" or not removal.finished_at
        }
        self.policies = {(policy.tenant, policy.prefix): policy for policy in manifest.policies}
        self.removed = Removed(removal for removal in manifest.removals if not removal.finished_at)
        self._next_file = manifest.next_file
        self._filesystem = filesystem
        self._memory = memory
        self._cache = cache
        self.in_use = in_use
        self._open_files = OpenFiles()
        self.hasher = Hasher(bytes.fromhex(manifest.hash_key))
        self._segments = [self._reader(entry) for entry in manifest.segments]
        self._key_files = [self._key_file(entry) for entry in manifest.key_files]
        self._keys = KeyDirectory(self._key_files, self.hasher, on_damage=self.note_damage)
        self.keys_damage = ""
        self._noting = threading.Lock()
        self._old_views: list[weakref.ref[View]] = []
        # Segments that are in no manifest, but perhaps still read: path, and up to where removals were applied.
        self._obsolete: list[tuple[Path, int]] = []
        # Files of which nobody knows whether the manifest on disk names them; the next one does not.
        self._abandoned: list[Path] = []
        self.view = self._new_view()

    @property
    def segments(self) -> list[SegmentReader]:
        """By position."""
        return list(self._segments)

    @property
    def key_files(self) -> list[KeyFile]:
        """In no order."""
        return list(self._key_files)

    def _reader(self, entry: SegmentEntry) -> SegmentReader:
        return SegmentReader(entry, self.paths, self.hasher, self._open_files)

    def _key_file(self, entry: KeyFileEntry) -> KeyFile:
        return KeyFile(entry, self.paths.key_file(entry.file, entry.kind))

    def renew_view(self) -> None:
        """Make the view anew: memtables were added or rolled back. Under the lock of appends."""
        self._old_views = [old for old in self._old_views if old() is not None]
        self._old_views.append(weakref.ref(self.view))
        self.view = self._new_view()

    def _new_view(self) -> View:
        tables = self._memory.tables
        return View(self._segments, tables, self.removed, self._keys, self._cache, self.in_use, self.hasher)

    def is_read(self, table: Memtable) -> bool:
        """Whether somebody may still read from a memtable."""
        views = [self.view, *(old() for old in list(self._old_views))]
        return any(view is not None and table in view.tables for view in views)

    # --- removals ---

    def note(self, record: AnyControlRecord) -> None:
        """A control record is durable: from now on readers are kept from what it removed."""
        if isinstance(record, PolicySet):
            key = record.tenant, record.prefix
            if record.max_age_us is None and record.max_count is None:
                self.policies.pop(key, None)
            else:
                self.policies[key] = Policy(*key, record.max_age_us, record.max_count)
            return
        removal = removal_of(record)
        with self._noting:
            # Readers may still take a view that was made before `_forget_finished`.
            for removed in (self.removed, self.view.removed):
                if isinstance(record, EntityRemoved | EntityShortened):
                    removed.mark(record.tenant, record.entity_id, marker_of(record))
                if removal.position not in self.removals:
                    removed.add(removal)
            self.removals.setdefault(removal.position, removal)
        if isinstance(record, TenantRemoved):
            self.policies = {key: policy for key, policy in self.policies.items() if key[0] != record.tenant}

    def pending_removals(self) -> list[Removal]:
        """Those whose bytes may still be somewhere, oldest first."""
        return sorted(
            (removal for removal in list(self.removals.values()) if not removal.finished_at),
            key=lambda removal: removal.position,
        )

    def _forget_finished(self) -> None:
        """Readers need not be kept any more from what is nowhere any more; views that are made from now on are not."""
        with self._noting:
            pending = self.pending_removals()
            markers = self.removed.markers
            self.removed = Removed(pending)
            self.removed.markers = markers

    def _forget_sealed_markers(self) -> None:
        """Views from now on find in segments what these say, which may be large."""
        with self._noting:
            if self.removed.markers:
                self.removed = self.removed.without_sealed(self.manifest.sealed_through)

    def forget_old_removals(self, now: int) -> None:
        """Forget finished removals that nobody can ask about any more; `now` in microseconds since the epoch."""
        with self._noting:
            for position, removal in list(islice(self.removals.items(), _FORGOTTEN_TOGETHER)):
                if not removal.finished_at or removal.finished_at >= now - _REMOVALS_KEPT_US:
                    return
                del self.removals[position]

    def note_damage(self, error: CorruptionError) -> bool:
        """Damage was met; whether it is in a key file. Then all of them are made anew from the segments."""
        if error.path.parent != self.paths.keys:
            return False
        self.keys_damage = str(error)
        return True

    # --- replacing files ---

    def take_numbers(self, count: int) -> tuple[int, ...]:
        """Numbers for new files, never used before or again."""
        first = self._next_file
        self._next_file += count
        return tuple(range(first, first + count))

    def install(
        self,
        *,
        lock: Any,
        add_segment: SegmentEntry | None = None,
        drop_segments: Sequence[SegmentEntry] = (),
        add_keys: Iterable[KeyFileEntry] = (),
        drop_keys: Sequence[KeyFileEntry] = (),
        applied: tuple[Sequence[SegmentEntry], int] = ((), 0),
        on_installed: Callable[[], None] = lambda: None,
        **changes: Any,
    ) -> None:
        """Give files that a job made their names, replace the manifest, then the view.

        Args:
            lock: that of appends; held for a moment at the end.
            add_segment, drop_segments: neighbours that one replaces, or a new one behind all.
            add_keys, drop_keys: likewise.
            applied: segments that hold nothing of what was removed up to a position.
            on_installed: called under the lock, before the view is made anew.
            changes: further members of the manifest.

        Raises:
            OSError: the old manifest or the new one stands on disk; the view is the old one, which is right with
                either.
        """
        add_keys = list(add_keys)
        new_paths = self._paths_of(add_segment, add_keys)
        segments = self._segments_after(add_segment, drop_segments)
        entries = _applied([segment.entry for segment in segments], *applied)
        dropped_keys = {entry.file for entry in drop_keys}
        key_files = [file for file in self._key_files if file.entry.file not in dropped_keys]
        key_files += [self._key_file(entry) for entry in add_keys]
        manifest = msgspec.structs.replace(
            self.manifest,
            generation=self.manifest.generation + 1,
            next_file=self._next_file,
            segments=entries,
            key_files=[file.entry for file in key_files],
            removals=self._lasting_removals(),
            policies=list(self.policies.values()),
            **changes,
        )
        try:
            self._name_files(new_paths)
            write_manifest(self.paths.manifest, manifest, self._filesystem)
        except BaseException:
            self._abandoned += new_paths
            raise
        old_segments = [segment for segment in self._segments if segment not in segments]
        old_keys = [file for file in self._key_files if file not in key_files]
        with lock:
            self.manifest = manifest
            self._segments = segments
            for segment, entry in zip(segments, entries, strict=True):
                segment.entry = entry
            if add_keys or old_keys:
                self._key_files = key_files
                self._keys = KeyDirectory(key_files, self.hasher, on_damage=self.note_damage)
            on_installed()
            self._forget_sealed_markers()
            self.renew_view()
        for segment in old_segments:
            self._obsolete.append((self.paths.segment(segment.entry.file), segment.entry.removals_through))
            segment.mark_obsolete()
            self._cache.drop(segment.entry.file)
        for file in old_keys:
            file.mark_obsolete(self._filesystem)

    def _lasting_removals(self) -> list[Removal]:
        """What the manifest says of removals, by position."""
        lasting = [one for one in list(self.removals.values()) if one.kind != "shortened" or not one.finished_at]
        return sorted(lasting, key=lambda removal: removal.position)

    def _segments_after(self, add: SegmentEntry | None, drop: Sequence[SegmentEntry]) -> list[SegmentReader]:
        """The readers that there will be, by position."""
        dropped = {entry.file for entry in drop}
        segments = [segment for segment in self._segments if segment.entry.file not in dropped]
        if add is not None:
            segments.append(self._reader(add))
        return sorted(segments, key=lambda segment: segment.entry.first_position)

    def _paths_of(self, segment: SegmentEntry | None, keys: Sequence[KeyFileEntry]) -> list[Path]:
        paths = []
        if segment is not None:
            paths += [self.paths.segment(segment.file), self.paths.segment_index(segment.file)]
        paths += [self.paths.key_file(entry.file, entry.kind) for entry in keys]
        return paths

    def _name_files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._filesystem.rename(temporary(self.paths, path.name), path)
        for directory in {path.parent for path in paths}:
            self._filesystem.sync_directory(directory)

    def remove_abandoned(self, lock: Any) -> None:
        """Remove what jobs that failed have made: it takes space, and may hold what is to be removed. No job is under
        way. Raises OSError.
        """
        for path in self.paths.temporary.glob("*.new"):
            self._filesystem.remove(path)
        if self._abandoned:
            # First a manifest that surely does not name them.
            self.install(lock=lock)
            for path in self._abandoned:
                self._filesystem.remove(path)
            self._abandoned.clear()

    def finish_removals(
        self, now: int, log_begins_at: int, *, lock: Any, on_finished: Callable[[Sequence[Removal]], None]
    ) -> None:
        """Note which removals are done: no file that is left may hold what they removed.

        Nobody asks about those of retention: they are forgotten.

        Args:
            now: microseconds since the epoch.
            log_begins_at: the first position that the log has.
            lock: that of appends.
            on_finished: called under the lock with those that were done just now.

        Raises:
            OSError: they are done the next time.
        """
        manifest = self.manifest
        through = min([entry.removals_through for entry in manifest.segments], default=manifest.sealed_through)
        self._obsolete = [(path, applied) for path, applied in self._obsolete if path.exists()]
        through = min(through, manifest.sealed_through, log_begins_at - 1, *(applied for _, applied in self._obsolete))
        done = [removal for removal in self.pending_removals() if removal.position <= through]
        if not done:
            return
        for removal in done:
            removal.finished_at = now

        def forget() -> None:
            with self._noting:
                for removal in done:
                    if removal.kind == "shortened":
                        del self.removals[removal.position]
            self._forget_finished()
            on_finished(done)

        try:
            # Written down first: were it forgotten here and not there, a restart would keep readers from nothing.
            self.install(lock=lock, on_installed=forget)
        except BaseException:
            for removal in done:
                removal.finished_at = 0
            raise

    def close(self) -> None:
        """Let go of the files."""
        for segment in self._segments:
            segment.close()
        for file in self._key_files:
            file.close()


def _applied(entries: Sequence[SegmentEntry], untouched: Sequence[SegmentEntry], through: int) -> list[SegmentEntry]:
    """The entries, those that hold nothing of what was removed up to a position saying so."""
    files = {entry.file for entry in untouched}
    return [
        msgspec.structs.replace(entry, removals_through=through) if entry.file in files else entry for entry in entries
    ]


def removal_of(record: AnyControlRecord) -> Removal:
    """How a record of the log stands among the removals.

    Raises:
        TypeError: it removes nothing.
    """
    base: dict[str, Any] = {
        "position": record.position,
        "tenant": record.tenant,
        "recorded_at": record.recorded_at,
        "events_removed": 1 if isinstance(record, EventErased | PolicySet) else record.events_removed,
    }
    match record:
        case EntityRemoved():
            return Removal(kind="entity", entity_id=record.entity_id, version=record.version, **base)
        case EntityShortened():
            return Removal(kind="shortened", entity_id=record.entity_id, version=record.version, **base)
        case EventErased():
            return Removal(
                kind="event",
                entity_id=record.entity_id,
                version=record.version,
                event_position=record.event_position,
                **base,
            )
        case TenantRemoved():
            return Removal(kind="tenant", **base)
        case _:
            raise TypeError(f"{record} removes nothing")
