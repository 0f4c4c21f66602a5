"""Requests as bytes: what an HTTP library would put right before sending."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Answer(NamedTuple):
    """Status, header lines by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def exchange(
    url: str, method: str, target: bytes, *, headers: dict[str, str] | None = None, body: bytes = b""
) -> Answer:
    """Send one request with exactly this target and read the whole answer."""
    parts = urlsplit(url)
    lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"Host: test", b"Connection: close"]
    lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
    if body:
        lines.append(b"Content-Length: %d" % len(body))
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", b""]) + body)
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    status_line, *header_lines = head.decode("latin-1").split("\r\n")
    parsed = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in header_lines)}
    return Answer(int(status_line.split()[1]), parsed, rest)
