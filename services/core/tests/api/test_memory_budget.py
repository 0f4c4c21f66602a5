"""Callers who stall in the middle of large bodies and answers: what they take is bounded, and others are served on."""

from __future__ import annotations

import contextlib
import gzip
import json
import select
import socket
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from allsource_core.api.memory_budget import Hold, MemoryBudget
from allsource_shared.problems import ApiError

from .seeding import OTHER_TENANT
from .service import (
    BATCH,
    EVENTS,
    JSON,
    NDJSON,
    PATIENCE_SECONDS,
    QUERY,
    Core,
    bearer,
    last_position,
    receive,
    refusal,
    until,
)

MEBIBYTE = 1024 * 1024
BODY_BYTES = 15 * MEBIBYTE
TENANT_MAX = 2
"""Such bodies are what one tenant has room for, with the least memory that can be set."""

DECLARED = f"Content-Length: {BODY_BYTES}"


def head(method: str, path: str, tenant: str, *more: str) -> bytes:
    fields = [f"{name}: {value}" for name, value in bearer("developer", tenant=tenant).items()]
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *fields, *more, "", ""]).encode()


def held(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("allsource_request_memory_bytes ")).split()[1]))


def batch(payload_bytes: int = 900_000, events: int = 16) -> bytes:
    event = {"event_type": "a", "entity_id": "large", "payload": "x" * payload_bytes}
    return json.dumps({"events": [event] * events}).encode()


@contextlib.contextmanager
def sending(core: Core, *data: bytes) -> Iterator[socket.socket]:
    """A connection with a small buffer that has sent something."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", core.port))
        connection.sendall(b"".join(data))
        yield connection


_PATIENT = """
import allsource_core.api.http_server as server
from allsource_core.__main__ import main

server._WRITE_SECONDS_MAX = 600
main()
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """One in which whoever stalls does so until the test goes on."""
    environ = {"ALLSOURCE_SERVER__REQUEST_MEMORY_MB": "64", "ALLSOURCE_SERVER__BODY_TIMEOUT_SECONDS": "600"}
    core = Core(tmp_path_factory.mktemp("small"), environ=environ, program=("-c", _PATIENT))
    yield core.ready()
    assert core.stop() == 0
    assert '"level":"error"' not in core.log


@pytest.fixture
def caller(small: Core) -> Iterator[httpx.Client]:
    """A caller whose tenant has room; nothing is held before the test, nor after it."""
    with small.client(bearer("developer", tenant=OTHER_TENANT)) as client:
        assert held(client) == 0
        yield client
        until(lambda: held(client) == 0)


def test_stalled_bodies_of_one_tenant_leave_room_for_others(small: Core, caller: httpx.Client):
    before = last_position(caller)
    with contextlib.ExitStack() as stack:
        for _ in range(TENANT_MAX):
            stack.enter_context(sending(small, head("POST", BATCH, "default", DECLARED), b"{"))
        until(lambda: held(caller) == TENANT_MAX * BODY_BYTES)
        refused = small.send(head("POST", BATCH, "default", DECLARED))
        assert "of this tenant" in refusal(refused, 503, "overloaded")["detail"]
        assert refused.headers["Retry-After"] == "1"
        assert held(caller) == TENANT_MAX * BODY_BYTES
        assert small.send(head("GET", f"{QUERY}?limit=1", "default")).status_code == 200
        small_body = batch(10, 1)
        length = f"Content-Length: {len(small_body)}"
        appended = small.send(head("POST", BATCH, "default", length, "Content-Type: application/json") + small_body)
        assert appended.status_code == 201
        assert caller.post(BATCH, content=batch(), headers=JSON).status_code == 201
    assert last_position(caller) == before + 1 + 16


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_body_without_a_length_is_counted_as_it_comes(small: Core, caller: httpx.Client, packed: bool):
    more = ["Content-Encoding: gzip"] if packed else []
    piece = b"%x\r\n%s\r\n" % (MEBIBYTE, b" " * MEBIBYTE)
    chunked = head("POST", BATCH, "default", "Transfer-Encoding: chunked", *more)
    with sending(small, chunked, b"1\r\n{\r\n") as first:
        assert held(caller) == 0
        first.sendall(piece * 3)
        until(lambda: held(caller) == 3 * MEBIBYTE + 1)


