"""How answers are framed, for callers of every kind."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest

from .service import EVENTS, Core, bearer

AUTHORIZED = b"Host: core\r\nAuthorization: " + bearer()["Authorization"].encode() + b"\r\n"
BODY = b'{"event_type":"a","entity_id":"answers","payload":1}'


def exchange(core: Core, *requests: bytes) -> bytes:
    """Everything that comes back until the service hangs up."""
    with core.connect() as connection:
        connection.sendall(b"".join(requests))
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


RATE = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]


def append(version: bytes = b"1.1", headers: bytes = b"") -> bytes:
    length = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(BODY)
    return b"POST " + EVENTS.encode() + b" HTTP/" + version + b"\r\n" + AUTHORIZED + headers + length + b"\r\n" + BODY


def fields(head: bytes) -> dict[str, str]:
    lines = head.decode().split("\r\n")[1:]
    pairs = [line.split(": ", 1) for line in lines]
    assert len({name.lower() for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def test_the_head_says_what_the_body_is(core: Core):
    answer = exchange(core, append(headers=b"X-Request-ID: mine\r\n"), append(headers=b"Connection: close\r\n"))
    first, rest = re.split(rb"(?<=\})(?=HTTP/)", answer)
    head, body = first.split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 Created\r\n")
    found = fields(head)
    assert sorted(found) == ["Content-Length", "Content-Type", "Date", "Server", *RATE, "X-Request-ID"]
    assert (found["Content-Type"], found["Server"], found["X-Request-ID"]) == ("application/json", "allsource", "mine")
    assert int(found["Content-Length"]) == len(body)
    assert parsedate_to_datetime(found["Date"]).tzinfo is not None
    # The one that ends the connection says so, and is otherwise the same.
    last = fields(rest.split(b"\r\n\r\n")[0])
    assert last.pop("Connection") == "close"
    assert sorted(last) == sorted(found)


@pytest.mark.parametrize(
    ("headers", "connection"),
    [(b"", None), (b"Connection: close\r\n", None), (b"Connection: keep-alive\r\n", "keep-alive")],
)
def test_an_old_client_is_answered_in_its_version(core: Core, headers: bytes, connection: str | None):
    requests = [append(b"1.0", headers)]
    if connection:
        requests.append(append(b"1.0"))
    answer = exchange(core, *requests)
    assert answer.count(b"HTTP/1.0 201 Created\r\n") == len(requests)
    assert fields(answer.split(b"\r\n\r\n")[0]).get("Connection") == connection


def test_head_gets_the_length_and_no_body(core: Core):
    head = b"HEAD /health/live HTTP/1.1\r\nHost: core\r\n\r\n"
    answer = exchange(core, head, head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    first, second, rest = answer.split(b"\r\n\r\n")
    assert int(fields(first)["Content-Length"]) == int(fields(second)["Content-Length"]) == len(b'{"status":"alive"}')
    assert rest == b""
