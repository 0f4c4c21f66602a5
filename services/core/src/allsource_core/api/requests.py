"""Reading requests: bodies with limits, and query strings and JSON into the structs of the route table."""

from __future__ import annotations

import asyncio
import re
import zlib
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from aiohttp import hdrs
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.web import BaseRequest, HTTPRequestEntityTooLarge, RequestPayloadError
from msgspec.inspect import BoolType, IntType, ListType, Metadata, Type, UnionType, type_info

from allsource_core.api.call import Call
from allsource_shared.problems import ApiError, ProblemItem

__all__ = ["Bodies", "body_error", "decode_body", "media_type", "note_unknown_fields", "parse_query"]

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

_QUERY_FIELDS_MAX: Final = 100
_ENCODINGS: Final = ("identity", "gzip", "deflate")
_GZIP_MEMBERS_MAX: Final = 16
"""A gzip body may be several concatenated ones; each costs a copy of what is behind it."""
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
# What is longer is no number that any parameter takes.
_INTEGER: Final = re.compile("-?[0-9]{1,20}\\Z")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
# msgspec ends its messages with the place: ``… - at `$.events[3].payload` ``.
_PLACE: Final = re.compile(r"(?s)(.*?) - at `(?:key in )?\$\.?(.*)`\Z")


class Bodies:
    """Reads request bodies.

    Args:
        bytes_max: as sent, and unpacked.
        timeout_seconds: for the whole body.
    """

    def __init__(self, *, bytes_max: int, timeout_seconds: float) -> None:
        self._bytes_max = bytes_max
        self._timeout_seconds = timeout_seconds

    async def read(self, request: BaseRequest, bytes_max: int | None = None) -> bytes:
        """The unpacked body of a request.

        Args:
            request: whose body is read.
            bytes_max: a smaller limit than that of every body.

        Raises:
            ApiError: ``body_too_large``, ``unsupported_media_type``, ``bad_request``, ``request_timeout``.
        """
        encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower()
        if encoding not in _ENCODINGS:
            raise ApiError("unsupported_media_type", f"Content-Encoding must be one of {', '.join(_ENCODINGS)}")
        bytes_max = min(bytes_max or self._bytes_max, self._bytes_max)
        if (request.content_length or 0) > bytes_max:
            raise _too_large(bytes_max)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        try:
            async with asyncio.timeout(self._timeout_seconds):
                body = await request.read()
            if encoding != "identity":
                body = await asyncio.to_thread(_unpack, body, encoding, bytes_max)
        except TimeoutError:
            raise ApiError("request_timeout", f"the body took longer than {self._timeout_seconds:g} s") from None
        except (HTTPRequestEntityTooLarge, OverflowError):
            raise _too_large(bytes_max) from None
        except (RequestPayloadError, BadHttpMessage, zlib.error) as error:
            raise ApiError("bad_request", f"the body can't be read as {encoding}") from error
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body


def _too_large(bytes_max: int) -> ApiError:
    return ApiError("body_too_large", f"a body of this route may have at most {bytes_max} bytes")


def _unpack(body: bytes, encoding: str, bytes_max: int) -> bytes:
    """Unpack a whole body. aiohttp would take one that was cut off for a shorter one: half of a batch.

    Raises:
        zlib.error: it is damaged, unfinished, or something follows it.
        OverflowError: it unpacks to more than `bytes_max`.
    """
    if encoding == "gzip":
        window = 16 + zlib.MAX_WBITS
    else:
        # `deflate` means zlib's format; some send the bare stream, whose first byte can't begin a zlib header.
        window = zlib.MAX_WBITS if body[:1] and body[0] & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS
    unpacked = bytearray()
    for _ in range(_GZIP_MEMBERS_MAX if encoding == "gzip" else 1):
        member = zlib.decompressobj(window)
        unpacked += member.decompress(body, bytes_max + 1 - len(unpacked))
        if len(unpacked) > bytes_max:
            raise OverflowError
        if not member.eof:
            raise zlib.error("it ends too soon")
        body = member.unused_data
        if not body:
            return bytes(unpacked)
    raise zlib.error("something follows it")


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


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a JSON body, once.

    Raises:
        ApiError: ``malformed_json``, or ``invalid_body`` with the place.
        RecursionError: the body nests deeper than the decoder follows.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise body_error(error) from None


