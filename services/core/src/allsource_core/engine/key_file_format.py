"""The bytes of key files: writing them, and a mapping that checks blocks. docs/storage-format.md, Key file."""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import google_crc32c
import numpy as np
import numpy.typing as npt

from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.hashes import Words
from allsource_core.engine.key_columns import KeyColumns, Rows, newest_of_each_key
from allsource_core.engine.manifest import KeyFileEntry

__all__ = [
    "HEADER_WORDS",
    "POSITION_LIMIT",
    "VERSION_LIMIT",
    "WORDS_PER_BLOCK",
    "WORDS_PER_BLOCK_LOG2",
    "KeyFileMapping",
    "Kind",
    "as_bytes",
    "column_types",
    "decode_columns",
    "encode_columns",
    "write_encoded",
    "write_key_file",
]

Kind = Literal["entities", "ids"]
Column = npt.NDArray[Any]

MAGIC: Final = b"ALLSRCKY"
FORMAT_VERSION: Final = 2
KIND_NUMBERS: Final[dict[Kind, int]] = {"entities": 1, "ids": 2}

BLOCK_BYTES: Final = 65536
HEADER_BYTES: Final = 64
HEADER_WORDS: Final = HEADER_BYTES // 8
WORDS_PER_BLOCK_LOG2: Final = 13
WORDS_PER_BLOCK: Final = 1 << WORDS_PER_BLOCK_LOG2

# What the columns have bits for.
POSITION_LIMIT: Final = 1 << 53
VERSION_LIMIT: Final = 1 << 42

# magic, format version, kind, bytes of a block, entries, reserved.
_HEADER: Final = struct.Struct("<8sHHIQ40x")

# The last column of entities: bits 0-20 of the position above 31, 21-30 of the version above 31, removed.
_LOW_32: Final = 0xFFFF_FFFF
_POSITION_BITS: Final = 21
_POSITION_MASK: Final = (1 << _POSITION_BITS) - 1
_VERSION_MASK: Final = (1 << 10) - 1
_REMOVED_BIT: Final = 31


def column_types(kind: Kind) -> list[np.dtype[Any]]:
    """The types of a file's columns in their order: upper halves, lower halves, then the values."""
    return [np.dtype(name) for name in ("<u8", "<u8", *(("<u8",) if kind == "ids" else ("<u4", "<u4", "<u4")))]


