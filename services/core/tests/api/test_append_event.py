"""``POST events``: one event, its answer, its repetition, its conditions."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Posting
from .service import EVENTS, JSON, QUERY, last_position, places, refusal

INSTANT = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"


def event(entity: str, **changes: Any) -> dict[str, Any]:
    return {"event_type": "order.placed", "entity_id": entity, "payload": {"amount": 1}, **changes}


def stored_payload(client: httpx.Client, entity: str) -> bytes:
    """The bytes of the payload of an entity's only event, as they stand in the answer."""
    content = client.get(QUERY, params={"entity_id": entity}).content
    found = re.search(rb'"payload":(.*),"metadata":', content, re.DOTALL)
    assert found is not None
    return found[1]


def test_an_event_is_answered_with_its_place(posting: Posting, entity: str):
    response = posting.event(event(entity))
    assert (response.status_code, response.headers["Content-Type"]) == (201, "application/json")
    body = response.json()
    assert list(body) == ["event_id", "timestamp", "recorded_at", "version", "position"]
    assert body["version"] == 1
    assert re.fullmatch(INSTANT, body["recorded_at"])
    assert body["timestamp"] == body["recorded_at"]
    assert uuid.UUID(body["event_id"]).version == 7


def test_the_next_event_of_an_entity_has_the_next_version_and_a_later_position(posting: Posting, entity: str):
    first, second = posting.event(event(entity)).json(), posting.event(event(entity)).json()
    assert (first["version"], second["version"]) == (1, 2)
    assert second["position"] == first["position"] + 1


def test_an_event_is_read_back_as_it_was_given(posting: Posting, admin: httpx.Client, entity: str):
    event_id = str(uuid.uuid4())
    given_event = event(
        entity,
        payload={"ä": [1, None, True]},
        metadata={"user": "ann", "n": {"m": 1}},
        tags=["b", "a", "b"],
        timestamp="2013-01-02T03:04:05.678901+02:00",
        event_id=event_id.upper(),
    )
    answer = posting.event(given_event).json()
    assert (answer["event_id"], answer["timestamp"]) == (event_id, "2013-01-02T01:04:05.678901Z")
    assert admin.get(f"{EVENTS}/{event_id}").json() == {
        "id": event_id,
        "event_type": "order.placed",
        "entity_id": entity,
        "tenant_id": "default",
        "payload": {"ä": [1, None, True]},
        "metadata": {"user": "ann", "n": {"m": 1}},
        "tags": ["b", "a", "b"],
        "timestamp": "2013-01-02T01:04:05.678901Z",
        "recorded_at": answer["recorded_at"],
        "version": 1,
        "position": answer["position"],
    }


@pytest.mark.parametrize(
    "payload",
    [
        b"1.50",
        b"1e5",
        b"1E+5",
        b"-0",
        b"0.1000000000000000055511151231257827",
        b"123456789012345678901234567890",
        b"null",
        b"true",
        b'""',
        b'{"b":1,"a":2,"b":3}',
        b'{ "b" : 1 ,\t"a" : [ 2 , 3 ] }',
        rb'"\u00e4\n\/\ud83d\ude00"',
        '"ä😀\u2028\x7f"'.encode(),
        b'{"":{"":[[],{}]}}',
    ],
)
def test_a_payload_comes_back_byte_for_byte(posting: Posting, admin: httpx.Client, entity: str, payload: bytes):
    body = b'{"event_type":"a","entity_id":"%s","payload":%s}' % (entity.encode(), payload)
    assert posting.event(body).status_code == 201
    assert stored_payload(admin, entity) == payload


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_white_space_goes_only_where_there_are_line_breaks(
    posting: Posting, admin: httpx.Client, entity: str, line_end: bytes
):
    payload = line_end.join([b"{", rb' "b c" : 1.50,', rb' "a" : [ 1e5 , "x\ny  z" ]', b"}"])
    body = b'{"event_type":"a","entity_id":"%s","payload":%s}' % (entity.encode(), payload)
    assert posting.event(body).status_code == 201
    assert stored_payload(admin, entity) == rb'{"b c":1.50,"a":[1e5,"x\ny  z"]}'


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_values, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_comes_back_as_the_bytes_that_were_sent(
    admin: httpx.Client, value: Any, escaped: bool, indent: int | None
):
    entity = str(uuid.uuid4())
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    if indent and "\n" in text:
        expected = json.dumps(json.loads(text), ensure_ascii=escaped, separators=(",", ":"))
    else:
        expected = text
    try:
        payload = text.encode()
    except UnicodeEncodeError:
        return
    if re.search(r"[^\\](\\\\)*\\ud[89a-f]", text):
        return
    body = b'{"event_type":"a","entity_id":"%s","payload":%s}' % (entity.encode(), payload)
    assert admin.post(EVENTS, content=body, headers=JSON).status_code == 201
    assert stored_payload(admin, entity) == expected.encode()


