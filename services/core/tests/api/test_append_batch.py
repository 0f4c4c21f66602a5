"""``POST events/batch``: all or nothing, as JSON or as lines."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from .conftest import Posting
from .service import BATCH, JSON, QUERY, last_position, places, refusal


def event(entity: str, number: int = 0, **changes: Any) -> dict[str, Any]:
    return {"event_type": "order.placed", "entity_id": entity, "payload": {"n": number}, **changes}


def lines(*events: dict[str, Any], end: bytes = b"\n") -> bytes:
    return b"".join(json.dumps(one).encode() + end for one in events)


def numbers(client: httpx.Client, entity: str) -> list[int]:
    return [one["payload"]["n"] for one in client.get(QUERY, params={"entity_id": entity}).json()["events"]]


def test_a_batch_is_answered_with_the_place_of_each_event(posting: Posting, admin: httpx.Client, entity: str):
    before = last_position(admin)
    response = posting.batch({"events": [event(entity, 0), event(entity + "/b", 1), event(entity, 2)]})
    assert response.status_code == 201
    body = response.json()
    assert list(body) == ["count", "first_position", "last_position", "events"]
    assert (body["count"], body["first_position"], body["last_position"]) == (3, before + 1, before + 3)
    assert [(one["version"], one["position"]) for one in body["events"]] == [
        (1, before + 1),
        (1, before + 2),
        (2, before + 3),
    ]
    assert numbers(admin, entity) == [0, 2]


def test_events_may_be_left_out_of_the_answer(posting: Posting, entity: str):
    response = posting.batch({"events": [event(entity)]}, Prefer="respond-async, return=minimal")
    assert response.status_code == 201
    assert list(response.json()) == ["count", "first_position", "last_position"]
    assert response.headers["Preference-Applied"] == "return=minimal"


def test_ten_thousand_events_are_one_batch(admin: httpx.Client, entity: str):
    body = {"events": [event(entity, number) for number in range(10_000)]}
    response = admin.post(BATCH, json=body, headers={"Prefer": "return=minimal"})
    assert response.json()["count"] == 10_000
    assert response.json()["last_position"] - response.json()["first_position"] == 9_999


class TestLines:
    def test_one_event_a_line(self, posting: Posting, admin: httpx.Client, entity: str):
        response = posting.lines(lines(event(entity, 1), event(entity, 2), event(entity, 3)))
        assert (response.status_code, response.json()["count"]) == (201, 3)
        assert numbers(admin, entity) == [1, 2, 3]

    @pytest.mark.parametrize(
        "end",
        [b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b" \t\n", b"\n   \n"],
        ids=["LF", "CRLF", "2LF", "2CRLF", "sp", "b"],
    )
    def test_blank_lines_and_carriage_returns_are_passed_over(
        self, posting: Posting, admin: httpx.Client, entity: str, end: bytes
    ):
        assert posting.lines(end + lines(event(entity, 1), event(entity, 2), end=end)).json()["count"] == 2
        assert numbers(admin, entity) == [1, 2]

    @pytest.mark.parametrize("tail", [b"", b"\n", b"\r\n", b"\n\n \n"])
    def test_the_last_line_end_may_be_missing(self, posting: Posting, entity: str, tail: bytes):
        body = lines(event(entity, 1)) + json.dumps(event(entity, 2)).encode() + tail
        assert posting.lines(body).json()["count"] == 2

    @pytest.mark.parametrize("body", [b"", b"\n", b"\r\n\r\n", b"   \n\t\n"])
    def test_no_event_at_all_is_refused(self, posting: Posting, body: bytes):
        assert places(refusal(posting.lines(body), 400, "invalid_event")) == ["events"]

    @pytest.mark.parametrize(
        ("bad", "code"),
        [
            (b'{"event_type":"a"', "malformed_json"),
            (b"[]", "invalid_body"),
            (b"null", "invalid_body"),
            (b"{}", "invalid_body"),
            (b"\x0b", "malformed_json"),
            (b"\x0c", "malformed_json"),
            (b"\0", "malformed_json"),
            (b"\xef\xbb\xbf{}", "malformed_json"),
            (b'{"event_type":"\xff","entity_id":"a","payload":1}', "malformed_json"),
            (b'{"event_type":"a","entity_id":"b","payload":1,"extra":1}', "invalid_body"),
            (b'{"event_type":"a","entity_id":"b","payload":1,"tags":5}', "invalid_body"),
        ],
    )
    def test_a_bad_line_is_named_by_the_number_of_its_event(
        self, posting: Posting, admin: httpx.Client, entity: str, bad: bytes, code: str
    ):
        body = lines(event(entity, 1)) + b"\n" + lines(event(entity, 2)) + bad + b"\n" + lines(event(entity, 3))
        assert refusal(posting.lines(body), 400, code)["detail"].startswith("events[2]")
        assert numbers(admin, entity) == []

    def test_an_event_that_breaks_a_rule_is_named(self, posting: Posting, entity: str):
        body = lines(event(entity), event(entity), event(".."))
        assert places(refusal(posting.lines(body), 400, "invalid_event")) == ["events[2].entity_id"]


class TestRepetition:
    def batch(self, entity: str) -> dict[str, Any]:
        return {"events": [event(entity, number, event_id=str(uuid.uuid4())) for number in range(3)]}

    def test_a_batch_again_is_answered_as_the_first_time(self, posting: Posting, entity: str):
        body = self.batch(entity)
        first, again = posting.batch(body), posting.batch(body)
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == {**first.json(), "duplicate": True}

    def test_lines_repeat_what_json_appended(self, posting: Posting, entity: str):
        body = self.batch(entity)
        posting.batch(body)
        assert posting.lines(lines(*body["events"])).json()["duplicate"] is True

    def test_in_another_order_it_still_has_its_first_and_last_position(self, posting: Posting, entity: str):
        body = self.batch(entity)
        first = posting.batch(body).json()
        one, two, three = body["events"]
        again = posting.batch({"events": [two, three, one]}).json()
        assert (again["first_position"], again["last_position"]) == (first["first_position"], first["last_position"])

    def test_a_batch_of_which_a_part_is_known_is_refused_naming_the_ids(self, posting: Posting, entity: str):
        body = self.batch(entity)
        posting.batch({"events": body["events"][1:2]})
        problem = refusal(posting.batch(body), 409, "event_id_conflict")
        assert places(problem) == ["events[1].event_id"]
        assert body["events"][1]["event_id"] in problem["errors"][0]["message"]

    def test_changed_content_is_refused_naming_only_what_changed(self, posting: Posting, entity: str):
        body = self.batch(entity)
        posting.batch(body)
        body["events"][2]["payload"] = "other"
        problem = refusal(posting.batch(body), 409, "event_id_conflict")
        assert places(problem) == ["events[2].event_id"]

    def test_an_id_twice_in_one_batch_is_refused(self, posting: Posting, entity: str):
        event_id = str(uuid.uuid4())
        body = {"events": [event(entity, 1, event_id=event_id), event(entity, 2, event_id=event_id.upper())]}
        assert places(refusal(posting.batch(body), 400, "invalid_event")) == ["events[1].event_id"]


class TestExpectedVersions:
    @pytest.mark.parametrize(
        ("before", "expected", "holds"),
        [
            (0, 0, True),
            (0, "none", True),
            (0, "any", True),
            (0, "exists", False),
            (0, 1, False),
            (2, 2, True),
            (2, "exists", True),
            (2, "any", True),
            (2, "none", False),
            (2, 1, False),
            (2, 3, False),
        ],
    )
    def test_they_hold_of_an_entity_before_the_batch(
        self, posting: Posting, admin: httpx.Client, entity: str, before: int, expected: Any, holds: bool
    ):
        for number in range(before):
            posting.event(event(entity, number))
        body = {"events": [event(entity, 8), event(entity, 9)], "expected_versions": {entity: expected}}
        response = posting.batch(body)
        if holds:
            assert [one["version"] for one in response.json()["events"]] == [before + 1, before + 2]
        else:
            problem = refusal(response, 409, "version_conflict")
            assert (problem["expected"], problem["actual"]) == (expected, before)
            assert places(problem) == [f"expected_versions[{entity}]"]
            assert len(numbers(admin, entity)) == before

    def test_one_that_fails_refuses_the_whole_batch(self, posting: Posting, admin: httpx.Client, entity: str):
        other = entity + "/other"
        body = {"events": [event(entity)], "expected_versions": {entity: "none", other: "exists"}}
        assert places(refusal(posting.batch(body), 409, "version_conflict")) == [f"expected_versions[{other}]"]
        assert numbers(admin, entity) == []

    def test_that_of_an_event_holds_just_before_it(self, posting: Posting, entity: str):
        body = {"events": [event(entity, number, expected_version=number) for number in range(3)]}
        assert posting.batch(body).status_code == 201
        body = {"events": [event(entity, 3, expected_version=3), event(entity, 4, expected_version=3)]}
        problem = refusal(posting.batch(body), 409, "version_conflict")
        assert (problem["expected"], problem["actual"]) == (3, 4)

    @pytest.mark.parametrize("expected", [{"..": 1}, {"": 1}, {"a\n": 1}, {"a": -1}, {"a": "latest"}, {"a": 2**53}])
    def test_what_is_no_condition_is_refused(self, posting: Posting, entity: str, expected: dict[str, Any]):
        body = {"events": [event(entity)], "expected_versions": expected}
        assert places(refusal(posting.batch(body), 400, "invalid_event")) == ["expected_versions"]


def test_a_dry_run_stores_nothing(admin: httpx.Client, entity: str):
    before = last_position(admin)
    response = admin.post(BATCH, params={"dry_run": "true"}, json={"events": [event(entity), event(entity)]})
    assert (response.status_code, response.json()["dry_run"]) == (200, True)
    assert [one["version"] for one in response.json()["events"]] == [1, 2]
    assert last_position(admin) == before


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"events": [], "tenant_id": "_system"}, "$"),
        ({"events": [{"event_type": "a", "entity_id": "b", "payload": 1, "tenant_id": "_system"}]}, "events[0]"),
        ({"events": [{"event_type": "a", "entity_id": "b", "payload": 1}, {"event_type": "a"}]}, "events[1]"),
        ({"events": {"a": 1}}, "events"),
        ({"events": None}, "events"),
        ({"events": [1]}, "events[0]"),
        ({}, "$"),
        ({"events": [], "expected_versions": {"a": 1.5}}, "expected_versions[...]"),
        ({"events": [], "expected_versions": [1]}, "expected_versions"),
    ],
)
def test_a_body_of_the_wrong_shape_is_refused_with_the_place(posting: Posting, body: Any, place: str):
    assert places(refusal(posting.batch(body), 400, "invalid_body")) == [place]


@pytest.mark.parametrize("count", [0, 10_001])
def test_too_few_and_too_many_events_are_refused(posting: Posting, entity: str, count: int):
    events = [event(entity)] * count
    assert places(refusal(posting.batch({"events": events}), 400, "invalid_event")) == ["events"]
    assert places(refusal(posting.lines(lines(*events)), 400, "invalid_event")) == ["events"]


def test_a_refused_event_in_the_middle_leaves_nothing_behind(posting: Posting, admin: httpx.Client, entity: str):
    events = [event(entity, number) for number in range(1000)]
    events[777]["tags"] = ["ok", "bad\0"]
    assert places(refusal(posting.batch({"events": events}), 400, "invalid_event")) == ["events[777].tags[1]"]
    assert numbers(admin, entity) == []


def test_bodies_other_than_json_and_lines_are_refused(posting: Posting, entity: str):
    body = json.dumps({"events": [event(entity)]}).encode()
    refusal(posting.post(BATCH, body, {"Content-Type": "text/csv"}), 415, "unsupported_media_type")
    assert posting.post(BATCH, body, {**JSON, "Content-Type": "APPLICATION/JSON; charset=utf-8"}).status_code == 201
