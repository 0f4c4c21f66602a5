"""What the disk does to the service: durability, marks of free space, damage; and what it says of its store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from allsource_core.engine import EventStore, NewEvent, StoreOptions

from .service import BATCH, EVENTS, LOGIN, PASSWORD, QUERY, Core, bearer, refusal, until

Start = Callable[..., Core]
EVENT: dict[str, Any] = {"event_type": "a", "entity_id": "b", "payload": 1}

# A disk on which 1000 MiB are free, whatever the real one is like.
SMALL_DISK = """
import sys
from allsource_core import __main__ as entry
from allsource_core.engine.filesystem import LocalFilesystem

LocalFilesystem.free_bytes = lambda filesystem, path: 1000 * 1024 * 1024
sys.exit(entry.main())
"""


class TestDurability:
    def test_with_fsync_answers_do_not_mention_it(self, admin: httpx.Client, entity: str):
        event = {**EVENT, "entity_id": entity}
        for answer in (admin.post(EVENTS, json=event), admin.post(BATCH, json={"events": [event]})):
            assert "durable" not in answer.json()
        assert admin.get("/health").json()["store"]["durability"] == "fsync"

    def test_without_it_every_answer_says_so(self, start: Start):
        core = start(flags=["--set", "storage.durability=os"]).ready()
        own = {**EVENT, "event_id": "01a21435-5a6f-4000-8000-000000000001"}
        with core.client() as client:
            single = client.post(EVENTS, json=own)
            batch = client.post(BATCH, json={"events": [EVENT, EVENT]}, headers={"Prefer": "return=minimal"})
            again = client.post(EVENTS, json=own)
            lines = client.post(BATCH, content=json.dumps(EVENT), headers={"Content-Type": "application/x-ndjson"})
            dry = client.post(EVENTS, json=EVENT, params={"dry_run": "true"})
            assert client.get("/health").json()["store"]["durability"] == "os"
        assert list(single.json()) == ["event_id", "timestamp", "recorded_at", "version", "position", "durable"]
        assert list(batch.json()) == ["count", "first_position", "last_position", "durable"]
        assert list(lines.json()) == ["count", "first_position", "last_position", "durable", "events"]
        assert [answer.json()["durable"] for answer in (single, batch, again, lines)] == [False] * 4
        assert again.json()["duplicate"] is True
        assert "durable" not in dry.json(), "nothing was stored"

    def test_what_was_answered_outlives_a_kill(self, start: Start):
        first = start(flags=["--set", "storage.durability=os"]).ready()
        with first.client() as client:
            client.post(EVENTS, json=EVENT).raise_for_status()
        first.kill()
        second = start().ready()
        with second.client() as client:
            assert client.get(QUERY).json()["count"] == 1


class TestFreeSpace:
    def test_below_the_reserve_appends_are_refused_and_the_rest_goes_on(self, start: Start):
        first = start().ready()
        with first.client() as client:
            client.post(EVENTS, json=EVENT).raise_for_status()
        assert first.stop() == 0
        # Twice of what is free: below the reserve, and far above the eighth of it that stops everything.
        flags = ["--set", "storage.reserve_mb=2000", "--set", "storage.removal_seconds=0"]
        core = start(program=("-c", SMALL_DISK), flags=flags).ready()
        with core.client() as client:
            until(lambda: client.get("/health").json()["status"] == "degraded")
            health = client.get("/health").json()
            assert health["reasons"] == ["read_only", "disk_space_low"]
            assert health["store"]["read_only_code"] == "disk_space_low"
            assert "2000 MiB" in health["store"]["read_only_reason"]
            assert "store" not in client.get("/health", headers={"Authorization": ""}).json()
            for path, body in ((EVENTS, EVENT), (BATCH, {"events": [EVENT]})):
                problem = refusal(client.post(path, json=body), 503, "read_only")
                assert problem["detail"].startswith("disk_space_low: ")
            text = client.get("/metrics").text
            assert "allsource_storage_read_only 1.0" in text
            assert 'allsource_storage_read_only_reason{code="disk_space_low"} 1.0' in text
            assert client.get(QUERY).json()["count"] == 1
            login = client.post(LOGIN, json={"username": "root@example.org", "password": PASSWORD})
            assert login.status_code == 200
            removed = client.delete("/api/v1/entities/b")
            assert removed.status_code == 202
            operation = f"/api/v1/operations/{removed.json()['operation_id']}"
            until(lambda: client.get(operation).json()["status"] == "done")

    def test_a_reserve_of_zero_never_refuses(self, start: Start):
        core = start(flags=["--set", "storage.reserve_mb=0"]).ready()
        with core.client() as client:
            time.sleep(1.5)
            assert client.post(EVENTS, json=EVENT).status_code == 201


class TestDamage:
    def store(self, tmp_path: Path) -> Path:
        """A data directory with one segment, whose bytes are damaged in the middle; returns the segment's path."""
        data = tmp_path / "data"
        # Bytes that do not shrink: the middle of the file is the middle of the payloads.
        with EventStore.open(data, options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
            events = [
                NewEvent("a", f"e-{number:03}", b'"%032x"' % (number * 0x9E3779B97F4A7C15F39CC0605CEDC834))
                for number in range(900)
            ]
            store.append("default", events)
            store.seal()
        (segment,) = (data / "segments").glob("*.parquet")
        damaged = bytearray(segment.read_bytes())
        middle = len(damaged) // 3
        for place in range(middle, middle + 64):
            damaged[place] ^= 0xFF
        segment.write_bytes(damaged)
        return segment

    def test_a_read_that_meets_it_says_so_and_the_log_says_where(self, start: Start, tmp_path: Path):
        segment = self.store(tmp_path)
        core = start().ready()
        with core.client() as client:
            problem = refusal(client.get(QUERY), 500, "storage_damaged")
            assert str(tmp_path) not in json.dumps(problem)
            assert client.get("/health/live").status_code == 200
            assert client.post(EVENTS, json={**EVENT, "entity_id": "new"}).status_code == 201
        # Others may be half written as yet.
        (line,) = [json.loads(line) for line in core.log.splitlines() if '"event":"storage_damaged"' in line]
        assert line["path"] == str(segment)
        assert isinstance(line["offset"], int)
        assert line["request_id"] == problem["request_id"]


class TestMaintenance:
    def test_while_no_segment_can_be_made_health_says_so(self, start: Start, tmp_path: Path):
        core = start(flags=["--set", "storage.removal_seconds=0"]).ready()
        segments = tmp_path / "data" / "segments"
        segments.rmdir()
        segments.write_bytes(b"in the way")
        with core.client() as client:
            client.post(EVENTS, json=EVENT).raise_for_status()
            assert client.delete("/api/v1/entities/b").status_code == 202
            until(lambda: client.get("/health").json().get("reasons") == ["maintenance_failing"])
            health = client.get("/health").json()
            # It is tried again meanwhile.
            assert health["status"] == "degraded"
            assert health["store"]["maintenance_failures"] >= 1
            assert "segments" in health["store"]["maintenance_failure"]
            segments.unlink()
            segments.mkdir()
            until(lambda: client.get("/health").json()["status"] == "healthy")
            assert client.get("/health").json()["store"]["segments"] == 1


class TestFigures:
    def test_health_shows_what_the_store_is_made_of(self, start: Start, tmp_path: Path):
        options = StoreOptions(maintenance="thread", reserve_bytes=0)
        with EventStore.open(tmp_path / "data", options=options) as store:
            store.append("default", [NewEvent("a", "b", b"1")] * 10)
            store.seal()
        core = start().ready()
        with core.client() as client:
            figures = client.get("/health").json()["store"]
            text = client.get("/metrics").text
        assert (figures["segments"], figures["sealed_through"], figures["events"]) == (1, 10, 10)
        assert figures["disk_bytes"] == figures["log_bytes"] + figures["segment_bytes"] + figures["key_bytes"]
        assert (figures["read_only_code"], figures["maintenance_failure"]) == (None, None)
        assert "allsource_storage_segments 1.0" in text
        assert "allsource_storage_sealed_position 10.0" in text
        assert "allsource_storage_removals_pending 0.0" in text
        assert "allsource_storage_compactions_total 0.0" in text

    def test_events_in_segments_and_in_memory_are_one_history(self, start: Start, tmp_path: Path):
        options = StoreOptions(maintenance="thread", reserve_bytes=0)
        with EventStore.open(tmp_path / "data", options=options) as store:
            store.append("default", [NewEvent("a", "b", b"%d" % number) for number in range(5)])
            store.seal()
        core = start().ready()
        with core.client() as client:
            answer = client.post(BATCH, json={"events": [{**EVENT, "payload": number} for number in range(5, 10)]})
            assert [one["version"] for one in answer.json()["events"]] == [6, 7, 8, 9, 10]
            for order in ("asc", "desc"):
                page = client.get(QUERY, params={"order": order, "limit": 10}).json()
                expected = list(range(10)) if order == "asc" else list(range(9, -1, -1))
                assert [one["payload"] for one in page["events"]] == expected
            first = page["events"][-1]
            assert client.get(f"{EVENTS}/{first['id']}").json() == first


@pytest.mark.parametrize(
    "flag",
    [
        "durability=none",
        "reserve_mb=-1",
        "memory_budget_mb=0",
        "cache_mb=-1",
        "maintenance=fork",
        "removal_seconds=-1",
        "retention_seconds=0",
    ],
)
def test_settings_out_of_range_are_refused(start: Start, flag: str):
    core = start(flags=["--set", f"storage.{flag}"])
    assert core.exit_code() == 2
    assert f"storage.{flag.partition('=')[0]}" in core.log


def test_segments_may_be_made_in_a_thread(start: Start):
    flags = [f"--set=storage.{flag}" for flag in ("maintenance=thread", "removal_seconds=0", "cache_mb=0")]
    core = start(flags=flags).ready()
    with core.client() as client:
        client.post(EVENTS, json=EVENT).raise_for_status()
        removed = client.delete("/api/v1/entities/b").json()
        until(lambda: client.get(f"/api/v1/operations/{removed['operation_id']}").json()["status"] == "done")
        assert client.get("/health", headers=bearer()).json()["store"]["segments_sealed"] >= 1
