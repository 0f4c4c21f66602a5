"""A load generator that costs little: requests are bytes made beforehand, answers are only measured.

It shares the machine with what it measures, so its own share of a core is part of every result.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import msgspec

__all__ = ["Load", "LoadError", "http_request", "run_load"]


class LoadError(Exception):
    """An answer that was not a success, or none."""


class Load(msgspec.Struct, frozen=True):
    """What a run came to.

    Attributes:
        requests_per_second: over the whole run.
        latencies_ms: of every request.
        generator_share: of one core that the generator itself took; above 0.5 it was the bottleneck.
    """

    requests_per_second: float
    latencies_ms: list[float]
    generator_share: float


def http_request(method: str, target: str, token: str, body: bytes = b"", **headers: str) -> bytes:
    """One request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: benchmark", f"Authorization: Bearer {token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run_load(url: str, requests: Sequence[bytes], *, count: int, connections: int) -> Load:
    """Send `count` requests, taken in turn from `requests`, over so many connections, one at a time on each.

    Raises:
        LoadError: for an answer that is no success.
    """
    return asyncio.run(_run(url, requests, count, connections))


async def _run(url: str, requests: Sequence[bytes], count: int, connections: int) -> Load:
    parts = urlsplit(url)
    opened = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(connections)]
    latencies: list[float] = []
    indexes = iter(range(count))
    before, started = _cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(_client(reader, writer, requests, indexes, latencies) for reader, writer in opened))
    seconds = time.perf_counter() - started
    share = (_cpu_seconds() - before) / seconds
    for _, writer in opened:
        writer.close()
    return Load(count / seconds, latencies, round(share, 2))


async def _client(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    requests: Sequence[bytes],
    indexes: Iterator[int],
    latencies: list[float],
) -> None:
    for index in indexes:
        started = time.perf_counter()
        writer.write(requests[index % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 2"):
            raise LoadError(head.decode("latin-1"))
        await _skip_body(reader, head.lower())
        latencies.append((time.perf_counter() - started) * 1000)


async def _skip_body(reader: asyncio.StreamReader, head: bytes) -> None:
    place = head.find(b"content-length:")
    if place >= 0:
        await reader.readexactly(int(head[place + 15 : head.index(b"\r", place)]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
