"""The main job: events in through the gateway, durable in the core, and out again."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

import httpx
from openapi_spec_validator import validate

from tools.stack import Stack

from .callers import until
from .conftest import PASSWORD


def test_an_event_goes_in_and_comes_out_as_it_was(client: httpx.Client) -> None:
    entity = f"order/{uuid.uuid4()}"
    body = (
        b'{"event_type":"order.placed","entity_id":"%s","payload":{"b": 1.50,"a":[1e5]},"tags":["x"]}' % entity.encode()
    )
    appended = client.post("/api/v1/events", content=body, headers={"Content-Type": "application/json"})
    assert appended.status_code == 201
    assert appended.json()["version"] == 1
    found = client.get("/api/v1/events/query", params={"entity_id": entity})
    assert b'"payload":{"b": 1.50,"a":[1e5]}' in found.content, "the payload is the bytes that came"
    (event,) = found.json()["events"]
    assert event["id"] == appended.json()["event_id"]
    assert datetime.fromisoformat(event["timestamp"]).utcoffset() is not None
    by_id = client.get(f"/api/v1/events/{event['id']}", params={"min_position": appended.json()["position"]})
    assert by_id.json() == event


def test_a_batch_is_json_or_ndjson_and_a_second_time_a_duplicate(client: httpx.Client) -> None:
    entity = str(uuid.uuid4())
    events = [
        {"event_type": "t", "entity_id": entity, "payload": number, "event_id": str(uuid.uuid4())}
        for number in range(100)
    ]
    lines = "\n".join(json.dumps(event) for event in events)
    first = client.post("/api/v1/events/batch", content=lines, headers={"Content-Type": "application/x-ndjson"})
    again = client.post("/api/v1/events/batch", json={"events": events}, headers={"Prefer": "return=minimal"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["count"] == again.json()["count"] == 100
    assert again.json()["duplicate"] is True
    assert "events" not in again.json()
    assert again.headers["Preference-Applied"] == "return=minimal"
    assert again.json()["first_position"] == first.json()["first_position"]


def test_pages_and_the_stream_give_the_same_events(client: httpx.Client) -> None:
    tag = str(uuid.uuid4())
    events = [{"event_type": "t", "entity_id": f"e-{n}", "payload": n, "tags": [tag]} for n in range(250)]
    client.post("/api/v1/events/batch", json={"events": events}).raise_for_status()
    paged, cursor = [], None
    while True:
        parameters = {"tag": tag, "limit": "100", **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/events/query", params=parameters).json()
        paged += page["events"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    with client.stream(
        "GET", "/api/v1/events/query", params={"tag": tag}, headers={"Accept": "application/x-ndjson"}
    ) as s:
        streamed = [json.loads(line) for line in s.iter_lines()]
    assert [event["payload"] for event in paged] == list(range(250))
    assert streamed == paged


def test_the_request_id_and_the_trace_reach_the_core_and_come_back(stack: Stack, client: httpx.Client) -> None:
    answer = client.get("/api/v1/events/query?limit=0", headers={"X-Request-ID": "e2e-1"})
    assert answer.status_code == 400
    assert answer.headers["X-Request-ID"] == answer.json()["request_id"] == "e2e-1"
    generated = client.get("/api/v1/events/query?limit=1").headers["X-Request-ID"]
    assert len(generated) == 32


def test_both_services_describe_their_routes(stack: Stack) -> None:
    documents = [httpx.get(f"{url}/openapi.json", timeout=30).json() for url in (stack.core_url, stack.gateway_url)]
    for document in documents:
        validate(document)
    core, gateway = (set(document["paths"]) for document in documents)
    assert core <= gateway | {"/health/ready"}


def test_health_and_metrics_are_each_services_own(stack: Stack) -> None:
    core, gateway = {}, {}

    def are_healthy() -> bool:
        nonlocal core, gateway
        core, gateway = (httpx.get(f"{url}/health", timeout=30).json() for url in (stack.core_url, stack.gateway_url))
        return core["status"] == gateway["status"] == "healthy"

    # The gateway waits for the core's answer for half a second.
    until(are_healthy)
    assert (core["service"], gateway["service"]) == ("allsource-core", "allsource-control-plane")
    assert gateway["core"]["status"] == "healthy"
    assert "allsource_http_requests_total" in httpx.get(f"{stack.core_url}/metrics", timeout=30).text
    assert "control_plane_http_requests_total" in httpx.get(f"{stack.gateway_url}/metrics", timeout=30).text


def test_a_wrong_password_and_an_unknown_user_get_the_same_answer(stack: Stack) -> None:
    answers = []
    for username, password in (("admin", "wrong"), ("nobody", PASSWORD)):
        body = {"username": username, "password": password}
        answer = httpx.post(f"{stack.gateway_url}/api/v1/auth/login", json=body, timeout=30)
        problem = answer.json()
        answers.append((answer.status_code, problem["error"], problem["detail"], problem["title"]))
    assert answers[0] == answers[1]
    assert answers[0][:2] == (401, "invalid_credentials")
