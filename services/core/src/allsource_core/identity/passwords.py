"""Password hashing, off the serving thread."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple, Unpack

import argon2

from allsource_core.identity.errors import SignInQueueFullError

__all__ = ["Passwords"]

_T = TypeVar("_T")
_Arguments = TypeVarTuple("_Arguments")

# OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, 2 passes, 1 lane. About 21 ms on one core of an AMD EPYC.
_TIME_COST: Final = 2
_MEMORY_COST_KIB: Final = 19456
_PARALLELISM: Final = 1

# argon2 lets go of the interpreter lock; two at once leave the event loop its turn on a machine of two cores.
_WORKERS: Final = 2

_ANONYMOUS_SHARE: Final = 4
"""Who registers without a credential gets one place in so many of the queue: the others are for signing in."""


class Passwords:
    """Hashes and verifies passwords with argon2id in two threads.

    Args:
        queue_max: checks that may wait or run at a time; each waits for about 21 ms of one core.
    """

    def __init__(self, queue_max: int) -> None:
        self.queue_max = queue_max
        self._under_way = 0
        self._anonymous = 0
        self._hasher = argon2.PasswordHasher(
            time_cost=_TIME_COST, memory_cost=_MEMORY_COST_KIB, parallelism=_PARALLELISM
        )
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="allsource-password")
        # What the password of an unknown user is compared with, so that it takes as long as that of a known one.
        self._nobody = self._hasher.hash(secrets.token_urlsafe(32))

    def hash(self, password: str) -> str:
        """The encoded hash of a password. Blocks for about 21 ms."""
        return self._hasher.hash(password)

    async def hash_async(self, password: str, *, anonymous: bool = False) -> str:
        """The same in one of the threads.

        Args:
            password: to hash.
            anonymous: nobody knows who asks for it: it may wait in a part of the queue alone.

        Raises:
            SignInQueueFullError: at once, if too many wait.
        """
        if not anonymous:
            return await self._run(self.hash, password)
        if self._anonymous >= max(1, self.queue_max // _ANONYMOUS_SHARE):
            raise SignInQueueFullError
        self._anonymous += 1
        try:
            return await self._run(self.hash, password)
        finally:
            self._anonymous -= 1

    async def verify(self, encoded: str | None, password: str) -> bool:
        """Whether a password has this hash. Without a hash (None or empty, no such user) False, after the same work.

        Raises:
            SignInQueueFullError: at once, if too many wait.
        """
        return await self._run(self._verify, encoded, password)

    def is_outdated(self, encoded: str) -> bool:
        """Whether a hash was made with other parameters than those of today, or is none at all."""
        try:
            return self._hasher.check_needs_rehash(encoded)
        except argon2.exceptions.InvalidHashError:
            return True

    async def _run(self, work: Callable[[Unpack[_Arguments]], _T], *arguments: *_Arguments) -> _T:
        """Have one of the threads do something."""
        if self._under_way >= self.queue_max:
            raise SignInQueueFullError
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)
        finally:
            self._under_way -= 1

    def _verify(self, encoded: str | None, password: str) -> bool:
        try:
            self._hasher.verify(encoded or self._nobody, password)
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return False
        return bool(encoded)

    def close(self) -> None:
        """End the threads; checks under way finish."""
        self._workers.shutdown()
