"""The composition root: the only module that sees every part, and puts them together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic, time

from allsource_control_plane.application import create_application
from allsource_control_plane.gateway.authentication import Authenticator
from allsource_control_plane.gateway.change_feed import ChangeFeed
from allsource_control_plane.gateway.connection_resets import ConnectionResets
from allsource_control_plane.gateway.core_client import CoreClient
from allsource_control_plane.gateway.entry import GatewayEntry
from allsource_control_plane.gateway.fair_share import FairShare
from allsource_control_plane.gateway.forwarder import Forwarder
from allsource_control_plane.gateway.internal_client import InternalClient
from allsource_control_plane.gateway.known_principals import KnownPrincipals
from allsource_control_plane.health import CoreProbe, HealthReport
from allsource_control_plane.metrics import GatewayMetrics
from allsource_control_plane.routes import GATEWAY_ROUTES, REACHABLE_ROUTES
from allsource_control_plane.settings import ControlPlaneSettings

__all__ = ["open_gateway"]


@asynccontextmanager
async def open_gateway(settings: ControlPlaneSettings) -> AsyncIterator[GatewayEntry]:
    """The gateway as an ASGI callable; its connections to the core are closed when the block is left."""
    known = KnownPrincipals(monotonic, time)
    async with (
        ConnectionResets() as resets,
        CoreClient(settings.gateway) as client,
        InternalClient(settings.gateway) as internal_client,
        ChangeFeed(internal_client, known, monotonic) as feed,
    ):
        metrics = GatewayMetrics()
        metrics.observe_credentials(known.__len__, lambda: monotonic() - known.heard_at)
        probe = CoreProbe(client, monotonic)
        application = create_application(report=HealthReport(probe, feed, monotonic), probe=probe, metrics=metrics)
        yield GatewayEntry(
            routes=REACHABLE_ROUTES,
            own=GATEWAY_ROUTES,
            authenticator=Authenticator(internal_client, known, metrics),
            application=application,  # type: ignore[arg-type]  # Litestar types ASGI messages one by one
            forwarder=Forwarder(client, settings.gateway, resets, metrics),
            fair_share=FairShare(settings.gateway, metrics),
            metrics=metrics,
            logging=settings.logging,
        )
