"""Rows that are kept are those of the very events that were read, or are written anew."""

from __future__ import annotations

import msgspec
import pytest

from allsource_core.api.event_views import event_rows
from allsource_core.api.written_rows import WrittenRows
from allsource_core.engine import Event
from allsource_core.engine.removals import erased_form

PLENTY = 10**9
WHEN = 1_700_000_000_000_000


def some(count: int, *, first: int = 1, tenant: str = "default", payload: bytes = b'{"n":1}') -> list[Event]:
    """Events, another object each time."""
    return [
        Event("a", "e", tenant, payload, None, (), WHEN, WHEN + number, number, number, None)
        for number in range(first, first + count)
    ]


def test_the_same_events_have_the_same_rows_and_are_written_once() -> None:
    written = WrittenRows()
    rows, count = written.write(some(5), PLENTY)
    assert (rows, count) == (b",".join(event_rows(some(5))), 5)
    again, _ = written.write(some(5), PLENTY)
    assert again is rows


@pytest.mark.parametrize(
    "changed",
    [
        [*some(4), erased_form(some(5)[4])],
        some(5, tenant="other"),
        some(5, payload=b'{"n":2}'),
        [some(5)[0], msgspec.structs.replace(some(5)[1], position=4), *some(3, first=3)],
        some(4),
        some(5, first=2),
    ],
    ids=["one is erased", "another tenant's", "another payload", "others in between", "fewer", "later"],
)
def test_other_events_are_written_anew_whatever_is_kept(changed: list[Event]) -> None:
    written = WrittenRows()
    for events in (some(5), changed, some(5), changed):
        assert written.write(events, PLENTY) == (b",".join(event_rows(events)), len(events))


def test_rows_end_behind_the_bound_whether_they_are_kept_or_not() -> None:
    written = WrittenRows()
    each = len(next(event_rows(some(1))))
    for _ in range(2):
        assert written.write(some(5), 3 * each)[1] == 4
        assert written.write(some(5), PLENTY)[1] == 5
        assert written.write(some(5), 0)[1] == 1


def test_no_more_is_kept_than_the_bound_and_what_was_asked_for_last_stays() -> None:
    pages = [some(10, first=first) for first in range(1, 200, 10)]
    size = 2 * len(b",".join(event_rows(pages[-1])))
    written = WrittenRows(size * 17)
    favourite, _ = written.write(pages[0], PLENTY)
    for page in pages[1:]:
        written.write(page, PLENTY)
        assert written.nbytes <= size * 17
        assert written.write(pages[0], PLENTY)[0] is favourite
    first, _ = written.write(pages[1], PLENTY)
    assert written.write(pages[1], PLENTY)[0] is first
    # One that takes more than a sixteenth is not kept.
    assert written.write(some(100), PLENTY)[0] is not written.write(some(100), PLENTY)[0]
    assert WrittenRows(0).write(some(1), PLENTY) == (next(event_rows(some(1))), 1)
