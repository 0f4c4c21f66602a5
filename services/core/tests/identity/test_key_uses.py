"""When a key was last used: noted at once, in the file within a second, and never in the way."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from allsource_core.identity.key_uses import KeyUses

pytestmark = pytest.mark.asyncio


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.25

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "derived" / "api_keys.sqlite"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def stored(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path, timeout=60)) as file:
        return dict(file.execute("SELECT key_id, last_used_at FROM uses"))


async def stored_soon(path: Path, expected: dict[str, int]) -> None:
    async with asyncio.timeout(60):
        while stored(path) != expected:
            await asyncio.sleep(0.01)


async def test_a_use_is_seen_at_once_and_after_a_restart(path: Path, clock: Clock):
    uses = KeyUses(path, clock)
    uses.start()
    assert uses.last_used_at("a") is None
    uses.note_use("a")
    clock.seconds += 1
    uses.note_use("b")
    assert (uses.last_used_at("a"), uses.last_used_at("b")) == (1_700_000_000_250_000, 1_700_000_001_250_000)
    await uses.close()
    again = KeyUses(path, clock)
    assert (again.last_used_at("a"), again.last_used_at("b")) == (1_700_000_000_250_000, 1_700_000_001_250_000)
    await again.close()


async def test_uses_are_written_without_being_asked(path: Path, clock: Clock):
    uses = KeyUses(path, clock, interval_seconds=0.05)
    uses.start()
    for _ in range(3):
        clock.seconds += 1
        uses.note_use("a")
        await stored_soon(path, {"a": round(clock.seconds * 1_000_000)})
    assert uses.last_used_at("a") == 1_700_000_003_250_000
    await uses.close()


async def test_however_often_keys_are_used_there_is_one_write_an_interval(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    uses = KeyUses(path, clock, interval_seconds=0.2)
    writes = 0
    to_thread = asyncio.to_thread

    async def counted(*arguments: object) -> object:
        nonlocal writes
        writes += 1
        return await to_thread(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(asyncio, "to_thread", counted)
    begun = time.monotonic()
    uses.start()
    for _ in range(50):
        uses.note_use("a")
        await asyncio.sleep(0.01)
    await uses.close()
    # One more when it is closed, and timers may come a little early.
    assert 1 <= writes <= (time.monotonic() - begun) / 0.2 + 2


async def test_nothing_is_kept_of_a_key_that_is_gone(path: Path, clock: Clock):
    uses = KeyUses(path, clock, interval_seconds=0.05)
    uses.start()
    uses.note_use("a")
    uses.note_use("b")
    await stored_soon(path, {"a": 1_700_000_000_250_000, "b": 1_700_000_000_250_000})
    uses.note_use("a")
    uses.forget("a")
    assert uses.last_used_at("a") is None
    await stored_soon(path, {"b": 1_700_000_000_250_000})
    await uses.close()
    again = KeyUses(path, clock)
    # What the service hears of when it folds its facts.
    again.forget("b")
    again.forget("never used")
    again.start()
    await again.close()
    assert stored(path) == {}


async def test_what_could_not_be_written_is_written_later(path: Path, clock: Clock):
    uses = KeyUses(path, clock, interval_seconds=0.05)
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as file, capture_logs() as logs:
        file.execute("ALTER TABLE uses RENAME TO hidden")
        uses.start()
        uses.note_use("a")
        uses.note_use("b")
        async with asyncio.timeout(60):
            while not logs:
                await asyncio.sleep(0.01)
        clock.seconds += 1
        uses.note_use("b")
        await asyncio.sleep(0.2)
        assert [line["event"] for line in logs] == ["key_uses_not_written"]
        assert uses.last_used_at("a") == 1_700_000_000_250_000
        file.execute("ALTER TABLE hidden RENAME TO uses")
    await stored_soon(path, {"a": 1_700_000_000_250_000, "b": 1_700_000_001_250_000})
    await uses.close()


async def test_without_a_file_uses_are_known_as_long_as_the_process_lives(tmp_path: Path, clock: Clock):
    with capture_logs() as logs:
        uses = KeyUses(tmp_path / "missing" / "derived" / "api_keys.sqlite", clock, interval_seconds=0.05)
    assert [line["event"] for line in logs] == ["key_uses_not_kept"]
    uses.start()
    uses.note_use("a")
    await asyncio.sleep(0.2)
    assert uses.last_used_at("a") == 1_700_000_000_250_000
    await uses.close()
