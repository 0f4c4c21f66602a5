"""Conditions, removals and retention through the gateway: what the core decides is what the caller hears."""

from __future__ import annotations

import time
import uuid
from urllib.parse import quote

import httpx

from tools.stack import Stack

API = "/api/v1"


def append(client: httpx.Client, entity: str, count: int = 2) -> list[str]:
    events = [{"event_type": "t", "entity_id": entity, "payload": n, "tags": [entity]} for n in range(count)]
    answer = client.post(f"{API}/events/batch", json={"events": events})
    assert answer.status_code == 201
    return [event["event_id"] for event in answer.json()["events"]]


def test_a_condition_that_fails_comes_back_with_what_it_met(client: httpx.Client) -> None:
    entity = str(uuid.uuid4())
    first, second = append(client, entity)
    condition = {"fail_if_events_match": [{"tags": [entity]}]}
    events = [{"event_type": "t", "entity_id": entity, "payload": 9}]
    answer = client.post(f"{API}/events/batch", json={"events": events, "condition": condition})
    assert (answer.status_code, answer.json()["error"]) == (409, "condition_failed")
    assert answer.json()["expected"] == {"after": 0}
    assert answer.json()["actual"]["event_id"] in (first, second)
    assert client.get(f"{API}/events/query", params={"entity_id": entity}).json()["count"] == 2


def test_an_entity_with_a_slash_is_removed_and_its_operation_ends(client: httpx.Client) -> None:
    entity = f"order/{uuid.uuid4()}"
    append(client, entity)
    answer = client.delete(f"{API}/entities/{quote(entity, safe='')}")
    assert answer.status_code == 202
    operation = answer.json()
    found = client.get(
        f"{API}/events/query", params={"entity_id": entity, "min_position": operation["position"], "wait_ms": 1000}
    )
    assert found.json()["count"] == 0
    deadline = time.monotonic() + 60
    while client.get(f"{API}/operations/{operation['operation_id']}").json()["status"] != "done":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert operation["operation_id"] in {
        one["operation_id"] for one in client.get(f"{API}/operations").json()["operations"]
    }


def test_an_event_is_erased(client: httpx.Client) -> None:
    (event_id,) = append(client, str(uuid.uuid4()), 1)
    assert client.post(f"{API}/events/{event_id}/erase").status_code == 202
    event = client.get(f"{API}/events/{event_id}").json()
    assert (event["payload"], event["tags"], event["erased"]) == (None, None, True)
    again = client.post(f"{API}/events/{event_id}/erase")
    assert (again.status_code, again.json()["error"]) == (404, "not_found")


def test_a_retention_policy_is_replaced_only_as_it_was_seen(client: httpx.Client) -> None:
    path = f"{API}/retention/{quote(f'order/{uuid.uuid4()}', safe='')}"
    put = client.put(path, json={"max_count": 5})
    assert put.status_code == 200
    stale = client.put(path, json={"max_count": 6}, headers={"If-Match": '"stale"'})
    assert (stale.status_code, stale.json()["actual"]) == (412, put.headers["ETag"])
    assert client.get(path).json()["max_count"] == 5
    ended = client.delete(path, headers={"If-Match": put.headers["ETag"]})
    assert (ended.status_code, ended.content) == (204, b"")
    assert client.get(path).status_code == 404


def test_the_gateway_asks_for_a_credential_before_anything_is_removed(stack: Stack) -> None:
    for method, path in (("DELETE", "entities/x"), ("POST", f"events/{uuid.uuid4()}/erase"), ("PUT", "retention/x")):
        answer = httpx.request(method, f"{stack.gateway_url}{API}/{path}", timeout=30)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
