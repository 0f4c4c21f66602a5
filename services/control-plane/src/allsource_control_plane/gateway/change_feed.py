"""Following the core's changes: what keeps the gateway's knowledge of credentials less than a second old."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from allsource_control_plane.gateway.core_client import CoreCallError, FailureReason
from allsource_control_plane.gateway.internal_client import InternalClient
from allsource_control_plane.gateway.known_principals import KnownPrincipals
from allsource_shared.problems import ApiError

__all__ = ["ChangeFeed"]

_PAUSE_SECONDS: Final = 0.1
"""After a failure, before the next attempt: a core that comes back is followed again at once, as people see it."""

_logger: Final = structlog.stdlib.get_logger(__name__)


class ChangeFeed:
    """Asks the core for changes, one question after the other, as long as the block is entered.

    Args:
        client: asks.
        known: is told of every answer.
        now: monotonic seconds.

    Attributes:
        failure: why the last question had no answer; None if it had one. A code of `FailureReason`, or of a problem.
    """

    def __init__(self, client: InternalClient, known: KnownPrincipals, now: Callable[[], float]) -> None:
        self._client = client
        self._known = known
        self._now = now
        self._task: asyncio.Task[None] | None = None
        self.failure: str | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    @property
    def key_refused(self) -> bool:
        """Whether the core knows another ``gateway.key`` than this gateway, or none."""
        return self.failure == FailureReason.KEY_REFUSED

    async def _follow(self) -> None:
        while True:
            sent_at = self._now()
            try:
                page = await self._client.changes(self._known.instance, self._known.revision)
                self._known.apply(page, sent_at)
            except CoreCallError as error:
                await self._fail(str(error.reason))
            except ApiError as error:
                await self._fail(error.code)
            except Exception:
                # Without this task every request would ask the core for good, and nobody be told why.
                _logger.exception("following_changes_failed")
                await self._fail("internal_error")
            else:
                if self.failure is not None:
                    _logger.info("changes_followed_again", instance=page.instance, revision=page.revision)
                self.failure = None

    async def _fail(self, failure: str) -> None:
        if failure != self.failure:
            _logger.warning("changes_not_heard", reason=failure)
        self.failure = failure
        await asyncio.sleep(_PAUSE_SECONDS)
