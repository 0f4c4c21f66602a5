"""Sessions: each refresh token is good once, what has ended stays ended, and the file is only ever the truth."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.changes import Changes
from allsource_core.identity.errors import RefreshRefusedError, SessionsUnavailableError, UnknownSessionError
from allsource_core.identity.refresh_tokens import RefreshTokens, read_refresh_token
from allsource_core.identity.session_file import Session, SessionFile
from allsource_core.identity.sessions import SESSIONS_OF_A_USER_MAX, SessionDirectory

TOKENS = RefreshTokens(b"k" * 32)
LIFETIME = 14 * 24 * 3600.0
FROM = {"address": "192.0.2.7", "user_agent": "a browser"}

pytestmark = pytest.mark.asyncio


class Clock:
    """Both clocks, which stand still until they are turned."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def changes() -> Changes:
    return Changes()


Open = Callable[..., SessionDirectory]


@pytest.fixture
def open_sessions(tmp_path: Path, clock: Clock, changes: Changes) -> Iterator[Open]:
    """Open the same file again and again; the one before is closed, or left as a crash leaves it."""
    opened: list[SessionDirectory] = []

    def open_sessions(*, crash: bool = False, lifetime: float = LIFETIME) -> SessionDirectory:
        if opened and not crash:
            opened.pop().close()
        opened.append(
            SessionDirectory(
                tmp_path / "derived" / "sessions.sqlite",
                TOKENS,
                changes,
                lifetime_seconds=lifetime,
                wall_clock=clock,
                clock=clock,
            )
        )
        return opened[-1]

    yield open_sessions
    for sessions in opened:
        sessions.close()


@pytest.fixture
def sessions(open_sessions: Open) -> SessionDirectory:
    return open_sessions()


def ended(changes: Changes) -> list[str]:
    return [change.id for change in changes.since(0) or [] if change.kind == "session"]


async def test_a_session_is_alive_for_its_user_alone(sessions: SessionDirectory):
    session, _ = await sessions.create("ann", **FROM)
    assert sessions.get(session.id, "ann")
    assert not sessions.get(session.id, "bob")
    assert not sessions.get("", "ann")
    assert sessions.find(session.id, "ann") == session
    with pytest.raises(UnknownSessionError):
        sessions.find(session.id, "bob")
    assert "_" not in session.id
    assert len(session.id) == 20


@pytest.mark.parametrize("jump", [5000.0, 1000 * LIFETIME])
async def test_a_clock_that_was_far_ahead_does_not_keep_sessions_for_ever(
    open_sessions: Open, clock: Clock, monkeypatch: pytest.MonkeyPatch, jump: float
):
    sessions = open_sessions(lifetime=60.0)

    async def saved() -> None:
        """Not to the disk each time."""

    monkeypatch.setattr(sessions, "_saved", saved)
    clock.now += jump
    ahead, _ = await sessions.create("ann", **FROM)
    clock.now -= jump
    for number in range(3000):
        clock.now += 1
        await sessions.create(f"user-{number}", **FROM)
    # Those of a minute, and of the thousand since it was last seen to.
    assert len(sessions) <= 1061
    assert sessions.get(ahead.id, "ann") is not None


async def test_a_session_begins_no_sooner_than_it_may(sessions: SessionDirectory):
    session, _ = await sessions.create("ann", not_before=2**60, **FROM)
    assert session.created_at == 2**60


# --- rotation and reuse ---


async def test_a_refresh_gives_a_successor_and_moves_the_end_away(sessions: SessionDirectory, clock: Clock):
    session, first = await sessions.create("ann", **FROM)
    clock.now += 100
    refreshed, second = await sessions.refresh(first, address="192.0.2.8", user_agent="another")
    assert second != first
    assert refreshed.id == session.id
    assert refreshed.expires_at - session.expires_at == 100_000_000
    assert (refreshed.address, refreshed.user_agent) == ("192.0.2.8", "another")
    assert sessions.of_user("ann") == [refreshed]
    assert sessions.session_of(second).user_id == "ann"


