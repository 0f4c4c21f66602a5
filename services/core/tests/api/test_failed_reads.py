"""Reads that fail: the service lets go of what they read from, so that its files can go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions

from .service import EVENTS, NDJSON, QUERY, Core, bearer
from .test_removals import ENTITIES, accepted, finished

# The second segment can't be read for as long as a file is there. Nothing is collected but what nobody holds.
FAILING = """
import gc, sys
from pathlib import Path
from allsource_core import __main__ as entry
from allsource_core.engine.segment_reader import SegmentReader

def failing(read):
    def read_unless(self, *arguments):
        if self.entry.first_position == 1501 and Path(FAIL).exists():
            try:
                raise KeyError
            except KeyError as cause:
                raise OSError("refused") from cause
        return read(self, *arguments)
    return read_unless

SegmentReader.decode = failing(SegmentReader.decode)
SegmentReader.row_group = failing(SegmentReader.row_group)
gc.disable()
sys.exit(entry.main())
"""


def filled(data: Path) -> str:
    """A data directory with two segments; returns the id of an event in the second."""
    with EventStore.open(data, options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        # More than a thread reads at a time: an answer begins before the second segment is read.
        store.append("default", [NewEvent("a", f"first-{number}", Raw(b"{}")) for number in range(1500)])
        store.seal()
        appended = store.append("default", [NewEvent("a", "second", Raw(b"{}")), NewEvent("a", "other", Raw(b"{}"))])
        store.seal()
        return str(appended.events[0].id)


def broken_off(client: httpx.Client) -> None:
    lines = 0
    try:
        with client.stream("GET", QUERY, headers={"Accept": NDJSON["Content-Type"]}) as response:
            assert response.status_code == 200
            for _ in response.iter_lines():
                lines += 1
    except httpx.TransportError:
        assert lines >= 1000
    else:
        raise AssertionError("the stream is whole")


OLD = "\r\n".join(
    [
        f"GET {QUERY} HTTP/1.0",
        f"Accept: {NDJSON['Content-Type']}",
        f"Authorization: {bearer()['Authorization']}",
        "",
        "",
    ]
).encode()


def test_after_failed_reads_removals_come_to_their_end(start: Callable[..., Core], tmp_path: Path):
    event_id = filled(tmp_path / "data")
    fail = tmp_path / "fail"
    program = FAILING.replace("FAIL", repr(str(fail)), 1)
    core = start(program=("-c", program), flags=["--set", "storage.removal_seconds=0"]).ready()
    event = {"event_type": "c", "entity_id": "new", "payload": {}}
    with core.client() as client:
        for _ in range(2):
            fail.touch()
            for failed in (
                client.get(QUERY, params={"order": "desc"}),
                client.get(QUERY, params={"entity_id": "second"}),
                client.get(f"{EVENTS}/{event_id}"),
                client.post(EVENTS, json={**event, "event_id": event_id}),
                client.delete(f"{ENTITIES}/second"),
                client.post(f"{EVENTS}/{event_id}/erase"),
            ):
                assert failed.status_code == 500, (failed.request.url, failed.text)
            broken_off(client)
            # Such an answer ends where its connection does.
            with pytest.raises(ConnectionResetError):
                core.send(OLD)
            fail.unlink()
        finished(client, accepted(client.delete(f"{ENTITIES}/second"), "remove_entity"))
    assert core.log.count("answer_broken_off") == 4
