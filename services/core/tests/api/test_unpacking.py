"""Packed bodies, while they are unpacked: what they may take, whom they hold up, and who may not any more."""

from __future__ import annotations

import asyncio
import gzip
import threading
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call
from allsource_core.api.memory_budget import MemoryBudget
from allsource_core.api.unpacking import Unpacking
from allsource_shared.problems import ApiError

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
BODY_BYTES_MAX = 16 * MEBIBYTE


class Whole:
    """The content of a request whose body came with its head."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def is_eof(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def read_nowait(self) -> bytes:
        return self._body


class Calls:
    """Calls with a packed body, of one tenant; `rechecks` counts how often they are looked at again."""

    def __init__(self, memory_bytes: int) -> None:
        self.memory = MemoryBudget(memory_bytes)
        self.bodies = Bodies(bytes_max=BODY_BYTES_MAX, timeout_seconds=10)
        self.rechecks = 0
        self.refusal: ApiError | None = None

    def _recheck(self, _call: Call) -> None:
        self.rechecks += 1
        if self.refusal is not None:
            raise self.refusal

    def make(self, packed: bytes) -> Call:
        headers = CIMultiDict({"Content-Encoding": "gzip"})
        request: Any = SimpleNamespace(headers=headers, content_length=len(packed), content=Whole(packed))
        nothing: Any = None
        return Call(request, 0.0, nothing, "", nothing, None, [], self._recheck, self.memory, 0)


@pytest.mark.asyncio
async def test_a_body_takes_no_more_than_is_counted_while_it_is_unpacked():
    calls = Calls(2 * MEBIBYTE)
    call = calls.make(gzip.compress(b" " * (BODY_BYTES_MAX - 1)))
    tracemalloc.start()
    try:
        with pytest.raises(ApiError, match="of this tenant"):
            await calls.bodies.read(call)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * MEBIBYTE


@pytest.mark.asyncio
async def test_a_body_is_counted_packed_and_unpacked_and_then_unpacked_alone(monkeypatch: pytest.MonkeyPatch):
    calls = Calls(4 * BODY_BYTES_MAX)
    body = bytes(range(256)) * 4 * KIBIBYTE
    packed = gzip.compress(body)
    held: list[int] = []

    def go_on(unpacking: Unpacking, bytes_max: int) -> bytes | None:
        held.append(calls.memory.held)
        return whole_step(unpacking, bytes_max)

    whole_step = Unpacking.go_on
    monkeypatch.setattr(Unpacking, "go_on", go_on)
    call = calls.make(packed)
    assert await calls.bodies.read(call) == body
    rooms = [128 * KIBIBYTE, 256 * KIBIBYTE, 512 * KIBIBYTE, MEBIBYTE]
    assert held == [0, *(len(packed) + room for room in rooms)]
    assert calls.memory.held == len(body)


@pytest.mark.asyncio
async def test_who_may_not_any_more_after_it_is_refused():
    calls = Calls(4 * BODY_BYTES_MAX)
    assert await calls.bodies.read(calls.make(gzip.compress(b"{}"))) == b"{}"
    assert calls.rechecks == 1
    calls.refusal = ApiError("unauthorized", "not any more")
    with pytest.raises(ApiError, match="not any more"):
        await calls.bodies.read(calls.make(gzip.compress(b"{}")))


@pytest.mark.asyncio
async def test_it_waits_for_no_thread_that_does_something_else():
    begun, done = threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = asyncio.ensure_future(asyncio.to_thread(lambda: (begun.set(), done.wait(120))))
    try:
        while not begun.is_set():
            await asyncio.sleep(0)
        calls = Calls(4 * BODY_BYTES_MAX)
        assert await asyncio.wait_for(calls.bodies.read(calls.make(gzip.compress(b"{}"))), 60) == b"{}"
    finally:
        done.set()
        await busy


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 1000])
@pytest.mark.parametrize("members", [1, 3, 16])
def test_steps_of_any_size_come_to_the_same(size: int, members: int):
    parts = [bytes([65 + number]) * size for number in range(members)]
    unpacking = Unpacking(b"".join(map(gzip.compress, parts)), "gzip")
    whole = b"".join(parts)
    room = 0
    while (unpacked := unpacking.go_on(room)) is None:
        assert room < len(whole)
        room += 1
    assert unpacked == whole
    assert room == len(whole)


def test_the_last_step_finds_what_is_cut_off_or_appended():
    packed = gzip.compress(b"x" * 1000)
    for body in (packed[:-1], packed + b"x", packed + gzip.compress(b"") * 16):
        unpacking = Unpacking(body, "gzip")
        assert unpacking.go_on(999) is None
        with pytest.raises(zlib.error):
            unpacking.go_on(2000)
