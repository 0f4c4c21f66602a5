"""From wall clocks at an airport to instants."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

__all__ = ["first_after", "local_text", "utc_text"]


def first_after(instant: datetime, clock: int, zone: ZoneInfo) -> datetime:
    """The first instant after `instant` at which a wall clock in `zone` shows `clock`.

    An hour that the clocks go through twice counts twice. In the hour that they skip the clock is read as if they
    had not been put forward yet, which is what the data does: B6 35 of 2013-03-09 came to Palm Beach at "0203".

    Args:
        instant: any aware time.
        clock: hours * 100 + minutes, 0 to 2400; 2400 is the midnight that ends a day, so it is read as 0.
        zone: where the clock hangs.

    Returns:
        A time in UTC.

    Raises:
        ValueError: there is no such clock time, such as 1260.
    """
    hour, minute = divmod(0 if clock == 2400 else clock, 100)
    day = instant.astimezone(zone).date()
    while True:
        for fold in (0, 1):
            shown = datetime.combine(day, time(hour, minute, fold=fold), zone).astimezone(UTC)
            if shown > instant:
                return shown
        day += timedelta(days=1)


def utc_text(instant: datetime) -> str:
    """RFC 3339 in UTC with microseconds, the form in which the store answers: ``2013-01-01T10:15:00.000000Z``.

    Args:
        instant: a time whose zone is `UTC`; nothing is converted.
    """
    return instant.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def local_text(instant: datetime, zone: ZoneInfo) -> str:
    """RFC 3339 with the local offset: ``2013-01-01T05:15:00-05:00``."""
    return instant.astimezone(zone).isoformat()
