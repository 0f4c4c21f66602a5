"""What the sealed part of the store knows of entities and client event ids, without opening a segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa

from allsource_core.engine.errors import CorruptionError, KeysDamagedError
from allsource_core.engine.hashes import Hash, Hasher, Hashes, Words
from allsource_core.engine.key_columns import supersedes
from allsource_core.engine.key_file import Found, KeyFile, Lookup

__all__ = ["EntityHead", "KeyDirectory"]

# Up to this many keys are looked up one by one: vectors cost 90 µs a file before the first key.
_SINGLY_MAX: Final = 32


class EntityHead(msgspec.Struct, frozen=True, gc=False):
    """Where an entity stands.

    Attributes:
        version: the last one that was assigned.
        position: of its last event, or of the record that removed it.
        removed: whether nothing of it can be read.
    """

    version: int
    position: int
    removed: bool


class KeyDirectory:
    """An immutable view over the key files of one manifest, in any order. Safe to use from several threads.

    Every look-up asks every file and takes the entry that supersedes the others, so files may be merged without
    regard to age. It raises what `KeyFile` raises, but KeysDamagedError where a file is damaged.

    Args:
        files: of both kinds. None is opened before it is needed.
        hasher: of the store.
        on_damage: told of damage in a file: all of them are to be made anew from the segments then.
    """

    def __init__(
        self,
        files: Sequence[KeyFile],
        hasher: Hasher,
        *,
        on_damage: Callable[[CorruptionError], object] = lambda _error: None,
    ) -> None:
        self.files = tuple(files)
        self._hasher = hasher
        self._on_damage = on_damage
        self._entity_files = tuple(file for file in files if file.entry.kind == "entities")
        self._id_files = tuple(file for file in files if file.entry.kind == "ids")

    def entities(self, tenant: int, entity_ids: Sequence[str]) -> dict[str, EntityHead]:
        """Where entities of a tenant, given by its number, stand: those of these that were ever heard of."""
        try:
            return self._entities(tenant, entity_ids)
        except CorruptionError as error:
            raise self._damaged(error) from error

    def client_ids(self, tenant: int, client_ids: Sequence[bytes]) -> dict[bytes, int]:
        """The positions of a tenant's events by their client event ids: of those of these that are known."""
        try:
            return self._client_ids(tenant, client_ids)
        except CorruptionError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: CorruptionError) -> KeysDamagedError:
        self._on_damage(error)
        return KeysDamagedError("the key directory is damaged and is being made anew; try again soon")

    def _entities(self, tenant: int, entity_ids: Sequence[str]) -> dict[str, EntityHead]:
        files = self._entity_files
        if not files:
            return {}
        if len(entity_ids) <= _SINGLY_MAX:
            singly = ((entity_id, _find(files, self._hasher.entity(tenant, entity_id))) for entity_id in entity_ids)
            return {entity_id: EntityHead(*found) for entity_id, found in singly if found is not None}
        rows, newest = _lookup(files, self._hasher.entities(tenant, pa.array(entity_ids, pa.string())))
        heads = map(EntityHead, newest.version.tolist(), newest.position.tolist(), newest.removed.tolist())
        return dict(zip(map(entity_ids.__getitem__, rows), heads, strict=True))

    def _client_ids(self, tenant: int, client_ids: Sequence[bytes]) -> dict[bytes, int]:
        files = self._id_files
        if not files:
            return {}
        if len(client_ids) <= _SINGLY_MAX:
            singly = ((client_id, _find(files, self._hasher.client_id(tenant, client_id))) for client_id in client_ids)
            return {client_id: found.position for client_id, found in singly if found is not None}
        rows, newest = _lookup(files, self._hasher.client_ids(tenant, client_ids))
        return dict(zip(map(client_ids.__getitem__, rows), newest.position.tolist(), strict=True))


def _find(files: Sequence[KeyFile], key: Hash) -> Found | None:
    newest: Found | None = None
    for file in files:
        found = file.find(*key)
        # Version, then position: the order of the tuples is that of `supersedes`.
        if found is not None and (newest is None or found > newest):
            newest = found
    return newest


def _lookup(files: Sequence[KeyFile], hashes: Hashes) -> tuple[list[int], Lookup]:
    """The indexes of the keys that are known, and their newest entries, in the same order."""
    # Neighbours among the keys are neighbours in every file then.
    order = hashes.hi.argsort()
    hi, lo = hashes.hi.take(order), hashes.lo.take(order)
    newest = files[0].lookup(hi, lo)
    for file in files[1:]:
        newest = _newer(newest, file.lookup(hi, lo))
    known = np.flatnonzero(newest.found)
    rows: list[int] = order.take(known).tolist()
    return rows, Lookup(
        newest.found.take(known), newest.position.take(known), newest.version.take(known), newest.removed.take(known)
    )


def _newer(one: Lookup, other: Lookup) -> Lookup:
    better = np.flatnonzero(other.found)
    if better.size:
        version: Words = other.version.take(better)
        position: Words = other.position.take(better)
        # Where `one` has nothing its version and position are 0, and every position is above.
        better = better[supersedes(version, position, one.version.take(better), one.position.take(better))]
        for column, of_other in zip(one, other, strict=True):
            column[better] = of_other[better]
    return one
