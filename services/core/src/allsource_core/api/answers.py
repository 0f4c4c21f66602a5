"""How an answer is written: head and body in one go, and a large body at the pace of its reader."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import MutableMapping
from contextlib import suppress
from email.utils import formatdate
from functools import lru_cache
from typing import Final

from aiohttp import HttpVersion11, hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web import BaseRequest, Response, StreamResponse

__all__ = ["JsonResponse", "add_lines", "break_off"]

_RESET: Final = struct.pack("ii", 1, 0)
"""What a socket is told, so that closing it sends nothing more."""

_PIECE_BYTES: Final = 256 * 1024
"""A larger body is written in pieces, at the pace of its reader; the connection sees to it that there is one."""


def add_lines(headers: MutableMapping[str, str], lines: str) -> None:
    """Add headers that are given as they are sent, each with its line end."""
    for line in lines.splitlines():
        name, _, value = line.partition(": ")
        headers[name] = value


def break_off(transport: asyncio.Transport) -> None:
    """End a connection with a reset: what the kernel holds of an answer, megabytes of it, is not sent, and nobody takes
    what came of it for the whole.
    """
    connection = transport.get_extra_info("socket")
    if connection is not None:
        with suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


class JsonResponse(Response):
    """A JSON body that is all there, with what its sender adds to the headers.

    aiohttp writes an answer in seven steps, most of which look for what such an answer never has: chunks, compression,
    cookies, a body that must be empty. That, and a multidict for headers that are the same every time, took a tenth of
    the time of a small request. Where something is not as usual, the answer goes that way still. Either way it is sent
    when `write_eof` returns.
    """

    _common = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the body."""
        return len(self._body) if type(self._body) is bytes else 0

    def add_lines(self, lines: str) -> None:
        """The same as `add_lines` to its headers."""
        self._common += lines

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Send the answer, whole."""
        body = self._body
        if (
            self.prepared
            or type(body) is not bytes
            or not request.keep_alive
            or request.version != HttpVersion11
            or self._keep_alive is not None
            or request.method == hdrs.METH_HEAD
        ):
            common, self._common = self._common, ""
            add_lines(self._headers, common)
            return await super().prepare(request)
        writer = request.writer
        head = self._head(len(body))
        if len(body) > _PIECE_BYTES:
            await writer.write(head)
            await _write_in_pieces(writer, body)
            await writer.write_eof()
        else:
            await writer.write_eof(head + body)
        self._keep_alive = self._eof_sent = True
        return writer

    def _head(self, length: int) -> bytes:
        """Status line and headers. Raises ValueError: one of them has a line end in it."""
        own = "".join([f"{name}: {value}\r\n" for name, value in self._headers.items()])
        if own.count("\n") != len(self._headers) or own.count("\r") != len(self._headers):
            raise ValueError("a header has a line end in it")
        date = _date(int(time.time()))
        return (
            f"HTTP/1.1 {self._status} {self._reason}\r\n"
            f"{own}{self._common}Content-Length: {length}\r\nDate: {date}\r\n\r\n"
        ).encode()

    async def write_eof(self, data: bytes = b"") -> None:
        """Send what `prepare` left: the body, where the answer goes aiohttp's way."""
        writer, body = self._payload_writer, self._body
        if writer is None or type(body) is not bytes or len(body) <= _PIECE_BYTES or self._must_be_empty_body:
            await super().write_eof(data)
            return
        await _write_in_pieces(writer, body)
        await StreamResponse.write_eof(self)


async def _write_in_pieces(writer: AbstractStreamWriter, body: bytes) -> None:
    """Write a body; returns when the last of it is in the hands of the operating system, or nearly so.

    Raises:
        ConnectionResetError: the reader is gone, or has stopped reading.
    """
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        await writer.write(view[start : start + _PIECE_BYTES])
    await writer.drain()


@lru_cache(maxsize=2)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)