def encode_columns(kind: Kind, columns: KeyColumns) -> list[Column]:
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
        ValueError: a position or a version is beyond the format's limits; nothing was written.
    """
    return write_encoded(
        path, kind, encode_columns(kind, newest_of_each_key(columns)), file=file, filesystem=filesystem
    )


def write_encoded(
    path: Path, kind: Kind, encoded: Sequence[Column], *, file: int, filesystem: Filesystem
) -> KeyFileEntry:
    """Write columns of a file that are sorted and unique already. As `write_key_file`."""
    entries = len(encoded[0])
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, KIND_NUMBERS[kind], BLOCK_BYTES, entries)
    parts = [np.frombuffer(header, np.uint8), *(as_bytes(column) for column in encoded)]
    tail = _fence_of(encoded[0]).tobytes() + _block_checksums(parts).tobytes()
    filesystem.write_new(path, [header, *(part.data for part in parts[1:]), tail])
    return KeyFileEntry(
        file=file,
        kind=kind,
        entries=entries,
        bytes=sum(len(part) for part in parts) + len(tail),
        checksum=google_crc32c.value(header + tail),
    )


def as_bytes(column: Column) -> npt.NDArray[np.uint8]:
    """The bytes of a column in place, read-only."""
    view: npt.NDArray[np.uint8] = np.ascontiguousarray(column).view(np.uint8)
    view.flags.writeable = False  # google_crc32c takes no other
    return view


def _fence_of(hi: Column) -> Words:
    """The upper half that is the first of each block."""
    starts = np.arange(0, HEADER_WORDS + len(hi), WORDS_PER_BLOCK) - HEADER_WORDS
    starts[0] = 0
    fence: Words = hi[starts] if len(hi) else np.zeros(0, np.uint64)
    return fence


def _block_checksums(parts: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint32]:
    """The checksum of each block of these bytes, the last one short."""
    checksums: list[int] = []
    checksum, filled = 0, 0
    for part in parts:
        at = 0
        while at < len(part):
            piece = part[at : at + BLOCK_BYTES - filled]
            checksum = google_crc32c.extend(checksum, piece)
            at, filled = at + len(piece), filled + len(piece)
            if filled == BLOCK_BYTES:
                checksums.append(checksum)
                checksum, filled = 0, 0
    if filled:
        checksums.append(checksum)
    return np.array(checksums, np.uint32)


class KeyFileMapping:
    """An open key file: its columns in place, and which blocks were checked.

    Nothing in `columns`, `words`, `lower` and the views may be used before the `check_` method for it was called;
    these raise CorruptionError with the offset of the block, and OSError. `fence` and `table` are copies and checked.

    Raises: as `KeyFile`.
    """

    def __init__(self, entry: KeyFileEntry, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise CorruptionError(path, 0, "the key file is missing") from None
        weakref.finalize(self, os.close, self._descriptor)
        self._path = path
        self.entries = entry.entries
        self._types = column_types(entry.kind)
        self._offsets = [HEADER_BYTES]
        for kind in self._types:
            self._offsets.append(self._offsets[-1] + kind.itemsize * entry.entries)
        self._read_tail(entry)
        self.checked = bytearray(len(self.table))
        self._checked = np.frombuffer(self.checked, np.uint8)
        mapped = mmap.mmap(self._descriptor, self._offsets[-1], access=mmap.ACCESS_READ)
        self.columns: list[Column] = [
            np.frombuffer(mapped, kind, entry.entries, offset)
            for kind, offset in zip(self._types, self._offsets, strict=False)
        ]
        self.value_columns = range(2, len(self.columns))
        self.lower: Words = self.columns[1]
        self.words_end = HEADER_WORDS + entry.entries
        self.words: Words = np.frombuffer(mapped, "<u8", self.words_end)
        # An element of a memoryview costs 40 ns, one of an array 100: for single keys.
        self.words_view = self.words.data
        self.fence_view = self.fence.data
        self._views = [column.data for column in self.columns]
        self.lower_view = self._views[1]

    def _read_tail(self, entry: KeyFileEntry) -> None:
        """Read and check header, fence and block table."""
        fence_bytes = 8 * -(-(self._offsets[1]) // BLOCK_BYTES) if entry.entries else 0
        table_bytes = 4 * -(-self._offsets[-1] // BLOCK_BYTES)
        if os.fstat(self._descriptor).st_size != self._offsets[-1] + fence_bytes + table_bytes:
            raise CorruptionError(self._path, 0, "the file does not have the size that its entries take")
        header = os.pread(self._descriptor, HEADER_BYTES, 0)
        tail = os.pread(self._descriptor, fence_bytes + table_bytes, self._offsets[-1])
        if google_crc32c.value(header + tail) != entry.checksum:
            raise CorruptionError(self._path, 0, "the checksum of its header and tables does not match")
        magic, version, kind, block_bytes, entries = _HEADER.unpack(header)
        if version != FORMAT_VERSION:
            raise ForeignDirectoryError(f"{self._path}: format {version}; this release reads format {FORMAT_VERSION}")
        if (magic, kind, block_bytes, entries) != (MAGIC, KIND_NUMBERS[entry.kind], BLOCK_BYTES, entry.entries):
            raise CorruptionError(self._path, 0, "it is not the file that the manifest names")
        self.fence: Words = np.frombuffer(tail, "<u8", fence_bytes // 8).copy()
        self.table = np.frombuffer(tail, "<u4", offset=fence_bytes).copy()

    def values_of_row(self, row: int) -> tuple[int, int, bool]:
        """Version, position and removed of one row. Check its value columns before."""
        if len(self._views) == 3:  # one column of values: client event ids
            return 0, self._views[2][row], False
        rest = self._views[4][row]
        return (
            self._views[3][row] | ((rest >> _POSITION_BITS) & _VERSION_MASK) << 32,
            self._views[2][row] | (rest & _POSITION_MASK) << 32,
            rest >> _REMOVED_BIT == 1,
        )

    def check_rows(self, column: int, rows: Rows) -> None:
        self.check_blocks((rows * self._types[column].itemsize + self._offsets[column]) // BLOCK_BYTES)

    def check_row(self, column: int, row: int) -> None:
        block = (row * self._types[column].itemsize + self._offsets[column]) // BLOCK_BYTES
        if not self.checked[block]:
            self.check_block(block)

    def check_range(self, column: int, start: int, stop: int) -> None:
        """Of the rows from `start` up to, not including, `stop`."""
        if start < stop:
            width, offset = self._types[column].itemsize, self._offsets[column]
            first, last = (start * width + offset) // BLOCK_BYTES, (stop * width + offset - 1) // BLOCK_BYTES
            self.check_blocks(np.arange(first, last + 1))

    def check_blocks(self, blocks: npt.NDArray[np.integer]) -> None:
        unchecked = self._checked.take(blocks) == 0
        if unchecked.any():
            for block in np.unique(blocks[unchecked]).tolist():
                self.check_block(block)

    def check_block(self, block: int) -> None:
        # Read, not taken from the mapping: a disk that fails gives an OSError here, and would kill the process there.
        offset = block * BLOCK_BYTES
        data = os.pread(self._descriptor, min(BLOCK_BYTES, self._offsets[-1] - offset), offset)
        if google_crc32c.value(data) != self.table[block]:
            raise CorruptionError(self._path, offset, "the checksum of the block does not match")
        self.checked[block] = 1