async def test_a_token_that_is_used_again_at_once_gives_the_same_successor(sessions: SessionDirectory, clock: Clock):
    _, first = await sessions.create("ann", **FROM)
    _, second = await sessions.refresh(first, **FROM)
    clock.now += 10
    assert (await sessions.refresh(first, **FROM))[1] == second
    _, third = await sessions.refresh(second, **FROM)
    clock.now += 0.001
    assert (await sessions.refresh(second, **FROM))[1] == third


async def test_two_windows_that_are_a_step_apart_both_go_on(sessions: SessionDirectory, clock: Clock):
    _, first = await sessions.create("ann", **FROM)
    _, second = await sessions.refresh(first, **FROM)
    clock.now += 3
    _, third = await sessions.refresh(second, **FROM)
    clock.now += 3
    assert (await sessions.refresh(first, **FROM))[1] == second
    assert (await sessions.refresh(second, **FROM))[1] == third


async def test_a_token_that_is_used_again_later_ends_the_session(
    sessions: SessionDirectory, open_sessions: Open, clock: Clock, changes: Changes
):
    session, first = await sessions.create("ann", **FROM)
    other, _ = await sessions.create("ann", **FROM)
    _, second = await sessions.refresh(first, **FROM)
    clock.now += 10.001
    with pytest.raises(RefreshRefusedError):
        await sessions.refresh(first, **FROM)
    assert ended(changes) == [session.id]
    with pytest.raises(RefreshRefusedError):
        await sessions.refresh(second, **FROM)
    assert [alive.id for alive in open_sessions(crash=True).of_user("ann")] == [other.id]


async def test_a_token_of_a_generation_to_come_ends_the_session(sessions: SessionDirectory):
    session, _ = await sessions.create("ann", **FROM)
    with pytest.raises(RefreshRefusedError):
        await sessions.refresh(TOKENS.make(session.id, 1, session.seed), **FROM)
    assert not sessions.get(session.id, "ann")


async def test_a_token_that_is_not_ours_ends_nothing(sessions: SessionDirectory):
    session, first = await sessions.create("ann", **FROM)
    read = read_refresh_token(first)
    assert read is not None
    forged = [
        RefreshTokens(b"l" * 32).make(session.id, 0, session.seed),
        TOKENS.make(session.id, 0, b"s" * 32),
        TOKENS.make("0" * 20, 0, session.seed),
        f"asr_{session.id}_1_{read.mac}",
        f"asr_{session.id}_00_{read.mac}",
        first.upper(),
        first + "\n",
        first[:-1],
        "",
        "asr_" * 100,
    ]
    for token in forged:
        with pytest.raises(RefreshRefusedError):
            await sessions.refresh(token, **FROM)
    assert sessions.get(session.id, "ann")
    await sessions.refresh(first, **FROM)


@given(place=st.integers(0, 90), character=st.characters())
async def test_a_token_with_any_character_changed_is_not_ours(place: int, character: str):
    seed = b"s" * 32
    token = TOKENS.make("0123456789abcdef0123", 7, seed)
    changed = token[:place] + character + token[place + 1 :]
    read = read_refresh_token(changed)
    assert changed == token or read is None or not TOKENS.proves(read, seed)


async def test_refreshes_at_once_give_the_same_successor(sessions: SessionDirectory):
    session, first = await sessions.create("ann", **FROM)
    answers = await asyncio.gather(*(sessions.refresh(first, **FROM) for _ in range(50)))
    assert len({token for _, token in answers}) == 1
    assert sessions.find(session.id, "ann").generation == 1


class NaiveRule:
    """What the rule says, with the use of every generation written down."""

    def __init__(self) -> None:
        self.first_used: dict[int, float] = {}
        self.alive = True

    def accepts(self, generation: int, now: float) -> bool:
        self.alive = self.alive and now - self.first_used.setdefault(generation, now) <= 10
        return self.alive


@settings(max_examples=50)
@given(steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 4.0, 9.5, 10.5])), max_size=30))
async def test_whatever_the_order_of_uses_the_rule_is_kept(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float]]
):
    clock, rule = Clock(), NaiveRule()
    path = tmp_path_factory.mktemp("data") / "derived" / "sessions.sqlite"
    sessions = SessionDirectory(path, TOKENS, Changes(), lifetime_seconds=LIFETIME, wall_clock=clock, clock=clock)
    session, token = await sessions.create("ann", **FROM)
    tokens = [token]
    for back, pause in steps:
        clock.now += pause
        generation = max(0, len(tokens) - 1 - back)
        if rule.accepts(generation, clock.now):
            _, successor = await sessions.refresh(tokens[generation], **FROM)
            if generation == len(tokens) - 1:
                tokens.append(successor)
            assert tokens[generation + 1] == successor
        else:
            with pytest.raises(RefreshRefusedError):
                await sessions.refresh(tokens[generation], **FROM)
        assert (sessions.get(session.id, "ann") is not None) == rule.alive
    sessions.close()


