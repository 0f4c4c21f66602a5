"""Pages, and cursors: where a query goes on. Opaque to callers; valid for as long as the store has the events.

A cursor carries the position of the last event that was given out and a digest of the query, so it can't be used
with another one by mistake. It is no secret and grants nothing: the tenant comes from the caller's credential.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from allsource_shared.problems import ApiError
from allsource_shared.wire.events import QueryParameters
from allsource_shared.wire.times import to_microseconds

__all__ = ["cut_page", "decode_cursor", "encode_cursor"]

_T = TypeVar("_T")


def cut_page(found: Sequence[_T], limit: int) -> tuple[Sequence[_T], bool]:
    """A page of what was looked up with one more than its limit, and whether that one shows that there is another."""
    return found[:limit], len(found) > limit


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    position: int
    query: bytes


_VERSION = 1
_decoder = msgspec.msgpack.Decoder(_Cursor)


def encode_cursor(position: int, parameters: QueryParameters) -> str:
    """The cursor behind the event at `position` of this query."""
    cursor = msgspec.msgpack.encode(_Cursor(_VERSION, position, _digest(parameters)))
    return base64.urlsafe_b64encode(cursor).rstrip(b"=").decode()


def decode_cursor(text: str, parameters: QueryParameters) -> int:
    """The position behind which the query goes on.

    Raises:
        ApiError: ``invalid_cursor`` for what `encode_cursor` did not make, or not for this query.
    """
    try:
        cursor = _decoder.decode(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise ApiError("invalid_cursor", "cursor: not one that this service gave out") from None
    if cursor.version != _VERSION or cursor.query != _digest(parameters):
        raise ApiError("invalid_cursor", "cursor: belongs to a query with other parameters") from None
    return cursor.position


def _digest(parameters: QueryParameters) -> bytes:
    """Of what selects and orders; page size and waiting may change from page to page."""
    selection = (
        parameters.entity_id,
        parameters.event_type,
        parameters.tag,
        _instant(parameters.since),
        _instant(parameters.until),
        _instant(parameters.as_of),
        parameters.after_position,
        parameters.before_position,
        parameters.order,
    )
    return hashlib.blake2b(msgspec.msgpack.encode(selection), digest_size=8).digest()


def _instant(instant: datetime | None) -> int | None:
    """As a number: an instant of the year 1 or 9999 may have no date in UTC."""
    return None if instant is None else to_microseconds(instant)
