"""The bytes of key files: writing them, and a mapping that checks blocks. docs/storage-format.md, Key file."""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import google_crc32c
import numpy as np
import numpy.typing as npt

from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.filesystem import Bytes, Filesystem
from allsource_core.engine.hashes import Words
from allsource_core.engine.key_columns import KeyColumns, Rows, newest_of_each_key
from allsource_core.engine.manifest import KeyFileEntry

__all__ = [
    "HEADER_WORDS",
    "POSITION_LIMIT",
    "VERSION_LIMIT",
    "KeyFileMapping",
    "Kind",
    "Places",
    "decode_columns",
    "write_key_file",
    "write_sorted",
]

Kind = Literal["entities", "ids"]
Column = npt.NDArray[Any]

MAGIC: Final = b"ALLSRCKY"
FORMAT_VERSION: Final = 2
KIND_NUMBERS: Final[dict[Kind, int]] = {"entities": 1, "ids": 2}

BLOCK_BYTES_MAX: Final = 8192
"""What a look-up of one key reads and checks on first touch: 3 µs. Fence and table take 0.2 % of it in memory."""
HEADER_BYTES: Final = 64
HEADER_WORDS: Final = HEADER_BYTES // 8

# What the columns have bits for.
POSITION_LIMIT: Final = 1 << 53
VERSION_LIMIT: Final = 1 << 42

# magic, format version, kind, entries of a block.
_HEADER: Final = struct.Struct("<8sHHI48x")
_COUNT: Final = struct.Struct("<Q")

# The last column of entities: bits 0-20 of the position above 31, 21-30 of the version above 31, removed.
_POSITION_BITS: Final = 21
_POSITION_MASK: Final = (1 << _POSITION_BITS) - 1
_VERSION_MASK: Final = (1 << 10) - 1
_REMOVED_BIT: Final = 31

# Upper halves, lower halves, then the values.
_TYPES: Final = {
    "entities": tuple(map(np.dtype, ("<u8", "<u8", "<u4", "<u4", "<u4"))),
    "ids": tuple(map(np.dtype, ("<u8", "<u8", "<u8"))),
}
_ENTRY_BYTES: Final = {kind: sum(of_column.itemsize for of_column in types) for kind, types in _TYPES.items()}


