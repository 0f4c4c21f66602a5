"""Times on the wire lose nothing on the way, from the year 1 to 9999."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_shared.wire.times import MICROSECONDS_MAX, MICROSECONDS_MIN, format_instant, to_microseconds

microseconds = st.integers(MICROSECONDS_MIN, MICROSECONDS_MAX)


@given(microseconds)
def test_an_instant_comes_back_from_its_text(value: int):
    text = format_instant(value)
    assert to_microseconds(datetime.fromisoformat(text)) == value
    assert len(text) == len("2013-01-01T00:00:00.000000Z")
    assert text.endswith("Z")


@given(microseconds, microseconds)
def test_texts_sort_as_the_instants_do(one: int, other: int):
    assert (format_instant(one) < format_instant(other)) == (one < other)


@given(
    st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)), st.integers(-24 * 60 + 1, 24 * 60 - 1)
)
def test_an_offset_changes_the_text_and_not_the_instant(local: datetime, minutes: int):
    there = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    assert to_microseconds(there) == to_microseconds(there.astimezone(UTC))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1356998400000000, "2013-01-01T00:00:00.000000Z"),
        (MICROSECONDS_MIN, "0001-01-01T00:00:00.000000Z"),
        (MICROSECONDS_MAX, "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_known_instants(value: int, text: str):
    assert format_instant(value) == text


@pytest.mark.parametrize("value", [MICROSECONDS_MIN - 1, MICROSECONDS_MAX + 1])
def test_beyond_the_years_1_to_9999_there_is_no_text(value: int):
    with pytest.raises(OverflowError):
        format_instant(value)


def test_an_instant_whose_offset_leads_out_of_the_years_is_still_a_number():
    early = datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5)))
    late = datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-5)))
    assert to_microseconds(early) < MICROSECONDS_MIN
    assert to_microseconds(late) > MICROSECONDS_MAX