# --- ends ---


async def test_sessions_end_one_by_one_or_together(sessions: SessionDirectory, open_sessions: Open, changes: Changes):
    made = [(await sessions.create("ann", **FROM))[0].id for _ in range(4)]
    bobs = (await sessions.create("bob", **FROM))[0].id
    await sessions.end(made[0])
    await sessions.end(made[0])
    await sessions.end("nobody's")
    assert ended(changes) == [made[0]]
    await sessions.end_all("ann", except_session=made[2])
    assert set(ended(changes)) == {made[0], made[1], made[3]}
    await sessions.end_all("nobody")
    for again in (sessions, open_sessions(crash=True)):
        assert [session.id for session in again.of_user("ann")] == [made[2]]
        assert again.get(bobs, "bob")
    await sessions.end_all("ann")
    assert sessions.of_user("ann") == []


async def test_a_session_ends_so_long_after_its_last_refresh(
    sessions: SessionDirectory, clock: Clock, changes: Changes
):
    session, token = await sessions.create("ann", **FROM)
    left, unused = await sessions.create("ann", **FROM)
    clock.now += LIFETIME - 1
    _, token = await sessions.refresh(token, **FROM)
    clock.now += 1
    assert not sessions.get(left.id, "ann")
    with pytest.raises(UnknownSessionError):
        sessions.find(left.id, "ann")
    with pytest.raises(RefreshRefusedError):
        await sessions.refresh(unused, **FROM)
    assert [alive.id for alive in sessions.of_user("ann")] == [session.id]
    clock.now += LIFETIME - 1
    with pytest.raises(RefreshRefusedError):
        sessions.session_of(token)
    await sessions.create("bob", **FROM)
    assert len(sessions) == 1
    assert ended(changes) == [left.id, session.id]


async def test_a_user_has_a_bounded_number_and_the_one_used_longest_ago_gives_way(sessions: SessionDirectory):
    made = [await sessions.create("ann", **FROM) for _ in range(SESSIONS_OF_A_USER_MAX)]
    await sessions.refresh(made[0][1], **FROM)
    newest, _ = await sessions.create("ann", **FROM)
    alive = [session.id for session in sessions.of_user("ann")]
    assert len(alive) == len(sessions) == SESSIONS_OF_A_USER_MAX
    assert alive[:2] == [newest.id, made[0][0].id]
    assert made[1][0].id not in alive


async def test_what_a_caller_says_that_it_is_is_short_and_printable(sessions: SessionDirectory):
    session, _ = await sessions.create("ann", address="", user_agent="a\r\n\x1b[31mb\udcff\0" + "ä" * 10_000)
    assert session.user_agent == "a[31mb" + "ä" * 250


# --- on disk ---


async def test_sessions_are_the_same_after_a_restart_or_a_crash(
    sessions: SessionDirectory, open_sessions: Open, clock: Clock
):
    _, first = await sessions.create("ann", **FROM)
    await sessions.create("ann", **FROM)
    clock.now += 1
    _, second = await sessions.refresh(first, **FROM)
    for crash in (True, False):
        again = open_sessions(crash=crash)
        assert again.of_user("ann") == sessions.of_user("ann")
    clock.now += 9
    assert (await again.refresh(first, **FROM))[1] == second
    _, third = await again.refresh(second, **FROM)
    clock.now += 2
    late = open_sessions(crash=True)
    assert (await late.refresh(second, **FROM))[1] == third
    with pytest.raises(RefreshRefusedError):
        await late.refresh(first, **FROM)


async def test_a_clock_that_was_put_back_makes_no_old_token_good(
    sessions: SessionDirectory, open_sessions: Open, clock: Clock
):
    _, first = await sessions.create("ann", **FROM)
    await sessions.refresh(first, **FROM)
    clock.now -= 3600
    with pytest.raises(RefreshRefusedError):
        await open_sessions().refresh(first, **FROM)


