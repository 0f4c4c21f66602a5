"""Wall clocks to instants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.flights.clock import first_after, local_text, utc_text

NEW_YORK = ZoneInfo("America/New_York")
ZONES = ["America/New_York", "America/Los_Angeles", "America/Phoenix", "Pacific/Honolulu", "America/Puerto_Rico"]
INSTANTS = st.integers(0, 366 * 24 * 60).map(
    lambda minutes: datetime(2013, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)
CLOCKS = st.builds(lambda hour, minute: hour * 100 + minute, st.integers(0, 23), st.integers(0, 59))


@given(INSTANTS, CLOCKS, st.sampled_from(ZONES).map(ZoneInfo))
def test_result_is_later_by_at_most_a_day_and_shows_the_clock(instant, clock, zone):
    result = first_after(instant, clock, zone)
    assert timedelta(0) < result - instant <= timedelta(hours=25)
    local = result.astimezone(zone)
    shown = local.hour * 100 + local.minute
    skipped_hour = (local.month, local.day, clock // 100) == (3, 10, 2)
    assert shown == clock or (skipped_hour and shown == clock + 100)


def test_2400_is_the_midnight_after():
    evening = datetime(2013, 1, 1, 23, 37, tzinfo=NEW_YORK)
    assert first_after(evening, 2400, NEW_YORK) == datetime(2013, 1, 2, tzinfo=NEW_YORK)
    assert first_after(evening, 2400, NEW_YORK) == first_after(evening, 0, NEW_YORK)


def test_same_clock_is_a_day_later():
    noon = datetime(2013, 6, 1, 12, tzinfo=NEW_YORK)
    assert first_after(noon, 1200, NEW_YORK) == noon + timedelta(days=1)


def test_skipped_hour_is_read_as_if_clocks_had_not_been_put_forward():
    """B6 35 of 2013-03-09 left at 23:06, flew 141 minutes and is said to have arrived at 02:03."""
    departed = datetime(2013, 3, 10, 4, 6, tzinfo=UTC)
    assert utc_text(first_after(departed, 203, NEW_YORK)) == "2013-03-10T07:03:00.000000Z"


def test_hour_that_comes_twice_is_taken_at_its_first_time_that_is_late_enough():
    first = datetime(2013, 11, 3, 5, 10, tzinfo=UTC)  # 01:10 in summer time
    assert utc_text(first_after(first - timedelta(hours=1), 110, NEW_YORK)) == "2013-11-03T05:10:00.000000Z"
    assert utc_text(first_after(first, 110, NEW_YORK)) == "2013-11-03T06:10:00.000000Z"
    assert utc_text(first_after(first + timedelta(hours=1), 110, NEW_YORK)) == "2013-11-04T06:10:00.000000Z"


@pytest.mark.parametrize("clock", [-1, 1260, 2401, 9999])
def test_clock_that_does_not_exist_is_refused(clock):
    with pytest.raises(ValueError):
        first_after(datetime(2013, 1, 1, tzinfo=UTC), clock, NEW_YORK)


def test_local_text_has_the_offset_of_the_season():
    assert local_text(datetime(2013, 1, 1, 10, 15, tzinfo=UTC), NEW_YORK) == "2013-01-01T05:15:00-05:00"
    assert local_text(datetime(2013, 7, 1, 9, 15, tzinfo=UTC), NEW_YORK) == "2013-07-01T05:15:00-04:00"
