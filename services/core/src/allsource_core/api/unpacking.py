"""Unpacking bodies, in steps: what a small packed body becomes is known only when it is there."""

from __future__ import annotations

import zlib
from typing import Final

__all__ = ["ENCODINGS", "Unpacking"]

ENCODINGS: Final = ("gzip", "deflate")
_GZIP_MEMBERS_MAX: Final = 16
"""A gzip body may be several concatenated ones; each costs a copy of what is behind it."""


class Unpacking:
    """A whole packed body on its way. aiohttp would take one that was cut off for a shorter one: half of a batch.

    At the end it takes, beside the packed body, twice what that unpacks to: the parts, and what is made of them.

    Args:
        packed: the body.
        encoding: one of `ENCODINGS`.
    """

    def __init__(self, packed: bytes, encoding: str) -> None:
        if encoding == "gzip":
            self._window = 16 + zlib.MAX_WBITS
            self._members_left = _GZIP_MEMBERS_MAX
        else:
            # `deflate` means zlib's format; some send the bare stream, whose first byte can't begin a zlib header.
            zlib_header = packed[:1] and packed[0] & 0x0F == zlib.DEFLATED
            self._window = zlib.MAX_WBITS if zlib_header else -zlib.MAX_WBITS
            self._members_left = 1
        self._rest = packed
        self._member = zlib.decompressobj(self._window)
        self._parts: list[bytes] = []
        self._size = 0

    def go_on(self, bytes_max: int) -> bytes | None:
        """The unpacked body, or None if it is larger than `bytes_max`.

        Args:
            bytes_max: of all of it; more than the last time.

        Raises:
            zlib.error: it is damaged, unfinished, or something follows it.
        """
        while True:
            if not self._member.eof:
                part = self._member.decompress(self._rest, bytes_max + 1 - self._size)
                self._rest = self._member.unconsumed_tail
                self._parts.append(part)
                self._size += len(part)
            if self._size > bytes_max:
                return None
            if not self._member.eof:
                raise zlib.error("it ends too soon")
            self._rest = self._member.unused_data
            if not self._rest:
                return b"".join(self._parts)
            self._members_left -= 1
            if not self._members_left:
                raise zlib.error("something follows it")
            self._member = zlib.decompressobj(self._window)