async def test_a_shorter_lifetime_holds_from_the_next_start_on(
    sessions: SessionDirectory, open_sessions: Open, clock: Clock
):
    old, _ = await sessions.create("ann", **FROM)
    clock.now += 3600
    new, _ = await sessions.create("ann", **FROM)
    again = open_sessions(lifetime=3600)
    assert [session.id for session in again.of_user("ann")] == [new.id]
    assert not again.get(old.id, "ann")
    clock.now += 3600
    assert again.of_user("ann") == []
    assert len(open_sessions(lifetime=3600)) == 0


@pytest.mark.parametrize("damage", ["gone", "damaged", "empty"])
async def test_without_the_file_everybody_signs_in_again(
    sessions: SessionDirectory, open_sessions: Open, tmp_path: Path, damage: str
):
    _, token = await sessions.create("ann", **FROM)
    file = tmp_path / "derived" / "sessions.sqlite"
    sessions.close()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(b"x" * 5000 if damage == "damaged" else b"")
    again = open_sessions(crash=True)
    assert len(again) == 0
    with pytest.raises(RefreshRefusedError):
        await again.refresh(token, **FROM)
    await again.create("ann", **FROM)


async def test_the_file_is_for_its_owner_and_holds_no_token(sessions: SessionDirectory, tmp_path: Path):
    _, first = await sessions.create("ann", **FROM)
    _, second = await sessions.refresh(first, **FROM)
    assert TOKENS.make("0" * 20, 0, b"s")[-64:] not in repr(read_refresh_token(TOKENS.make("0" * 20, 0, b"s")))
    for file in (tmp_path / "derived").iterdir():
        assert file.stat().st_mode & 0o077 == 0
        content = file.read_bytes()
        for token in (first, second):
            read = read_refresh_token(token)
            assert read is not None
            assert read.mac.encode() not in content
            assert bytes.fromhex(read.mac) not in content


def on_disk(directory: Path, text: str) -> list[str]:
    return [file.name for file in directory.iterdir() if text.encode() in file.read_bytes()]


async def test_nothing_is_left_on_disk_of_sessions_that_were_erased(
    sessions: SessionDirectory, open_sessions: Open, tmp_path: Path
):
    directory = tmp_path / "derived"
    for number in range(40):
        await sessions.create(f"user-{number}", address="192.0.2.7", user_agent=f"browser-{number}-" + "x" * 200)
    await open_sessions().erase()
    assert on_disk(directory, "browser-7-") == ["sessions.sqlite"]
    sessions = open_sessions()
    _, token = await sessions.create("ann", address="192.0.2.7", user_agent="browser-of-ann")
    await sessions.refresh(token, address="192.0.2.7", user_agent="another-of-ann")
    for user in ("ann", *(f"user-{number}" for number in range(39))):
        await sessions.end_all(user)
    await sessions.erase()
    for agent in ("browser-of-ann", "another-of-ann", *(f"browser-{number}-" for number in range(39))):
        assert on_disk(directory, agent) == []
    assert on_disk(directory, "browser-39-") == ["sessions.sqlite"]


