"""How a service is."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["CoreHealth", "GatewayHealth", "Liveness", "Readiness", "StoreFigures"]

HealthStatus = Literal["healthy", "degraded", "unavailable"]


class StoreFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the store, shown only to principals with the permission ``metrics``.

    Attributes:
        durability: ``fsync``, or ``os`` where appends are answered before the disk has them.
        sealed_through: the last position that is in segments; what is behind it is in the log and in memory.
        removals_pending: removals whose bytes may still be on the disk.
        maintenance_failures: of sealing and compaction, since the start; `maintenance_failure`: of the last
            attempt, in words.
        read_only_code, read_only_reason: why appends are refused, for programs and for people; null if they are not.
    """

    data_dir: str
    durability: Literal["fsync", "os"]
    events: int
    entities: int
    last_position: int
    disk_bytes: int
    log_files: int
    log_bytes: int
    segments: int
    segment_bytes: int
    key_files: int
    key_bytes: int
    memory_events: int
    memory_bytes: int
    sealed_through: int
    removals_pending: int
    segments_sealed: int
    compactions: int
    maintenance_failures: int
    maintenance_failure: str | None
    recovery_seconds: float
    read_only_code: str | None
    read_only_reason: str | None


class CoreHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the core is.

    Attributes:
        reasons: machine codes: ``recovering``, ``stopping``, or ``read_only`` and with it why: ``disk_space_low``,
            ``disk_full``, ``log_blocked``, ``log_failed``, ``storage_damaged``, ``old_format``;
            ``maintenance_failing``.
    """

    status: HealthStatus
    service: str
    version: str
    uptime_seconds: float
    reasons: list[str] = []
    store: StoreFigures | None = None


class Liveness(msgspec.Struct, frozen=True):
    """The process runs and its event loop turns."""

    status: Literal["alive"] = "alive"


class Readiness(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether requests are served; while the store recovers, how far it is."""

    ready: bool
    phase: str
    bytes_done: int = 0
    bytes_total: int = 0
    seconds_left: float | None = None


class CoreState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The core as the gateway sees it.

    Attributes:
        reasons: as the core gives them; ``unreachable``, ``invalid_answer``, and ``gateway_key_refused`` where it knows
            another ``gateway.key`` than the gateway, or none.
    """

    status: HealthStatus
    version: str | None = None
    reasons: list[str] = []


class GatewayHealth(msgspec.Struct, frozen=True):
    """The gateway, what it can do, and the core behind it."""

    status: HealthStatus
    service: str
    version: str
    uptime_seconds: float
    features: list[str]
    core: CoreState
