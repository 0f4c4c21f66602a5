"""The ring of signing keys over HTTP."""

from __future__ import annotations

import structlog
from aiohttp.web import StreamResponse

from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.requests import refuse_query
from allsource_core.facts import Facts
from allsource_core.identity.signing_keys import SigningKeyRing
from allsource_shared.wire.signing_keys import PublicKeys, SigningKeyList

__all__ = ["SigningKeyRoutes"]


class SigningKeyRoutes:
    """Handlers of ``auth/keys…`` and ``/.well-known/jwks.json``."""

    def __init__(self, ring: SigningKeyRing, facts: Facts) -> None:
        self._ring = ring
        self._facts = facts

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "rotate_signing_key": self.rotate,
            "list_signing_keys": self.list_keys,
            "jwks": self.show_public_keys,
        }

    async def rotate(self, call: Call) -> StreamResponse:
        """``POST auth/keys/rotate``."""
        refuse_query(call)
        async with self._facts.changing:
            call.recheck(call)
            view = await self._ring.rotate()
        structlog.get_logger().info(
            "signing_key_rotated", kid=view.kid, algorithm=view.algorithm, user_id=call.principal.user_id
        )
        return json_response(view, 201)

    async def list_keys(self, call: Call) -> StreamResponse:
        """``GET auth/keys``."""
        refuse_query(call)
        return json_response(SigningKeyList(self._ring.views()))

    async def show_public_keys(self, call: Call) -> StreamResponse:
        """``GET /.well-known/jwks.json``."""
        refuse_query(call)
        return json_response(PublicKeys(self._ring.public_keys()))
