"""The hashes under which key files and filters know names and ids: keyed, so that nobody can choose collisions."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final

__all__ = ["HASH_BYTES", "HASH_KEY_BYTES", "Hasher", "RememberingHasher"]

HASH_BYTES: Final = 16
HASH_KEY_BYTES: Final = 32

_PREFIX: Final = struct.Struct("<cI")


class Hasher:
    """Hashes with the key of one store. 0.5 µs a hash. docs/storage-format.md, Hashes.

    Args:
        key: 32 bytes, chance, the store's own.
    """

    def __init__(self, key: bytes) -> None:
        # Copying a keyed state costs a quarter less than making one.
        self._keyed = blake2b(digest_size=HASH_BYTES, key=key).copy

    def entity(self, tenant: int, entity_id: str) -> bytes:
        return self._hash(_PREFIX.pack(b"e", tenant) + entity_id.encode())

    def event_type(self, tenant: int, event_type: str) -> bytes:
        return self._hash(_PREFIX.pack(b"t", tenant) + event_type.encode())

    def tag(self, tenant: int, tag: str) -> bytes:
        return self._hash(_PREFIX.pack(b"g", tenant) + tag.encode())

    def client_id(self, tenant: int, client_id: bytes) -> bytes:
        return self._hash(_PREFIX.pack(b"i", tenant) + client_id)

    def _hash(self, data: bytes) -> bytes:
        state = self._keyed()
        state.update(data)
        return state.digest()


class RememberingHasher(Hasher):
    """A hasher that is asked for the same entities again: a third of the price the second time. For one job."""

    def __init__(self, key: bytes) -> None:
        super().__init__(key)
        self._entities: dict[tuple[int, str], bytes] = {}

    def entity(self, tenant: int, entity_id: str) -> bytes:
        key = tenant, entity_id
        found = self._entities.get(key)
        if found is None:
            found = self._entities[key] = super().entity(tenant, entity_id)
        return found