def body_error(error: Exception, prefix: str = "") -> ApiError:
    """What a decoder's complaint is to the caller; `prefix` says where the decoded text was in the body."""
    if isinstance(error, msgspec.ValidationError):
        message, place = split_place(str(error))
        if prefix and place.startswith("["):
            path = prefix + place
        else:
            path = ".".join(filter(None, (prefix, place))) or "$"
        return ApiError("invalid_body", f"{path}: {message}", errors=[ProblemItem(path, message)])
    where = f"{prefix}: " if prefix else ""
    if isinstance(error, UnicodeDecodeError):
        return ApiError("malformed_json", f"{where}the body is not valid UTF-8")
    return ApiError("malformed_json", f"{where}{error}")


def split_place(message: str) -> tuple[str, str]:
    """Cut msgspec's message into what is wrong and where: ``("Expected `int`, got `str`", "events[1].a")``."""
    match = _PLACE.match(message)
    return (match[1], match[2]) if match is not None else (message, "")


def parse_query(call: Call, struct: type[StructT]) -> StructT:
    """The query string as the route's struct. Unknown names are refused, or ignored and noted on lenient routes.

    Raises:
        ApiError: ``bad_query`` naming the parameter.
    """
    if not call.raw_query:
        return struct()
    if _BAD_ESCAPE.search(call.raw_query) is not None:
        raise ApiError("bad_query", "the query string has an invalid percent escape")
    try:
        pairs = parse_qsl(call.raw_query, keep_blank_values=True, errors="strict", max_num_fields=_QUERY_FIELDS_MAX)
    except UnicodeDecodeError:
        raise ApiError("bad_query", "the query string is not valid UTF-8") from None
    except ValueError:
        raise ApiError("bad_query", f"the query string has more than {_QUERY_FIELDS_MAX} parameters") from None
    known = _parameters(struct)
    values: dict[str, Any] = {}
    for name, value in pairs:
        kind = known.get(name)
        if kind is None:
            if not call.match.route.lenient:
                raise _query_error(name, f"unknown; there are {', '.join(sorted(known)) or 'none'}")
            call.ignored.append(name)
        elif kind is list:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise _query_error(name, "must be given once")
        else:
            values[name] = _scalar(kind, value)
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        message, place = split_place(str(error))
        raise _query_error(place, message) from None


def _query_error(name: str, message: str) -> ApiError:
    return ApiError("bad_query", f"{name}: {message}", errors=[ProblemItem(f"query.{name}", message)])


def _scalar(kind: type, value: str) -> Any:
    """A parameter as JSON would have it. msgspec's own lax mode takes numbers for times, and ``null`` for absence."""
    if kind is int and _INTEGER.match(value) is not None:
        return int(value)
    if kind is bool:
        return _BOOLEANS.get(value.lower(), value)
    return value


@lru_cache(maxsize=256)
def _parameters(struct: type[msgspec.Struct]) -> dict[str, type]:
    """The names of a struct's fields, and what each holds: `list` (it may be repeated), `int`, `bool` or `str`."""
    return {field.encode_name: _kind(type_info(field.type)) for field in msgspec.structs.fields(struct)}


def _kind(info: Type) -> type:
    if isinstance(info, Metadata):
        return _kind(info.type)
    if isinstance(info, UnionType):
        return next((kind for kind in map(_kind, info.types) if kind is not str), str)
    return {ListType: list, IntType: int, BoolType: bool}.get(type(info), str)


_fields_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def note_unknown_fields(call: Call, body: bytes, struct: type[msgspec.Struct]) -> None:
    """Note the fields of a lenient route's body that its struct doesn't have.

    Raises:
        ApiError, RecursionError: as `decode_body`: here the names of those fields are looked at for the first time.
    """
    known = _parameters(struct)
    call.ignored.extend(name for name in decode_body(_fields_decoder, body) if name not in known)
