"""The buckets of durations, beside those of the library whose place they take."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from allsource_core.api.metrics import DURATION_BOUNDS, CoreMetrics

FAMILY = "allsource_ingestion_duration_seconds"


def lines(page: bytes) -> list[str]:
    return [line for line in page.decode().splitlines() if FAMILY in line and "_created" not in line]


@pytest.mark.parametrize(
    "seconds",
    [
        [],
        [0.0],
        [0.0004],
        [*DURATION_BOUNDS],
        [bound * 1.01 for bound in DURATION_BOUNDS],
        [0.003, 0.003, 11.0, 3600.0],
    ],
)
def test_they_are_what_the_library_makes_of_the_same_durations(seconds: list[float]):
    metrics = CoreMetrics()
    registry = CollectorRegistry()
    expected = Histogram(
        FAMILY,
        "Time of an append in the engine, until its events are durable",
        buckets=DURATION_BOUNDS,
        registry=registry,
    )
    for value in seconds:
        metrics.appended(1, value)
        expected.observe(value)
    assert lines(generate_latest(metrics.registry)) == lines(generate_latest(registry))


def test_none_is_lost_where_many_are_put_into_their_buckets_at_once():
    metrics = CoreMetrics()
    for number in range(5_000):
        metrics.appended(1 + number % 2, 0.003)
        metrics.answered("append_batch" if number % 2 else "append_event", "POST", 201, 0.01)
        if number in (0, 1_500):
            generate_latest(metrics.registry)
    page = generate_latest(metrics.registry).decode().splitlines()
    counts = [
        "allsource_events_ingested_total 7500.0",
        f"{FAMILY}_count 5000.0",
        f'{FAMILY}_bucket{{le="0.0025"}} 0.0',
        f'{FAMILY}_bucket{{le="0.005"}} 5000.0',
    ]
    for operation in ("append_batch", "append_event"):
        labels = f'method="POST",operation="{operation}",status="201"'
        counts.append(f"allsource_http_requests_total{{{labels}}} 2500.0")
        counts.append(f'allsource_http_request_duration_seconds_count{{operation="{operation}"}} 2500.0')
    assert [line for line in counts if line not in page] == []
