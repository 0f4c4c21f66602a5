"""Streams whose readers stall or hang up: what they take of memory is counted, and given back without the collector."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions

from .seeding import OTHER_TENANT
from .service import NDJSON, PATIENCE_SECONDS, QUERY, Core, bearer, receive, refusal, until

MEBIBYTE = 1024 * 1024
STREAM_BYTES = 3 * MEBIBYTE
TENANT_MAX = 10
"""Such streams are what one tenant has room for, with the least memory that can be set."""

STORED = 300
SEEN = 4000
PAYLOAD = b'"%b"' % (b"x" * 50_000)

# Nothing is collected but what nobody holds. What there is of these types is counted when somebody asks.
COUNTING = """
import gc, signal, sys
from collections import Counter
from pathlib import Path
from allsource_core import __main__ as entry
from allsource_core.api import http_server

# Nobody is given up for stalling while others come.
http_server._WRITE_SECONDS_MAX = 600

def count(*_):
    found = Counter(type(each).__name__ for each in gc.get_objects())
    names = "BaseRequest", "StreamResponse", "StreamWriter", "_Connection", "View"
    generators = found["async_generator"] + found["generator"]
    lines = [f"{name} {found[name]}" for name in names] + [f"generators {generators}"]
    Path(COUNTS + ".new").write_text("\\n".join(lines))
    Path(COUNTS + ".new").rename(COUNTS)

signal.signal(signal.SIGUSR1, count)
gc.disable()
gc.enable = lambda: None
sys.exit(entry.main())
"""


def ask(tenant: str = "default", method: str = "GET") -> bytes:
    fields = {**bearer("developer", tenant=tenant), "Accept": NDJSON["Content-Type"]}
    lines = [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([f"{method} {QUERY} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


@contextlib.contextmanager
def stalled(core: Core) -> Iterator[socket.socket]:
    """The connection of a reader that has seen an answer begin."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
        connection.settimeout(PATIENCE_SECONDS)
        connection.connect(("127.0.0.1", core.port))
        connection.sendall(ask())
        # Of the head, and of the first event: by then its segment is in memory.
        received = b""
        while len(received) < SEEN:
            received += connection.recv(SEEN - len(received))
        assert received.startswith(b"HTTP/1.1 200")
        yield connection


def held(client: httpx.Client) -> int:
    lines = client.get("/metrics").text.splitlines()
    return int(float(next(line for line in lines if line.startswith("allsource_request_memory_bytes ")).split()[1]))


@pytest.fixture
def core(start: Callable[..., Core], tmp_path: Path) -> Core:
    with EventStore.open(tmp_path / "data", options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        for begin in range(0, STORED, 100):
            store.append("default", [NewEvent("a", f"e-{begin + each}", Raw(PAYLOAD)) for each in range(100)])
        store.seal()
    program = COUNTING.replace("COUNTS", repr(str(tmp_path / "counts")))
    return start(program=("-c", program), environ={"ALLSOURCE_SERVER__REQUEST_MEMORY_MB": "64"}).ready()


def resident(core: Core) -> int:
    status = Path(f"/proc/{core.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 1024


def lines_left(connection: socket.socket) -> int:
    """Of the answer of a stalled reader, which has not seen the end of any."""
    left = bytearray()
    while not left.endswith(b"\r\n0\r\n\r\n"):
        piece = connection.recv(MEBIBYTE)
        assert piece
        left += piece
    return left.count(b'"recorded_at"')


def lines_of_all(core: Core) -> int:
    with core.connect() as connection:
        connection.sendall(ask())
        return len(receive(connection).text.splitlines())


def test_streams_that_nobody_reads_are_counted_and_bounded(core: Core):
    with core.client() as client, contextlib.ExitStack() as stack:
        with stalled(core):
            until(lambda: held(client) == STREAM_BYTES)
            before = resident(core)
            first, *_ = [stack.enter_context(stalled(core)) for _ in range(TENANT_MAX - 1)]
            assert held(client) == TENANT_MAX * STREAM_BYTES
            assert resident(core) - before < 2 * TENANT_MAX * STREAM_BYTES
            refused = core.send(ask())
            assert "of this tenant" in refusal(refused, 503, "overloaded")["detail"]
            assert refused.headers["Retry-After"] == "1"
            assert core.send(ask(method="HEAD"), method="HEAD").status_code == 200
            assert core.send(ask(OTHER_TENANT)).status_code == 200
        until(lambda: held(client) == (TENANT_MAX - 1) * STREAM_BYTES)
        # One that has begun comes to its end, whatever there is no room for.
        assert lines_left(first) == STORED
        until(lambda: held(client) == (TENANT_MAX - 2) * STREAM_BYTES)
        assert lines_of_all(core) == STORED
    with core.client() as client:
        until(lambda: held(client) == 0)


def test_streams_whose_readers_hung_up_leave_nothing(core: Core, tmp_path: Path):
    counts = tmp_path / "counts"

    def counted() -> dict[str, int]:
        with core.client() as client:
            until(lambda: held(client) == 0)
        counts.unlink(missing_ok=True)
        os.kill(core.pid, signal.SIGUSR1)
        until(counts.exists)
        return {name: int(count) for name, count in (line.split() for line in counts.read_text().splitlines())}

    def hang_up(times: int) -> None:
        for _ in range(times):
            with stalled(core):
                pass

    hang_up(5)
    before, resident_before = counted(), resident(core)
    hang_up(40)
    after = counted()
    # That of the last one may be on its way still, and others come and go.
    assert {name: count for name, count in after.items() if count > before[name] + 5} == {}
    assert resident(core) - resident_before < 64 * MEBIBYTE
