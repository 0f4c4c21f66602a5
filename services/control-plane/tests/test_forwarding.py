"""What leaves the gateway is what came in: paths and queries byte for byte, headers but for those of one connection."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .wire import TOKEN, answer_with

pytestmark = pytest.mark.asyncio

QUERY = b"/api/v1/events/query"
CHARACTERS = st.sampled_from([*"abcXYZ019-._~!$&'()*+,;=:@"])
ESCAPES = st.sampled_from(["%2F", "%2f", "%41", "%25", "%C3%A9", "%c3%a9", "%20", "%2E", "%3F", "%23", "%3a"])
SEGMENTS = (
    st.lists(CHARACTERS | ESCAPES, min_size=1, max_size=12)
    .map("".join)
    .filter(lambda text: text.replace("%2E", ".") not in (".", ".."))
)
QUERIES = st.lists(CHARACTERS | ESCAPES | st.sampled_from(["/", "?", "&", "="]), max_size=24).map("".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(segment=SEGMENTS, query=QUERIES)
async def test_path_and_query_arrive_byte_for_byte(gateway, core, segment, query):
    core.requests.clear()
    target = f"/api/v1/events/{segment}" + (f"?{query}" if query else "")
    answer = await gateway.ask("GET", target.encode())
    if segment in ("query", "stream"):
        return
    # A name that only decodes to the fixed route `batch` is that route, which has no GET.
    if answer.status == 405:
        return
    assert answer.status == 200
    assert [request.target for request in core.requests] == [target.encode()]


@pytest.mark.parametrize(
    "target",
    [
        b"/api/v1/events/query?a=%2F&b=%41&c=%2f&d=%25&e=a+b&f=1;2&g='&h=!",
        b"/api/v1/events/%2F%41%25+;'!",
        b"/api/v1/events/query?a[]=1&x?y",
        b"/api/v1/events/%71uery",
    ],
)
async def test_target_is_not_normalised(gateway, core, target):
    assert (await gateway.ask("GET", target)).status == 200
    assert core.requests[0].target == target


@pytest.mark.parametrize(
    "target", [b"http://elsewhere.example/api/v1/entities/zz?a=1", b"/api/v1/entities/zz?a=1#frag"]
)
async def test_what_the_server_takes_off_a_target_is_not_forwarded(gateway, core, target):
    assert (await gateway.ask("DELETE", target)).status == 200
    assert core.requests[0].target == b"/api/v1/entities/zz?a=1"
    assert core.requests[0].values(b"host") == [b"127.0.0.1:%d" % core.port]


@pytest.mark.parametrize(
    "path",
    [
        b"/api/v1/events/..",
        b"/api/v1/events/%2e%2E",
        b"/api/v1/events/.",
        b"/api/v1/events//query",
        b"/api/v1/events/query/",
        b"/api/v1/events/%zz",
        b"/api/v1/events/%",
        b"/api/v1/events/%00",
        b"/api/v1/events/%ff",
        b"/api/v1/../../internal/v1/introspect",
        b"*",
    ],
)
async def test_bad_path_reaches_nobody(gateway, core, path):
    answer = await gateway.ask("GET", path)
    assert (answer.status, answer.problem) == (400, "bad_path")
    assert core.connections == 0


@pytest.mark.parametrize("path", [b"/internal", b"/internal/v1/introspect", b"/%69nternal/v1/audit", b"/api/v2/events"])
async def test_unknown_and_internal_routes_are_not_found(gateway, core, path):
    answer = await gateway.ask("GET", path)
    assert (answer.status, answer.problem) == (404, "not_found")
    assert core.connections == 0


async def test_wrong_method_names_the_allowed_ones(gateway, core):
    answer = await gateway.ask("DELETE", b"/api/v1/events/query")
    assert (answer.status, answer.problem) == (405, "method_not_allowed")
    assert answer.values(b"allow") == [b"GET, HEAD"]
    assert core.connections == 0


async def test_hop_by_hop_headers_and_claims_about_the_client_are_dropped(gateway, core):
    dropped = (
        b"Connection: keep-alive, X-Secret-Hop\r\nX-Secret-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
        b"Proxy-Authorization: x\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Host: evil\r\n"
        b"X-Forwarded-Proto: https\r\nX-Real-IP: 1.2.3.4\r\n"
    )
    await gateway.ask("GET", QUERY, TOKEN + dropped + b"X-Custom: kept\r\nx-custom: twice\r\n")
    request = core.requests[0]
    names = {name for name, _ in request.headers}
    assert names == {
        b"host",
        b"authorization",
        b"x-custom",
        b"x-request-id",
        b"traceparent",
        b"x-forwarded-for",
        b"x-gateway-key",
    }
    assert request.values(b"x-custom") == [b"kept", b"twice"]
    assert request.values(b"x-forwarded-for") == [b"127.0.0.1"]
    assert request.values(b"host") == [b"127.0.0.1:%d" % core.port]


async def test_utf8_header_values_arrive_as_they_are_and_others_are_refused(gateway, core):
    await gateway.ask("GET", QUERY, TOKEN + b"X-Name: caf\xc3\xa9\r\n")
    assert core.requests[0].values(b"x-name") == [b"caf\xc3\xa9"]
    answer = await gateway.ask("GET", QUERY, TOKEN + b"X-Name: caf\xe9\r\n")
    assert (answer.status, answer.problem) == (400, "bad_header")
    assert len(core.requests) == 1


async def test_request_id_is_passed_on_and_echoed(gateway, core):
    answer = await gateway.ask("GET", QUERY, TOKEN + b"X-Request-ID: order-42\r\n")
    assert core.requests[0].values(b"x-request-id") == [b"order-42"]
    assert answer.values(b"x-request-id") == [b"order-42"]


async def test_request_id_is_made_where_there_is_none_or_a_bad_one(gateway, core):
    for headers in (TOKEN, TOKEN + b"X-Request-ID: has space\r\n"):
        answer = await gateway.ask("GET", QUERY, headers)
        sent = core.requests[-1].values(b"x-request-id")
        assert answer.values(b"x-request-id") == sent
        assert len(sent[0]) == 32


async def test_trace_continues_and_its_state_only_with_it(gateway, core):
    parent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await gateway.ask("GET", QUERY, TOKEN + b"traceparent: " + parent + b"\r\ntracestate: a=1\r\n")
    assert core.requests[0].values(b"traceparent") == [parent]
    assert core.requests[0].values(b"tracestate") == [b"a=1"]
    await gateway.ask("GET", QUERY, TOKEN + b"traceparent: nonsense\r\ntracestate: a=1\r\n")
    assert core.requests[1].values(b"traceparent") != [b"nonsense"]
    assert core.requests[1].values(b"tracestate") == []


async def test_nobody_hides_from_the_core_who_calls_and_for_which_tenant(gateway, core):
    hidden = b"Connection: authorization, X-Tenant-ID, x-api-key, X-Hop\r\nX-Tenant-ID: acme\r\nX-Hop: 1\r\n"
    assert (await gateway.ask("GET", QUERY, TOKEN + hidden)).status == 200
    (request,) = core.requests
    assert request.values(b"authorization") == [TOKEN.removeprefix(b"Authorization: ").strip()]
    assert (request.values(b"x-tenant-id"), request.values(b"x-hop")) == ([b"acme"], [])


async def test_answer_keeps_what_concerns_the_caller_and_loses_what_concerns_the_connection(gateway, core):
    body = b"\x1f\x8bnot really gzip"
    core.behaviour = answer_with(
        b"HTTP/1.1 201 Created\r\nServer: secret/1.0\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\n"
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"
        b"Content-Encoding: gzip\r\nContent-Type: application/json\r\n"
        b'Warning: 299 - "a"\r\nWarning: 299 - "b"\r\nX-RateLimit-Limit: 60\r\nSet-Cookie: a=b\r\n'
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    answer = await gateway.ask("POST", b"/api/v1/events", body=b"{}")
    assert (answer.status, answer.body) == (201, body)
    assert answer.values(b"content-encoding") == [b"gzip"]
    assert answer.values(b"warning") == [b'299 - "a"', b'299 - "b"']
    assert answer.values(b"x-ratelimit-limit") == [b"60"]
    assert answer.values(b"set-cookie") == [b"a=b"]
    assert len(answer.values(b"date")) == 1
    assert answer.values(b"server") != [b"secret/1.0"]
    assert not answer.values(b"x-hop")
    assert not answer.values(b"keep-alive")


async def test_redirects_and_cookies_are_the_clients_business(gateway, core):
    core.behaviour = answer_with(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
    )
    answer = await gateway.ask("GET", QUERY)
    assert (answer.status, answer.values(b"location")) == (307, [b"/elsewhere"])
    await gateway.ask("GET", QUERY)
    assert len(core.requests) == 2
    assert core.requests[1].values(b"cookie") == []


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1234\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_head_is_answered_without_a_body(gateway, core, head):
    core.behaviour = answer_with(head)
    answer = await gateway.ask("HEAD", QUERY, TOKEN + b"Connection: close\r\n")
    assert answer.status == 200
    assert core.requests[0].line.startswith(b"HEAD ")
    assert answer.values(b"content-length") == ([b"1234"] if b"1234" in head else [])


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_answer_without_a_body_leaves_the_connection_usable(gateway, core, status):
    core.behaviour = answer_with(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n", close=False)
    request = b"GET /api/v1/events/query HTTP/1.1\r\nHost: g\r\n" + TOKEN + b"\r\n"
    async with gateway.connect() as client:
        for _ in range(3):
            await client.send(request)
            assert (await client.answer()).status == int(status[:3])


async def test_connection_to_the_core_is_used_again(gateway, core):
    for _ in range(5):
        assert (await gateway.ask("POST", b"/api/v1/events", body=b"{}")).status == 200
    assert core.connections == 1
    assert [request.body for request in core.requests] == [b"{}"] * 5


async def test_public_route_needs_no_credential(gateway, core):
    body = b'{"username":"a","password":"b"}'
    assert (await gateway.ask("POST", b"/api/v1/auth/login", b"", body)).status == 200
    assert core.requests[0].body == body
