"""What the gateway answers itself: health, figures, the document, and the refusal of WebSockets."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from openapi_spec_validator import validate
from structlog.testing import capture_logs

from allsource_control_plane import health as health_module
from allsource_control_plane.gateway.core_client import _PROBE_TIMEOUT_SECONDS
from allsource_control_plane.gateway.forwarder import Forwarder
from allsource_control_plane.settings import ControlPlaneSettings, GatewaySettings
from allsource_shared.configuration import describe_keys
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access
from allsource_shared.settings import LoggingSettings
from allsource_shared.wire.health import GatewayHealth

from .figures import figures
from .wire import TOKEN, answer_with

QUERY = b"/api/v1/events/query"


def health_answer(status: bytes, http: bytes = b"200 OK", reasons: bytes = b"[]"):
    body = (
        b'{"status":"%s","service":"allsource-core","version":"9.9","uptime_seconds":1,"reasons":%s,"new_field":1}'
        % (status, reasons)
    )
    return answer_with(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (http, len(body), body))


async def health(gateway) -> GatewayHealth:
    answer = await gateway.ask("GET", b"/health", b"")
    assert answer.status == 200
    assert len(answer.values(b"x-request-id")) == 1
    return msgspec.json.decode(answer.body, type=GatewayHealth)


@pytest.mark.asyncio
async def test_health_is_healthy_while_the_core_is(gateway, core):
    core.behaviour = health_answer(b"healthy")
    report = await health(gateway)
    assert (report.status, report.core.status, report.core.version) == ("healthy", "healthy", "9.9")
    assert (report.service, report.features) == ("allsource-control-plane", ["gateway", "login", "authentication"])


@pytest.mark.asyncio
async def test_health_says_why_the_core_is_not_well(gateway, core):
    core.behaviour = health_answer(b"unavailable", b"503 Service Unavailable", b'["recovering"]')
    report = await health(gateway)
    assert (report.status, report.core.status, report.core.reasons) == ("degraded", "unavailable", ["recovering"])


@pytest.mark.asyncio
async def test_health_is_degraded_but_answers_while_the_core_is_away(gateway, core):
    await core.stop()
    report = await health(gateway)
    assert (report.status, report.core.status, report.core.reasons) == ("degraded", "unavailable", ["unreachable"])


@pytest.mark.asyncio
async def test_health_does_not_wait_for_a_core_that_hangs(start_gateway, core, patience):
    assert _PROBE_TIMEOUT_SECONDS < 0.5
    patience.undo()
    gateway = await start_gateway()

    async def hang(connection):
        await connection.reader.read()

    core.behaviour = hang
    async with asyncio.timeout(60):
        assert (await health(gateway)).core.status == "unavailable"


@pytest.mark.asyncio
async def test_core_is_asked_once_for_many_questions_at_a_time(gateway, core, patience):
    patience.setattr(health_module, "_CACHED_SECONDS", 100)
    core.behaviour = health_answer(b"healthy")
    await asyncio.gather(*(health(gateway) for _ in range(20)))
    assert len(core.requests) == 1


@pytest.mark.asyncio
async def test_own_routes_need_no_core_and_no_credential(gateway, core):
    await core.stop()
    for path in (b"/health", b"/health/live", b"/metrics", b"/openapi.json", b"/%68ealth"):
        assert (await gateway.ask("GET", path, b"")).status == 200
    head = await gateway.ask("HEAD", b"/health", b"")
    assert (head.status, head.body) == (200, b"")
    answer = await gateway.ask("POST", b"/health", b"")
    assert (answer.status, answer.problem) == (405, "method_not_allowed")
    assert core.requests == []


@pytest.mark.asyncio
async def test_readiness_is_that_of_the_core(gateway, core):
    core.behaviour = answer_with(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n{}")
    assert (await gateway.ask("GET", b"/health/ready", b"")).status == 503
    assert core.requests[0].target == b"/health/ready"


@pytest.mark.asyncio
async def test_figures_count_requests_by_route_and_failures_of_the_core(gateway, core):
    await core.internal.followed()
    await gateway.ask("GET", QUERY)
    await gateway.ask("GET", b"/api/v1/events/0198c3f0-0000-7000-8000-000000000001")
    await gateway.ask("GET", b"/nowhere/1")
    await gateway.ask("BREW", b"/nowhere/2")
    await core.stop()
    await gateway.ask("POST", b"/api/v1/events", body=b"{}")
    found = await figures(gateway)
    count = "control_plane_http_requests_total{{method={},operation={},status={}}}"
    assert found[count.format("GET", "query_events", 200)] == 1
    assert found[count.format("GET", "get_event", 200)] == 1
    assert found[count.format("GET", "unmatched", 404)] == 1
    assert found[count.format("other", "unmatched", 404)] == 1
    assert found[count.format("POST", "append_event", 503)] == 1
    assert found["control_plane_core_errors_total{reason=refused}"] == 2
    assert found["control_plane_http_request_duration_seconds_count{operation=query_events}"] == 1
    assert found["control_plane_http_requests_in_progress"] == 1
    assert found["control_plane_core_up"] == 0
    assert found["control_plane_process_resident_memory_bytes"] > 0
    assert {name for name in found if not name.startswith("control_plane_")} == set()


@pytest.mark.asyncio
async def test_document_is_valid_and_covers_what_is_reachable(gateway):
    answer = await gateway.ask("GET", b"/openapi.json", b"")
    assert answer.values(b"content-type") == [b"application/json"]
    document = msgspec.json.decode(answer.body)
    validate(document)
    assert {route.path for route in CORE_ROUTES if route.access is not Access.GATEWAY} <= set(document["paths"])
    assert not any(path.startswith("/internal") for path in document["paths"])
    health_schema = document["paths"]["/health"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert health_schema == {"$ref": "#/components/schemas/GatewayHealth"}
    for methods in document["paths"].values():
        for operation in methods.values():
            assert "core_unavailable" in operation["responses"]["503"]["description"]


@pytest.mark.asyncio
async def test_websocket_is_refused_with_a_reason(gateway, core):
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    answer = await gateway.ask("GET", QUERY, TOKEN + upgrade)
    assert (answer.status, answer.problem) == (400, "bad_request")
    assert b"WebSocket" in answer.body
    assert len(answer.values(b"x-request-id")) == 1
    assert core.connections == 0


@pytest.mark.asyncio
async def test_failed_request_is_logged_once_with_its_facts_and_without_its_secrets(gateway, core):
    await core.stop()
    with capture_logs() as lines:
        await gateway.ask("GET", QUERY + b"?entity_id=private", TOKEN)
        await gateway.ask("GET", b"/health", b"")
    requests = [line for line in lines if line["event"] == "request"]
    assert len(requests) == 1
    line = requests[0]
    assert (line["method"], line["operation"], line["status"]) == ("GET", "query_events", 503)
    assert line["duration_ms"] > 0
    assert line["bytes"] > 0
    assert "private" not in str(line)
    assert "ask_" not in str(line)


@pytest.mark.asyncio
async def test_defect_is_a_500_that_tells_the_log_everything_and_the_caller_nothing(gateway, monkeypatch):
    async def fail(_self, _exchange):
        raise ZeroDivisionError("private")

    monkeypatch.setattr(Forwarder, "forward", fail)
    with capture_logs() as lines:
        answer = await gateway.ask("GET", QUERY)
    assert (answer.status, answer.problem) == (500, "internal_error")
    assert b"private" not in answer.body
    assert any(line["event"] == "request_failed" and line.get("exc_info") for line in lines)


def test_nothing_internal_is_ever_reachable():
    from allsource_control_plane.routes import GATEWAY_ROUTES, merge_routes
    from allsource_shared.routes import Access, Route, RouteTable

    rows = [
        Route(operation=name, method="GET", path=path, access=Access.PUBLIC, summary="")
        for name, path in [("a", "/internal/v1/x"), ("b", "/internal"), ("c", "/internals"), ("health", "/health")]
    ]
    merged = merge_routes(GATEWAY_ROUTES, RouteTable(rows))
    assert [route.path for route in merged if route not in list(GATEWAY_ROUTES)] == ["/internals"]


def test_settings_do_not_show_their_key():
    assert "hunter2" not in repr(ControlPlaneSettings(gateway=GatewaySettings(key="hunter2")))


def test_every_setting_says_what_it_is():
    for section, key, field in describe_keys(ControlPlaneSettings):
        descriptions = [getattr(meta, "description", None) for meta in field.type.__metadata__]
        if section == "gateway":
            assert any(descriptions), key
        assert field.default is not msgspec.NODEFAULT, key


@pytest.mark.asyncio
async def test_answer_that_the_core_broke_off_is_logged_whatever_its_status(gateway, core):
    core.behaviour = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    with capture_logs() as lines:
        assert not (await gateway.ask("GET", QUERY)).complete
        found = await figures(gateway)
    line = next(line for line in lines if line["event"] == "request")
    assert (line["status"], line["bytes"], line["aborted_by"]) == (200, 9, "core")
    assert found["control_plane_core_errors_total{reason=broken_answer}"] == 1


@pytest.mark.asyncio
async def test_without_lines_for_requests_what_broke_off_has_none_either(start_gateway, core):
    gateway = await start_gateway(logging=LoggingSettings(requests="none"))
    core.behaviour = answer_with(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
    with capture_logs() as lines:
        assert not (await gateway.ask("GET", QUERY)).complete
        found = await figures(gateway)
    assert found["control_plane_core_errors_total{reason=broken_answer}"] == 1
    assert [line for line in lines if line["event"] == "request"] == []
