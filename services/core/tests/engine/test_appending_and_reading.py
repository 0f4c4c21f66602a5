"""What an append stores and what the reads give back."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from allsource_core.engine import (
    AppendCondition,
    ConditionFailedError,
    ConditionItem,
    EventQuery,
    EventStore,
    InvalidEventError,
    NewEvent,
    Raw,
    StoreClosedError,
    VersionConflictError,
)
from allsource_core.engine.events import position_of_server_id, server_id
from allsource_core.engine.segment_reader import SegmentReader

from .stores import TENANT, Made, TurnableClock, new_event, open_store


@pytest.mark.parametrize("sealed", [False, True])
def test_events_come_back_as_they_were_appended_after_a_restart(tmp_path: Path, sealed: bool) -> None:
    happened = datetime(2013, 1, 1, 10, 15, 0, 123456, tzinfo=UTC)
    event = new_event(payload=b'{"b": 1.50, "a": [1e5, 9007199254740993]}', tags=["x", "y"], timestamp=happened)
    with open_store(tmp_path / "s") as store:
        (stored,) = store.append(TENANT, [event]).events
        if sealed:
            store.seal()
            assert list(store.read(TENANT)) == [stored]
    with open_store(tmp_path / "s") as store:
        (read,) = store.read(TENANT)
    assert read == stored
    assert read.payload == b'{"b": 1.50, "a": [1e5, 9007199254740993]}'
    assert (read.tags, read.version, read.position) == (("x", "y"), 1, 1)
    assert read.timestamp == int(happened.timestamp()) * 1_000_000 + 123456


def test_versions_count_per_entity_and_tenant_and_positions_over_all(made: Made) -> None:
    store, settle = made
    appended = []
    for tenant, entities in (("a", "xyx"), ("b", "x"), ("a", "x")):
        appended += store.append(tenant, [new_event(entity) for entity in entities]).events
        settle(store)
    assert [(event.version, event.position) for event in appended] == [(1, 1), (1, 2), (2, 3), (1, 4), (3, 5)]
    assert (store.version("a", "x"), store.version("b", "x"), store.version("b", "y")) == (3, 1, 0)
    assert sorted([*store.read("a"), *store.read("b")], key=lambda event: event.position) == appended


def test_tenants_see_nothing_of_each_other(made: Made) -> None:
    store, settle = made
    (mine,) = store.append("a", [new_event("x", tags=["t"])]).events
    (other,) = store.append("b", [new_event("z")]).events
    settle(store)
    query = EventQuery(entity_id="x", event_type="order.placed", tags=("t",))
    assert list(store.read("b")) == [other]
    assert list(store.read("b", query)) == list(store.read("c", query)) == []
    assert (store.get("b", mine.id), store.get("c", mine.id), store.get("a", mine.id)) == (None, None, mine)
    assert store.version("b", "x") == 0
    assert store.state("b", "x").version == 0


def test_a_read_of_one_tenant_opens_no_segment_that_has_only_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service reads its few users at its start, whatever millions of events its tenants have."""
    with open_store(tmp_path / "s") as store:
        for tenant in ("acme", "globex"):
            store.append(tenant, [new_event()])
            store.seal()
    decoded: list[int] = []
    decode = SegmentReader.decode
    monkeypatch.setattr(SegmentReader, "decode", lambda reader: decoded.append(reader.entry.file) or decode(reader))
    with open_store(tmp_path / "s") as store:
        assert [event.tenant_id for event in store.read("acme")] == ["acme"]
        assert len(set(decoded)) == 1


@pytest.mark.parametrize("sealed", [False, True])
def test_recorded_time_never_goes_back_even_if_the_clock_does(tmp_path: Path, sealed: bool) -> None:
    clock = TurnableClock()
    with open_store(tmp_path / "s", clock=clock) as store:
        store.append(TENANT, [new_event()])
        clock.now -= 3_600_000_000
        store.append(TENANT, [new_event()])
        if sealed:
            store.seal()
    clock.now -= 3_600_000_000
    with open_store(tmp_path / "s", clock=clock) as store:
        store.append(TENANT, [new_event()])
        recorded = [event.recorded_at for event in store.read(TENANT)]
    assert recorded == [1_700_000_000_000_000] * 3


def test_a_store_in_memory_makes_no_file_and_says_that_nothing_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with EventStore.in_memory() as store:
        answer = store.append(TENANT, [new_event()] * 300)
        assert not answer.durable
        store.seal()
        store.compact()
        store.removals.entity(TENANT, "order-1")
        assert list(store.read(TENANT)) == []
        assert store.append(TENANT, [new_event()]).events[0].version == 301
        assert (store.stats().log_files, store.stats().disk_bytes) == (0, 0)
    with pytest.raises(StoreClosedError):
        store.append(TENANT, [new_event()])
    assert list(tmp_path.iterdir()) == []


