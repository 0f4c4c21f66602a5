"""Answers about events are written without the structs that describe them, and are the same to the byte."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from allsource_core.api.event_views import appended_rows, event_rows
from allsource_core.engine import Event
from allsource_shared.wire.events import AppendedEvent, EventView
from allsource_shared.wire.times import MICROSECONDS_MAX, MICROSECONDS_MIN, format_instant

NAMES = st.sampled_from(["a", "b", 'quote " and \\ backslash', "é", "日本", "%d %b", "\U0001f600"]) | st.text(
    st.characters(codec="utf-8"), min_size=1
)
RECORDED = st.integers(1_700_000_000_000_000, 1_700_000_002_000_000) | st.integers(0, MICROSECONDS_MAX)
BODIES = st.sampled_from([b"{}", b"null", b'{"a": 1.50,"b":"%d"}', '{"é":"日本"}'.encode(), b"[1,2]"])


@st.composite
def events(draw: st.DrawFn) -> Event:
    recorded_at = draw(RECORDED)
    return Event(
        draw(NAMES),
        draw(NAMES),
        draw(st.sampled_from(["default", "other-1"])),
        draw(BODIES),
        draw(st.none() | st.just(b'{"user": "ann"}')),
        draw(st.just(()) | st.lists(NAMES, max_size=3).map(tuple)),
        draw(st.just(recorded_at) | st.integers(MICROSECONDS_MIN, MICROSECONDS_MAX)),
        recorded_at,
        draw(st.integers(1, 2**53 - 1)),
        draw(st.integers(1, 1000) | st.integers(1, 2**53 - 1)),
        draw(st.none() | st.uuids().map(lambda one: one.bytes)),
    )


def view(event: Event) -> EventView:
    return EventView(
        id=str(event.id),
        event_type=event.event_type,
        entity_id=event.entity_id,
        tenant_id=event.tenant_id,
        payload=Raw(event.payload),
        metadata=None if event.metadata is None else Raw(event.metadata),
        tags=None if event.erased else event.tags,
        timestamp=format_instant(event.timestamp),
        recorded_at=format_instant(event.recorded_at),
        version=event.version,
        position=event.position,
        erased=event.erased,
    )


@given(st.lists(events(), max_size=8))
def test_a_row_is_the_encoded_view_of_its_event(found: list[Event]):
    assert list(event_rows(found)) == [msgspec.json.encode(view(event)) for event in found]


@given(st.lists(events(), max_size=8))
def test_a_row_of_an_append_is_its_encoded_answer(found: list[Event]):
    assert list(appended_rows(found)) == [
        msgspec.json.encode(
            AppendedEvent(
                event_id=str(event.id),
                timestamp=format_instant(event.timestamp),
                recorded_at=format_instant(event.recorded_at),
                version=event.version,
                position=event.position,
            )
        )
        for event in found
    ]


@pytest.mark.parametrize("client_id", [None, bytes(range(16))])
def test_an_erased_event_says_so_and_has_no_body(client_id: bytes | None):
    erased = Event("a", "e", "default", b"null", None, (), 5, 5, 1, 2, client_id, erased=True)
    (row,) = event_rows([erased])
    assert row == msgspec.json.encode(view(erased))
    body: dict[str, Any] = msgspec.json.decode(row)
    assert (body["payload"], body["metadata"], body["tags"], body["erased"]) == (None, None, None, True)


@pytest.mark.parametrize("second", [0, 999_999, 1_000_000, 65_535_999_999, 65_536_000_000])
def test_what_neighbours_share_ends_where_it_must(second: int):
    base = 1_700_000_000_000_000 // 65_536_000_000 * 65_536_000_000
    times = [base + second, base + second + 1, base + second - 1]
    found = [Event("a", "e", "default", b"1", None, (), at, at, 1, 7, None) for at in times]
    assert list(event_rows(found)) == [msgspec.json.encode(view(event)) for event in found]
