"""What the service says of itself, and to whom."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from allsource_shared import __version__
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access

from .service import EVENTS, QUERY, Core, bearer, refusal

NAMES = [
    "allsource_events_ingested_total",
    "allsource_ingestion_duration_seconds_bucket",
    "allsource_queries_total",
    "allsource_query_duration_seconds_bucket",
    "allsource_storage_events_total",
    "allsource_storage_size_bytes",
    "allsource_wal_segments_total",
    "allsource_http_requests_total",
    "allsource_http_request_duration_seconds_bucket",
]


def samples(client: httpx.Client, **headers: str) -> dict[str, float]:
    text = client.get("/metrics", headers=headers).text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


class TestHealth:
    def test_without_credentials_there_are_no_figures(self, anonymous: httpx.Client):
        response = anonymous.get("/health")
        assert response.status_code == 200
        assert list(response.json()) == ["status", "service", "version", "uptime_seconds"]
        assert response.json()["status"] == "healthy"
        assert response.json()["service"] == "allsource-core"
        assert response.json()["version"] == __version__

    @pytest.mark.parametrize(
        ("role", "shown"), [("admin", True), ("developer", True), ("readonly", True), ("serviceaccount", False)]
    )
    def test_figures_are_for_those_who_may_see_metrics(
        self, core: Core, anonymous: httpx.Client, role: str, shown: bool
    ):
        body = anonymous.get("/health", headers=bearer(role)).json()
        assert ("store" in body) == shown
        if shown:
            assert body["store"]["data_dir"] == str(core.data)
            assert body["store"]["last_position"] >= 3

    @pytest.mark.parametrize(
        "headers",
        [
            {"Authorization": "Bearer garbage"},
            bearer(secret="x" * 48),
            {**bearer(), "X-Tenant-ID": "nobodys"},
            bearer(tenant="_system"),
            {"X-API-Key": "garbage"},
        ],
    )
    def test_bad_credentials_see_what_everybody_sees(self, anonymous: httpx.Client, headers: dict[str, str]):
        response = anonymous.get("/health", headers=headers)
        assert (response.status_code, "store" in response.json()) == (200, False)

    def test_probes(self, anonymous: httpx.Client):
        assert anonymous.get("/health/live").json() == {"status": "alive"}
        assert anonymous.get("/health/ready").json() == {"ready": True, "phase": "ready"}


class TestMetrics:
    def test_the_agreed_names_are_there(self, anonymous: httpx.Client, admin: httpx.Client):
        admin.get(QUERY)
        names = {re.split(r"[{ ]", name)[0] for name in samples(anonymous)}
        assert set(NAMES) <= names
        assert all(name.startswith(("allsource_", "process_")) for name in names)

    def test_the_text_format_is_named(self, anonymous: httpx.Client):
        assert anonymous.get("/metrics").headers["Content-Type"].startswith("text/plain; version=0.0.4")

    def test_an_append_and_a_read_are_counted(self, anonymous: httpx.Client, admin: httpx.Client, entity: str):
        before = samples(anonymous)
        admin.post(EVENTS, json={"event_type": "a", "entity_id": entity, "payload": 1})
        admin.post(EVENTS, json={"event_type": "a", "entity_id": "..", "payload": 1})
        admin.get(QUERY, params={"entity_id": entity})
        after = samples(anonymous)

        def grown(name: str) -> float:
            return after[name] - before.get(name, 0)

        assert grown("allsource_events_ingested_total") == 1
        assert grown('allsource_queries_total{query_type="page"}') == 1
        ok = 'allsource_http_requests_total{method="POST",operation="append_event",status="201"}'
        bad = 'allsource_http_requests_total{method="POST",operation="append_event",status="400"}'
        assert (grown(ok), grown(bad)) == (1, 1)

    def test_what_is_no_http_is_counted_too(self, core: Core, anonymous: httpx.Client):
        series = 'allsource_http_requests_total{method="other",operation="unmatched",status="400"}'
        before = samples(anonymous)
        refusal(core.send(b"FOO /health HTTP/1.1\r\nHost: x\r\n\r\n"), 400, "bad_request")
        refusal(core.send(b"GET /health HTTP/9\r\n\r\n"), 400, "bad_request")
        assert samples(anonymous)[series] - before.get(series, 0) == 2

    def test_durations_are_counted_in_buckets_that_include_the_shorter_ones(
        self, anonymous: httpx.Client, admin: httpx.Client, entity: str
    ):
        before = samples(anonymous)
        for _ in range(3):
            admin.post(EVENTS, json={"event_type": "a", "entity_id": entity, "payload": 1})
        after = samples(anonymous)
        for family, label in (
            ("allsource_ingestion_duration_seconds", ""),
            ("allsource_http_request_duration_seconds", 'operation="append_event"'),
        ):
            series = "{" + label + "}" if label else ""
            assert after[f"{family}_count{series}"] - before.get(f"{family}_count{series}", 0) == 3
            assert after[f"{family}_sum{series}"] > before.get(f"{family}_sum{series}", 0)
            of_family = [name for name in after if name.startswith(f"{family}_bucket") and label in name]
            bounds = [float(re.findall('le="([^"]+)"', name)[0]) for name in of_family]
            assert bounds == [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, math.inf]
            counts = [after[name] for name in of_family]
            assert counts == sorted(counts)
            assert counts[-1] == after[f"{family}_count{series}"]

    def test_nothing_that_callers_choose_becomes_a_label(self, core: Core, anonymous: httpx.Client, entity: str):
        with core.client() as client:
            client.post(EVENTS, json={"event_type": f"type-{entity}", "entity_id": entity, "payload": 1})
            client.get(f"/{entity}")
            client.get(f"{EVENTS}/{entity}")
            client.request("PROPFIND", f"/{entity}")
        text = anonymous.get("/metrics").text
        assert entity not in text
        assert "PROPFIND" not in text
        assert "default" not in text

    def test_private_metrics_ask_for_the_permission(self, start: Callable[..., Core]):
        core = start(flags=["--set", "metrics.public=false"]).ready()
        with core.client({}) as client:
            refusal(client.get("/metrics"), 401, "unauthorized")
            refusal(client.get("/metrics", headers=bearer("serviceaccount")), 403, "forbidden")
            for role in ("readonly", "developer", "admin"):
                assert client.get("/metrics", headers=bearer(role)).status_code == 200
            assert client.get("/health").status_code == 200


def test_the_openapi_document_is_valid_and_complete(anonymous: httpx.Client):
    response = anonymous.get("/openapi.json")
    assert response.headers["Content-Type"] == "application/json"
    document = response.json()
    OpenAPIV31SpecValidator(document).validate()
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert described == {(row.path, row.method) for row in CORE_ROUTES if row.access is not Access.GATEWAY}
    assert document["info"]["version"] == __version__


def test_no_answer_tells_what_is_inside(core: Core):
    for data in (
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /nope HTTP/1.1\r\nHost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
    ):
        assert core.send(data).headers["Server"] == "allsource"