class TestRepetition:
    def test_the_same_event_again_is_answered_as_the_first_time(self, posting: Posting, entity: str):
        body = event(entity, event_id=str(uuid.uuid4()), metadata={"a": 1}, tags=["x"])
        first = posting.event(body)
        again = posting.event(body)
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == {**first.json(), "duplicate": True}

    def test_the_id_may_be_spelled_otherwise(self, posting: Posting, entity: str):
        event_id = uuid.uuid4()
        assert posting.event(event(entity, event_id=str(event_id))).status_code == 201
        assert posting.event(event(entity, event_id=str(event_id).upper())).status_code == 200
        assert posting.event(event(entity, event_id=event_id.hex)).status_code == 200

    @pytest.mark.parametrize(
        "change",
        [
            {"payload": {"amount": 2}},
            {"payload": {"amount": 1.0}},
            {"event_type": "other"},
            {"tags": ["x"]},
            {"metadata": {}},
            {"timestamp": "2013-01-01T00:00:00Z"},
        ],
    )
    def test_an_id_with_other_content_is_a_conflict_that_names_it(
        self, posting: Posting, entity: str, change: dict[str, Any]
    ):
        event_id = str(uuid.uuid4())
        posting.event(event(entity, event_id=event_id))
        problem = refusal(posting.event(event(entity, event_id=event_id, **change)), 409, "event_id_conflict")
        assert event_id in json.dumps(problem["errors"])

    def test_an_id_is_checked_before_the_version(self, posting: Posting, entity: str):
        body = event(entity, event_id=str(uuid.uuid4()), expected_version=0)
        assert posting.event(body).status_code == 201
        assert posting.event(body).status_code == 200


class TestExpectedVersion:
    @pytest.mark.parametrize("expected", [0, "none", "any", None])
    def test_conditions_that_hold_of_a_new_entity(self, posting: Posting, entity: str, expected: Any):
        assert posting.event(event(entity, expected_version=expected)).status_code == 201

    @pytest.mark.parametrize("expected", [1, "exists", "any"])
    def test_conditions_that_hold_of_an_entity_with_one_event(self, posting: Posting, entity: str, expected: Any):
        posting.event(event(entity))
        assert posting.event(event(entity, expected_version=expected)).json()["version"] == 2

    @pytest.mark.parametrize(
        ("before", "expected"), [(0, 1), (0, "exists"), (1, 0), (1, "none"), (1, 2), (2, 1), (0, 2**53 - 1)]
    )
    def test_a_stale_version_is_a_conflict_with_expected_and_actual(
        self, posting: Posting, entity: str, before: int, expected: Any
    ):
        for _ in range(before):
            posting.event(event(entity))
        problem = refusal(posting.event(event(entity, expected_version=expected)), 409, "version_conflict")
        assert (problem["expected"], problem["actual"]) == (expected, before)
        assert entity in problem["detail"]

    @pytest.mark.parametrize("expected", [-1, 2**53, 10**30, "", "None", "1", "latest"])
    def test_what_is_no_condition_is_refused(self, posting: Posting, entity: str, expected: Any):
        problem = refusal(posting.event(event(entity, expected_version=expected)), 400, "invalid_event")
        assert places(problem) == ["expected_version"]