def test_both_forms_of_append_and_read_give_the_same(made: Made) -> None:
    store, settle = made

    async def check() -> None:
        (event,) = (await store.append_async(TENANT, [new_event("x")], expected_versions={"x": 0})).events
        settle(store)
        with pytest.raises(VersionConflictError):
            await store.append_async(TENANT, [new_event("x")], expected_versions={"x": 0})
        (second,) = (await store.append_async(TENANT, [new_event("x")], expected_versions={"x": 1})).events
        found = [event async for chunk in store.read_async(TENANT) for event in chunk]
        assert found == list(store.read(TENANT)) == [event, second]
        newest = EventQuery(descending=True, limit=1)
        assert [chunk async for chunk in store.read_async(TENANT, newest)] == [[second]]
        assert await store.get_async(TENANT, event.id) == store.get(TENANT, event.id) == event

    asyncio.run(check())


def test_bounds_of_versions_hold_whatever_else_is_asked_for(made: Made) -> None:
    store, settle = made
    for number in range(6):
        store.append(TENANT, [new_event(f"e-{number % 2}", tags=["t"])])
    settle(store)
    for filters in ({}, {"event_type": "order.placed"}, {"tags": ("t",)}):
        for bounds, versions in (
            ({"from_version": 2}, [2, 2, 3, 3]),
            ({"to_version": 1}, [1, 1]),
            ({"from_version": 2, "to_version": 2}, [2, 2]),
            ({"to_version": 0}, []),
        ):
            assert [event.version for event in store.read(TENANT, EventQuery(**filters, **bounds))] == versions
    assert [event.version for event in store.read(TENANT, EventQuery(entity_id="e-1", from_version=3))] == [3]


@pytest.mark.parametrize(
    "bounds",
    [
        {"limit": 0},
        {"limit": -1},
        {"after_position": -1},
        {"before_position": 0},
        {"from_version": 0},
        {"to_version": -1},
    ],
)
def test_a_query_below_the_lowest_that_there_is_is_refused_when_it_is_made(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="or more"):
        EventQuery(**bounds)


def test_a_server_id_is_a_version_7_uuid_that_carries_time_and_position() -> None:
    made = server_id(1_700_000_000_123_456, 42)
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert made.int >> 80 == 1_700_000_000_123
    assert position_of_server_id(made) == 42


def test_an_event_is_found_by_its_own_id_and_by_no_other(made: Made) -> None:
    store, settle = made
    client_id = uuid.uuid4()
    (by_server,) = store.append(TENANT, [new_event()]).events
    (by_client,) = store.append(TENANT, [new_event(event_id=client_id)]).events
    settle(store)
    assert store.get(TENANT, by_server.id) == by_server
    assert store.get(TENANT, client_id) == by_client
    # The id that the server would have given to an event that has its author's, and one with another time.
    assert store.get(TENANT, server_id(by_client.recorded_at, by_client.position)) is None
    assert store.get(TENANT, server_id(by_server.recorded_at + 1_000_000, by_server.position)) is None
    assert store.get(TENANT, uuid.uuid4()) is None


@pytest.mark.parametrize(
    ("expected", "holds_at"),
    [(0, {0}), ("none", {0}), (1, {1}), (2, {2}), ("exists", {1, 2}), ("any", {0, 1, 2})],
)
@pytest.mark.parametrize("version", [0, 1, 2])
def test_an_expected_version_decides(made: Made, expected: int | str, holds_at: set[int], version: int) -> None:
    store, settle = made
    if version:
        store.append(TENANT, [new_event("x")] * version)
    settle(store)
    if version in holds_at:
        store.append(TENANT, [new_event("x")], expected_versions={"x": expected})
        assert store.last_position == version + 1
    else:
        with pytest.raises(VersionConflictError) as refusal:
            store.append(TENANT, [new_event("y"), new_event("x")], expected_versions={"x": expected})
        assert (refusal.value.expected, refusal.value.actual) == (expected, version)
        assert store.last_position == version
        assert store.version(TENANT, "y") == 0


def test_an_events_own_expected_version_counts_the_events_before_it_in_the_batch(
    made: Made,
) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x", expected_version=0), new_event("x", expected_version=1)])
    settle(store)
    with pytest.raises(VersionConflictError) as refusal:
        store.append(TENANT, [new_event("x", expected_version=2), new_event("x", expected_version=2)])
    assert (refusal.value.expected, refusal.value.actual) == (2, 3)
    store.append(TENANT, [new_event("x", expected_version="exists"), new_event("y", expected_version="none")])
    assert store.last_position == 4


