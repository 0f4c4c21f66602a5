"""``GET events/query`` against a small model: every filter, order and limit, as pages and as a stream."""

from __future__ import annotations

import itertools
import json
import random
import uuid
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .service import BATCH, EVENTS, QUERY, last_position, refusal

ENTITIES = ["cart", "order/1", "order?2", "Ärger & Co + 100%", ".hidden", "nobody"]
TYPES = ["added", "removed", "paid", "never"]
TAGS = ["red", "green", "blue", "none"]
TIMES = ["2020-01-01T00:00:00.000000Z", "2021-06-15T12:30:00.500000Z", "2022-12-31T23:59:59.999999Z", None]


class Stored(NamedTuple):
    """The model's idea of what is stored: the events of this module, in the order of their positions."""

    marker: str
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def stored(admin: httpx.Client) -> Stored:
    """Sixty events of all combinations, each with one tag that no other test's event has."""
    marker = f"marker-{uuid.uuid4()}"
    chance = random.Random(20130101)
    sent = []
    for number in range(60):
        event: dict[str, Any] = {
            "event_type": chance.choice(TYPES[:-1]),
            "entity_id": chance.choice(ENTITIES[:-1]),
            "payload": {"n": number},
            "tags": [marker, *(tag for tag in TAGS[:-1] if chance.random() < 0.5)],
        }
        timestamp = chance.choice(TIMES)
        if timestamp is not None:
            event["timestamp"] = timestamp
        sent.append(event)
    for begin in range(0, 60, 7):
        assert admin.post(BATCH, json={"events": sent[begin : begin + 7]}).status_code == 201
        # Events of others in between, which no query of this module may return.
        assert admin.post(EVENTS, json={**sent[0], "tags": []}).status_code == 201
    answer = admin.get(QUERY, params={"tag": marker, "limit": 1000}).json()
    assert [event["payload"]["n"] for event in answer["events"]] == list(range(60))
    return Stored(marker, answer["events"])


def expected(stored: Stored, query: dict[str, Any]) -> list[dict[str, Any]]:
    """What a query selects, in so many words."""

    def selected(event: dict[str, Any]) -> bool:
        moment = datetime.fromisoformat(event["timestamp"])
        return (
            query.get("entity_id") in (None, event["entity_id"])
            and query.get("event_type") in (None, event["event_type"])
            and set(query.get("tag", ())) <= set(event["tags"])
            and ("since" not in query or moment >= datetime.fromisoformat(query["since"]))
            and ("until" not in query or moment <= datetime.fromisoformat(query["until"]))
            and ("as_of" not in query or moment <= datetime.fromisoformat(query["as_of"]))
            and event["position"] > query.get("after_position", 0)
            and event["position"] < query.get("before_position", 2**53)
        )

    events = [event for event in stored.events if selected(event)]
    return events[::-1] if query.get("order") == "desc" else events