async def test_who_reads_the_file_keeps_what_was_erased_but_stops_nothing(
    sessions: SessionDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    await sessions.create("ann", **FROM)
    sessions._file._connection.execute("PRAGMA busy_timeout = 1")
    reader = sqlite3.connect(tmp_path / "derived" / "sessions.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM sessions").fetchall()
    await sessions.end_all("ann")
    with pytest.raises(SessionsUnavailableError, match="being read"):
        await sessions.erase()
    await sessions.create("bob", **FROM)
    reader.close()
    await sessions.erase()


class Disk:
    """Stands before the file of sessions: counts what is written, fails, or keeps everybody waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fails = False
        self.writes = 0
        self.go = threading.Event()
        self.go.set()
        write = SessionFile.write

        def through(file: SessionFile, alive: Sequence[Session], ended: Any) -> None:
            assert self.go.wait(100)
            if self.fails:
                raise SessionsUnavailableError("the file of sessions can't be written: disk full")
            self.writes += 1
            write(file, alive, ended)

        monkeypatch.setattr(SessionFile, "write", through)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


async def test_nothing_is_answered_before_it_is_on_disk(sessions: SessionDirectory, disk: Disk):
    session, first = await sessions.create("ann", **FROM)
    disk.go.clear()
    waiting = [asyncio.create_task(sessions.refresh(first, **FROM)) for _ in range(2)]
    await asyncio.sleep(0)
    ending = [asyncio.create_task(sessions.end(session.id)) for _ in range(2)]
    done, _ = await asyncio.wait([*waiting, *ending], timeout=0.1)
    assert not done
    # It is good for nothing already, and the refresh that it overtook gives nothing away.
    assert not sessions.get(session.id, "ann")
    disk.go.set()
    await asyncio.gather(*ending)
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(answer) for answer in answers] == [RefreshRefusedError, RefreshRefusedError]


async def test_what_comes_while_the_disk_is_busy_is_written_together(sessions: SessionDirectory, disk: Disk):
    made = await asyncio.gather(*(sessions.create(f"user-{number}", **FROM) for number in range(200)))
    assert disk.writes == 1
    waves = [asyncio.create_task(sessions.refresh(token, **FROM)) for _, token in made]
    await asyncio.sleep(0)
    await asyncio.gather(*waves, *(sessions.create("ann", **FROM) for _ in range(60)))
    assert disk.writes <= 3


async def test_a_session_that_can_not_be_stored_does_not_begin(
    sessions: SessionDirectory, disk: Disk, open_sessions: Open
):
    disk.fails = True
    with pytest.raises(SessionsUnavailableError):
        await sessions.create("ann", **FROM)
    assert len(sessions) == 0
    disk.fails = False
    await sessions.create("bob", **FROM)
    assert len(open_sessions(crash=True)) == 1


async def test_a_refresh_that_can_not_be_stored_can_be_tried_again_at_any_time(
    sessions: SessionDirectory, disk: Disk, clock: Clock
):
    _, first = await sessions.create("ann", **FROM)
    disk.fails = True
    for _ in range(2):
        with pytest.raises(SessionsUnavailableError):
            await sessions.refresh(first, **FROM)
        clock.now += 3600
    disk.fails = False
    _, second = await sessions.refresh(first, **FROM)
    clock.now += 10
    assert (await sessions.refresh(first, **FROM))[1] == second
    clock.now += 1
    with pytest.raises(RefreshRefusedError):
        await sessions.refresh(first, **FROM)


async def test_an_end_that_can_not_be_stored_holds_and_is_stored_with_the_next_change(
    sessions: SessionDirectory, disk: Disk, open_sessions: Open
):
    session, _ = await sessions.create("ann", **FROM)
    disk.fails = True
    for _ in range(2):
        with pytest.raises(SessionsUnavailableError):
            await sessions.end(session.id)
        assert not sessions.get(session.id, "ann")
    disk.fails = False
    await sessions.create("bob", **FROM)
    assert open_sessions(crash=True).of_user("ann") == []


async def test_a_caller_who_goes_away_takes_nothing_back(sessions: SessionDirectory, disk: Disk, open_sessions: Open):
    session, _ = await sessions.create("ann", **FROM)
    disk.go.clear()
    ending = asyncio.create_task(sessions.end(session.id))
    await asyncio.sleep(0.01)
    ending.cancel()
    await asyncio.wait([ending])
    disk.go.set()
    await sessions.end("another")
    assert len(open_sessions(crash=True)) == 0


async def test_what_sqlite_refuses_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "derived").mkdir()
    (tmp_path / "derived" / "sessions.sqlite").mkdir()
    with pytest.raises(SessionsUnavailableError, match="can't be opened"):
        SessionFile(tmp_path / "derived" / "sessions.sqlite")
    file = SessionFile(tmp_path / "derived" / "another.sqlite")
    other = sqlite3.connect(tmp_path / "derived" / "another.sqlite", isolation_level=None)
    other.execute("DROP TABLE sessions")
    with pytest.raises(SessionsUnavailableError, match="can't be written"):
        file.write([], ["a"])
    with pytest.raises(SessionsUnavailableError, match="can't be read"):
        file.read()
    file.close()
    other.close()
