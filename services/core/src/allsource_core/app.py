"""The composition root: the only module that sees every layer."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp.web import Response, ServerRunner, StreamResponse, TCPSite

from allsource_core.api.admission import Admission
from allsource_core.api.authentication import Authenticator
from allsource_core.api.call import Call, Handler
from allsource_core.api.dispatcher import Dispatcher
from allsource_core.api.handlers import handlers_of
from allsource_core.api.http_server import HttpServer
from allsource_core.api.lifecycle import Lifecycle
from allsource_core.api.memory_budget import MemoryBudget
from allsource_core.api.metrics import CoreMetrics
from allsource_core.changes import Changes
from allsource_core.engine import EventStore, RecoveryProgress, StoreOptions
from allsource_core.identity.registration import FirstUser
from allsource_core.identity.setup_token import listens_on_loopback
from allsource_core.services import Services
from allsource_core.settings import BootstrapAdmin, CoreSettings
from allsource_shared import __version__
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.openapi import openapi_document
from allsource_shared.routes import JSON
from allsource_shared.tokens import TokenVerifier

__all__ = ["serve"]

_MEBIBYTE: Final = 1024 * 1024

_PROGRESS_LOG_SECONDS: Final = 2.0

_COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)
"""Requests leave hardly any cycles, but the collector looks at the columns of every append that is in memory: at the
usual 700 that took a fifth of the time of a batch (measured), and whole collections came after a few thousand."""


class _StoppedWhileOpeningError(Exception):
    """The service was told to stop before its store was open."""


async def serve(
    settings: CoreSettings, admin: BootstrapAdmin | None, stop: asyncio.Event, *, dev_mode: bool = False
) -> None:
    """Serve until `stop` is set: listen, open the store, answer; then finish what is under way and close the store.

    Args:
        settings: of the service.
        admin: the first administrator, if one is configured.
        stop: set from outside.
        dev_mode: the first user may be registered without the setup token wherever the service listens.

    Raises:
        OSError: the address can't be listened on, or the data directory not be used.
        EngineError: the store can't be opened.
        SealBrokenError: the master key is not that of the data.
    """
    log = structlog.get_logger()
    # It gets its keys when they have been read.
    verifier = TokenVerifier([], issuer=settings.auth.jwt_issuer, audience=settings.auth.jwt_audience)
    authenticator = Authenticator(metrics_public=settings.metrics.public, gateway_key=settings.gateway.key)
    changes, metrics = Changes(), CoreMetrics()
    admission = Admission(authenticator, changes)
    lifecycle = Lifecycle(authenticator, data_dir=settings.storage.data_dir, durability=settings.storage.durability)
    memory = MemoryBudget(settings.server.request_memory_mb * _MEBIBYTE)
    metrics.observe_memory(lambda: memory.held)
    dispatcher = Dispatcher(CORE_ROUTES, admission, lifecycle, metrics, memory, log_requests=settings.logging.requests)
    dispatcher.add(_early_handlers(lifecycle, metrics))
    runner = await _listen(settings, dispatcher)
    services = store = None
    try:
        log.info("listening", addresses=[f"{host}:{port}" for host, port, *_ in runner.addresses], version=__version__)
        store = await asyncio.to_thread(_open_store, settings, lifecycle, stop)
        first_user: FirstUser = "local" if listens_on_loopback(host for host, *_ in runner.addresses) else "token"
        if dev_mode:
            first_user = "anybody"
        services = await asyncio.to_thread(Services, settings, store, verifier, changes, first_user=first_user)
        await asyncio.to_thread(services.prepare, admin)
        await services.start()
        authenticator.begin(services.credentials, services.tenants.is_open, services.key_uses.note_use)
        admission.limit(services.rates, services.tenants.limit_of)
        dispatcher.add(handlers_of(services, authenticator, admission, metrics))
        if dispatcher.missing():
            raise RuntimeError(f"routes without a handler: {dispatcher.missing()}")
        metrics.observe_store(store)
        # What recovery made lives as long as the process: no collection need ever look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        lifecycle.ready(store)
        log.info("ready", last_position=store.last_position, recovery_seconds=round(store.stats().recovery_seconds, 3))
        await stop.wait()
    except _StoppedWhileOpeningError:
        log.info("stopped_while_opening")
    finally:
        log.info("stopping")
        lifecycle.stopping()
        changes.wake()
        if store is not None:
            store.end_waits()
        if services is not None:
            # Who waits for a deletion is told that it goes on.
            await services.deletions.close()
        await runner.cleanup()
        if services is not None:
            await services.close()
        if store is not None:
            await asyncio.to_thread(store.close)
        log.info("stopped")


def _early_handlers(lifecycle: Lifecycle, metrics: CoreMetrics) -> dict[str, Handler]:
    """The handlers that need no store."""
    document = openapi_document(title="AllSource core", version=__version__, routes=CORE_ROUTES)
    encoded = msgspec.json.encode(document)

    async def openapi(_call: Call) -> StreamResponse:
        return Response(body=encoded, content_type=JSON)

    return {
        "health": lifecycle.health,
        "health_live": lifecycle.live,
        "health_ready": lifecycle.show_readiness,
        "metrics": metrics.show,
        "openapi": openapi,
    }


async def _listen(settings: CoreSettings, dispatcher: Dispatcher) -> ServerRunner:
    server = HttpServer(
        dispatcher,
        max_body_bytes=settings.server.max_body_bytes,
        keepalive_seconds=settings.server.keepalive_seconds,
    )
    # aiohttp waits so long twice: for requests to end by themselves, then for those that it cancelled.
    runner = ServerRunner(server, shutdown_timeout=settings.server.shutdown_timeout_seconds / 2)
    await runner.setup()
    try:
        await TCPSite(runner, settings.server.host, settings.server.port, backlog=1024).start()
    except BaseException:
        await runner.cleanup()
        raise
    return runner


def _open_store(settings: CoreSettings, lifecycle: Lifecycle, stop: asyncio.Event) -> EventStore:
    """Open the store, in a thread: reading the log takes as long as it is long."""
    logged = time.monotonic()

    def report(progress: RecoveryProgress) -> None:
        nonlocal logged
        lifecycle.recovering(progress)
        if stop.is_set():
            raise _StoppedWhileOpeningError
        if time.monotonic() - logged >= _PROGRESS_LOG_SECONDS:
            logged = time.monotonic()
            structlog.get_logger().info("recovering", **msgspec.structs.asdict(progress))

    storage = settings.storage
    return EventStore.open(
        Path(storage.data_dir),
        options=StoreOptions(
            durability=storage.durability,
            reserve_bytes=storage.reserve_mb * _MEBIBYTE,
            log_file_bytes_max=storage.log_file_mb * _MEBIBYTE,
            memory_budget_bytes=storage.memory_budget_mb * _MEBIBYTE,
            pending_bytes_max=storage.pending_mb * _MEBIBYTE,
            cache_bytes_max=storage.cache_mb * _MEBIBYTE,
            in_use_bytes_max=storage.in_use_mb * _MEBIBYTE,
            removal_seconds=storage.removal_seconds,
            retention_seconds=storage.retention_seconds,
            maintenance=storage.maintenance,
        ),
        progress=report,
    )