def test_a_condition_over_queries_decides(made: Made) -> None:
    store, settle = made

    def nothing_like(after: int = 0, **item: tuple[str, ...]) -> AppendCondition:
        return AppendCondition((ConditionItem(**item),), after)

    (event,) = store.append(TENANT, [new_event("x", tags=["red"])]).events
    store.append("other", [new_event("y", event_type="order.paid", tags=["blue"])])
    settle(store)
    for holds in (
        nothing_like(tags=("blue",)),
        nothing_like(event_types=("order.paid",)),
        nothing_like(entity_ids=("y",)),
        nothing_like(tags=("red",), event_types=("order.paid",)),
        nothing_like(1, tags=("red",)),
    ):
        assert store.append(TENANT, [new_event("z")], condition=holds, dry_run=True).dry_run
    for fails in (
        nothing_like(tags=("red",)),
        nothing_like(event_types=("order.paid", "order.placed")),
        nothing_like(entity_ids=("y", "x"), tags=("red",)),
    ):
        with pytest.raises(ConditionFailedError) as refusal:
            store.append(TENANT, [new_event("z")], condition=fails)
        assert (refusal.value.position, refusal.value.event_id) == (event.position, event.id)
    assert store.last_position == 2


def test_a_dry_run_answers_like_an_append_and_stores_nothing(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x")])
    settle(store)
    foretold = store.append(TENANT, [new_event("x"), new_event("z"), new_event("x")], dry_run=True)
    assert (foretold.dry_run, foretold.durable) == (True, False)
    assert [(e.version, e.position) for e in foretold.events] == [(2, 2), (1, 3), (3, 4)]
    assert store.last_position == 1
    assert store.append("new", [new_event("x")], dry_run=True).events[0].version == 1
    with pytest.raises(VersionConflictError):
        store.append(TENANT, [new_event("x")], expected_versions={"x": 0}, dry_run=True)
    assert [(e.version, e.position) for e in store.append(TENANT, [new_event("x")]).events] == [(2, 2)]
    assert [event.entity_id for event in store.read(TENANT)] == ["x", "x"]


def test_a_read_that_began_does_not_see_later_events_nor_that_its_own_were_sealed(
    made: Made,
) -> None:
    store, settle = made
    store.append(TENANT, [new_event(), new_event()])
    reading = store.read(TENANT)
    next(reading)
    store.append(TENANT, [new_event()])
    settle(store)
    assert [event.position for event in reading] == [2]


def test_line_breaks_between_tokens_go_and_nothing_else_changes(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        broken = b'{\r\n "b": 1.50,\n "a" : "x\\ny\xc3\xa9",\t"c":1E+2}'
        spaced = b'{ "b" :  1.50 }'
        store.append(TENANT, [new_event(payload=broken), new_event(payload=spaced)])
        payloads = [event.payload for event in store.read(TENANT)]
    assert payloads == [b'{"b":1.50,"a":"x\\ny\xc3\xa9","c":1E+2}', spaced]


@pytest.mark.parametrize(
    ("event", "field"),
    [
        (new_event(payload=b'"\xff"'), "payload"),
        (new_event(payload=b"1e999"), "payload"),
        (new_event(payload=b"-1E+400"), "payload"),
        (new_event(payload=b"1" * 5000), "payload"),
        (new_event(payload=b"1" * 310), "payload"),
        (new_event(payload=b"1" + b"0" * 300 + b"e99"), "payload"),
        (new_event(payload=b"1" + b"0" * 250 + b".5E+60"), "payload"),
        (new_event("e" * 10_000_000), "entity_id"),
        (new_event(payload=b"[" * 65 + b"]" * 65), "payload"),
        (new_event(payload=b'{"a":' * 65 + b"1" + b"}" * 65), "payload"),
        (new_event(payload=b'"' + b"x" * 1024 * 1024 + b'"'), "payload"),
        (new_event(metadata=new_event(payload=b"[1]").payload), "metadata"),
        (new_event(metadata=new_event(payload=b'{"a":"' + b"x" * 16384 + b'"}').payload), "metadata"),
        (new_event(""), "entity_id"),
        (new_event("."), "entity_id"),
        (new_event("a\nb"), "entity_id"),
        (new_event("é" * 257), "entity_id"),
        (new_event(event_type=".."), "event_type"),
        (new_event(event_type="x" * 257), "event_type"),
        (new_event(tags=["t"] * 33), "tags"),
        (new_event(tags=["ok", "a\x00"]), "tags[1]"),
        (new_event(timestamp=datetime.now(UTC) + timedelta(hours=6)), "timestamp"),
        (new_event(timestamp=datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))), "timestamp"),
        (new_event(expected_version="latest"), "expected_version"),
        (new_event(expected_version=-1), "expected_version"),
    ],
)
def test_an_event_that_breaks_a_rule_is_named_and_nothing_is_stored(
    tmp_path: Path, event: NewEvent, field: str
) -> None:
    with open_store(tmp_path / "s") as store:
        with pytest.raises(InvalidEventError) as refusal:
            store.append(TENANT, [new_event(), event])
        assert (refusal.value.index, refusal.value.field) == (1, field)
        assert store.last_position == 0


