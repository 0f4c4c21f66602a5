"""Signing in, staying signed in and signing out over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp import hdrs
from aiohttp.web import BaseRequest, Response, StreamResponse

from allsource_core.api.admission import rate_limited
from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.requests import refuse_query
from allsource_core.identity.session_file import Session
from allsource_core.identity.sessions import SESSIONS_OF_A_USER_MAX, SessionDirectory
from allsource_core.identity.sign_in import SignInService
from allsource_core.tenancy.rate_limits import Rate, RateLimit, RateLimiter
from allsource_shared.wire.sessions import Login, Refresh, SessionList, SessionView, SignedIn
from allsource_shared.wire.times import format_instant

__all__ = ["SessionRoutes"]

_REFRESHES_OF_A_USER: Final = Rate(RateLimit(requests_per_minute=60, burst=2 * SESSIONS_OF_A_USER_MAX))
"""However many sessions a user has, each may be refreshed twice at once: an access token is good for 15 minutes at
least."""

_login_decoder: Final = msgspec.json.Decoder(Login)
_refresh_decoder: Final = msgspec.json.Decoder(Refresh)


class SessionRoutes:
    """Handlers of ``auth/login``, ``auth/refresh``, ``auth/logout`` and ``auth/sessions``.

    Args:
        sign_in, sessions, bodies: of the service.
        address_of: where a request comes from.
    """

    def __init__(
        self,
        sign_in: SignInService,
        sessions: SessionDirectory,
        bodies: Bodies,
        address_of: Callable[[BaseRequest], str],
    ) -> None:
        self._sign_in = sign_in
        self._sessions = sessions
        self._bodies = bodies
        self._address_of = address_of
        self._limiter = RateLimiter()

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "login": self.login,
            "refresh": self.refresh,
            "logout": self.logout,
            "list_sessions": self.list_sessions,
            "end_session": self.end_session,
        }

    async def login(self, call: Call) -> StreamResponse:
        """``POST auth/login``."""
        refuse_query(call)
        login = await self._bodies.decode(call, _login_decoder)
        signed_in = await self._sign_in.sign_in(
            login.username,
            login.password,
            address=self._address_of(call.request),
            user_agent=call.request.headers.get(hdrs.USER_AGENT, ""),
        )
        return _secret_response(signed_in)

    async def refresh(self, call: Call) -> StreamResponse:
        """``POST auth/refresh``."""
        refuse_query(call)
        refresh = await self._bodies.decode(call, _refresh_decoder)
        self._slow_down(self._sessions.session_of(refresh.refresh_token).user_id)
        signed_in = await self._sign_in.refresh(
            refresh.refresh_token,
            address=self._address_of(call.request),
            user_agent=call.request.headers.get(hdrs.USER_AGENT, ""),
        )
        return _secret_response(signed_in)

    def _slow_down(self, user_id: str) -> None:
        """Let a user whose token was proven refresh only so often: each time the file of sessions is written.

        Raises:
            ApiError: ``rate_limited``. The token stays as it was.
        """
        left = self._limiter.take(user_id, _REFRESHES_OF_A_USER, time.monotonic())
        if left < 0:
            raise rate_limited(-left, "your sessions are refreshed too fast")

    async def logout(self, call: Call) -> StreamResponse:
        """``POST auth/logout``."""
        refuse_query(call)
        await self._sessions.end(call.principal.session_id)
        return Response(status=204)

    async def list_sessions(self, call: Call) -> StreamResponse:
        """``GET auth/sessions``."""
        refuse_query(call)
        principal = call.principal
        views = [_view(session, principal.session_id) for session in self._sessions.of_user(principal.user_id)]
        return json_response(SessionList(views, len(views)))

    async def end_session(self, call: Call) -> StreamResponse:
        """``DELETE auth/sessions/{session_id}``."""
        refuse_query(call)
        session = self._sessions.find(call.match.parameters["session_id"], call.principal.user_id)
        await self._sessions.end(session.id)
        return Response(status=204)


def _secret_response(signed_in: SignedIn) -> StreamResponse:
    """An answer with tokens in it, which no cache may keep."""
    response = json_response(signed_in)
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _view(session: Session, current: str) -> SessionView:
    return SessionView(
        id=session.id,
        created_at=format_instant(session.created_at),
        last_used_at=format_instant(session.last_used_at),
        expires_at=format_instant(session.expires_at),
        address=session.address,
        user_agent=session.user_agent,
        current=session.id == current,
    )
