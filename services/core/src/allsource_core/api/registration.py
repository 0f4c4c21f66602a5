"""``POST auth/register``: making users."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import hdrs
from aiohttp.web import BaseRequest, StreamResponse

from allsource_core.api.admission import rate_limited
from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.requests import refuse_query
from allsource_core.identity.principals import Principal
from allsource_core.identity.registration import Registrar
from allsource_core.identity.throttle import network_of
from allsource_core.tenancy.rate_limits import Rate, RateLimit, RateLimiter
from allsource_shared.problems import ApiError
from allsource_shared.wire.users import RegisteredUser, Registration

__all__ = ["RegistrationRoutes"]

_CREDENTIAL_HEADERS: Final = (hdrs.AUTHORIZATION, "X-API-Key")
_EVERYBODY: Final = ""
"""The name of the one bucket of all who register without a credential."""

_decoder: Final = msgspec.json.Decoder(Registration)


_ADDRESSES_MIN: Final = 6
"""So many addresses must work together to keep all others from registering."""


class RegistrationRoutes:
    """Handler of ``auth/register``. The route is public, but a credential that comes with it counts.

    Args:
        registrar: makes users.
        bodies: reads bodies.
        identify: finds out who sends a request that has a credential.
        address: where a request comes from.
        is_local: whether that is this machine.
        anonymous_per_minute: registrations without a credential that are looked at in a minute.
    """

    def __init__(
        self,
        registrar: Registrar,
        bodies: Bodies,
        identify: Callable[[Call], None],
        address: Callable[[BaseRequest], str],
        *,
        is_local: Callable[[BaseRequest], bool],
        anonymous_per_minute: int,
    ) -> None:
        self._registrar = registrar
        self._bodies = bodies
        self._identify = identify
        self._address = address
        self._is_local = is_local
        self._rate = Rate(RateLimit(anonymous_per_minute, anonymous_per_minute))
        of_address = max(1, anonymous_per_minute // _ADDRESSES_MIN)
        self._rate_of_address = Rate(RateLimit(of_address, of_address))
        self._limiter = RateLimiter()

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {"register": self.register}

    async def register(self, call: Call) -> StreamResponse:
        """``POST auth/register``."""
        by = self._caller(call)
        # Who may register nobody isn't listened to, nor told what is wrong with the body.
        self._registrar.check_caller(by)
        refuse_query(call)
        wanted = await self._bodies.decode(call, _decoder)
        # The body may have taken its time.
        by = self._caller(call)
        address = self._address(call.request)
        if by is None:
            self._slow_down(address)
        user = await self._registrar.register(
            wanted, by, is_local=self._is_local(call.request), again=lambda: self._caller(call)
        )
        return json_response(RegisteredUser(user.id, user.username, user.email, user.role, user.tenant_id), 201)

    def _caller(self, call: Call) -> Principal | None:
        """Who calls, now; None without a credential. It is charged for the first time alone."""
        if not any(name in call.request.headers for name in _CREDENTIAL_HEADERS):
            return None
        if call.caller is None:
            self._identify(call)
        else:
            call.recheck(call)
        by = call.principal
        if by.must_change_password:
            raise ApiError("password_change_required", "change your password with POST /api/v1/auth/password first")
        return by

    def _slow_down(self, address: str) -> None:
        """Let only so many register themselves, from one network a part of them: each costs a hash, and is kept.

        Raises:
            ApiError: ``rate_limited``.
        """
        now = time.monotonic()
        left = self._limiter.take(f"from {network_of(address)}", self._rate_of_address, now)
        if left >= 0:
            left = self._limiter.take(_EVERYBODY, self._rate, now)
        if left < 0:
            raise rate_limited(-left, "too many register at present")
