"""The structs of requests take what is declared and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from allsource_shared.wire.events import (
    AppendOptions,
    EventBatch,
    EventView,
    NewEvent,
    QueryParameters,
    ReadOptions,
)
from allsource_shared.wire.sessions import Login

EVENT: dict[str, Any] = {"event_type": "a.b", "entity_id": "e-1", "payload": {"x": 1}}


def decode(value: Any, struct: type[Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value), type=struct)


@pytest.mark.parametrize(
    ("value", "struct"),
    [
        ({**EVENT, "tenant_id": "_system"}, NewEvent),
        ({**EVENT, "version": 1}, NewEvent),
        ({"events": [], "tenant_id": "x"}, EventBatch),
        ({"events": [{**EVENT, "position": 1}]}, EventBatch),
        ({"dry_run": True, "force": True}, AppendOptions),
        ({"min_position": 1, "tenant": "x"}, ReadOptions),
        ({"limit": 1, "Limit": 1}, QueryParameters),
    ],
)
def test_unknown_fields_are_refused_by_name(value: Any, struct: type[Any]):
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        decode(value, struct)


@pytest.mark.parametrize("name", ["event_type", "entity_id", "payload"])
def test_an_event_needs_its_type_entity_and_payload(name: str):
    with pytest.raises(msgspec.ValidationError, match=name):
        decode({key: value for key, value in EVENT.items() if key != name}, NewEvent)


@pytest.mark.parametrize("metadata", [b"null", b"{}", b'{"a": [1, {"b": null}]}', b"[1]", b'"text"', b"1"])
def test_metadata_are_kept_as_the_bytes_that_came(metadata: bytes):
    event = msgspec.json.decode(
        b'{"event_type":"a","entity_id":"b","payload":1,"metadata":%s}' % metadata, type=NewEvent
    )
    assert bytes(event.metadata) == metadata


def test_absent_metadata_are_none():
    assert decode(EVENT, NewEvent).metadata is None


def test_a_view_is_read_back_as_it_was_written():
    text = (
        b'{"id":"i","event_type":"a","entity_id":"b","tenant_id":"default","payload":1.50,"metadata":{"c": 1e5},'
        b'"tags":["t"],"timestamp":"x","recorded_at":"y","version":1,"position":2}'
    )
    assert msgspec.json.encode(msgspec.json.decode(text, type=EventView)) == text


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": 1},
        {"entity_id": None},
        {"tags": "a"},
        {"tags": [1]},
        {"timestamp": 5},
        {"timestamp": "2024-01-01T00:00:00"},
        {"timestamp": "2024-01-01"},
        {"event_id": "x"},
        {"event_id": 5},
        {"expected_version": 1.5},
        {"expected_version": True},
        {"expected_version": [1]},
    ],
)
def test_a_field_of_the_wrong_type_is_refused_with_its_place(change: dict[str, Any]):
    with pytest.raises(msgspec.ValidationError) as caught:
        decode({"events": [EVENT, {**EVENT, **change}]}, EventBatch)
    assert f"$.events[1].{next(iter(change))}" in str(caught.value)


def test_credentials_are_not_shown():
    assert "secret word" not in repr(Login(username="ann", password="secret word"))
