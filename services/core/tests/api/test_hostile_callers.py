"""Callers who mean no good, or leave in the middle: others are served on, and nothing is stored that should not be."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable

from allsource_core.engine.events import server_id

from .conftest import Posting
from .service import EVENTS, QUERY, Core, bearer, last_position, receive, refusal, until

Start = Callable[..., Core]


def test_an_id_that_the_store_is_about_to_assign_can_not_be_taken(posting: Posting, entity: str):
    ahead = last_position(posting.client) + 2
    squat = str(server_id(int(time.time() * 1_000_000), ahead))
    body = {"event_type": "a", "entity_id": entity, "payload": 1, "event_id": squat}
    problem = refusal(posting.event(body), 400, "invalid_event")
    assert problem["errors"][0]["path"] == "event_id"


def test_expected_versions_are_bounded(posting: Posting, entity: str):
    event = {"event_type": "a", "entity_id": entity, "payload": 1}
    body = {"events": [event], "expected_versions": {f"k{number}": 0 for number in range(10_001)}}
    assert "10000" in refusal(posting.batch(body), 400, "invalid_event")["detail"]


def test_a_line_holds_one_event(posting: Posting, entity: str):
    event = json.dumps({"event_type": "a", "entity_id": entity, "payload": 1}).encode()
    for body in (event + event, event + b" " + event + b"\n" + event, event.replace(b", ", b",\n")):
        refusal(posting.lines(body), 400, "malformed_json")
    assert posting.lines(b"\n" + event + b"\n\n" + event + b"\n").status_code == 201


def test_a_single_event_has_no_body_of_16_mib(posting: Posting):
    body = b'{"event_type":"a","entity_id":"b","payload":1,"more":[%s1]}' % (b"1," * 2_500_000)
    refusal(posting.event(body), 413, "body_too_large")


def test_a_reader_who_leaves_in_the_middle_of_a_stream_is_no_failure(core: Core, posting: Posting, entity: str):
    for _ in range(20):
        lines = b"\n".join(
            b'{"event_type":"a","entity_id":"%s","payload":"%s"}' % (entity.encode(), b"x" * 100_000) for _ in range(5)
        )
        assert posting.lines(lines).status_code == 201
    request = f"GET {QUERY}?entity_id={entity} HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n"
    request += "".join(f"{name}: {value}\r\n" for name, value in bearer().items()) + "\r\n"
    for _ in range(5):
        with core.connect() as connection:
            connection.sendall(request.encode())
            connection.recv(1000)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert posting.client.get("/health").status_code == 200
    assert '"status":500' not in core.log


# A core in which nobody stops waiting for a position because the time is over.
PATIENT = """
import sys
from allsource_core import __main__ as entry
from allsource_core.engine import EventStore

wait = EventStore.wait_for_position_async
EventStore.wait_for_position_async = lambda store, position, seconds: wait(store, position, 100 * seconds)
sys.exit(entry.main())
"""


def test_only_so_many_of_a_tenant_wait_for_a_position(start: Start):
    core = start(program=("-c", PATIENT)).ready()
    ask = f"GET {QUERY}?min_position=1000000&wait_ms=30000 HTTP/1.1\r\nHost: x\r\n"
    ask += f"Authorization: {bearer()['Authorization']}\r\n\r\n"
    with contextlib.ExitStack() as stack, core.client() as client:
        callers = [stack.enter_context(core.connect()) for _ in range(110)]
        for caller in callers:
            caller.sendall(ask.encode())
        answered: list[socket.socket] = []

        def ten_are_answered() -> bool:
            answered[:] = select.select(callers, [], [], 0)[0]
            return len(answered) >= 10

        until(ten_are_answered)
        assert [receive(caller).status_code for caller in answered] == [429] * 10
        assert client.get(QUERY, params={"limit": 1}).status_code == 200
        assert core.stop() == 0
        waiting = [caller for caller in callers if caller not in answered]
        statuses = [receive(caller).status_code for caller in waiting]
        assert statuses == [503] * 100, "who waits at a shutdown is told, not kept"


def test_a_store_whose_log_is_removed_takes_no_more_appends(start: Start):
    core = start().ready()
    with core.client() as client:
        event = {"event_type": "a", "entity_id": "b", "payload": 1}
        assert client.post(EVENTS, json=event).status_code == 201
        max((core.data / "log").iterdir()).unlink()
        refusal(client.post(EVENTS, json=event), 503, "append_uncertain")
        refusal(client.post(EVENTS, json=event), 503, "read_only")
        assert client.get("/health").json()["reasons"] == ["read_only", "log_failed"]
        assert client.get(QUERY).json()["count"] == 1


def test_figures_leave_out_what_is_the_stores_own(start: Start):
    core = start().ready()
    with core.client() as client:
        assert client.get("/health").json()["store"]["events"] == 0
        body = {"event_type": "a", "entity_id": "b", "payload": 1}
        client.post(EVENTS, json=body).raise_for_status()
        figures = client.get("/health").json()["store"]
        text = client.get("/metrics").text
    assert (figures["events"], figures["entities"]) == (1, 1)
    assert "allsource_storage_events_total 1.0\n" in text
    assert "allsource_storage_entities_total 1.0\n" in text
