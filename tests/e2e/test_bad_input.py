"""Bad input through both services: the answer that the API promises, and nothing is stored."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import httpx
import pytest

from tools.stack import Stack

from .wire import exchange

EVENT = b'{"event_type":"t","entity_id":"e","payload":%s}'
JSON = {"Content-Type": "application/json"}
DEEP = b"[" * 100_000 + b"]" * 100_000
MEBIBYTE = 1024 * 1024

BAD_BODIES = {
    "malformed JSON": (b'{"event_type":"t",', 400, "malformed_json"),
    "not an object": (b"[1]", 400, "invalid_body"),
    "a number for the type": (b'{"event_type":1,"entity_id":"e","payload":1}', 400, "invalid_body"),
    "no payload": (b'{"event_type":"t","entity_id":"e"}', 400, "invalid_body"),
    "metadata that is a list": (b'{"event_type":"t","entity_id":"e","payload":1,"metadata":[]}', 400, "invalid_event"),
    "invalid UTF-8 in the payload": (EVENT % b'"\xff\xfe"', 400, "invalid_event"),
    "invalid UTF-8 in a name": (b'{"event_type":"\xff","entity_id":"e","payload":1}', 400, "malformed_json"),
    "100,000 levels": (EVENT % DEEP, 400, "invalid_event"),
    "65 levels": (EVENT % (b"[" * 65 + b"]" * 65), 400, "invalid_event"),
    "a number beyond a double": (EVENT % b"1e999", 400, "invalid_event"),
    "a payload of over 1 MiB": (EVENT % (b'"' + b"x" * MEBIBYTE + b'"'), 400, "invalid_event"),
    "a control character in a name": (b'{"event_type":"a\\u0000b","entity_id":"e","payload":1}', 400, "invalid_event"),
    "a body of 20 MB": (EVENT % (b'"' + b"x" * 20_000_000 + b'"'), 413, "body_too_large"),
}


def assert_problem(answer: httpx.Response, status: int, error: str) -> None:
    """The answer is this problem, in the shape that every one has."""
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "error", "request_id"} <= set(answer.json())
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_refused(client: httpx.Client, stored: Callable[[], int], name: str) -> None:
    body, status, error = BAD_BODIES[name]
    before = stored()
    assert_problem(client.post("/api/v1/events", content=body, headers=JSON), status, error)
    assert stored() == before


@pytest.mark.parametrize("name", [name for name, (_, status, _) in BAD_BODIES.items() if status == 400])
def test_a_bad_event_in_a_batch_takes_the_good_ones_with_it_and_is_named(
    client: httpx.Client, stored: Callable[[], int], name: str
) -> None:
    body, _, error = BAD_BODIES[name]
    if error == "malformed_json" or body == b"[1]":
        content = b'{"events":[%s,%s]}' % (EVENT % b"1", body)
    else:
        content = b'{"events":[%s,%s,%s]}' % (EVENT % b"1", body, EVENT % b"2")
    before = stored()
    answer = client.post("/api/v1/events/batch", content=content, headers=JSON)
    assert_problem(answer, 400, error)
    if error != "malformed_json":
        assert "events[1]" in answer.json()["errors"][0]["path"]
    lines = b"\n".join([EVENT % b"1", body, EVENT % b"2"])
    answer = client.post("/api/v1/events/batch", content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert_problem(answer, 400, error)
    assert "events[1]" in answer.json()["detail"]
    assert stored() == before


def test_a_body_that_unpacks_to_too_much_is_refused(client: httpx.Client, stored: Callable[[], int]) -> None:
    before = stored()
    bomb = gzip.compress(EVENT % (b'"' + b"x" * 40_000_000 + b'"'))
    headers = {**JSON, "Content-Encoding": "gzip"}
    assert_problem(client.post("/api/v1/events", content=bomb, headers=headers), 413, "body_too_large")
    assert stored() == before


def test_a_body_of_20_mb_in_chunks_is_refused(client: httpx.Client, stored: Callable[[], int]) -> None:
    before = stored()
    chunks = (b"x" * 100_000 for _ in range(200))
    assert_problem(client.post("/api/v1/events", content=chunks, headers=JSON), 413, "body_too_large")
    assert stored() == before


BAD_PATHS = [
    b"/api/v1/events/%2E%2E/events",
    b"/api/v1/events/%2e%2e",
    b"/api/v1/events/..",
    b"/api/v1/../events",
    b"/api/v1/./events",
    b"//api/v1/events",
    b"/api/v1//events",
    b"/api/v1/events/",
    b"/api/v1/events/%00",
    b"/api/v1/events/a%00b",
    b"/api/v1/events/%FF",
    b"/api/v1/events/%C3",
    b"/api/v1/events/%zz",
    b"/api/v1/events/%2",
]


@pytest.mark.parametrize("target", BAD_PATHS, ids=lambda target: target.decode("latin-1"))
def test_a_bad_path_is_refused_by_gateway_and_core(stack: Stack, token: str, target: bytes) -> None:
    for url in (stack.gateway_url, stack.core_url):
        for method in ("GET", "POST"):
            headers = {"Authorization": f"Bearer {token}", **JSON}
            answer = exchange(url, method, target, headers=headers, body=EVENT % b"1" if method == "POST" else b"")
            assert (answer.status, answer.json()["error"]) == (400, "bad_path")


def test_an_encoded_slash_is_part_of_one_segment(stack: Stack, token: str) -> None:
    for url in (stack.gateway_url, stack.core_url):
        headers = {"Authorization": f"Bearer {token}"}
        assert exchange(url, "GET", b"/api/v1/events%2Fquery", headers=headers).status == 404
        answer = exchange(url, "GET", b"/api/v1/events/a%2Fb", headers=headers)
        assert (answer.status, answer.json()["error"]) == (404, "not_found")


@pytest.mark.parametrize("tenant", ["_system", "_audit", "_"])
def test_a_reserved_tenant_is_refused_for_an_admin_too(stack: Stack, token: str, tenant: str) -> None:
    for url in (stack.gateway_url, stack.core_url):
        headers = {"Authorization": f"Bearer {token}", "X-Tenant-ID": tenant}
        assert_problem(httpx.get(f"{url}/api/v1/events/query", headers=headers, timeout=30), 400, "reserved_tenant")
