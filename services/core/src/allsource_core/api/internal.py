"""What gateways ask: whose a credential is, and what has changed since."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp.web import StreamResponse

from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.requests import parse_query, refuse_query
from allsource_core.changes import Changes
from allsource_core.identity.principals import Principal
from allsource_shared.problems import ApiError
from allsource_shared.wire.internal import (
    ChangePage,
    ChangeParameters,
    Introspect,
    IntrospectedPrincipal,
    Introspection,
    Refusal,
)

__all__ = ["InternalRoutes"]

_introspect_decoder: Final = msgspec.json.Decoder(Introspect)


class InternalRoutes:
    """Handlers of ``/internal/v1``.

    Args:
        introspect: the principal of a credential in the tenant that is named with it, and when it expires, in seconds
            since the epoch (infinity: never). It refuses as the core itself does.
        changes: of who may do what.
        bodies: reads bodies.
    """

    def __init__(
        self, introspect: Callable[[str, str | None], tuple[Principal, float]], changes: Changes, bodies: Bodies
    ) -> None:
        self._introspect = introspect
        self._changes = changes
        self._bodies = bodies

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "introspect": self.introspect,
            "changes": self.changes,
        }

    async def introspect(self, call: Call) -> StreamResponse:
        """``POST /internal/v1/introspect``. A refused credential is an answer, too; what passes by itself is none."""
        refuse_query(call)
        asked = await self._bodies.decode(call, _introspect_decoder)
        principal = problem = None
        # Nothing is waited for in between: the revision is that of the moment at which the credential was judged.
        try:
            principal = _view(*self._introspect(asked.credential, asked.tenant))
        except ApiError as error:
            if error.status >= 500:
                raise
            problem = Refusal(error.code, error.detail)
        response = json_response(Introspection(self._changes.instance, self._changes.revision, principal, problem))
        response.headers["Cache-Control"] = "no-store"
        return response

    async def changes(self, call: Call) -> StreamResponse:
        """``GET /internal/v1/changes``."""
        parameters = parse_query(call, ChangeParameters)
        changes = self._changes
        known = changes.since(parameters.after) if parameters.instance == changes.instance else None
        if known is not None and not known and parameters.wait_ms:
            await changes.wait(parameters.after, parameters.wait_ms / 1000)
            known = changes.since(parameters.after)
        return json_response(ChangePage(changes.instance, changes.revision, known or [], reset=known is None))


def _view(principal: Principal, expires_at: float) -> IntrospectedPrincipal:
    return IntrospectedPrincipal(
        kind=principal.kind,
        user_id=principal.user_id,
        username=principal.username,
        role=principal.role,
        permissions=principal.permissions,
        tenant_id=principal.tenant_id,
        key_id=principal.key_id,
        session_id=principal.session_id,
        must_change_password=principal.must_change_password,
        expires_at=None if math.isinf(expires_at) else expires_at,
    )
