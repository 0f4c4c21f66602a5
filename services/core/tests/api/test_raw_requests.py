"""What no HTTP library would send: paths, methods, framing, headers, over a bare socket."""

from __future__ import annotations

import json

import httpx
import pytest

from .service import BATCH, EVENTS, QUERY, Core, bearer, last_position, receive, refusal

AUTHORIZED = b"Host: core\r\nAuthorization: " + bearer()["Authorization"].encode() + b"\r\n"


def get(core: Core, target: bytes, headers: bytes = b"", method: bytes = b"GET") -> httpx.Response:
    data = method + b" " + target + b" HTTP/1.1\r\n" + AUTHORIZED + headers + b"\r\n"
    return core.send(data, method=method.decode())


@pytest.mark.parametrize(
    "target",
    [
        b"//health",
        b"/health/",
        b"/health//live",
        b"/./health",
        b"/../health",
        b"/api/v1/../../health",
        b"/%2e/health",
        b"/%2E%2E/health",
        b"/.%2e/health",
        b"/api/v1/events/%2e%2e",
        b"/api/v1/events/.",
        b"/health%00",
        b"/%00",
        b"/%ZZ",
        b"/%",
        b"/%2",
        b"/health%",
        b"/%ff",
        b"/%c0%ae%c0%ae/health",
        b"/%ed%a0%80",
        b"/health#fragment",
        b"/health\\live",
        b"/health|",
        b'/"health"',
        b"http://core/health",
        b"HTTP://core/health",
        b"https://evil.example/health",
    ],
)
def test_a_bad_path_is_refused(core: Core, target: bytes):
    refusal(get(core, target), 400, "bad_path")
    refusal(get(core, target, method=b"POST", headers=b"Content-Length: 0\r\n"), 400, "bad_path")


UNKNOWN = [
    b"/",
    b"/nope",
    b"/Health",
    b"/health/LIVE",
    b"/health%2Flive",
    b"/health;a=b",
    b"/api/v2/events",
    b"/api/v1",
]
UNKNOWN += [b"/%252e%252e/health", b"/api%2Fv1/events/query", b"/...", b"/health%20", b"/%68ealth%2f", b"/metrics.json"]


@pytest.mark.parametrize("target", UNKNOWN)
def test_an_unknown_path_is_not_found(core: Core, target: bytes):
    refusal(get(core, target), 404, "not_found")


@pytest.mark.parametrize(
    "target", [b"/h%65alth", b"/%68%65%61%6C%74%68", b"/health?", b"/health?x=%ZZ", b"/health?/../"]
)
def test_an_escaped_path_is_the_same_path(core: Core, target: bytes):
    assert get(core, target).status_code == 200


