"""Who is calling: asked of the core, and remembered until that changes."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Final

from allsource_control_plane.asgi import RawHeaders
from allsource_control_plane.gateway.core_client import CoreCallError, core_unavailable
from allsource_control_plane.gateway.credentials import (
    API_KEY,
    AUTHORIZATION,
    CREDENTIAL_FIELDS,
    check_tenant,
    named_tenant,
    read_credential,
)
from allsource_control_plane.gateway.exchange import Exchange
from allsource_control_plane.gateway.internal_client import InternalClient
from allsource_control_plane.gateway.known_principals import KnownPrincipals
from allsource_control_plane.metrics import GatewayMetrics
from allsource_shared.problems import PROBLEMS, ApiError
from allsource_shared.wire.internal import IntrospectedPrincipal, Introspection

__all__ = ["Authenticator"]

_DIGEST_BYTES: Final = 16
_OF_THE_NAMED_TENANT: Final = frozenset({"forbidden", "not_found"})


class Authenticator:
    """Finds out who calls, as the core would, which looks once more.

    Only who is somebody is remembered: a credential that was refused is asked about anew, so that nobody is refused for
    what has been granted in the meantime.

    Args:
        client: asks the core.
        known: what is remembered, under keyed digests: a dump of this process's memory gives away no credential but
            those of the requests under way.
        metrics: counts questions and answers.
    """

    def __init__(self, client: InternalClient, known: KnownPrincipals, metrics: GatewayMetrics) -> None:
        self._client = client
        self._known = known
        self._metrics = metrics
        self._digest_key = secrets.token_bytes(32)

    async def identify(self, exchange: Exchange, *, forwarded: bool) -> IntrospectedPrincipal:
        """The principal of a request. What it may, the core says, which also charges the tenant for asking.

        Args:
            exchange: the request.
            forwarded: the core answers it. Then a principal that names a tenant which is not for it is let through, as
                what it is in its own: the core refuses it in its own words.

        Raises:
            ApiError: ``unauthorized``, ``bad_header`` or what else the core says of the credential;
                ``core_unavailable`` if it says nothing for `gateway.introspect_timeout_ms`.
        """
        key = self._digest(exchange.headers)
        principal = self._known.get(key)
        if principal is not None:
            self._metrics.credential_cache_hits.inc()
            return principal
        return await self._introspect(exchange, key, forwarded)

    def _digest(self, headers: RawHeaders) -> bytes:
        """Stands for all that an introspection asks: the fields that name credential and tenant, as they came.

        ``X-API-Key`` beside ``Authorization`` says nothing: one credential is one entry, whatever else is sent.
        """
        fields = [field for field in headers if field[0] in CREDENTIAL_FIELDS]
        if any(name == AUTHORIZATION for name, _ in fields):
            fields = [field for field in fields if field[0] != API_KEY]
        # No value has a line end in it, so different fields never join into the same bytes.
        joined = b"\n".join([part for field in fields for part in field])
        return blake2b(joined, key=self._digest_key, digest_size=_DIGEST_BYTES).digest()

    async def _introspect(self, exchange: Exchange, key: bytes, forwarded: bool) -> IntrospectedPrincipal:
        credential = read_credential(exchange.headers)
        check_tenant(exchange.headers)
        tenant = named_tenant(exchange.headers)
        answer = await self._ask(credential, tenant, exchange)
        if answer.principal is not None:
            self._metrics.count_introspection("accepted")
            self._known.remember(key, answer)
            return answer.principal
        self._metrics.count_introspection("refused")
        problem = answer.problem
        if problem is None or problem.error not in PROBLEMS:
            raise ApiError("unauthorized", "the core does not accept the credential")
        if forwarded and tenant is not None and problem.error in _OF_THE_NAMED_TENANT:
            own = await self._ask(credential, None, exchange)
            if own.principal is not None:
                return own.principal
        raise ApiError(problem.error, problem.detail)

    async def _ask(self, credential: str, tenant: str | None, exchange: Exchange) -> Introspection:
        """Ask the core. Raises ApiError: ``core_unavailable``, or what it says of itself."""
        try:
            return await self._client.introspect(credential, tenant, exchange.ids)
        except CoreCallError as failure:
            self._metrics.count_introspection("failed")
            self._metrics.count_core_error(failure.reason)
            raise core_unavailable(failure.reason, "the request was not sent to it") from failure
        except ApiError:
            self._metrics.count_introspection("failed")
            raise