def pages(client: httpx.Client, query: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """All events of a query, page by page."""
    events: list[dict[str, Any]] = []
    cursor = None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        page = client.get(QUERY, params={**query, "limit": limit, **more}).json()
        assert page["count"] == len(page["events"]) <= limit
        events += page["events"]
        cursor = page["next_cursor"]
        if cursor is None:
            return events
        assert page["count"] == limit


def stream(client: httpx.Client, query: dict[str, Any]) -> list[dict[str, Any]]:
    response = client.get(QUERY, params=query, headers={"Accept": "application/x-ndjson"})
    assert (response.status_code, response.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert response.content == b"" or response.content.endswith(b"\n")
    return [json.loads(line) for line in response.content.split(b"\n")[:-1]]


instants = st.sampled_from([time for time in TIMES if time is not None]).flatmap(
    lambda time: st.sampled_from([time, time.replace("Z", "+00:00"), "2021-06-15T14:30:00.500000+02:00"])
)
queries = st.fixed_dictionaries(
    {"order": st.sampled_from(["asc", "desc"])},
    optional={
        "entity_id": st.sampled_from(ENTITIES),
        "event_type": st.sampled_from(TYPES),
        "tag": st.lists(st.sampled_from(TAGS), max_size=3),
        "since": instants,
        "until": instants,
        "as_of": instants,
        "after_position": st.integers(0, 80),
        "before_position": st.integers(1, 90),
    },
)


@settings(max_examples=120)
@given(query=queries, limit=st.integers(1, 70))
def test_pages_and_stream_are_what_the_model_selects(
    admin: httpx.Client, stored: Stored, query: dict[str, Any], limit: int
):
    # Positions count from where this module's events begin.
    first = stored.events[0]["position"]
    bounds = {name: query[name] + first - 5 for name in ("after_position", "before_position") if name in query}
    bounds = {name: max(position, 1) for name, position in bounds.items()}
    query = {**query, **bounds, "tag": [stored.marker, *query.get("tag", [])]}
    right = expected(stored, query)
    assert pages(admin, query, limit) == right
    assert stream(admin, query) == right
    assert stream(admin, {**query, "limit": limit}) == right[:limit]


@pytest.mark.parametrize(("since", "until", "as_of"), list(itertools.product(TIMES, repeat=3)))
def test_bounds_of_time_are_inclusive_and_all_hold(
    admin: httpx.Client, stored: Stored, since: str | None, until: str | None, as_of: str | None
):
    bounds = {"since": since, "until": until, "as_of": as_of}
    query = {"tag": [stored.marker], **{name: bound for name, bound in bounds.items() if bound is not None}}
    assert pages(admin, query, 20) == expected(stored, query)


@pytest.mark.parametrize("names", list(itertools.combinations(["entity_id", "event_type", "tag"], 2)), ids=str)
def test_filters_are_joined_by_and(admin: httpx.Client, stored: Stored, names: tuple[str, str]):
    one = stored.events[17]
    values = {"entity_id": one["entity_id"], "event_type": one["event_type"], "tag": one["tags"][-1:]}
    query = {"tag": [stored.marker]}
    for name in names:
        query[name] = [*query["tag"], *values["tag"]] if name == "tag" else values[name]
    assert one in pages(admin, query, 3)
    assert pages(admin, query, 3) == expected(stored, query)


def test_without_a_limit_a_page_has_a_hundred(admin: httpx.Client, entity: str):
    events = [{"event_type": "a", "entity_id": entity, "payload": number} for number in range(101)]
    admin.post(BATCH, json={"events": events})
    page = admin.get(QUERY, params={"entity_id": entity}).json()
    assert (page["count"], page["next_cursor"] is None) == (100, False)
    assert len(stream(admin, {"entity_id": entity})) == 101


def test_a_page_that_is_just_full_is_the_last(admin: httpx.Client, entity: str):
    admin.post(BATCH, json={"events": [{"event_type": "a", "entity_id": entity, "payload": 1}] * 5})
    assert admin.get(QUERY, params={"entity_id": entity, "limit": 5}).json()["next_cursor"] is None
    assert admin.get(QUERY, params={"entity_id": entity, "limit": 4}).json()["next_cursor"] is not None


def test_a_page_of_large_events_ends_early_and_goes_on(admin: httpx.Client, entity: str):
    large = {"event_type": "a", "entity_id": entity, "payload": "x" * 1_000_000}
    for _ in range(2):
        assert admin.post(BATCH, json={"events": [large] * 10}).status_code == 201
    page = admin.get(QUERY, params={"entity_id": entity, "limit": 10_000}).json()
    assert 0 < page["count"] < 20
    rest = admin.get(QUERY, params={"entity_id": entity, "limit": 10_000, "cursor": page["next_cursor"]}).json()
    assert page["count"] + rest["count"] == 20
    assert rest["next_cursor"] is None


class TestCursors:
    @pytest.fixture
    def grown(self, admin: httpx.Client, entity: str) -> str:
        self.append(admin, entity, 10)
        return entity

    def append(self, client: httpx.Client, entity: str, count: int) -> None:
        client.post(BATCH, json={"events": [{"event_type": "a", "entity_id": entity, "payload": 1}] * count})

    @pytest.mark.parametrize("order", ["asc", "desc"])
    def test_pages_stay_in_step_while_the_store_grows(self, admin: httpx.Client, grown: str, order: str):
        query = {"entity_id": grown, "order": order, "limit": 3}
        versions: list[int] = []
        cursor = None
        for _ in range(4):
            page = admin.get(QUERY, params=query if cursor is None else {**query, "cursor": cursor}).json()
            versions += [event["version"] for event in page["events"]]
            cursor = page["next_cursor"]
            self.append(admin, grown, 1)
        right = list(range(1, 13)) if order == "asc" else list(range(10, 0, -1))
        assert versions == right[: len(versions)]
        assert len(versions) >= 10

    def test_page_size_and_waiting_may_change_from_page_to_page(self, admin: httpx.Client, grown: str):
        cursor = admin.get(QUERY, params={"entity_id": grown, "limit": 2}).json()["next_cursor"]
        page = admin.get(QUERY, params={"entity_id": grown, "limit": 5, "cursor": cursor, "min_position": 1}).json()
        assert [event["version"] for event in page["events"]] == [3, 4, 5, 6, 7]

    @pytest.mark.parametrize(
        "change",
        [
            {"entity_id": "other"},
            {"event_type": "a"},
            {"tag": "a"},
            {"order": "desc"},
            {"since": "2013-01-01T00:00:00Z"},
            {"until": "2413-01-01T00:00:00Z"},
            {"as_of": "2413-01-01T00:00:00Z"},
            {"after_position": 1},
            {"before_position": 2**53},
        ],
    )
    def test_a_cursor_of_another_query_is_refused(self, admin: httpx.Client, grown: str, change: dict[str, Any]):
        cursor = admin.get(QUERY, params={"entity_id": grown, "limit": 2}).json()["next_cursor"]
        response = admin.get(QUERY, params={"entity_id": grown, **change, "cursor": cursor})
        refusal(response, 400, "invalid_cursor")

    @pytest.mark.parametrize(
        "cursor",
        ["", "x", "null", "0", "kwEB", "A" * 4000, "====", "ä", "\0", "../..", "kwEBxAgAAAAAAAAAAA", "gA", "wA"],
    )
    def test_what_is_no_cursor_is_refused(self, admin: httpx.Client, cursor: str):
        refusal(admin.get(QUERY, params={"cursor": cursor}), 400, "invalid_cursor")

    def test_a_changed_cursor_reads_no_other_query(self, admin: httpx.Client, grown: str):
        cursor = admin.get(QUERY, params={"entity_id": grown, "limit": 2}).json()["next_cursor"]
        for place in range(len(cursor)):
            other = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
            response = admin.get(QUERY, params={"entity_id": grown, "limit": 100, "cursor": other})
            if response.status_code == 200:
                assert {event["entity_id"] for event in response.json()["events"]} <= {grown}
            else:
                refusal(response, 400, "invalid_cursor")

    @pytest.mark.parametrize(
        "bound",
        [
            {"since": "0001-01-01T00:00:00+05:00"},
            {"until": "9999-12-31T23:59:59-05:00"},
            {"as_of": "9999-12-31T23:59:59.999999-23:59"},
        ],
    )
    def test_bounds_that_have_no_date_in_utc_page_as_any_other(
        self, admin: httpx.Client, grown: str, bound: dict[str, str]
    ):
        assert len(pages(admin, {"entity_id": grown, **bound}, 3)) == 10


def test_a_cursor_ends_a_stream_of_the_rest(admin: httpx.Client, stored: Stored):
    query: dict[str, Any] = {"tag": stored.marker}
    cursor = admin.get(QUERY, params={**query, "limit": 50}).json()["next_cursor"]
    assert stream(admin, {**query, "cursor": cursor}) == stored.events[50:]


def test_an_empty_answer_is_an_empty_page_and_an_empty_stream(admin: httpx.Client, entity: str):
    page = admin.get(QUERY, params={"entity_id": entity}).json()
    assert page == {"events": [], "count": 0, "next_cursor": None, "first_version": 1}
    assert stream(admin, {"entity_id": entity}) == []


def test_times_of_what_is_read_are_in_utc(admin: httpx.Client, stored: Stored):
    for event in stored.events:
        assert datetime.fromisoformat(event["recorded_at"]).tzinfo == UTC
        assert event["position"] <= last_position(admin)
