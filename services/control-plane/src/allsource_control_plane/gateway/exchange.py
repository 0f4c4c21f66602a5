"""One request and its answer, as the server handed them over."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from allsource_control_plane.asgi import Message, RawHeaders, Receive, Scope, Send
from allsource_shared.context import REQUEST_ID_HEADER, TRACEPARENT_HEADER, begin_request
from allsource_shared.problems import PROBLEM_MEDIA_TYPE, ApiError

__all__ = ["UNMATCHED", "Exchange", "problem_answer"]

UNMATCHED = "unmatched"
"""The operation of a request that found no route."""

_LINGER_BYTES_MAX: Final = 64 * 1024 * 1024
_LINGER_SECONDS: Final = 5.0
_LINGER_PAUSE_SECONDS: Final = 1.0
"""How much of a refused body is taken, and for how long: four times the largest one that is accepted by default, and
no longer than the client keeps sending."""

_REQUEST_ID = REQUEST_ID_HEADER.lower().encode()
_TRACEPARENT = TRACEPARENT_HEADER.lower().encode()


class Exchange:
    """What is known of one request, and what was answered so far.

    Making one names the request that the running task serves (`allsource_shared.context`).

    Attributes:
        method, raw_path, query: as they came over the wire.
        headers: as they came, names in lower case.
        peer: address of the client, None where the server does not know it.
        ids: request id and trace.
        operation: of the route; `UNMATCHED` until one is found.
        status: of the answer, 0 until it began.
        sent_bytes: of the answer's body.
        aborted: who broke the exchange off, ``"client"``, ``"stalled_client"``, ``"core"`` or ``"gateway"``, or None.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._received_bytes = 0
        self._body_ended = False
        self.method: str = scope.get("method", "GET")
        self.raw_path: bytes = scope["raw_path"]
        self.query: bytes = scope["query_string"]
        self.headers: RawHeaders = scope["headers"]
        client = scope.get("client")
        self.peer: str | None = client[0] if client else None
        self._fields = dict(self.headers)
        self.ids = begin_request(self._text(_REQUEST_ID), self._text(_TRACEPARENT))
        self.operation = UNMATCHED
        self.status = 0
        self.sent_bytes = 0
        self.aborted: str | None = None

    def field(self, name: bytes) -> bytes | None:
        """The value of a header field by its lower-case name; the last one where it was repeated."""
        return self._fields.get(name)

    def _text(self, name: bytes) -> str | None:
        value = self._fields.get(name)
        return None if value is None else value.decode("latin-1")

    async def receive(self) -> Message:
        """The next ASGI message from the client: a piece of its body, or that it is gone."""
        message = await self._receive()
        self._received_bytes += len(message.get("body", b""))
        self._body_ended = not message.get("more_body", False)
        return message

    async def discard_body(self) -> None:
        """Take what is left of the request's body and forget it, within bounds of size and time.

        For a refusal: most clients read the answer only when they have sent everything, and a connection that is
        closed while they send is all that they would see of it.
        """
        length = self.field(b"content-length")
        if self.field(b"expect") is not None or (length is None and self.field(b"transfer-encoding") is None):
            return
        declared_bytes = None if length is None else int(length)
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self._body_ended and self._received_bytes != declared_bytes:
                    if self._received_bytes > _LINGER_BYTES_MAX:
                        return
                    async with asyncio.timeout(_LINGER_PAUSE_SECONDS):
                        await self.receive()
        except TimeoutError:
            return

    async def send(self, message: Message) -> None:
        """Pass on one ASGI message of the answer; the request id is added to its head."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [field for field in message.get("headers", ()) if field[0] != _REQUEST_ID]
            headers.append((_REQUEST_ID, self.ids.request_id.encode("ascii")))
            message = {"type": "http.response.start", "status": self.status, "headers": headers}
        else:
            self.sent_bytes += len(message.get("body", b""))
        await self._send(message)

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Begin the answer."""
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, chunk: bytes, *, more: bool) -> None:
        """Send a piece of the answer's body; returns when the server can take another one."""
        await self.send({"type": "http.response.body", "body": chunk, "more_body": more})

    def release(self) -> None:
        """Let go of the server's connection: it is kept open for as long as somebody could take more of a body.

        The exceptions of a failed request refer to their frames, and those to the exchange, until they are collected.
        """
        del self._receive, self._send

    async def answer_problem(self, error: ApiError) -> None:
        """Answer with an error."""
        status, headers, body = problem_answer(error, self.ids.request_id)
        await self.start(status, headers)
        await self.write(body, more=False)


def problem_answer(error: ApiError, request_id: str) -> tuple[int, RawHeaders, bytes]:
    """Status, header fields and body of the answer that reports `error`."""
    body = msgspec.json.encode(error.to_problem(request_id))
    headers = [
        (b"content-type", PROBLEM_MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in error.headers.items()),
    ]
    return error.status, headers, body
