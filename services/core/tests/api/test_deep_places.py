"""Finding the event that nests too deeply, in bodies that the decoder gave up on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.api.appends import deep_event_index

DEEP = b"[" * 2000 + b"]" * 2000

values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{},:"\\events')),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["events", "a", '"', "\\"]), inner),
    max_leaves=6,
)


@given(st.lists(values, max_size=4), st.lists(values, max_size=3), st.dictionaries(st.text(max_size=3), st.integers()))
def test_the_index_is_that_of_the_first_deep_event(before: list[Any], after: list[Any], versions: dict[str, int]):
    events = [json.dumps({"payload": value}).encode() for value in before]
    deep = b'{"payload":%s}' % DEEP
    tail = [json.dumps({"payload": value}).encode() for value in after]
    listed = b",".join([*events, deep, *tail])
    index = len(events)
    assert deep_event_index(b'{"events":[%s]}' % listed, lines=False) == index
    with_versions = b'{"expected_versions":%s,"events":[%s]}' % (json.dumps(versions).encode(), listed)
    assert deep_event_index(with_versions, lines=False) == index
    assert deep_event_index(b"\n\n".join([*events, deep, *tail]), lines=True) == index


@pytest.mark.parametrize(
    "body", [DEEP, b'{"other":%s,"events":[1,2]}' % DEEP, b"{}", b"", b'{"events":[{"payload":[]}]}', b'{"a":' * 999]
)
def test_depth_outside_of_the_events_is_of_no_event(body: bytes):
    assert deep_event_index(body, lines=False) is None


def test_a_body_that_is_one_long_string_is_walked_in_one_step():
    body = b'{"events":[{"payload":"%s"},{"payload":%s' % (b'\\"x' * 1_000_000, DEEP)
    assert deep_event_index(body, lines=False) == 1
