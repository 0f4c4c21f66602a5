"""From the first byte served to the last: starting, ready, stopping; and the routes that tell."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Literal

from aiohttp.web import StreamResponse

from allsource_core.api.authentication import Authenticator
from allsource_core.api.call import Call, json_response
from allsource_core.engine import EventStore, RecoveryProgress, StoreStats
from allsource_shared import __version__
from allsource_shared.wire.health import CoreHealth, HealthStatus, Liveness, Readiness, StoreFigures

__all__ = ["Lifecycle", "Phase"]


class Phase(StrEnum):
    """What the service is at."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"


class Lifecycle:
    """Knows how far the service is, and answers the health routes.

    Args:
        authenticator: decides who sees figures.
        data_dir, durability: of the store; shown to them.
    """

    def __init__(self, authenticator: Authenticator, *, data_dir: str, durability: Literal["fsync", "os"]) -> None:
        self.phase = Phase.STARTING
        self._authenticator = authenticator
        self._data_dir = data_dir
        self._durability: Literal["fsync", "os"] = durability
        self._started = time.monotonic()
        self._progress = RecoveryProgress("opening", 0, 0, None)
        self._store: EventStore | None = None

    def recovering(self, progress: RecoveryProgress) -> None:
        """Note how far recovery is. Called from the thread that opens the store."""
        self._progress = progress

    def ready(self, store: EventStore) -> None:
        """Requests are served from now on."""
        self._store = store
        self.phase = Phase.READY

    def stopping(self) -> None:
        """No new requests are served from now on."""
        self.phase = Phase.STOPPING

    async def health(self, call: Call) -> StreamResponse:
        """``GET /health``."""
        status: HealthStatus = "healthy"
        reasons: list[str] = []
        figures = None
        if self._store is None:
            status, reasons = "unavailable", ["recovering"]
        else:
            stats = self._store.stats()
            if self.phase is Phase.STOPPING:
                status, reasons = "degraded", ["stopping"]
            if stats.read_only_code is not None:
                status, reasons = "degraded", [*reasons, "read_only", stats.read_only_code]
            if stats.maintenance_failure is not None:
                status, reasons = "degraded", [*reasons, "maintenance_failing"]
            if self._authenticator.may_see_figures(call.request):
                figures = self._figures(stats)
        body = CoreHealth(
            status=status,
            service="allsource-core",
            version=__version__,
            uptime_seconds=round(time.monotonic() - self._started, 1),
            reasons=reasons,
            store=figures,
        )
        return json_response(body, 503 if status == "unavailable" else 200)

    def _figures(self, stats: StoreStats) -> StoreFigures:
        return StoreFigures(
            data_dir=self._data_dir,
            durability=self._durability,
            events=stats.events,
            entities=stats.entities,
            last_position=stats.last_position,
            disk_bytes=stats.disk_bytes,
            log_files=stats.log_files,
            log_bytes=stats.log_bytes,
            segments=stats.segments,
            segment_bytes=stats.segment_bytes,
            key_files=stats.key_files,
            key_bytes=stats.key_bytes,
            memory_events=stats.memory_events,
            memory_bytes=stats.memory_bytes,
            sealed_through=stats.sealed_through,
            removals_pending=stats.removals_pending,
            segments_sealed=stats.segments_sealed,
            compactions=stats.compactions,
            maintenance_failures=stats.maintenance_failures,
            maintenance_failure=stats.maintenance_failure,
            recovery_seconds=round(stats.recovery_seconds, 3),
            read_only_code=stats.read_only_code,
            read_only_reason=stats.read_only_reason,
        )

    async def live(self, _call: Call) -> StreamResponse:
        """``GET /health/live``."""
        return json_response(Liveness())

    async def show_readiness(self, _call: Call) -> StreamResponse:
        """``GET /health/ready``."""
        ready = self.phase is Phase.READY
        if self._store is not None:
            return json_response(Readiness(ready=ready, phase=str(self.phase)), 200 if ready else 503)
        progress = self._progress
        body = Readiness(
            ready=False,
            phase=progress.phase,
            bytes_done=progress.bytes_done,
            bytes_total=progress.bytes_total,
            seconds_left=progress.seconds_left,
        )
        return json_response(body, 503)
