"""The hashes under which key files and filters know names and ids: keyed, so that nobody can choose collisions.

Not a cryptographic hash of each name, which costs a call of 0.5 µs, but a universal hash, which numpy makes of a whole
batch at once: 0.15 µs a name in batches of 1,000, 0.08 µs where there are many. docs/storage-format.md, Hashes, says
what it is; docs/decisions/0012-universal-hashes.md why it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import shake_256
from operator import mul
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from allsource_core.engine.limits import ENTITY_ID_BYTES_MAX

__all__ = ["HASH_KEY_BYTES", "Hash", "Hasher", "Hashes", "Tenants"]

HASH_KEY_BYTES: Final = 32

Hash: TypeAlias = tuple[int, int]
"""The upper and the lower half of one hash."""
Words: TypeAlias = npt.NDArray[np.uint64]
Tenants: TypeAlias = "int | npt.NDArray[np.integer]"
"""The number of the tenant of all names, or one for each."""

_LANES: Final = 4
_ROUNDS: Final = 3
_FIXED_ROWS: Final = 3
_NAME_ROWS: Final = ENTITY_ID_BYTES_MAX // 4
"""No name in a store is longer. Of one that is, the rest does not count: its length tells it from all others."""

_LOW_32: Final = 0xFFFF_FFFF
_LOW_64: Final = 0xFFFF_FFFF_FFFF_FFFF
_HALF: Final = np.uint64(32)
_MASKS: Final = np.array([(1 << 8 * kept) - 1 for kept in range(9)], np.uint64)
_ROWS_AT_A_TIME: Final = 8192
"""Of names of 512 bytes that takes 12 MB."""

_NONE: Final[Words] = np.zeros(0, np.uint64)

_ENTITY, _EVENT_TYPE, _TAG, _CLIENT_ID = b"etgi"


class Hashes(NamedTuple):
    """The upper and the lower halves of many hashes."""

    hi: Words
    lo: Words


class Hasher:
    """Hashes with the key of one store.

    Functions of one name take 2 µs. Those of many take Arrow arrays without nulls, and give the hashes in their order.

    Args:
        key: 32 bytes, chance, the store's own.
    """

    def __init__(self, key: bytes) -> None:
        rows = _FIXED_ROWS + _NAME_ROWS
        chance = np.frombuffer(shake_256(key).digest(8 * (_ROUNDS + _LANES * rows)), "<u8").astype(np.uint64)
        # Odd, so that no bit is lost by multiplying.
        self._multipliers: list[np.uint64] = list(chance[:_ROUNDS] | np.uint64(1))
        self._factors: Words = chance[_ROUNDS:].reshape(rows, _LANES)
        # Of what differs from name to name: the length, and the words.
        self._name_factors = self._factors[[1, *range(_FIXED_ROWS, rows)]]
        # For one name: the lanes of a row in one integer, so far apart that they do not meet.
        self._packed = [sum(factor << 128 * lane for lane, factor in enumerate(row)) for row in self._factors.tolist()]
        self._packed_names = self._packed[_FIXED_ROWS:]
        self._integer_multipliers = [int(multiplier) for multiplier in self._multipliers]

    def entity(self, tenant: int, entity_id: str) -> Hash:
        return self._hash(_ENTITY, tenant, entity_id.encode())

    def event_type(self, tenant: int, event_type: str) -> Hash:
        return self._hash(_EVENT_TYPE, tenant, event_type.encode())

    def tag(self, tenant: int, tag: str) -> Hash:
        return self._hash(_TAG, tenant, tag.encode())

    def client_id(self, tenant: int, client_id: bytes) -> Hash:
        return self._hash(_CLIENT_ID, tenant, client_id)

    def entities(self, tenants: Tenants, entity_ids: pa.Array[Any]) -> Hashes:
        return self._hash_all(_ENTITY, tenants, _words_of_strings(entity_ids))

    def event_types(self, tenants: Tenants, event_types: pa.Array[Any]) -> Hashes:
        return self._hash_all(_EVENT_TYPE, tenants, _words_of_strings(event_types))

    def tags(self, tenants: Tenants, tags: pa.Array[Any]) -> Hashes:
        return self._hash_all(_TAG, tenants, _words_of_strings(tags))

    def client_ids(self, tenants: Tenants, client_ids: Sequence[bytes] | pa.Array[Any]) -> Hashes:
        """The hashes of ids of 16 bytes each."""
        return self._hash_all(_CLIENT_ID, tenants, _words_of_ids(client_ids))

    def _hash(self, kind: int, tenant: int, name: bytes) -> Hash:
        fixed = self._packed
        words = memoryview(name + bytes(-len(name) % 4)).cast("I")
        total = fixed[0] + fixed[1] * (kind | len(name) << 8) + fixed[2] * tenant
        total += sum(map(mul, words, self._packed_names))
        one = total & _LOW_32 << 32 | total >> 160 & _LOW_32
        other = total >> 256 & _LOW_32 << 32 | total >> 416 & _LOW_32
        for multiplier in self._integer_multipliers:
            mixed = one * multiplier & _LOW_64
            one, other = other + (mixed ^ mixed >> 32) & _LOW_64, one
        return one, other

    def _hash_all(self, kind: int, tenants: Tenants, parts: Iterator[Words]) -> Hashes:
        """The hashes of names that come as rows of numbers: 256 times the length in bytes, then the words."""
        base = self._factors[0] + np.uint64(kind) * self._factors[1]
        of_tenants = self._factors[2]
        if isinstance(tenants, int):
            base += np.uint64(tenants) * of_tenants
        start = 0
        done: list[Hashes] = []
        for words in parts:
            total = words @ self._name_factors[: words.shape[1]]
            total += base
            if not isinstance(tenants, int):
                total += tenants[start : start + len(words), np.newaxis].astype(np.uint64) * of_tenants
            done.append(self._mixed(total))
            start += len(words)
        if len(done) == 1:
            return done[0]
        hi, lo = zip(*done, strict=True) if done else ([], [])
        return Hashes(np.concatenate([_NONE, *hi]), np.concatenate([_NONE, *lo]))

    def _mixed(self, total: Words) -> Hashes:
        total >>= _HALF
        one = total[:, 0] << _HALF | total[:, 1]
        other = total[:, 2] << _HALF | total[:, 3]
        for multiplier in self._multipliers:
            mixed = one * multiplier
            mixed ^= mixed >> _HALF
            mixed += other
            one, other = mixed, one
        return Hashes(one, other)


def _words_of_strings(array: pa.Array[Any]) -> Iterator[Words]:
    count = len(array)
    _, offset_bytes, characters = array.buffers()
    if not count or offset_bytes is None:
        return
    offsets = np.frombuffer(memoryview(offset_bytes), "<i4", count + 1, 4 * array.offset)
    data = np.frombuffer(b"" if characters is None else memoryview(characters), np.uint8)
    for start in range(0, count, _ROWS_AT_A_TIME):
        bounds = offsets[start : start + _ROWS_AT_A_TIME + 1]
        lengths = np.diff(bounds)
        size = min(int(lengths.max()), ENTITY_ID_BYTES_MAX)
        steps = np.arange(0, max(size, 1), 8, dtype=np.int32)
        padded = np.zeros(bounds[-1] - bounds[0] + 8 * len(steps), np.uint8)
        padded[: bounds[-1] - bounds[0]] = data[bounds[0] : bounds[-1]]
        # The eight bytes from each byte on.
        eights = np.ndarray(len(padded) - 7, "<u8", padded, 0, (1,))
        names = eights[(bounds[:-1] - bounds[0])[:, np.newaxis] + steps]
        names &= _MASKS.take(lengths[:, np.newaxis] - steps, mode="clip")
        words = np.empty((len(lengths), 1 + 2 * len(steps)), np.uint64)
        words[:, 0] = lengths << 8
        words[:, 1:] = names.view("<u4")
        yield words


def _words_of_ids(ids: Sequence[bytes] | pa.Array[Any]) -> Iterator[Words]:
    if isinstance(ids, pa.Array):
        _, data = ids.buffers()
        words = np.frombuffer(b"" if data is None else memoryview(data), "<u4", 4 * len(ids), 16 * ids.offset)
    else:
        words = np.frombuffer(b"".join(ids), "<u4")
    for start in range(0, len(words), 4 * _ROWS_AT_A_TIME):
        of_part = words[start : start + 4 * _ROWS_AT_A_TIME].reshape(-1, 4)
        numbers = np.empty((len(of_part), 5), np.uint64)
        numbers[:, 0] = 16 << 8
        numbers[:, 1:] = of_part
        yield numbers
