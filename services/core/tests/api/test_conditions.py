"""``condition`` of a batch: nothing is stored if an event exists that it excludes."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
import pytest

from .conftest import Posting
from .service import BATCH, EVENTS, NDJSON, bearer, last_position, new_tenant, places, refusal


def event(entity: str, **changes: Any) -> dict[str, Any]:
    return {"event_type": "seat.taken", "entity_id": entity, "payload": 1, **changes}


def batch(entity: str, *items: dict[str, Any], after: int | None = None, **changes: Any) -> dict[str, Any]:
    condition: dict[str, Any] = {"fail_if_events_match": list(items)}
    if after is not None:
        condition["after"] = after
    return {"events": [event(entity, **changes)], "condition": condition}


def test_nothing_that_matches_lets_the_batch_in(posting: Posting, entity: str):
    assert posting.batch(batch(entity, {"tags": [entity]})).status_code == 201


@pytest.mark.parametrize("kind", ["tags", "entity_ids", "event_types"])
def test_what_matches_keeps_it_out_and_is_named(posting: Posting, entity: str, kind: str):
    first = posting.event(event(entity, event_type=f"type-{entity}", tags=[entity])).json()
    value = f"type-{entity}" if kind == "event_types" else entity
    after = first["position"] - 1
    problem = refusal(posting.batch(batch(entity, {kind: [value]}, after=after)), 409, "condition_failed")
    assert problem["expected"] == {"after": after}
    assert problem["actual"] == {"position": first["position"], "event_id": first["event_id"]}
    assert posting.batch(batch(entity, {kind: [value]}, after=first["position"])).status_code == 201


def test_types_and_entities_are_alternatives_tags_are_not(posting: Posting, entity: str):
    posting.event(event(entity, tags=["red", entity]))
    items = {"tags": ["red", "blue", entity]}, {"entity_ids": [entity], "event_types": ["other", "another"]}
    assert posting.batch(batch(entity, *items)).status_code == 201
    matching = {"event_types": ["other", "seat.taken"], "entity_ids": ["x", entity], "tags": ["red"]}
    refusal(posting.batch(batch(entity, *items, matching)), 409, "condition_failed")


def test_other_tenants_events_never_match(admin: httpx.Client, entity: str):
    admin.post(EVENTS, json=event(entity, tags=[entity])).raise_for_status()
    other = bearer(tenant=new_tenant(admin))
    assert admin.post(BATCH, json=batch(entity, {"tags": [entity]}), headers=other).status_code == 201


def test_a_dry_run_is_refused_as_well(admin: httpx.Client, entity: str):
    admin.post(EVENTS, json=event(entity)).raise_for_status()
    response = admin.post(BATCH, params={"dry_run": "true"}, json=batch(entity, {"entity_ids": [entity]}))
    refusal(response, 409, "condition_failed")


def test_a_repetition_is_answered_before_its_condition_is_looked_at(posting: Posting, entity: str):
    body = batch(entity, {"entity_ids": [entity]}, event_id=str(uuid.uuid4()))
    assert posting.batch(body).status_code == 201
    again = posting.batch(body)
    assert (again.status_code, again.json()["duplicate"]) == (200, True)


MANY = [f"v{number}" for number in range(65)]
ITEMS = "condition.fail_if_events_match"


@pytest.mark.parametrize(
    ("items", "place"),
    [
        ([], ITEMS),
        ([{"tags": ["a"]}] * 17, ITEMS),
        ([{"tags": ["a"]}, {}], f"{ITEMS}[1]"),
        ([{"tags": [], "entity_ids": [], "event_types": []}], f"{ITEMS}[0]"),
        ([{"tags": ["a"]}, {"tags": MANY}], f"{ITEMS}[1].tags"),
        ([{"entity_ids": MANY}], f"{ITEMS}[0].entity_ids"),
        ([{"event_types": MANY}], f"{ITEMS}[0].event_types"),
    ],
)
def test_a_condition_out_of_bounds_is_too_broad(posting: Posting, entity: str, items: list[Any], place: str):
    problem = refusal(posting.batch(batch(entity, *items)), 400, "condition_too_broad")
    assert places(problem) == [place]


def test_at_its_bounds_it_is_taken(posting: Posting, entity: str):
    values = [f"{entity}-{number}" for number in range(64)]
    items = [{"event_types": values, "tags": values, "entity_ids": values}] * 16
    assert posting.batch(batch(entity, *items)).status_code == 201


@pytest.mark.parametrize("name", ["", "..", "a\nb", "x" * 600])
@pytest.mark.parametrize("kind", ["event_types", "tags", "entity_ids"])
def test_names_that_no_event_can_have_are_refused(posting: Posting, entity: str, kind: str, name: str):
    problem = refusal(posting.batch(batch(entity, {"tags": ["a"]}, {kind: [name]})), 400, "invalid_event")
    assert places(problem) == [f"{ITEMS}[1].{kind}"]


@pytest.mark.parametrize(
    ("condition", "place"),
    [
        ({}, "condition"),
        ({"fail_if_events_match": {}}, ITEMS),
        ({"fail_if_events_match": [{"tag": ["a"]}]}, f"{ITEMS}[0]"),
        ({"fail_if_events_match": [{"tags": "a"}]}, f"{ITEMS}[0].tags"),
        ({"fail_if_events_match": [{"tags": [1]}]}, f"{ITEMS}[0].tags[0]"),
        ({"fail_if_events_match": [{"tags": ["a"]}], "after": -1}, "condition.after"),
        ({"fail_if_events_match": [{"tags": ["a"]}], "after": 2**53}, "condition.after"),
        ({"fail_if_events_match": [{"tags": ["a"]}], "after": "1"}, "condition.after"),
        ({"fail_if_events_match": [{"tags": ["a"]}], "before": 1}, "condition"),
    ],
)
def test_a_condition_of_the_wrong_shape_is_refused_with_its_place(
    posting: Posting, entity: str, condition: dict[str, Any], place: str
):
    body = {"events": [event(entity)], "condition": condition}
    assert places(refusal(posting.batch(body), 400, "invalid_body")) == [place]


def test_single_events_and_lines_have_none(posting: Posting, entity: str):
    condition = {"fail_if_events_match": [{"entity_ids": [entity]}]}
    response = posting.event({**event(entity), "condition": condition})
    assert response.status_code == 201
    assert 'ignored unknown: condition"' in response.headers["Warning"]
    line = json.dumps({**event(entity), "condition": condition}).encode()
    refusal(posting.post(BATCH, line, NDJSON), 400, "invalid_body")


def test_of_many_that_race_for_the_same_seat_one_gets_it(admin: httpx.Client, entity: str):
    start = last_position(admin)
    answers = [
        admin.post(BATCH, json=batch(f"{entity}-{number}", {"tags": [entity]}, after=start, tags=[entity])).status_code
        for number in range(5)
    ]
    assert answers == [201, 409, 409, 409, 409]
