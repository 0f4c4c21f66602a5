"""Which method serves which operation."""

from __future__ import annotations

from functools import partial

from allsource_core.api.addresses import caller_address, is_local
from allsource_core.api.admission import Admission
from allsource_core.api.api_keys import ApiKeyRoutes
from allsource_core.api.appends import AppendRoutes
from allsource_core.api.authentication import Authenticator
from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Handler
from allsource_core.api.internal import InternalRoutes
from allsource_core.api.metrics import CoreMetrics
from allsource_core.api.operations import OperationRoutes
from allsource_core.api.reads import ReadRoutes
from allsource_core.api.registration import RegistrationRoutes
from allsource_core.api.removals import RemovalRoutes
from allsource_core.api.retention import RetentionRoutes
from allsource_core.api.running_streams import RunningStreams
from allsource_core.api.sessions import SessionRoutes
from allsource_core.api.signing_keys import SigningKeyRoutes
from allsource_core.api.tenant_routes import TenantRoutes
from allsource_core.api.users import UserRoutes
from allsource_core.services import Services

__all__ = ["handlers_of"]


def handlers_of(
    services: Services, authenticator: Authenticator, admission: Admission, metrics: CoreMetrics
) -> dict[str, Handler]:
    """The handlers of every operation that needs the open store."""
    settings, store = services.settings, services.store
    bodies = Bodies(bytes_max=settings.server.max_body_bytes, timeout_seconds=settings.server.body_timeout_seconds)
    address = partial(caller_address, gateway_key=settings.gateway.key)
    keys = ApiKeyRoutes(services.keys, services.issuer, services.key_uses, bodies)
    groups = (
        RegistrationRoutes(
            services.registrar,
            bodies,
            admission.identify,
            address,
            is_local=partial(is_local, gateway_key=settings.gateway.key),
            anonymous_per_minute=settings.auth.open_registrations_per_minute,
        ),
        UserRoutes(services.users, services.accounts, bodies, describe_key=keys.describe, address=address),
        SessionRoutes(services.sign_in, services.sessions, bodies, address),
        SigningKeyRoutes(services.ring, services.facts),
        keys,
        TenantRoutes(
            services.tenants, services.facts, services.deletions, services.usage, services.keys.active_in, bodies
        ),
        AppendRoutes(store, bodies, metrics, admission, services.metering),
        ReadRoutes(store, metrics, admission, services.metering, RunningStreams(services.changes)),
        RemovalRoutes(store, services.metering),
        RetentionRoutes(store, bodies, services.metering),
        OperationRoutes(store, services.tenants),
        InternalRoutes(authenticator.introspect, services.changes, bodies),
    )
    return {operation: handler for group in groups for operation, handler in group.handlers.items()}
