"""The cut into batches: deterministic, and never through a flight."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.flights.batches import cut_batches, halve
from examples.flights.events import Event, all_events

FLIGHT_LENGTHS = st.lists(st.integers(2, 3), max_size=60)


def events_of_lengths(lengths: list[int]) -> list[Event]:
    return [
        Event("flight.scheduled", f"flight:{flight}", {}, [], "", f"{flight}-{place}")
        for flight, length in enumerate(lengths)
        for place in range(length)
    ]


@given(FLIGHT_LENGTHS, st.integers(3, 20))
def test_batches_hold_all_events_in_order_and_whole_flights(lengths, batch_size):
    events = events_of_lengths(lengths)
    batches = list(cut_batches(events, batch_size))
    assert list(chain.from_iterable(batches)) == events
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    for one, other in pairwise(batches):
        assert one[-1].entity_id != other[0].entity_id


@given(FLIGHT_LENGTHS, st.integers(0, 60), st.integers(3, 20))
def test_fewer_flights_give_the_same_batches_but_for_the_last(lengths, fewer, batch_size):
    whole = list(cut_batches(events_of_lengths(lengths), batch_size))
    short = list(cut_batches(events_of_lengths(lengths[:fewer]), batch_size))
    assert short[:-1] == whole[: max(len(short) - 1, 0)]


def test_real_flights_are_cut_the_same_way_on_every_run(january, reference):
    def first_ids() -> list[tuple[str, int]]:
        return [(batch[0].event_id, len(batch)) for batch in cut_batches(all_events(january, reference), 1000)]

    assert first_ids() == first_ids()
    assert {size for _, size in first_ids()[:-1]} <= {998, 999, 1000}


@given(st.lists(st.integers(2, 3), min_size=2, max_size=60))
def test_halves_are_the_batch_and_whole_flights(lengths):
    batch = events_of_lengths(lengths)
    halves = halve(batch)
    assert halves is not None
    left, right = halves
    assert left + right == batch
    assert left
    assert right
    assert left[-1].entity_id != right[0].entity_id


def test_single_flight_is_not_halved():
    assert halve(events_of_lengths([3])) is None


@pytest.mark.parametrize("batch_size", [0, 2, 10_001])
def test_size_that_cannot_hold_a_flight_or_that_the_store_refuses_is_an_error(batch_size):
    with pytest.raises(ValueError, match="batch_size"):
        list(cut_batches([], batch_size))
