"""Sessions: what begins with a sign-in, is continued with refresh tokens, and ends with a sign-out.

An access token is good only while its session is alive, so ending a session ends at once whatever was given out in it.

Every refresh token is good once. Whoever uses one again within `REPEAT_SECONDS` gets the same successor: the answer may
have been lost, or two windows of one browser asked at the same moment. Whoever uses one later holds a copy: then nobody
can tell whose the session is, and it is ended (RFC 9700, section 4.14.2).

All that are alive are in memory, and look-ups are look-ups in a dict. Every change is made in memory first and is on
disk before it is answered; those that come while the disk is busy are written together. What could not be written is
tried again with the next change.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
import structlog

from allsource_core.changes import Changes
from allsource_core.identity.errors import RefreshRefusedError, SessionsUnavailableError, UnknownSessionError
from allsource_core.identity.refresh_tokens import RefreshTokens, read_refresh_token
from allsource_core.identity.session_file import Session, SessionFile, clean_user_agent

__all__ = ["REPEAT_SECONDS", "SESSIONS_OF_A_USER_MAX", "SessionDirectory"]

REPEAT_SECONDS: Final = 10.0
"""How long a refresh token that was used gives its successor again, from when that one was durable."""

SESSIONS_OF_A_USER_MAX: Final = 64
"""Beyond it the one that was used longest ago ends."""

_SEED_BYTES: Final = 32
_MICROSECONDS: Final = 1_000_000


class _Alive(msgspec.Struct):
    """A session in memory.

    Attributes:
        session: as it is.
        replaced: when each of the newest generations that were replaced was replaced durably, in seconds of the
            monotonic clock; None while the disk is being waited for. The last is that before the session's own.
    """

    session: Session
    replaced: list[float | None]


class SessionDirectory:
    """All sessions that are alive. For the thread of the event loop, once it is made.

    Args:
        path: of the file of sessions. Read here, which blocks.
        tokens: makes refresh tokens.
        changes: told of every session that has ended.
        lifetime_seconds: of a session since it was begun or last refreshed; at least that of an access token.
        wall_clock: seconds since the epoch.
        clock: seconds that never go back.

    Raises:
        SessionsUnavailableError: the file can't be opened or read at present. A damaged one is replaced.
    """

    def __init__(
        self,
        path: Path,
        tokens: RefreshTokens,
        changes: Changes,
        *,
        lifetime_seconds: float,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = SessionFile(path)
        self._tokens = tokens
        self._changes = changes
        self._lifetime = int(lifetime_seconds * _MICROSECONDS)
        self._wall_clock = wall_clock
        self._clock = clock
        # The one that ends first, first: all live equally long from their last use.
        self._by_id: OrderedDict[str, _Alive] = OrderedDict()
        self._is_in_order, self._sweeps = True, 0
        # The one that was used longest ago, first.
        self._by_user: dict[str, OrderedDict[str, _Alive]] = {}
        # Of sessions that are in memory not as they are in the file.
        self._unsaved: set[str] = set()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="allsource-sessions")
        self._write_running: asyncio.Task[None] | None = None
        self._write_next: asyncio.Task[None] | None = None
        self._fold()

    def __len__(self) -> int:
        return len(self._by_id)

    # --- look-ups ---

    def get(self, session_id: str, user_id: str) -> Session | None:
        """The session of this id, if it is of this user and has not ended."""
        alive = self._by_id.get(session_id)
        if alive is None or alive.session.user_id != user_id or alive.session.expires_at <= self._now():
            return None
        return alive.session

    def find(self, session_id: str, user_id: str) -> Session:
        """A session of a user. Raises UnknownSessionError, for one of another user too."""
        session = self.get(session_id, user_id)
        if session is None:
            raise UnknownSessionError(f"there is no session {session_id!r}")
        return session

    def of_user(self, user_id: str) -> list[Session]:
        """Every session of a user, the one that was used last first."""
        now = self._now()
        of_user = self._by_user.get(user_id)
        if of_user is None:
            return []
        return [alive.session for alive in reversed(of_user.values()) if alive.session.expires_at > now]

    def session_of(self, token: str) -> Session:
        """The session that a refresh token was given out in. The token may have been used since.

        Raises:
            RefreshRefusedError: it is none of ours, or its session has ended.
        """
        return self._proven(token)[0].session

    # --- changes ---

    async def create(self, user_id: str, *, address: str, user_agent: str, not_before: int = 0) -> tuple[Session, str]:
        """Begin a session, durably.

        Args:
            user_id: whose it is.
            address, user_agent: of who signs in, for the user to see. The latter as it was sent.
            not_before: what it is to have begun at, microseconds since the epoch, if the clock was set back since.

        Returns:
            It and its first refresh token.

        Raises:
            SessionsUnavailableError: it can't be stored. There is no new session.
        """
        self._sweep()
        of_user = self._by_user.get(user_id)
        if of_user is not None and len(of_user) >= SESSIONS_OF_A_USER_MAX:
            self._forget(next(iter(of_user)))
        now = self._now()
        session = Session(
            id=secrets.token_hex(10),
            user_id=user_id,
            seed=secrets.token_bytes(_SEED_BYTES),
            generation=0,
            rotated_at=now,
            created_at=max(now, not_before),
            last_used_at=now,
            expires_at=now + self._lifetime,
            address=address,
            user_agent=clean_user_agent(user_agent),
        )
        self._keep(_Alive(session, []))
        self._unsaved.add(session.id)
        try:
            await self._saved()
        except SessionsUnavailableError:
            self._forget(session.id)
            raise
        return session, self._tokens.make(session.id, 0, session.seed)

    async def refresh(self, token: str, *, address: str, user_agent: str) -> tuple[Session, str]:
        """Continue a session: its end moves away, and the token is replaced, durably.

        Args:
            token: a refresh token.
            address, user_agent: of who uses it, as of `create`.

        Returns:
            The session and the successor of the token.

        Raises:
            RefreshRefusedError: the token is none of ours, its session has ended, or it was used more than
                `REPEAT_SECONDS` ago: then the session is ended, durably.
            SessionsUnavailableError: it can't be stored. Using the token again is safe.
        """
        self._sweep()
        alive, generation = self._proven(token)
        session = alive.session
        if generation != session.generation and not self._is_repeated(alive, generation):
            # A generation that is still to come is that of a file that was put back: neither tells whose it is.
            structlog.get_logger().warning("refresh_token_reused", session_id=session.id, user_id=session.user_id)
            await self.end(session.id)
            raise RefreshRefusedError
        now = self._now()
        agent = clean_user_agent(user_agent)
        used = msgspec.structs.replace(
            session, last_used_at=now, expires_at=now + self._lifetime, address=address, user_agent=agent
        )
        if generation == session.generation:
            used = msgspec.structs.replace(used, generation=generation + 1, rotated_at=now)
            self._drop_old(alive)
            alive.replaced.append(None)
        alive.session = used
        self._keep(alive)
        self._unsaved.add(session.id)
        await self._saved()
        if self._by_id.get(session.id) is not alive:
            raise RefreshRefusedError
        return used, self._tokens.make(session.id, generation + 1, session.seed)

    async def end(self, session_id: str) -> None:
        """End a session, durably; one that has ended already stays so.

        Raises:
            SessionsUnavailableError: it has ended, but may be back after a restart. Ending it again is safe.
        """
        self._forget(session_id)
        await self._saved()

    async def end_all(self, user_id: str, except_session: str = "") -> None:
        """End the sessions of a user, durably, but for one.

        Raises:
            SessionsUnavailableError: as `end`.
        """
        ended = [session_id for session_id in self._by_user.get(user_id, ()) if session_id != except_session]
        for session_id in ended:
            self._forget(session_id)
        await self._saved()

    async def end_where(self, has_ended: Callable[[Session], bool]) -> None:
        """End the sessions of which this is so, durably: at start, where the file may be older than what is known.

        Raises:
            SessionsUnavailableError: as `end`.
        """
        for alive in list(self._by_id.values()):
            if has_ended(alive.session):
                self._forget(alive.session.id)
        await self._saved()

    async def erase(self) -> None:
        """Leave nothing on disk of sessions that have ended. Raises SessionsUnavailableError: some of it still is."""
        await self._saved()
        await asyncio.get_running_loop().run_in_executor(self._writer, self._file.erase)

    def close(self) -> None:
        """Write what is left to be written and close the file. Blocks."""
        self._writer.shutdown()
        try:
            self._file.write(*self._states(self._unsaved))
        except SessionsUnavailableError as error:
            structlog.get_logger().warning("sessions_not_stored", error=str(error))
        self._file.close()

    def _now(self) -> int:
        return int(self._wall_clock() * _MICROSECONDS)

    def _fold(self) -> None:
        """Take over what is in the file."""
        now = self._now()
        for session in sorted(self._file.read(), key=lambda session: session.last_used_at):
            # As the setting says now, if it says less.
            expires_at = min(session.expires_at, session.last_used_at + self._lifetime)
            if expires_at <= now:
                self._unsaved.add(session.id)
                continue
            alive = _Alive(msgspec.structs.replace(session, expires_at=expires_at), [])
            age = (now - session.rotated_at) / _MICROSECONDS
            if session.generation and 0 <= age <= REPEAT_SECONDS:
                alive.replaced.append(self._clock() - age)
            self._keep(alive)

    def _keep(self, alive: _Alive) -> None:
        """Have a session in memory, as the one that was used last."""
        session = alive.session
        # It is not where the clock was set back.
        last = next(reversed(self._by_id.values()), alive)
        self._is_in_order &= last.session.expires_at <= session.expires_at
        self._by_id[session.id] = alive
        self._by_id.move_to_end(session.id)
        of_user = self._by_user.setdefault(session.user_id, OrderedDict())
        of_user[session.id] = alive
        of_user.move_to_end(session.id)

    def _forget(self, session_id: str) -> None:
        """End a session in memory, which is when it stops being good for anything."""
        alive = self._by_id.pop(session_id, None)
        if alive is None:
            return
        of_user = self._by_user[alive.session.user_id]
        del of_user[session_id]
        if not of_user:
            del self._by_user[alive.session.user_id]
        self._unsaved.add(session_id)
        self._changes.publish("session", session_id)

    def _sweep(self) -> None:
        """Forget the sessions that have ended by themselves."""
        now = self._now()
        self._sweeps += 1
        if not self._is_in_order and self._sweeps % 1000 == 0:
            self._by_id = OrderedDict(sorted(self._by_id.items(), key=lambda item: item[1].session.expires_at))
            self._is_in_order = True
        while self._by_id and (first := next(iter(self._by_id.values())).session).expires_at <= now:
            self._forget(first.id)

    def _proven(self, text: str) -> tuple[_Alive, int]:
        """The session that a token was made for, and the generation of the token.

        Raises:
            RefreshRefusedError: as `session_of`.
        """
        token = read_refresh_token(text)
        alive = self._by_id.get(token.session_id) if token is not None else None
        if token is None or alive is None or not self._tokens.proves(token, alive.session.seed):
            raise RefreshRefusedError
        if alive.session.expires_at <= self._now():
            raise RefreshRefusedError
        return alive, token.generation

    def _is_repeated(self, alive: _Alive, generation: int) -> bool:
        """Whether a generation was replaced so recently that it may be used again."""
        index = generation - (alive.session.generation - len(alive.replaced))
        if not 0 <= index < len(alive.replaced):
            return False
        replaced_at = alive.replaced[index]
        return replaced_at is None or self._clock() - replaced_at <= REPEAT_SECONDS

    def _drop_old(self, alive: _Alive) -> None:
        """Forget when generations were replaced that can't be used again."""
        replaced, oldest = alive.replaced, self._clock() - REPEAT_SECONDS
        old = 0
        while old < len(replaced) and (at := replaced[old]) is not None and at < oldest:
            old += 1
        del replaced[:old]

    # --- on disk ---

    async def _saved(self) -> None:
        """Return when everything that was changed until now is on disk. A caller who goes away stops nothing.

        Raises:
            SessionsUnavailableError: it can't be written. It is tried again with the next change.
        """
        if self._unsaved and self._write_next is None:
            self._write_next = asyncio.create_task(self._write())
            self._write_next.add_done_callback(_log_failure)
        # With nothing unsaved, whatever the caller changed is being written at this moment, if it is not yet.
        write = self._write_next or self._write_running
        if write is not None:
            await asyncio.shield(write)

    async def _write(self) -> None:
        """Write what is unsaved when the write before this one has ended."""
        if self._write_running is not None:
            await asyncio.wait([self._write_running])
        self._write_running, self._write_next = self._write_next, None
        unsaved, self._unsaved = self._unsaved, set()
        alive, ended = self._states(unsaved)
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self._file.write, alive, ended)
        except BaseException:
            self._unsaved |= unsaved
            raise
        finally:
            self._write_running = None
        self._note_replaced(alive)

    def _states(self, session_ids: set[str]) -> tuple[list[Session], list[str]]:
        """Those of the sessions that are alive, as they are now, and the ids of those that have ended."""
        alive = [self._by_id[session_id].session for session_id in session_ids if session_id in self._by_id]
        return alive, [session_id for session_id in session_ids if session_id not in self._by_id]

    def _note_replaced(self, written: list[Session]) -> None:
        """From now on the generations before these count as used."""
        now = self._clock()
        for session in written:
            alive = self._by_id.get(session.id)
            if alive is None:
                continue
            replaced = alive.replaced
            first = alive.session.generation - len(replaced)
            for index in range(min(len(replaced), session.generation - first) - 1, -1, -1):
                if replaced[index] is not None:
                    break
                replaced[index] = now


def _log_failure(write: asyncio.Task[None]) -> None:
    """Say that a write failed, though everybody who waited for it may be gone."""
    if not write.cancelled() and (error := write.exception()) is not None:
        structlog.get_logger().warning("sessions_not_stored", error=str(error))
