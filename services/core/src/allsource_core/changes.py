"""What has changed of who may do what, told to whoever remembers it: caches, running streams, gateways."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from allsource_shared.wire.internal import Change, ChangeKind

__all__ = ["Change", "ChangeKind", "Changes"]

_KEPT_MAX: Final = 10_000


class Changes:
    """The changes of this process, in order. For one event loop, and for the start of the service before it.

    Attributes:
        instance: differs from process to process: revisions of another one mean nothing here.
        revision: of the newest change; 0 before the first.
    """

    def __init__(self) -> None:
        self.instance = secrets.token_hex(8)
        self.revision = 0
        self._kept: deque[Change] = deque(maxlen=_KEPT_MAX)
        self._listeners: list[Callable[[], None]] = []
        self._waiting: set[asyncio.Future[None]] = set()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called after every change, from where it was published: it must be quick and not fail."""
        self._listeners.append(listener)

    def publish(self, kind: ChangeKind, id_: str = "") -> None:
        """Tell of a change that has been made, and is durable if it is a fact."""
        self.revision += 1
        self._kept.append(Change(self.revision, kind, id_))
        for listener in self._listeners:
            listener()
        self.wake()

    def since(self, revision: int) -> list[Change] | None:
        """The changes behind a revision; None if it is not one of these, or some are not kept any more."""
        if revision == self.revision:
            return []
        first = self._kept[0].revision if self._kept else self.revision + 1
        if not first - 1 <= revision <= self.revision:
            return None
        # From the end, where those are that are asked for: a deque is slow to reach in its middle.
        told = list(islice(reversed(self._kept), self.revision - revision))
        told.reverse()
        return told

    async def wait(self, revision: int, timeout_seconds: float) -> None:
        """Return when there is a change behind a revision, when the time is over, or when `wake` is called."""
        if self.revision != revision:
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(timeout_seconds):
                await future
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(future)

    def wake(self) -> None:
        """Let everybody go who waits: there is a change, or the service is about to stop."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
