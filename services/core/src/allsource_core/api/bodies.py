"""Reading the bodies of requests, with their limits of size and time."""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import msgspec
from aiohttp import hdrs
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web import RequestPayloadError

from allsource_core.api.call import Call
from allsource_core.api.memory_budget import UNCOUNTED_BYTES_MAX
from allsource_core.api.requests import StructT, decode_body, note_unknown_fields
from allsource_core.api.unpacking import ENCODINGS, Unpacking
from allsource_shared.problems import ApiError

__all__ = ["Bodies", "media_type"]

_ENCODINGS: Final = ("identity", *ENCODINGS)

_SMALL_BYTES_MAX: Final = 64 * 1024
"""Of bodies that hold no events. Anybody may send some of them: millions of unknown fields would keep everybody else
waiting."""

_UNPACKERS: Final = 2
"""Threads of their own: unpacking holds up nothing else that waits for a thread, and what it takes for a moment beside
what is counted is bounded."""


class Bodies:
    """Reads request bodies.

    Args:
        bytes_max: as sent, and unpacked.
        timeout_seconds: for the whole body.
    """

    def __init__(self, *, bytes_max: int, timeout_seconds: float) -> None:
        self._bytes_max = bytes_max
        self._timeout_seconds = timeout_seconds
        self._unpackers = ThreadPoolExecutor(_UNPACKERS, thread_name_prefix="allsource-unpack")

    async def read(self, call: Call, bytes_max: int | None = None) -> bytes:
        """The unpacked body of a request.

        Args:
            call: whose body is read.
            bytes_max: a smaller limit than that of every body; it holds as sent, and unpacked, as well.

        Raises:
            ApiError: ``body_too_large``, ``unsupported_media_type``, ``bad_request``, ``request_timeout``,
                ``overloaded``; as `Call.recheck`, where it took time.
        """
        request = call.request
        headers, encoding = request.headers, "identity"
        if hdrs.CONTENT_ENCODING in headers:
            # Several are one list (RFC 9110, section 5.3).
            encoding = ", ".join(headers.getall(hdrs.CONTENT_ENCODING)).lower()
        if encoding not in _ENCODINGS:
            raise ApiError("unsupported_media_type", f"Content-Encoding must be one of {', '.join(_ENCODINGS)}")
        bytes_max = min(bytes_max or self._bytes_max, self._bytes_max)
        declared = request.content_length or 0
        if declared > UNCOUNTED_BYTES_MAX:
            if declared > bytes_max:
                raise _too_large(bytes_max)
            call.keep(declared)
        try:
            content = request.content
            if content.is_eof() and content.exception() is None:
                # A short body came with its head: nothing to wait for, which saves the price of a timeout.
                body = content.read_nowait()
            else:
                body = await self._receive(call, bytes_max)
                call.recheck(call)
            if encoding != "identity":
                body = await self._unpack(call, body, encoding, bytes_max)
                call.recheck(call)
        except TimeoutError:
            raise ApiError("request_timeout", f"the body took longer than {self._timeout_seconds:g} s") from None
        except OverflowError:
            raise _too_large(bytes_max) from None
        except (RequestPayloadError, BadHttpMessage, zlib.error) as error:
            raise ApiError("bad_request", f"the body can't be read as {encoding}") from error
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body

    async def decode(self, call: Call, decoder: msgspec.json.Decoder[StructT]) -> StructT:
        """What a body of at most 64 KiB says. Fields that its route ignores are noted.

        Raises:
            ApiError: as `media_type`, `read`, `decode_body` and `note_unknown_fields`; ``invalid_body`` too where it
                nests too deeply.
        """
        media_type(call)
        body = await self.read(call, _SMALL_BYTES_MAX)
        try:
            decoded = decode_body(decoder, body)
            if call.match.route.lenient:
                note_unknown_fields(call, body, decoder.type)
        except RecursionError:
            raise ApiError("invalid_body", "the body nests too deeply") from None
        return decoded

    async def _receive(self, call: Call, bytes_max: int) -> bytes:
        """The body as it is sent. aiohttp's own way copies it twice.

        Raises:
            ApiError: ``overloaded``.
            TimeoutError, OverflowError: it takes too long, or is too long.
            RequestPayloadError, BadHttpMessage: it is malformed.
        """
        request = call.request
        counted = max(request.content_length or 0, UNCOUNTED_BYTES_MAX)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        chunks: list[bytes] = []
        size = 0
        async with asyncio.timeout(self._timeout_seconds):
            while chunk := await request.content.readany():
                chunks.append(chunk)
                size += len(chunk)
                if size > counted:
                    if size > bytes_max:
                        raise OverflowError
                    call.keep(size)
        return b"".join(chunks)

    async def _unpack(self, call: Call, packed: bytes, encoding: str, bytes_max: int) -> bytes:
        """The unpacked body. It gets more room, and that is counted, as it turns out to need it.

        Raises:
            ApiError: ``overloaded``.
            zlib.error: as `Unpacking.go_on`.
            OverflowError: it is too long.
        """
        loop = asyncio.get_running_loop()
        unpacking = Unpacking(packed, encoding)
        room = min(UNCOUNTED_BYTES_MAX, bytes_max)
        while True:
            body = await loop.run_in_executor(self._unpackers, unpacking.go_on, room)
            if body is not None:
                break
            if room == bytes_max:
                raise OverflowError
            room = min(2 * room, bytes_max)
            # Of a tenant that has nothing else under way it is never too much: bodies have at most 16 MiB, packed and
            # unpacked, and a tenant's share at least 32.
            call.keep(len(packed) + room)
        if len(body) > UNCOUNTED_BYTES_MAX:
            call.keep(len(body))
        return body


def _too_large(bytes_max: int) -> ApiError:
    return ApiError("body_too_large", f"a body of this route may have at most {bytes_max} bytes")


def media_type(call: Call) -> str:
    """The media type of the body; without a header, the route's first.

    Raises:
        ApiError: ``unsupported_media_type`` for one that the route doesn't read.
    """
    allowed = call.match.route.request_types
    header = call.request.headers.get(hdrs.CONTENT_TYPE)
    if header is None:
        return allowed[0]
    media = header.partition(";")[0].strip().lower()
    if media not in allowed:
        raise ApiError("unsupported_media_type", f"Content-Type must be one of {', '.join(allowed)}")
    return media
