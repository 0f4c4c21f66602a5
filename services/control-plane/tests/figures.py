"""The gateway's figures as a test reads them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


async def figures(gateway) -> dict[str, float]:
    """The value of every sample by its name and labels."""
    answer = await gateway.ask("GET", b"/metrics", b"")
    assert answer.status == 200
    assert answer.values(b"content-type") == [b"text/plain; version=0.0.4; charset=utf-8"]
    found = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found
