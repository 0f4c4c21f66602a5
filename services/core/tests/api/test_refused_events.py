"""Events that break a rule are refused with the place and the rule, and nothing of them is stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from .conftest import Posting
from .service import places, refusal

DEEP = 100_000


def body(entity: str, **members: bytes) -> bytes:
    """An event as bytes, any member replaced by whatever bytes."""
    known = {"event_type": b'"a"', "entity_id": json.dumps(entity).encode(), "payload": b"1", **members}
    return b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in known.items() if value) + b"}"


def in_every_form(posting: Posting, entity: str, event: bytes, code: str, place: str) -> None:
    """Refused alone, as the third of a batch, and as the third line."""
    good = body(entity)
    alone = refusal(posting.event(event), 400, code)
    batch = refusal(posting.batch(b'{"events":[%s,%s,%s]}' % (good, good, event)), 400, code)
    line = refusal(posting.lines(good + b"\n\n" + good + b"\n" + event + b"\n"), 400, code)
    if code != "malformed_json":
        assert places(alone) == [place]
        assert places(batch) == [f"events[2].{place}"]
        assert places(line) == [f"events[2].{place}"]


@pytest.mark.parametrize("field", ["event_type", "entity_id"])
@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a\0b",
        "a\nb",
        "a\rb",
        "a\tb",
        "\x1f",
        "a\x7fb",
        "a\x80b",
        "a\x9fb",
        "a\u2028b",
        "a\u2029b",
        "x" * 513,
        "ä" * 257,
        "😀" * 129,
    ],
)
def test_names_that_are_none_are_refused(posting: Posting, entity: str, field: str, name: str):
    for ascii_only in (True, False):
        event = body(entity, **{field: json.dumps(name, ensure_ascii=ascii_only).encode()})
        # A raw control character is no JSON at all.
        raw_control = not ascii_only and any(ord(character) < 0x20 for character in json.dumps(name)[1:-1])
        in_every_form(posting, entity, event, "malformed_json" if raw_control else "invalid_event", field)


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("event_type", "x" * 256),
        ("event_type", "ä" * 128),
        ("entity_id", "x" * 512),
        ("entity_id", "😀" * 128),
        ("entity_id", "..."),
        ("entity_id", "../../etc/passwd"),
        ("entity_id", "a/b?c#d%2F"),
        ("entity_id", "_system"),
        ("entity_id", "\u202e\u200b"),
    ],
)
def test_names_at_the_limit_are_good(posting: Posting, entity: str, field: str, name: str):
    assert posting.event(body(entity, **{field: json.dumps(name).encode()})).status_code == 201


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("event_type", b"5", "event_type"),
        ("entity_id", b"null", "entity_id"),
        ("entity_id", b'["a"]', "entity_id"),
        ("tags", b'"a"', "tags"),
        ("tags", b'["a",5]', "tags[1]"),
        ("timestamp", b"5", "timestamp"),
        ("timestamp", b'"now"', "timestamp"),
        ("timestamp", b'"2024-01-01T00:00:00"', "timestamp"),
        ("timestamp", b'"2024-01-01"', "timestamp"),
        ("timestamp", b'"0000-01-01T00:00:00Z"', "timestamp"),
        ("timestamp", b'"2024-13-01T00:00:00Z"', "timestamp"),
        ("timestamp", b'"2024-02-30T00:00:00Z"', "timestamp"),
        ("timestamp", b'"2024-01-01T24:00:01Z"', "timestamp"),
        ("timestamp", b'"10000-01-01T00:00:00Z"', "timestamp"),
        ("timestamp", b'""', "timestamp"),
        ("event_id", b'""', "event_id"),
        ("event_id", b'"1"', "event_id"),
        ("event_id", b"5", "event_id"),
        ("event_id", b'"zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz"', "event_id"),
        ("expected_version", b"1.5", "expected_version"),
        ("expected_version", b"true", "expected_version"),
        ("expected_version", b"9" * 5000, "expected_version"),
    ],
)
def test_values_of_the_wrong_type_are_refused(posting: Posting, entity: str, field: str, value: bytes, place: str):
    in_every_form(posting, entity, body(entity, **{field: value}), "invalid_body", place)


@pytest.mark.parametrize("field", ["event_type", "entity_id", "payload"])
def test_a_missing_field_is_named(posting: Posting, entity: str, field: str):
    problem = refusal(posting.event(body(entity, **{field: b""})), 400, "invalid_body")
    assert f"`{field}`" in problem["detail"]


@pytest.mark.parametrize(
    ("tags", "place"),
    [
        ([f"t{number}" for number in range(33)], "tags"),
        (["x" * 257], "tags[0]"),
        (["ok", "ä" * 129], "tags[1]"),
        ([""], "tags[0]"),
        (["a", ".."], "tags[1]"),
        (["a\u0085"], "tags[0]"),
    ],
)
def test_tags_beyond_their_limits_are_refused(posting: Posting, entity: str, tags: list[str], place: str):
    in_every_form(posting, entity, body(entity, tags=json.dumps(tags).encode()), "invalid_event", place)


def test_tags_at_their_limits_are_good(posting: Posting, entity: str):
    tags = [f"{number:02}" + "x" * 254 for number in range(32)]
    assert posting.event(body(entity, tags=json.dumps(tags).encode())).status_code == 201


def test_a_time_more_than_five_minutes_ahead_is_refused(posting: Posting, entity: str):
    ahead = (datetime.now(UTC) + timedelta(minutes=6)).isoformat()
    in_every_form(posting, entity, body(entity, timestamp=b'"%s"' % ahead.encode()), "invalid_event", "timestamp")
    near = (datetime.now(UTC) + timedelta(minutes=4)).isoformat()
    assert posting.event(body(entity, timestamp=b'"%s"' % near.encode())).status_code == 201


@pytest.mark.parametrize(
    ("timestamp", "stored"),
    [
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000000Z"),
        ("0001-01-01T00:00:00-05:00", "0001-01-01T05:00:00.000000Z"),
        ("1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
        ("2012-02-29T12:00:00+23:59", "2012-02-28T12:01:00.000000Z"),
    ],
)
def test_times_of_any_year_are_kept(posting: Posting, entity: str, timestamp: str, stored: str):
    response = posting.event(body(entity, timestamp=json.dumps(timestamp).encode()))
    assert response.json()["timestamp"] == stored


@pytest.mark.parametrize("timestamp", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_times_that_an_offset_moves_out_of_the_years_are_refused(posting: Posting, entity: str, timestamp: str):
    in_every_form(posting, entity, body(entity, timestamp=json.dumps(timestamp).encode()), "invalid_event", "timestamp")


@pytest.mark.parametrize("metadata", [b"[1]", b'"text"', b"5", b"true", b"[]", b'{"a":"%s"}' % (b"x" * 16384)])
def test_metadata_that_are_no_object_or_too_large_are_refused(posting: Posting, entity: str, metadata: bytes):
    in_every_form(posting, entity, body(entity, metadata=metadata), "invalid_event", "metadata")


def test_metadata_at_the_limit_and_null_are_good(posting: Posting, entity: str):
    largest = b'{"a":"%s"}' % (b"x" * (16384 - 8))
    assert posting.event(body(entity, metadata=largest)).status_code == 201
    assert posting.event(body(entity, metadata=b"null")).status_code == 201
    assert posting.event(body(entity, metadata=b"{}")).status_code == 201


def test_a_payload_over_one_mebibyte_is_refused(posting: Posting, entity: str):
    payload = b'"%s"' % (b"x" * (1024 * 1024 - 1))
    in_every_form(posting, entity, body(entity, payload=payload), "invalid_event", "payload")
    assert posting.event(body(entity, payload=payload.replace(b'x"', b'"'))).status_code == 201


@pytest.mark.parametrize("field", ["payload", "metadata"])
@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1E+400", b"2e308", b"1.5e309", b"9" * 400, b"9" * 5000])
def test_numbers_beyond_a_double_are_refused(posting: Posting, entity: str, field: str, number: bytes):
    in_every_form(posting, entity, body(entity, **{field: b'{"a":[%s]}' % number}), "invalid_event", field)


@pytest.mark.parametrize("number", [b"1e308", b"-1.7976931348623157e308", b"1e-999", b"0e999", b"0.0e-400", b"9" * 308])
def test_numbers_within_a_double_are_good(posting: Posting, entity: str, number: bytes):
    assert posting.event(body(entity, payload=number)).status_code == 201


@pytest.mark.parametrize("field", ["payload", "metadata"])
@pytest.mark.parametrize("text", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"ab\xc3"])
def test_invalid_utf8_in_a_body_is_refused(posting: Posting, entity: str, field: str, text: bytes):
    in_every_form(posting, entity, body(entity, **{field: b'{"a":"%s"}' % text}), "invalid_event", field)
    in_every_form(posting, entity, body(entity, **{field: b'{"%s":1}' % text}), "invalid_event", field)


@pytest.mark.parametrize("field", ["event_type", "entity_id", "payload", "metadata", "tags"])
@pytest.mark.parametrize("text", [rb"\ud800", rb"\udc00", rb"\ud800\ud800", rb"x\udfff", rb"\ud83d"])
def test_lone_surrogates_are_refused(posting: Posting, entity: str, field: str, text: bytes):
    value = {"payload": b'{"a":"%s"}', "metadata": b'{"a":"%s"}', "tags": b'["%s"]'}.get(field, b'"%s"') % text
    in_every_form(posting, entity, body(entity, **{field: value}), "malformed_json", field)


ALMOST_JSON = [
    b"NaN",
    b"Infinity",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"0x1",
    b"'a'",
    b'"\t"',
    rb'"\x41"',
    rb'"\u12"',
    b"[1,]",
]
ALMOST_JSON += [
    b"{1:2}",
    b"tru",
    b"[1 2]",
    b'{"a" 1}',
    b"/**/1",
    b'"',
    b"[",
    b"1]",
    b"\xef\xbb\xbf1",
    b"1 2",
    b"",
    b",",
]


@pytest.mark.parametrize("payload", ALMOST_JSON)
def test_what_is_almost_json_is_refused(posting: Posting, entity: str, payload: bytes):
    known = b'{"event_type":"a","entity_id":"%s","payload":%s}' % (entity.encode(), payload)
    refusal(posting.event(known), 400, "malformed_json")
    refusal(posting.batch(b'{"events":[%s]}' % known), 400, "malformed_json")
    refusal(posting.lines(known), 400, "malformed_json")


def nested(levels: int, opener: bytes, closer: bytes) -> bytes:
    return opener * levels + b"1" + closer * levels


@pytest.mark.parametrize(("opener", "closer"), [(b"[", b"]"), (b'{"a":', b"}")])
class TestNesting:
    @pytest.mark.parametrize("field", ["payload", "metadata"])
    def test_64_levels_are_good_and_65_are_not(
        self, posting: Posting, entity: str, field: str, opener: bytes, closer: bytes
    ):
        value = b'{"m":%s}' % nested(63, opener, closer)
        assert posting.event(body(entity, **{field: value})).status_code == 201
        value = b'{"m":%s}' % nested(64, opener, closer)
        in_every_form(posting, entity, body(entity, **{field: value}), "invalid_event", field)

    @pytest.mark.parametrize("levels", [900, 980, 1000, 1020, DEEP])
    @pytest.mark.parametrize("field", ["payload", "metadata"])
    def test_any_deeper_is_refused_naming_the_event(
        self, posting: Posting, entity: str, levels: int, field: str, opener: bytes, closer: bytes
    ):
        deep = body(entity, **{field: b'{"m":%s}' % nested(levels, opener, closer)})
        good = body(entity, tags=b'["a","b"]', metadata=b'{"c":[1,2]}', payload=rb'"],[\""')
        assert places(refusal(posting.event(deep), 400, "invalid_event")) == [field]
        batch = b'{"expected_versions":{"a":0,"b":0},"events":[%s,%s,%s,%s]}' % (good, good, deep, good)
        assert places(refusal(posting.batch(batch), 400, "invalid_event"))[0].startswith("events[2]")
        lines = b"\n\n".join([good, good, deep, good])
        assert places(refusal(posting.lines(lines), 400, "invalid_event"))[0].startswith("events[2]")

    def test_brackets_in_strings_do_not_count(self, posting: Posting, entity: str, opener: bytes, closer: bytes):
        text = json.dumps((opener * 1000).decode() + '\\"').encode()
        assert posting.event(body(entity, payload=text)).status_code == 201

    @pytest.mark.parametrize("levels", [*range(940, 1010, 3), DEEP])
    def test_a_deep_field_that_is_ignored_breaks_nothing(
        self, posting: Posting, entity: str, levels: int, opener: bytes, closer: bytes
    ):
        response = posting.event(body(entity, extra=nested(levels, opener, closer)))
        assert response.status_code == 201 or places(refusal(response, 400, "invalid_event")) == ["extra"]


@pytest.mark.parametrize(
    "content", [b"[" * DEEP, b'{"events":' + b"[" * DEEP, b'{"a":' * DEEP, b'{"events":[{"a":' * 999]
)
def test_bodies_that_are_nothing_but_depth_are_refused(posting: Posting, content: bytes):
    for send in (posting.event, posting.batch, posting.lines):
        response: Any = send(content)
        assert response.status_code == 400
        refusal(response, 400, response.json()["error"])


def test_a_field_with_a_name_that_is_no_utf8_is_refused(posting: Posting, entity: str):
    event = body(entity).replace(b'{"', b'{"\xff":1,"', 1)
    refusal(posting.event(event), 400, "malformed_json")
    refusal(posting.batch(b'{"events":[%s]}' % event), 400, "malformed_json")
