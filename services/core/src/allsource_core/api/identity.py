"""Signing in over HTTP."""

from __future__ import annotations

from typing import Final

import msgspec
from aiohttp.web import StreamResponse

from allsource_core.api.bodies import Bodies, media_type
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.requests import decode_body, note_unknown_fields
from allsource_core.identity.sign_in import SignInService
from allsource_shared.problems import ApiError
from allsource_shared.wire.identity import Login

__all__ = ["IdentityRoutes"]

_LOGIN_BYTES_MAX: Final = 64 * 1024
"""Anybody may send one; millions of unknown fields would keep everybody else waiting."""

_login_decoder: Final = msgspec.json.Decoder(Login)


class IdentityRoutes:
    """Handlers of ``auth/…``."""

    def __init__(self, sign_in: SignInService, bodies: Bodies) -> None:
        self._sign_in = sign_in
        self._bodies = bodies

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "login": self.login,
        }

    async def login(self, call: Call) -> StreamResponse:
        """``POST auth/login``."""
        media_type(call)
        body = await self._bodies.read(call.request, _LOGIN_BYTES_MAX)
        try:
            login = decode_body(_login_decoder, body)
            note_unknown_fields(call, body, Login)
        except RecursionError:
            raise ApiError("invalid_body", "the body nests too deeply") from None
        response = json_response(await self._sign_in.sign_in(login.username, login.password))
        response.headers["Cache-Control"] = "no-store"
        return response
