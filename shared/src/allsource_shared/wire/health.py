"""How a service is."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["CoreHealth", "GatewayHealth", "Liveness", "Readiness", "StoreFigures"]

HealthStatus = Literal["healthy", "degraded", "unavailable"]


class StoreFigures(msgspec.Struct, frozen=True):
    """Figures of the store, shown only to principals with the permission ``metrics``."""

    data_dir: str
    events: int
    entities: int
    last_position: int
    log_files: int
    log_bytes: int
    recovery_seconds: float


class CoreHealth(msgspec.Struct, frozen=True, omit_defaults=True):
    """`reasons` are machine codes: ``recovering``, ``read_only``, ``stopping``."""

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
    """The core as the gateway sees it."""

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
