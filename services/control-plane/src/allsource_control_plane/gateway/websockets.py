"""WebSockets: no route has one yet, so every handshake is refused, with a reason."""

from __future__ import annotations

from allsource_control_plane.asgi import Receive, Scope, Send
from allsource_control_plane.gateway.exchange import Exchange, problem_answer
from allsource_shared.problems import ApiError

__all__ = ["refuse_websocket"]

_RESPONSE_EXTENSION = "websocket.http.response"
_POLICY_VIOLATION = 1008
_REASON = "no route of this service takes a WebSocket"


async def refuse_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a handshake with a problem, or close it where the server can't carry one."""
    exchange = Exchange(scope, receive, send)
    await receive()
    if _RESPONSE_EXTENSION not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": _REASON})
        return
    request_id = exchange.ids.request_id
    status, headers, body = problem_answer(ApiError("bad_request", _REASON), request_id)
    headers.append((b"x-request-id", request_id.encode("ascii")))
    await send({"type": f"{_RESPONSE_EXTENSION}.start", "status": status, "headers": headers})
    await send({"type": f"{_RESPONSE_EXTENSION}.body", "body": body, "more_body": False})
