"""The composition root: the only module that sees every layer."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog
from aiohttp.web import BaseRequest, Response, ServerRunner, StreamResponse, TCPSite

from allsource_core.api.addresses import caller_address
from allsource_core.api.api_keys import ApiKeyRoutes
from allsource_core.api.appends import AppendRoutes
from allsource_core.api.authentication import Authenticator
from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler
from allsource_core.api.dispatcher import Dispatcher
from allsource_core.api.http_server import HttpServer
from allsource_core.api.internal import InternalRoutes
from allsource_core.api.lifecycle import Lifecycle
from allsource_core.api.metrics import CoreMetrics
from allsource_core.api.operations import OperationRoutes
from allsource_core.api.reads import ReadRoutes
from allsource_core.api.registration import RegistrationRoutes
from allsource_core.api.removals import RemovalRoutes
from allsource_core.api.retention import RetentionRoutes
from allsource_core.api.sessions import SessionRoutes
from allsource_core.api.signing_keys import SigningKeyRoutes
from allsource_core.api.tenant_routes import TenantRoutes
from allsource_core.api.users import UserRoutes
from allsource_core.changes import Changes
from allsource_core.engine import EventStore, RecoveryProgress, StoreOptions, system_clock
from allsource_core.facts import Facts
from allsource_core.identity.accounts import Accounts
from allsource_core.identity.api_keys import ApiKeyDirectory
from allsource_core.identity.bootstrap import create_first_admin, prepare_first_registration
from allsource_core.identity.key_issuing import KeyIssuer
from allsource_core.identity.key_uses import KeyUses
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.principals import Principal
from allsource_core.identity.refresh_tokens import RefreshTokens
from allsource_core.identity.registration import Registrar, RegistrationRules
from allsource_core.identity.rules import PasswordRules
from allsource_core.identity.session_file import SESSIONS_FILE
from allsource_core.identity.sessions import SessionDirectory
from allsource_core.identity.setup_token import SETUP_TOKEN_FILE, SetupToken, listens_on_loopback
from allsource_core.identity.sign_in import SignInService
from allsource_core.identity.signing_keys import SigningKeyRing
from allsource_core.identity.throttle import SignInThrottle
from allsource_core.identity.users import UserDirectory
from allsource_core.sealing import MasterKey
from allsource_core.settings import BootstrapAdmin, CoreSettings
from allsource_core.tenancy.deletion import TenantDeletions
from allsource_core.tenancy.quotas import check_count
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_core.tenancy.usage import UsageLedger
from allsource_core.tenant_contents import tenant_contents
from allsource_shared import __version__
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.openapi import openapi_document
from allsource_shared.routes import JSON
from allsource_shared.tokens import TokenSigner, TokenVerifier

__all__ = ["serve"]

_PROGRESS_LOG_SECONDS: Final = 2.0

_DAY_SECONDS: Final = 24 * 3600

_COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)
"""Requests leave hardly any cycles, but the collector looks at the columns of every append that is in memory: at the
usual 700 that took a fifth of the time of a batch (measured), and whole collections came after a few thousand."""


class _StoppedWhileOpeningError(Exception):
    """The service was told to stop before its store was open."""


class _Services:
    """Everything that needs the open store, and the handlers over it.

    Args:
        settings, store, verifier, metrics, authenticator: of the service.
        first_without_token: whether the first user may be registered without the setup token.
    """

    def __init__(
        self,
        settings: CoreSettings,
        store: EventStore,
        verifier: TokenVerifier,
        metrics: CoreMetrics,
        authenticator: Authenticator,
        *,
        first_without_token: bool,
    ) -> None:
        auth, data_dir = settings.auth, Path(settings.storage.data_dir)
        self.setup = SetupToken(data_dir / SETUP_TOKEN_FILE)
        self.registration = RegistrationRules(auth.registration, auth.open_registration_tenant, first_without_token)
        self.passwords = Passwords(auth.sign_in_queue_max)
        self.facts = Facts(store)
        self.changes = Changes()
        self.users = UserDirectory(self.facts, self.changes)
        derived = data_dir / "derived"
        self.key_uses = KeyUses(derived / "api_keys.sqlite", time.time)
        self.keys = ApiKeyDirectory(self.facts, self.changes, self.key_uses, time.time)
        self.tenants = TenantDirectory(self.facts, self.changes)
        self.usage = UsageLedger(store, derived / "usage.sqlite", system_clock)
        issuer = KeyIssuer(
            *(self.facts, self.keys, self.users),
            tenant_exists=self.tenants.is_open,
            check_quota=self._check_key_quota,
        )
        master_key = MasterKey(auth.master_key)
        self.sessions = SessionDirectory(
            data_dir / SESSIONS_FILE,
            RefreshTokens(master_key.derive("refresh tokens")),
            self.changes,
            lifetime_seconds=auth.refresh_lifetime_days * _DAY_SECONDS,
        )
        lifetime_seconds = auth.token_lifetime_minutes * 60
        ring = SigningKeyRing(
            *(self.facts, self.changes, master_key, verifier),
            algorithm=auth.jwt_algorithm,
            lifetime_seconds=lifetime_seconds,
        )
        signer = TokenSigner(
            ring.present, issuer=auth.jwt_issuer, audience=auth.jwt_audience, lifetime_seconds=lifetime_seconds
        )
        self.sign_in = SignInService(
            self.users,
            self.sessions,
            self.passwords,
            SignInThrottle(time.monotonic),
            signer,
            self.facts,
            tenant_is_active=self.tenants.is_active,
        )
        bodies = Bodies(bytes_max=settings.server.max_body_bytes, timeout_seconds=settings.server.body_timeout_seconds)
        key_routes = ApiKeyRoutes(self.keys, issuer, self.key_uses, bodies)
        routes = (
            SigningKeyRoutes(ring, self.facts),
            *self._user_routes(settings, bodies, authenticator.identify, key_routes),
            SessionRoutes(
                self.sign_in, self.sessions, bodies, lambda request: caller_address(request, settings.gateway.key)
            ),
            key_routes,
            AppendRoutes(store, bodies, metrics),
            ReadRoutes(store, metrics),
            RemovalRoutes(store),
            RetentionRoutes(store, bodies),
            *self._tenant_routes(store, bodies),
            InternalRoutes(authenticator.introspect, self.changes, bodies),
        )
        self.handlers: dict[str, Handler] = {}
        for group in routes:
            self.handlers.update(group.handlers)
        # When every kind of fact has its owner.
        self.facts.fold()
        ring.open(auth.jwt_secret)
        self.tenants.store_default()

    def _tenant_routes(self, store: EventStore, bodies: Bodies) -> tuple[OperationRoutes, TenantRoutes]:
        """What makes, changes, shows and deletes tenants, and tells how far that is."""
        contents = tenant_contents(self.users, self.keys, self.sessions, self.usage)
        self.deletions = TenantDeletions(store, self.facts, self.tenants, self.changes, contents)
        return (
            OperationRoutes(store, self.tenants),
            TenantRoutes(self.tenants, self.facts, self.deletions, self.usage, self.keys.active_in, bodies),
        )

    def _check_key_quota(self, tenant_id: str, active: int) -> None:
        """Refuse one more API key where there are as many as the tenant may have. Raises QuotaExceededError."""
        check_count(self.tenants.find(tenant_id).quotas, "max_api_keys", active)

    def _user_routes(
        self,
        settings: CoreSettings,
        bodies: Bodies,
        identify: Callable[[BaseRequest], Principal],
        key_routes: ApiKeyRoutes,
    ) -> tuple[RegistrationRoutes, UserRoutes]:
        """What registers, changes and shows users."""
        auth = settings.auth
        password_rules = PasswordRules(auth.password_min_length)
        registrar = Registrar(
            self.users,
            self.passwords,
            self.facts,
            rules=self.registration,
            password_rules=password_rules,
            setup=self.setup,
            tenant_exists=self.tenants.is_active,
        )
        self.accounts = Accounts(
            self.users,
            self.passwords,
            self.facts,
            password_rules=password_rules,
            check_password=self.sign_in.proves,
            revoke_keys=self.keys.revoke_all_of,
            end_sessions=self.sessions.end_all,
        )
        per_minute = auth.open_registrations_per_minute
        return (
            RegistrationRoutes(registrar, bodies, identify, anonymous_per_minute=per_minute),
            UserRoutes(self.users, self.accounts, bodies, describe_key=key_routes.describe),
        )

    async def close(self) -> None:
        """Let go of threads and files, when no request is under way any more."""
        await asyncio.to_thread(self.passwords.close)
        await asyncio.to_thread(self.sessions.close)
        await self.key_uses.close()
        await self.usage.close()


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
    authenticator = Authenticator(verifier, metrics_public=settings.metrics.public, gateway_key=settings.gateway.key)
    lifecycle = Lifecycle(authenticator, data_dir=settings.storage.data_dir, durability=settings.storage.durability)
    metrics = CoreMetrics()
    dispatcher = Dispatcher(CORE_ROUTES, authenticator, lifecycle, metrics, log_requests=settings.logging.requests)
    dispatcher.add(_early_handlers(lifecycle, metrics))
    runner = await _listen(settings, dispatcher)
    services = store = None
    try:
        log.info("listening", addresses=[f"{host}:{port}" for host, port, *_ in runner.addresses], version=__version__)
        store = await asyncio.to_thread(_open_store, settings, lifecycle, stop)
        first_without_token = dev_mode or listens_on_loopback(host for host, *_ in runner.addresses)
        services = await asyncio.to_thread(
            _Services, settings, store, verifier, metrics, authenticator, first_without_token=first_without_token
        )
        services.key_uses.start()
        await asyncio.to_thread(_check_first_user, services, admin)
        await services.accounts.erase_deleted()
        dispatcher.add(services.handlers)
        if dispatcher.missing():
            raise RuntimeError(f"routes without a handler: {dispatcher.missing()}")
        metrics.observe_store(store)
        # What recovery made lives as long as the process: no collection need ever look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_COLLECTOR_THRESHOLDS)
        await services.usage.start()
        services.deletions.start()
        lifecycle.ready(store)
        log.info("ready", last_position=store.last_position, recovery_seconds=round(store.stats().recovery_seconds, 3))
        await stop.wait()
    except _StoppedWhileOpeningError:
        log.info("stopped_while_opening")
    finally:
        log.info("stopping")
        lifecycle.stopping()
        if services is not None:
            services.changes.wake()
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

    storage, mebibyte = settings.storage, 1024 * 1024
    return EventStore.open(
        Path(storage.data_dir),
        options=StoreOptions(
            durability=storage.durability,
            reserve_bytes=storage.reserve_mb * mebibyte,
            log_file_bytes_max=storage.log_file_mb * mebibyte,
            memory_budget_bytes=storage.memory_budget_mb * mebibyte,
            pending_bytes_max=storage.pending_mb * mebibyte,
            cache_bytes_max=storage.cache_mb * mebibyte,
            removal_seconds=storage.removal_seconds,
            retention_seconds=storage.retention_seconds,
            maintenance=storage.maintenance,
        ),
        progress=report,
    )


def _check_first_user(services: _Services, admin: BootstrapAdmin | None) -> None:
    """Make the first administrator if there is no user and one is configured; else say who may make it."""
    if admin is not None:
        create_first_admin(
            services.users, services.passwords, username=admin.username, password=admin.password, email=admin.email
        )
    prepare_first_registration(services.users, services.registration, services.setup)
