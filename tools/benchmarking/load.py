"""A load generator that costs little: requests are bytes made beforehand, answers are only measured.

It shares the machine with what it measures, so its own share of a core is part of every result.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle, islice
from multiprocessing.connection import Connection
from threading import Barrier
from typing import Final
from urllib.parse import urlsplit

import msgspec

__all__ = ["Load", "LoadError", "http_request", "run_load", "run_load_together"]

_START_SECONDS_MAX: Final = 60.0


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


class _Run(msgspec.Struct, frozen=True):
    """Of one process: when it began and ended on the machine's own clock, and the seconds of a core that it took."""

    started: float
    ended: float
    cpu_seconds: float
    latencies_ms: list[float]


def http_request(method: str, target: str, token: str, body: bytes = b"", **headers: str) -> bytes:
    """One request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", "Host: benchmark", f"Authorization: Bearer {token}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run_load(url: str, requests: Iterable[bytes], *, count: int, connections: int) -> Load:
    """Send `count` requests over so many connections, one at a time on each.

    Args:
        url: of the service.
        requests: a sequence, from which they are taken in turn, or an iterator of at least so many.
        count: of requests in all.
        connections: to spread them over.

    Raises:
        LoadError: for an answer that is no success.
    """
    return _load([asyncio.run(_run(url, requests, count, connections, lambda: None))])


def run_load_together(
    url: str, sources: Sequence[Callable[[], Iterable[bytes]]], *, count: int, connections: int
) -> Load:
    """The same from several processes at once.

    Args:
        url: of the service.
        sources: for each process a function of a module that makes its requests, perhaps as a `functools.partial`.
        count: of requests that each process sends.
        connections: of each process.

    Raises:
        LoadError: for an answer that is no success, or a process that died.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(sources))
    processes, results = [], []
    try:
        for source in sources:
            receiver, sender = context.Pipe(duplex=False)
            arguments = (sender, barrier, url, source, count, connections)
            process = context.Process(target=_run_in_process, args=arguments, daemon=True)
            process.start()
            # Theirs is the only end then, so that one that dies is seen.
            sender.close()
            processes.append(process)
            results.append(receiver)
        return _load([_received(receiver) for receiver in results])
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _received(receiver: Connection[object, _Run | str]) -> _Run:
    try:
        received = receiver.recv()
    except EOFError:
        received = "a process of the load generator died"
    if isinstance(received, str):
        raise LoadError(received)
    return received


def _run_in_process(
    sender: Connection[_Run | str, object],
    barrier: Barrier,
    url: str,
    source: Callable[[], Iterable[bytes]],
    count: int,
    connections: int,
) -> None:
    def wait_for_others() -> None:
        barrier.wait(_START_SECONDS_MAX)

    try:
        sender.send(asyncio.run(_run(url, source(), count, connections, wait_for_others)))
    except Exception as error:
        sender.send(repr(error))


def _load(runs: Sequence[_Run]) -> Load:
    seconds = max(run.ended for run in runs) - min(run.started for run in runs)
    latencies = [latency for run in runs for latency in run.latencies_ms]
    share = sum(run.cpu_seconds for run in runs) / seconds
    return Load(len(latencies) / seconds, latencies, round(share, 2))


async def _run(
    url: str, requests: Iterable[bytes], count: int, connections: int, wait_for_others: Callable[[], None]
) -> _Run:
    parts = urlsplit(url)
    opened = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(connections)]
    latencies: list[float] = []
    # `cycle` keeps what it has given out: only for what is kept anyhow.
    left = islice(cycle(requests) if isinstance(requests, Sequence) else iter(requests), count)
    wait_for_others()
    before, started = _cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(_client(reader, writer, left, latencies) for reader, writer in opened))
    run = _Run(started, time.perf_counter(), _cpu_seconds() - before, latencies)
    for _, writer in opened:
        writer.close()
    return run


async def _client(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Iterator[bytes], latencies: list[float]
) -> None:
    for request in requests:
        started = time.perf_counter()
        writer.write(request)
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