def test_an_escaped_path_needs_the_same_permission(core: Core):
    for target in (b"/api/v1/events/qu%65ry", b"/%61pi/v1/events/query"):
        response = core.send(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
        refusal(response, 401, "unauthorized")
        assert get(core, target).status_code == 200


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND"])
@pytest.mark.parametrize(
    ("path", "allow"),
    [(b"/health", "GET, HEAD"), (QUERY.encode(), "GET, HEAD"), (EVENTS.encode() + b"/x", "GET, HEAD")],
)
def test_a_wrong_method_is_told_the_right_ones(core: Core, method: bytes, path: bytes, allow: str):
    response = get(core, path, method=method, headers=b"Content-Length: 0\r\n")
    refusal(response, 405, "method_not_allowed")
    assert response.headers["Allow"] == allow


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PUT", b"DELETE"])
@pytest.mark.parametrize("path", [EVENTS.encode(), BATCH.encode(), b"/api/v1/auth/login"])
def test_what_is_only_posted_is_not_read(core: Core, method: bytes, path: bytes):
    response = get(core, path, method=method)
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "data",
    [
        b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health?\xff=1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX-Request-ID: a\x01b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_a_problem_too(core: Core, data: bytes):
    refusal(core.send(data), 400, "bad_request")


@pytest.mark.parametrize("chunks", [b"ZZ\r\n", b"5\r\nhelloXX\r\n", b"-1\r\n", b"FFFFFFFFFFFFFFFFFF\r\n"])
def test_bad_chunks_are_refused_and_nothing_is_stored(core: Core, admin: httpx.Client, chunks: bytes):
    before = last_position(admin)
    head = b"POST " + EVENTS.encode() + b" HTTP/1.1\r\n" + AUTHORIZED
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    refusal(core.send(head + chunks), 400, "bad_request")
    assert last_position(admin) == before


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        (b"/health", b"*/*", 200),
        (b"/metrics", b"*/*", 200),
        (b"/openapi.json", b"*/*", 200),
        (QUERY.encode() + b"?limit=3", b"application/json", 200),
        (QUERY.encode(), b"application/x-ndjson", 200),
        (QUERY.encode(), b"text/html", 406),
        (b"/nope", b"*/*", 404),
        (b"/..", b"*/*", 400),
    ],
)
def test_head_has_no_body_and_leaves_the_connection_in_step(
    core: Core, admin: httpx.Client, entity: str, path: bytes, accept: bytes, status: int
):
    admin.post(EVENTS, json={"event_type": "a", "entity_id": entity, "payload": 1})
    with core.connect() as connection:
        connection.sendall(b"HEAD " + path + b" HTTP/1.1\r\n" + AUTHORIZED + b"Accept: " + accept + b"\r\n\r\n")
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while b'{"status":"alive"}' not in received:
            received += connection.recv(65536)
    first, second, body = received.split(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b'{"status":"alive"}'


def test_a_body_is_asked_for_where_the_caller_waits_to_be_asked(core: Core, admin: httpx.Client, entity: str):
    body = json.dumps({"event_type": "a", "entity_id": entity, "payload": 1}).encode()
    with core.connect() as connection:
        head = b"POST " + EVENTS.encode() + b" HTTP/1.1\r\n" + AUTHORIZED + b"Content-Type: application/json\r\n"
        connection.sendall(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert receive(connection).status_code == 201


def test_a_body_that_would_be_refused_is_not_asked_for(core: Core):
    head = b"POST " + EVENTS.encode() + b" HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
    refusal(core.send(head + b"\r\n"), 401, "unauthorized")
    large = b"POST " + EVENTS.encode() + b" HTTP/1.1\r\n" + AUTHORIZED + b"Expect: 100-continue\r\n"
    refusal(core.send(large + b"Content-Length: 20000000\r\n\r\n"), 413, "body_too_large")


@pytest.mark.parametrize("request_id", [b"abc-123", b"A.b_c:d@e=f+g/h-i", b"9" * 128])
@pytest.mark.parametrize("target", [b"/health", b"/nope", b"/..", QUERY.encode(), QUERY.encode() + b"?limit=0"])
def test_the_request_id_is_echoed(core: Core, target: bytes, request_id: bytes):
    response = get(core, target, b"X-Request-ID: " + request_id + b"\r\n")
    assert response.headers["X-Request-ID"].encode() == request_id
    if response.status_code >= 400:
        assert response.json()["request_id"].encode() == request_id


@pytest.mark.parametrize("request_id", [b"", b"a b", b"9" * 129, b"\xff", b"<script>", b'"', b"a;b"])
def test_an_unfit_request_id_is_replaced(core: Core, request_id: bytes):
    response = get(core, b"/nope", b"X-Request-ID: " + request_id + b"\r\n")
    assert len(response.headers["X-Request-ID"]) == 32
    refusal(response, 404, "not_found")


@pytest.mark.parametrize(
    "name", [b"Content-Type", b"Content-Encoding", b"X-Tenant-ID", b"Accept", b"Prefer", b"traceparent"]
)
def test_headers_of_any_bytes_break_nothing(core: Core, name: bytes):
    for value in (b"\xff\xfe", b"\xc3\xa4", b"", b"x" * 7000, b";;;===,,,"):
        body = b'{"event_type":"a","entity_id":"..","payload":1}'
        head = b"POST " + EVENTS.encode() + b" HTTP/1.1\r\n" + AUTHORIZED + name + b": " + value + b"\r\n"
        response = core.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        refusal(response, response.status_code, response.json()["error"])
        assert response.status_code in (400, 404, 415)


def test_a_caller_who_hangs_up_leaves_no_error_in_the_log(core: Core, admin: httpx.Client):
    """The end of the session fails if the log has an error; these are the ways to make one."""
    head = b"POST " + EVENTS.encode() + b" HTTP/1.1\r\n" + AUTHORIZED + b"Content-Type: application/json\r\n"
    before = last_position(admin)
    for data in (head, head + b"Content-Length: 10\r\n\r\n{", head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"):
        with core.connect() as connection:
            connection.sendall(data)
    for _ in range(5):
        with core.connect() as connection:
            connection.sendall(
                b"GET " + QUERY.encode() + b" HTTP/1.1\r\nAccept: application/x-ndjson\r\n" + AUTHORIZED + b"\r\n"
            )
    assert last_position(admin) == before
