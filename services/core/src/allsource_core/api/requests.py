"""Reading requests: query strings and JSON bodies into the structs of the route table."""

from __future__ import annotations

import re
import uuid
from functools import lru_cache
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.inspect import BoolType, IntType, ListType, Metadata, Type, UnionType, type_info

from allsource_core.api.call import Call
from allsource_core.api.tenants import check_tenant
from allsource_shared.problems import ApiError, ProblemItem

__all__ = ["body_error", "decode_body", "note_unknown_fields", "parse_event_id", "parse_query", "refuse_query"]

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

_TENANT: Final = "tenant_id"
_QUERY_FIELDS_MAX: Final = 100
_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
# What is longer is no number that any parameter takes.
_INTEGER: Final = re.compile("-?[0-9]{1,20}\\Z")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
# msgspec ends its messages with the place: ``… - at `$.events[3].payload` ``.
_PLACE: Final = re.compile(r"(?s)(.*?) - at `(?:key in )?\$\.?(.*)`\Z")


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
        return _convert({}, struct)
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
            _note_unknown(call, name, value)
        elif kind is list:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise _query_error(name, "must be given once")
        else:
            values[name] = _scalar(kind, value)
    return _convert(values, struct)


def _convert(values: dict[str, Any], struct: type[StructT]) -> StructT:
    try:
        return msgspec.convert(values, struct)
    except msgspec.ValidationError as error:
        message, place = split_place(str(error))
        for field in msgspec.structs.fields(struct):
            if field.required and field.encode_name not in values:
                place, message = field.encode_name, "is required"
        raise _query_error(place, message) from None


class _NoParameters(msgspec.Struct, frozen=True):
    """Of a route that takes none."""


def refuse_query(call: Call) -> None:
    """Refuse whatever stands in the query string of a route that takes no parameters.

    Raises:
        ApiError: ``bad_query``.
    """
    if call.raw_query:
        parse_query(call, _NoParameters)


def parse_event_id(text: str) -> uuid.UUID:
    """Read an event id in its one canonical form, upper or lower case.

    Raises:
        ApiError: ``not_found``: what is no UUID is no event's id.
    """
    try:
        event_id = uuid.UUID(text)
    except ValueError:
        event_id = None
    if event_id is None or str(event_id) != text.lower():
        raise ApiError("not_found", "there is no such event: an event id is a UUID, 8-4-4-4-12 hex digits")
    return event_id


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
    for name, value in decode_body(_fields_decoder, body).items():
        if name not in known:
            _note_unknown(call, name, bytes(value).strip(b'"').decode(errors="replace") if name == _TENANT else "")


def _note_unknown(call: Call, name: str, value: str) -> None:
    """Note a name that is ignored. A tenant, which AllSource v1.0 took from there, is checked like the header's."""
    if name == _TENANT:
        check_tenant(value, call.caller, where=name)
    call.ignored.append(name)
