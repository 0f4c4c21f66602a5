"""Times on the wire: RFC 3339 in UTC with microseconds and ``Z``; inside, microseconds since the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

__all__ = ["MICROSECONDS_MAX", "MICROSECONDS_MIN", "format_instant", "to_microseconds"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_microseconds(instant: datetime) -> int:
    """Microseconds between the epoch and an instant that knows its offset; exact, negative before 1970."""
    return (instant - _EPOCH) // _MICROSECOND


def format_instant(microseconds: int) -> str:
    """``1356998400000000`` as ``2013-01-01T00:00:00.000000Z``; the years 1 to 9999 have a form."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{_format_seconds(seconds)}.{fraction:06d}Z"


@lru_cache(maxsize=4096)
def _format_seconds(seconds: int) -> str:
    """The part down to the second, which neighbouring events share: the calendar costs three times the rest."""
    return (_NAIVE_EPOCH + timedelta(seconds=seconds)).isoformat()


MICROSECONDS_MIN: Final = to_microseconds(datetime(1, 1, 1, tzinfo=UTC))
MICROSECONDS_MAX: Final = to_microseconds(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC))
