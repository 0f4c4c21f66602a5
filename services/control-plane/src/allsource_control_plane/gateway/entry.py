"""The outermost callable: every request begins and ends here.

It reads the raw path once, with the table that both services share, and decides who answers. Whatever a framework
behind it makes of the path decides nothing.
"""

from __future__ import annotations

from time import perf_counter
from typing import Final

import structlog

from allsource_control_plane.asgi import Application, Receive, Scope, Send
from allsource_control_plane.gateway.authentication import Authenticator
from allsource_control_plane.gateway.credentials import check_tenant
from allsource_control_plane.gateway.exchange import Exchange
from allsource_control_plane.gateway.fair_share import FairShare
from allsource_control_plane.gateway.forwarder import BrokenAnswerError, Forwarder, StalledClientError
from allsource_control_plane.gateway.request_body import BrokenBodyError, ClientGoneError
from allsource_control_plane.gateway.websockets import refuse_websocket
from allsource_control_plane.metrics import GatewayMetrics
from allsource_shared.access import check_access
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access, Route, RouteTable
from allsource_shared.settings import LoggingSettings

__all__ = ["GatewayEntry"]

_CLIENT_GONE: Final = 499
"""What logs and metrics say of a request whose client left before the answer began; it is never sent."""

_OPEN: Final = frozenset({Access.PUBLIC, Access.CONFIGURED})
"""Whether what is configured asks for a credential the core alone knows."""

_logger: Final = structlog.stdlib.get_logger(__name__)


class GatewayEntry:
    """Routes, judges, answers, counts and logs.

    Args:
        routes: every row that can be reached.
        own: the rows among them that `application` answers.
        authenticator: finds out who calls, where a route is not open to everybody.
        application: answers the gateway's own routes; it gets the path as the row declares it.
        forwarder: answers all others.
        fair_share: says how many of them may be under way.
        metrics: counts every request.
        logging: which requests get a line.
    """

    def __init__(
        self,
        *,
        routes: RouteTable,
        own: RouteTable,
        authenticator: Authenticator,
        application: Application,
        forwarder: Forwarder,
        fair_share: FairShare,
        metrics: GatewayMetrics,
        logging: LoggingSettings,
    ) -> None:
        self._routes = routes
        self._own = frozenset((route.method, route.path) for route in own)
        self._authenticator = authenticator
        self._application = application
        self._forwarder = forwarder
        self._fair_share = fair_share
        self._metrics = metrics
        self._logs = logging.requests != "none"
        self._logged_status_min = 0 if logging.requests == "all" else 500

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "websocket":
            await refuse_websocket(scope, receive, send)
            return
        begun = perf_counter()
        exchange = Exchange(scope, receive, send)
        del receive, send
        self._metrics.requests_in_progress.inc()
        try:
            await self._serve(exchange)
        finally:
            exchange.release()
            self._metrics.requests_in_progress.dec()
            self._record(exchange, perf_counter() - begun)

    async def _serve(self, exchange: Exchange) -> None:
        """Answer, whatever happens. Raises only to make the server cut off an answer that has begun."""
        try:
            await self._dispatch(exchange)
        except ApiError as error:
            await self._refuse(exchange, error)
        except ClientGoneError as error:
            await self._give_up(exchange, error)
        except BrokenAnswerError:
            exchange.aborted = "core"
            raise
        except Exception:
            _logger.exception("request_failed", method=exchange.method, operation=exchange.operation)
            await self._refuse(exchange, ApiError("internal_error", "the gateway failed; see its log"))

    async def _dispatch(self, exchange: Exchange) -> None:
        route = self._routes.match(exchange.method, exchange.raw_path).route
        exchange.operation = route.operation
        own = (route.method, route.path) in self._own
        principal = None
        if route.access not in _OPEN:
            principal = await self._authenticator.identify(exchange, forwarded=not own)
            if own:
                check_access(route.access, principal)
        check_tenant(exchange.headers)
        if own:
            await self._answer_self(exchange, route)
            return
        if principal is None:
            await self._forwarder.forward(exchange, anonymous_place=self._fair_share.of_anonymous())
            return
        with self._fair_share.of_tenant(principal):
            await self._forwarder.forward(exchange)

    async def _answer_self(self, exchange: Exchange, route: Route) -> None:
        path = route.path
        scope = {**exchange.scope, "method": route.method, "path": path, "raw_path": path.encode(), "state": {}}
        scope["state"]["request_id"] = exchange.ids.request_id
        await self._application(scope, exchange.receive, exchange.send)

    async def _refuse(self, exchange: Exchange, error: ApiError) -> None:
        if exchange.status:
            exchange.aborted = "gateway"
            raise BrokenAnswerError from error
        if error.code != "request_timeout":
            await exchange.discard_body()
        await exchange.answer_problem(error)

    async def _give_up(self, exchange: Exchange, error: ClientGoneError) -> None:
        if exchange.status:
            exchange.aborted = "stalled_client" if isinstance(error, StalledClientError) else "client"
            # An answer that merely stopped would look complete.
            raise BrokenAnswerError from error
        if isinstance(error, BrokenBodyError):
            detail = "the body broke off before its end, or its chunked coding is malformed"
            await exchange.answer_problem(ApiError("bad_request", detail))
        else:
            exchange.status = _CLIENT_GONE
            exchange.aborted = "client"

    def _record(self, exchange: Exchange, seconds: float) -> None:
        status = exchange.status
        self._metrics.observe_request(exchange.operation, exchange.method, status, seconds)
        if not self._logs or (status < self._logged_status_min and exchange.aborted in (None, "client")):
            return
        _logger.info(
            "request",
            method=exchange.method,
            operation=exchange.operation,
            status=status,
            duration_ms=round(seconds * 1000, 3),
            bytes=exchange.sent_bytes,
            **({"aborted_by": exchange.aborted} if exchange.aborted else {}),
        )
