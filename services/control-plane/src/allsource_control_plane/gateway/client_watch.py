"""Giving up on a request whose client has left."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from allsource_control_plane.gateway.request_body import ClientGoneError, RequestBody

__all__ = ["ClientWatch"]

_DELAY_SECONDS: Final = 0.05
"""Most requests are answered sooner; they don't pay for a task that watches their client."""


class ClientWatch:
    """Cancels the block that it guards when the client closes its connection.

    While the body is being taken, whoever takes it notices; after that a task listens to the connection.

    Raises:
        ClientGoneError: out of the block, in place of whatever it was waiting for; `BrokenBodyError` if the body had
            not ended.
    """

    def __init__(self, body: RequestBody) -> None:
        self._body = body
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._body.on_gone = self._abandon
        self._schedule()
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._body.on_gone = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise (self._body.failure or ClientGoneError()) from None

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(_DELAY_SECONDS, self._listen)

    def _listen(self) -> None:
        if self._body.complete:
            self._task = self._loop.create_task(self._body.disconnected())
        else:
            self._schedule()

    def _abandon(self) -> None:
        self._timeout.reschedule(self._loop.time())