def test_body_that_grows_beyond_the_share_is_refused(small: Core, caller: httpx.Client):
    before = last_position(caller)
    pieces = b"".join([b"%x\r\n%s\r\n" % (MEBIBYTE, b" " * MEBIBYTE)] * 4)
    with contextlib.ExitStack() as stack:
        for _ in range(TENANT_MAX):
            stack.enter_context(sending(small, head("POST", BATCH, "default", DECLARED), b"{"))
        until(lambda: held(caller) == TENANT_MAX * BODY_BYTES)
        with sending(small, head("POST", BATCH, "default", "Transfer-Encoding: chunked")) as growing:
            # What is refused is read for so long, and then the connection ends: it may before all is sent.
            with contextlib.suppress(ConnectionError):
                growing.sendall(pieces)
            refusal(receive(growing), 503, "overloaded")
        assert held(caller) == TENANT_MAX * BODY_BYTES
    assert last_position(caller) == before


def test_what_a_body_unpacks_to_is_counted(small: Core, caller: httpx.Client):
    before = last_position(caller)
    body = gzip.compress(batch())
    assert len(body) < 64 * 1024
    packed = ["Content-Encoding: gzip", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    with contextlib.ExitStack() as stack:
        for _ in range(TENANT_MAX):
            stack.enter_context(sending(small, head("POST", BATCH, "default", DECLARED), b"{"))
        until(lambda: held(caller) == TENANT_MAX * BODY_BYTES)
        refusal(small.send(head("POST", BATCH, "default", *packed) + body), 503, "overloaded")
    assert last_position(caller) == before
    until(lambda: held(caller) == 0)
    assert small.send(head("POST", BATCH, "default", *packed) + body).status_code == 201


@pytest.mark.parametrize("more", [(), ("Connection: close",)], ids=["kept", "closed"])
def test_pages_that_nobody_reads_are_counted_until_they_are_read(
    small: Core, caller: httpx.Client, more: tuple[str, ...]
):
    with small.client(bearer("developer")) as client:
        for _ in range(2):
            client.post(BATCH, content=batch(), headers=JSON).raise_for_status()
        page = client.get(QUERY).content
    assert len(page) > 16 * MEBIBYTE // 2
    ask = head("GET", QUERY, "default", *more)
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(sending(small, ask)) for _ in range(32 * MEBIBYTE // len(page))]
        until(lambda: held(caller) == len(page) * len(readers))
        refusal(small.send(ask), 503, "overloaded")
        assert caller.get(QUERY, params={"limit": 1}).status_code == 200
        for reader in readers:
            assert receive(reader).content == page
    until(lambda: held(caller) == 0)
    assert small.send(ask).status_code == 200


def test_what_was_stored_is_not_refused_for_its_large_answer(small: Core, caller: httpx.Client):
    body = batch(1, 10_000)
    length = f"Content-Length: {len(body)}"
    with contextlib.ExitStack() as stack:
        for nbytes in (BODY_BYTES, BODY_BYTES, 2 * MEBIBYTE - len(body)):
            stack.enter_context(sending(small, head("POST", BATCH, "default", f"Content-Length: {nbytes}"), b"{"))
        until(lambda: held(caller) == 32 * MEBIBYTE - len(body))
        answer = small.send(head("POST", BATCH, "default", length, "Content-Type: application/json") + body)
        assert answer.status_code == 201
        assert len(answer.content) > len(body)


_IMPATIENT = """
import allsource_core.api.http_server as server
from allsource_core.__main__ import main

server._WRITE_SECONDS_MAX = 1
main()
"""


def answered(client: httpx.Client, status: int) -> int:
    """Queries that have ended with a status, 499 being that of readers who were given up."""
    begin = f'allsource_http_requests_total{{method="GET",operation="query_events",status="{status}"}} '
    lines = client.get("/metrics").text.splitlines()
    return sum(int(float(line.removeprefix(begin))) for line in lines if line.startswith(begin))


@pytest.mark.parametrize(
    ("target", "accept"),
    [(f"{QUERY}?limit=1", "*/*"), (f"{QUERY}?limit=5", "*/*"), (QUERY, NDJSON["Content-Type"]), ("/nope", "*/*")],
    ids=["pages", "pages in pieces", "streams", "refusals"],
)
def test_who_reads_no_answer_of_any_size_is_given_up(start: Callable[..., Core], target: str, accept: str):
    core = start(program=("-c", _IMPATIENT)).ready()
    ask = head("GET", target, "default", f"Accept: {accept}") * 100
    with core.client(bearer("developer")) as client, sending(core) as reader:
        event = {"event_type": "a", "entity_id": "page", "payload": "x" * 100_000}
        client.post(BATCH, json={"events": [event] * 5}).raise_for_status()
        # More than the service reads of them before it can write no more of their answers.
        reader.setblocking(False)
        watched = select.poll()
        watched.register(reader, select.POLLOUT)
        deadline = time.monotonic() + 60
        left = ask
        # One who writes may hear of the end as well.
        with contextlib.suppress(ConnectionError):
            while not (events := dict(watched.poll(100)).get(reader.fileno(), 0)) & select.POLLHUP:
                assert time.monotonic() < deadline
                # The kernel may be short of memory for it all the same.
                with contextlib.suppress(BlockingIOError):
                    if events & select.POLLOUT:
                        left = left[reader.send(left) :] or ask
        until(lambda: held(client) == 0)
        until(lambda: (answered(client, 499) > 0) == (target != "/nope"))


def test_a_stream_whose_reader_was_given_up_is_never_told_to_have_ended(start: Callable[..., Core]):
    """Wherever its reader stalls, in the last piece too; and the reader does not take what came for the whole."""
    core = start(program=("-c", _IMPATIENT)).ready()
    with core.client(bearer("developer")) as client, contextlib.ExitStack() as stack:
        # Of the first answer no kernel leaves anything to write, of the last one none takes all: its reader stalls.
        positions = []
        for payload_bytes in [10] + [700_000] * 11:
            event = {"event_type": "a", "entity_id": "e", "payload": "x" * payload_bytes}
            positions.append(client.post(EVENTS, json=event).json()["position"])
        client.post(BATCH, content=batch(), headers=JSON).raise_for_status()
        positions.append(last_position(client))
        readers = []
        for position in positions:
            target = f"{QUERY}?before_position={position + 1}"
            ask = head("GET", target, "default", f"Accept: {NDJSON['Content-Type']}")
            readers.append(stack.enter_context(sending(core, ask.replace(b"HTTP/1.1", b"HTTP/1.0"))))
        # Nobody reads before all have ended: an answer that is read while it is sent would be had whole.
        until(lambda: answered(client, 200) + answered(client, 499) == len(readers))
        whole = 0
        for reader in readers:
            with contextlib.suppress(ConnectionError):
                receive(reader)
                whole += 1
        assert 0 < whole < len(readers)
        assert answered(client, 499) == len(readers) - whole


def test_all_tenants_together_have_a_bound():
    budget = MemoryBudget(100)
    first, second, third = (Hold(budget, name) for name in "abc")
    first.resize(50)
    second.resize(45)
    third.resize(5)
    with pytest.raises(ApiError, match="of all tenants"):
        third.resize(6)
    assert budget.held == 100
    with pytest.raises(ApiError, match="of this tenant"):
        first.resize(51)
    first.resize(70, refusable=False)
    first.resize(40)
    third.resize(15)
    for hold in (first, second, third):
        hold.release()
        hold.release()
    assert budget.held == 0
