"""How the gateway and the core behind it are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from allsource_control_plane.gateway.change_feed import ChangeFeed
from allsource_control_plane.gateway.core_client import CoreCallError, CoreClient
from allsource_shared import __version__
from allsource_shared.wire.health import CoreHealth, CoreState, GatewayHealth

__all__ = ["FEATURES", "SERVICE", "CoreProbe", "HealthReport"]

SERVICE: Final = "allsource-control-plane"

FEATURES: Final = ("gateway", "login", "authentication")
"""What this gateway can do now."""

_CACHED_SECONDS: Final = 1.0

_core_health: Final = msgspec.json.Decoder(CoreHealth)


class CoreProbe:
    """Asks the core how it is: one question at a time, whose answer is good for a second.

    Args:
        client: calls the core.
        now: monotonic seconds.
    """

    def __init__(self, client: CoreClient, now: Callable[[], float]) -> None:
        self._client = client
        self._now = now
        self._state = CoreState(status="unavailable")
        self._fresh_until = -float("inf")
        self._lock = asyncio.Lock()

    async def state(self) -> CoreState:
        """The core as it is now or was at most a second ago. Takes at most half a second, and never fails."""
        async with self._lock:
            if self._now() >= self._fresh_until:
                self._state = await self._ask()
                self._fresh_until = self._now() + _CACHED_SECONDS
            return self._state

    async def _ask(self) -> CoreState:
        try:
            health = _core_health.decode(await self._client.probe())
        except CoreCallError:
            return CoreState(status="unavailable", reasons=["unreachable"])
        except msgspec.DecodeError:
            return CoreState(status="unavailable", reasons=["invalid_answer"])
        return CoreState(status=health.status, version=health.version, reasons=health.reasons)


class HealthReport:
    """The answer of ``/health``.

    Args:
        probe: how the core is.
        feed: whether it accepts this gateway.
        now: monotonic seconds.
    """

    def __init__(self, probe: CoreProbe, feed: ChangeFeed, now: Callable[[], float]) -> None:
        self._feed = feed
        self._probe = probe
        self._now = now
        self._started_at = now()

    async def report(self) -> GatewayHealth:
        """The gateway is as well as what it can do: ``degraded`` unless the core is healthy."""
        core = await self._probe.state()
        if self._feed.key_refused:
            core = msgspec.structs.replace(core, status="degraded", reasons=[*core.reasons, "gateway_key_refused"])
        return GatewayHealth(
            status="healthy" if core.status == "healthy" else "degraded",
            service=SERVICE,
            version=__version__,
            uptime_seconds=round(self._now() - self._started_at, 3),
            features=list(FEATURES),
            core=core,
        )
