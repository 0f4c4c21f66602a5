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