@pytest.mark.parametrize("before", [0, 2], ids=["alone", "in a batch"])
@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (Raw(b"{bad"), "must be JSON"),
        (Raw(b"1,2"), "must be JSON"),
        (Raw(b""), "must be JSON"),
        (Raw(b'{"a":\n'), "must be JSON"),
        (b"{bad", "must be JSON"),
        (bytearray(b"1"), "bytes or msgspec.Raw, is bytearray"),
        (memoryview(b"1"), "bytes or msgspec.Raw, is memoryview"),
        ("1", "bytes or msgspec.Raw, is str"),
        (5, "bytes or msgspec.Raw, is int"),
        (None, "bytes or msgspec.Raw, is NoneType"),
    ],
)
def test_a_payload_that_is_no_json_is_refused_whatever_it_came_as(
    tmp_path: Path, payload: Any, words: str, before: int
) -> None:
    with open_store(tmp_path / "s") as store:
        with pytest.raises(InvalidEventError, match=words) as refusal:
            store.append(TENANT, [*[new_event()] * before, NewEvent("a", "e", payload)])
        assert (refusal.value.index, refusal.value.field) == (before, "payload")
        assert store.last_position == 0


@pytest.mark.parametrize("metadata", [Raw(b"{bad}"), b"{bad}", bytearray(b"{}"), 5])
def test_metadata_that_are_no_json_are_refused_whatever_they_came_as(tmp_path: Path, metadata: Any) -> None:
    with open_store(tmp_path / "s") as store:
        with pytest.raises(InvalidEventError) as refusal:
            store.append(TENANT, [new_event(), new_event(metadata=metadata)])
        assert (refusal.value.index, refusal.value.field) == (1, "metadata")


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 64 + b"]" * 64,
        b'"' + b"[" * 200 + b'"',
        b"1" * 308,
        b"1e308",
        b"1" + b"0" * 209 + b"e99",
        b"null",
        b'"' + b"x" * 1048574 + b'"',
    ],
)
def test_a_payload_at_the_limit_is_taken(tmp_path: Path, payload: bytes) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(payload=payload)])
    with open_store(tmp_path / "s") as store:
        assert [event.payload for event in store.read(TENANT)] == [payload]


@pytest.mark.parametrize(
    "payloads",
    [
        [b'"x', b'y"', b"1,2"],
        [b'{"a":1', b'"b":2}', b"1,2"],
        [b"1,2", b"3", b" "],
        [b"1],[2", b"3", b"4"],
    ],
)
def test_what_is_json_only_together_is_refused(tmp_path: Path, payloads: list[bytes]) -> None:
    with open_store(tmp_path / "s") as store:
        with pytest.raises(InvalidEventError) as refusal:
            store.append(TENANT, [NewEvent("a", "e", payload) for payload in payloads])
        assert (refusal.value.index, refusal.value.field) == (0, "payload")
        assert store.last_position == 0


def test_a_state_that_is_given_out_can_t_be_changed(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [new_event("x", b'{"k":1}')])
    settle(store)
    for _ in range(2):
        state = store.state(TENANT, "x")
        with pytest.raises(TypeError):
            state.members["k"] = Raw(b"2")  # type: ignore[index]
        with pytest.raises(AttributeError):
            state.version = 7  # type: ignore[misc]
        assert (state.version, state.value(), dict(state.members)) == (1, {"k": 1}, {"k": Raw(b"1")})


def test_white_space_in_front_of_a_payload_keeps_nothing_from_a_state(made: Made) -> None:
    store, settle = made
    store.append(TENANT, [NewEvent("t", "x", payload) for payload in (b' {"a":1}', b'\t{"b":2}', b" 3")])
    settle(store)
    assert store.state(TENANT, "x").value() == {"a": 1, "b": 2}


def test_the_text_of_an_id_is_that_of_the_id(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        events = store.append(TENANT, [new_event(), new_event(event_id=uuid.UUID(int=7))]).events
    assert [event.id_text for event in events] == [str(event.id) for event in events]


@pytest.mark.parametrize("tenant", ["", ".", "a/b", "a b", "x" * 129, "é", "-a"])
def test_a_tenant_id_outside_its_grammar_is_refused(tmp_path: Path, tenant: str) -> None:
    with open_store(tmp_path / "s") as store:
        with pytest.raises(InvalidEventError, match="tenant_id"):
            store.append(tenant, [new_event()])
        assert store.last_position == 0