class TestDryRun:
    def test_it_answers_what_would_happen_and_stores_nothing(self, admin: httpx.Client, entity: str):
        before = last_position(admin)
        response = admin.post(EVENTS, params={"dry_run": "true"}, json=event(entity))
        assert response.status_code == 200
        body = response.json()
        assert (body["dry_run"], body["version"], body["position"]) == (True, 1, before + 1)
        assert last_position(admin) == before
        assert admin.get(QUERY, params={"entity_id": entity}).json()["count"] == 0

    def test_it_finds_the_same_faults(self, admin: httpx.Client, entity: str):
        stale = admin.post(EVENTS, params={"dry_run": "1"}, json=event(entity, expected_version=1))
        assert refusal(stale, 409, "version_conflict")["actual"] == 0
        refusal(admin.post(EVENTS, params={"dry_run": "1"}, json=event("..")), 400, "invalid_event")

    def test_it_tells_of_a_repetition(self, admin: httpx.Client, entity: str):
        body = event(entity, event_id=str(uuid.uuid4()))
        assert admin.post(EVENTS, json=body).status_code == 201
        assert admin.post(EVENTS, params={"dry_run": "true"}, json=body).json()["duplicate"] is True


class TestUnknownFields:
    def test_they_are_ignored_and_listed_in_a_warning(self, posting: Posting, entity: str):
        response = posting.event(event(entity, tenant_id="default", version=7))
        assert response.status_code == 201
        assert response.headers["Warning"] == '299 allsource "ignored unknown: tenant_id, version"'

    @pytest.mark.parametrize(
        ("tenant", "status", "code"), [("_system", 400, "reserved_tenant"), ("other", 403, "forbidden")]
    )
    def test_a_tenant_that_is_not_the_callers_is_refused(
        self, posting: Posting, entity: str, tenant: str, status: int, code: str
    ):
        """AllSource v1.0 took the tenant from the body: ignoring another one would store events in the wrong place."""
        refusal(posting.event(event(entity, tenant_id=tenant)), status, code)

    def test_without_any_there_is_no_warning(self, posting: Posting, entity: str):
        assert "Warning" not in posting.event(event(entity)).headers

    def test_their_names_can_not_forge_headers(self, posting: Posting, entity: str):
        response = posting.event(event(entity, **{'a"b\\c\r\nX-Forged: 1': 1, "ä" * 500: 1}))
        assert response.status_code == 201
        assert "X-Forged" not in response.headers
        assert response.headers["Warning"].startswith('299 allsource "ignored unknown: a?b?c??X-Forged: 1, ????')

    def test_only_the_first_ten_are_listed(self, posting: Posting, entity: str):
        response = posting.event(event(entity, **{f"field{number}": 1 for number in range(1000)}))
        assert response.headers["Warning"].endswith('field9 and 990 more"')

    @pytest.mark.parametrize(
        "fields", [{f"f{n}": 0 for n in range(200_000)}, {"x": "y" * 70_000}], ids=["many", "large"]
    )
    def test_many_bytes_of_them_are_refused(self, posting: Posting, entity: str, fields: dict[str, Any]):
        problem = refusal(posting.event(event(entity, **fields)), 400, "invalid_body")
        assert problem["detail"] == "unknown fields take more than 64 KiB"

    def test_known_fields_may_be_as_large_as_ever_beside_them(self, posting: Posting, entity: str):
        tags = [f"{number}{'t' * 250}" for number in range(32)]
        known = {"payload": "x" * 1_000_000, "metadata": {"m": "x" * 16_000}, "tags": tags}
        response = posting.event(event(entity, **known, unknown="y" * 60_000))
        assert response.status_code == 201
        assert response.headers["Warning"].endswith('ignored unknown: unknown"')