def _block_entries(kind: Kind, entries: int) -> int:
    """How many entries each block of a file has room for: an even number, so that its words are aligned."""
    return min(BLOCK_BYTES_MAX // _ENTRY_BYTES[kind] // 2 * 2, entries + entries % 2)


def _encode_columns(kind: Kind, columns: KeyColumns) -> list[Column]:
    """The columns of a file. Raises ValueError for a position or version that the format has no bits for."""
    if len(columns) and (columns.position.max() >= POSITION_LIMIT or columns.version.max() >= VERSION_LIMIT):
        raise ValueError(f"positions are below {POSITION_LIMIT}, versions below {VERSION_LIMIT}")
    if kind == "ids":
        return [columns.hi, columns.lo, columns.position]
    rest = (columns.position >> 32) | ((columns.version >> 32) << _POSITION_BITS)
    rest |= columns.removed.astype(np.uint64) << _REMOVED_BIT
    # astype keeps the low bits of a wider integer.
    return [
        columns.hi,
        columns.lo,
        columns.position.astype(np.uint32),
        columns.version.astype(np.uint32),
        rest.astype(np.uint32),
    ]


def decode_columns(kind: Kind, encoded: Sequence[Column]) -> KeyColumns:
    """The reverse of `encode_columns`; the halves may be views of a mapped file, all else is copied."""
    if kind == "ids":
        return KeyColumns.of(encoded[0], encoded[1], encoded[2].copy())
    hi, lo, position, version, rest = encoded
    wide = rest.astype(np.uint64)
    return KeyColumns(
        hi,
        lo,
        position | ((wide & _POSITION_MASK) << 32),
        version | (((wide >> _POSITION_BITS) & _VERSION_MASK) << 32),
        (wide >> _REMOVED_BIT).astype(np.bool_),
    )


def write_key_file(path: Path, kind: Kind, columns: KeyColumns, *, file: int, filesystem: Filesystem) -> KeyFileEntry:
    """Write a key file: content synced, name not, since it is made aside and renamed by the caller.

    Args:
        path: of the new file.
        kind: ``entities`` or ``ids``.
        columns: in any order. Of several entries of a key the one that supersedes the others is written.
        file: its number.
        filesystem: to write with.

    Returns:
        The file's entry in the manifest.

    Raises:
        OSError: it may have been written in part.
        ValueError: a position or a version is beyond the format's limits.
    """
    return write_sorted(path, kind, [newest_of_each_key(columns)], file=file, filesystem=filesystem)


def write_sorted(
    path: Path, kind: Kind, parts: Iterable[KeyColumns], *, file: int, filesystem: Filesystem
) -> KeyFileEntry:
    """Write entries that are sorted and unique already, a part at a time. As `write_key_file`; whatever making the
    parts raises, too.
    """
    writing = _Writing(kind)
    filesystem.write_new(path, writing.bytes_of(parts))
    return KeyFileEntry(
        file=file, kind=kind, entries=writing.entries, bytes=writing.size, checksum=google_crc32c.value(writing.framing)
    )


class _Writing:
    """A file while it is written, from its beginning to its end.

    Attributes:
        entries, size: how many, and bytes, so far.
        framing: header and tail, at the end.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind: Kind = kind
        self._fence: list[bytes] = []
        self._table: list[int] = []
        self.entries = 0
        self.size = 0
        self.framing = b""

    def bytes_of(self, parts: Iterable[KeyColumns]) -> Iterator[Bytes]:
        left: list[Column] = [np.zeros(0, of_column) for of_column in _TYPES[self._kind]]
        most = _block_entries(self._kind, BLOCK_BYTES_MAX)
        for part in parts:
            columns = [np.concatenate(both) for both in zip(left, _encode_columns(self._kind, part), strict=True)]
            whole = len(columns[0]) // most * most
            if whole:
                yield from self._blocks([column[:whole] for column in columns], most)
            left = [column[whole:] for column in columns]
        if len(left[0]):
            yield from self._blocks(left, _block_entries(self._kind, self.entries + len(left[0])))
        if not self.entries:
            yield self._header(0)
        tail = b"".join([*self._fence, np.array(self._table, "<u4").tobytes(), _COUNT.pack(self.entries)])
        self.framing += tail
        self.size += len(tail)
        yield tail

    def _header(self, block_entries: int) -> bytes:
        self.framing = _HEADER.pack(MAGIC, FORMAT_VERSION, KIND_NUMBERS[self._kind], block_entries)
        self.size = len(self.framing)
        return self.framing

    def _blocks(self, columns: Sequence[Column], block_entries: int) -> Iterator[Bytes]:
        """Entries as blocks; the last one is filled up with ones."""
        if not self.entries:
            yield self._header(block_entries)
        count = len(columns[0])
        whole = count // block_entries
        data = np.full((-(-count // block_entries), block_entries * _ENTRY_BYTES[self._kind]), 0xFF, np.uint8)
        at = 0
        for column in columns:
            end = at + block_entries * column.itemsize
            room = data[:, at:end].view(column.dtype)
            room[:whole] = column[: whole * block_entries].reshape(whole, block_entries)
            room[whole:, : count - whole * block_entries] = column[whole * block_entries :]
            at = end
        data.flags.writeable = False  # google_crc32c takes no other
        self._fence.append(columns[0][::block_entries].tobytes())
        self._table += map(google_crc32c.value, data)
        self.entries += count
        self.size += data.nbytes
        yield data.reshape(-1).data


class Places(NamedTuple):
    """Where entries stand, as indexes into the words of 64 bits of the file.

    Attributes:
        block: of the first word of an entry's block.
        upper: of its upper half.
    """

    block: Rows
    upper: Rows


class KeyFileMapping:
    """An open key file: its columns in place, and which blocks were checked.

    Nothing in `columns`, `words` and `words_view` may be used before the `check_` method for it was called; these raise
    CorruptionError with the offset of the block, and OSError. `fence` and `table` are copies and checked.

    Attributes:
        columns: a row for each block.
        fence: the upper half of the first entry of each block.
        words: of 64 bits, the header's too.
        words_end: where the upper halves of the last block end.

    Raises: as `KeyFile`.
    """

    def __init__(self, entry: KeyFileEntry, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CorruptionError(path, 0, "the key file is missing") from None
        weakref.finalize(self, os.close, self._descriptor)
        self._path = path
        self._kind: Kind = entry.kind
        self.entries = entry.entries
        self.block_entries = _block_entries(entry.kind, entry.entries)
        self._block_bytes = self.block_entries * _ENTRY_BYTES[entry.kind]
        self.block_words = self._block_bytes // 8
        self.blocks = -(-entry.entries // self.block_entries) if entry.entries else 0
        self._end = HEADER_BYTES + self.blocks * self._block_bytes
        self._read_framing(entry)
        self.checked = bytearray(self.blocks)
        self._checked = np.frombuffer(self.checked, np.uint8)
        mapped = mmap.mmap(self._descriptor, self._end, access=mmap.ACCESS_READ)
        self.words: Words = np.frombuffer(mapped, "<u8")
        self._small_words: npt.NDArray[np.uint32] = np.frombuffer(mapped, "<u4")
        # An element of a memoryview costs 40 ns, one of an array 100: for single keys.
        self.words_view = self.words.data
        self._small_view = self._small_words.data
        self.fence_view = self.fence.data
        last = self.blocks - 1
        self.words_end = self.first_word(last) + self.entries - last * self.block_entries
        self.columns: list[Column] = []
        offset = HEADER_BYTES
        for of_column in _TYPES[self._kind]:
            shape, strides = (self.blocks, self.block_entries), (self._block_bytes, of_column.itemsize)
            self.columns.append(np.ndarray(shape, of_column, mapped, offset, strides))
            offset += self.block_entries * of_column.itemsize

    def _read_framing(self, entry: KeyFileEntry) -> None:
        """Read and check header, fence and block table."""
        tail_bytes = 12 * self.blocks + _COUNT.size
        if os.fstat(self._descriptor).st_size != self._end + tail_bytes:
            raise CorruptionError(self._path, 0, "the file does not have the size that its entries take")
        header = os.pread(self._descriptor, HEADER_BYTES, 0)
        tail = os.pread(self._descriptor, tail_bytes, self._end)
        if google_crc32c.value(header + tail) != entry.checksum:
            raise CorruptionError(self._path, 0, "the checksum of its header and tables does not match")
        magic, version, kind, block_entries = _HEADER.unpack(header)
        if version != FORMAT_VERSION:
            raise ForeignDirectoryError(f"{self._path}: format {version}; this release reads format {FORMAT_VERSION}")
        (entries,) = _COUNT.unpack_from(tail, 12 * self.blocks)
        expected = (MAGIC, KIND_NUMBERS[entry.kind], self.block_entries, entry.entries)
        if (magic, kind, block_entries, entries) != expected:
            raise CorruptionError(self._path, 0, "it is not the file that the manifest names")
        self.fence: Words = np.frombuffer(tail, "<u8", self.blocks).copy()
        self.table = np.frombuffer(tail, "<u4", self.blocks, 8 * self.blocks).copy()

    def first_word(self, block: int) -> int:
        """Where a block begins: its upper halves, `block_entries` words further its lower ones."""
        return HEADER_WORDS + block * self.block_words

    def columns_at(self, places: Places) -> KeyColumns:
        """The entries at these places, whose blocks were checked."""
        room = self.block_entries
        encoded: list[Column] = [self.words.take(places.upper), self.words.take(places.upper + room)]
        if self._kind == "ids":
            encoded.append(self.words.take(places.upper + 2 * room))
        else:
            # Behind the halves come columns of half the width.
            small = places.block + places.upper + 4 * room
            encoded += [self._small_words.take(small + n * room) for n in range(3)]
        return decode_columns(self._kind, encoded)

    def values_at(self, block: int, word: int) -> tuple[int, int, bool]:
        """Version, position and removed of one entry, by the first word of its block and that of its upper half."""
        room = self.block_entries
        if self._kind == "ids":
            return 0, self.words_view[word + 2 * room], False
        small = block + word + 4 * room
        rest = self._small_view[small + 2 * room]
        return (
            self._small_view[small + room] | ((rest >> _POSITION_BITS) & _VERSION_MASK) << 32,
            self._small_view[small] | (rest & _POSITION_MASK) << 32,
            rest >> _REMOVED_BIT == 1,
        )

    def check_blocks(self, blocks: npt.NDArray[np.integer]) -> None:
        unchecked = self._checked.take(blocks) == 0
        if unchecked.any():
            for block in np.unique(blocks[unchecked]).tolist():
                self.check_block(block)

    def check_block(self, block: int) -> None:
        # Read, not taken from the mapping: a disk that fails gives an OSError here, and would kill the process there.
        offset = HEADER_BYTES + block * self._block_bytes
        data = os.pread(self._descriptor, self._block_bytes, offset)
        if google_crc32c.value(data) != self.table[block]:
            raise CorruptionError(self._path, offset, "the checksum of the block does not match")
        self.checked[block] = 1
