"""The two ends of the gateway as raw sockets: a core that does what a test says, and a client that hides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from allsource_shared.permissions import Permission
from allsource_shared.problems import ApiError
from tools.ports import free_ports

GATEWAY_KEY = "w3Nq8Zt1Kx6Vb0Lj5Rm9Yc4Hf7Dg2Pu5TiSo"
TOKEN = b"Authorization: Bearer ask_0123456789abcdef\r\n"
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'

Header = tuple[bytes, bytes]


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something that comes by itself, a minute at most."""
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@dataclass
class Received:
    """A request as its very bytes arrived at the core."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def target(self) -> bytes:
        return self.line.split(b" ")[1]

    @property
    def headers(self) -> list[Header]:
        return parse_headers(self.head)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


@dataclass
class Answer:
    """What a client saw. `complete` is False if the connection ended before the answer did."""

    status: int
    headers: list[Header]
    body: bytes
    complete: bool

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]

    @property
    def problem(self) -> str:
        assert self.values(b"content-type") == [b"application/problem+json"], self.body
        return msgspec.json.decode(self.body)["error"]


def parse_headers(head: bytes) -> list[Header]:
    lines = head.rstrip(b"\r\n").split(b"\r\n")[1:]
    return [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


async def read_body(reader: asyncio.StreamReader, headers: list[Header]) -> tuple[bytes, bool]:
    """The body that `headers` announce, and whether all of it came."""
    fields = dict(headers)
    pieces: list[bytes] = []
    try:
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                pieces.append(await reader.readexactly(size))
                await reader.readexactly(2)
            await reader.readuntil(b"\r\n")
        else:
            pieces.append(await reader.readexactly(int(fields.get(b"content-length", b"0"))))
    except asyncio.IncompleteReadError as error:
        return b"".join([*pieces, error.partial]), False
    except ConnectionResetError:
        return b"".join(pieces), False
    return b"".join(pieces), True


class CoreConnection:
    """One request at the core, for a test that answers in its own way."""

    def __init__(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = received
        self.reader = reader
        self.writer = writer

    async def read_body(self) -> bytes:
        self.received.body, complete = await read_body(self.reader, self.received.headers)
        if not complete:
            raise asyncio.IncompleteReadError(self.received.body, None)
        return self.received.body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Behaviour = Callable[[CoreConnection], Awaitable[None]]


async def answer_ok(connection: CoreConnection) -> None:
    await connection.read_body()
    head, end, body = OK.partition(b"\r\n\r\n")
    await connection.send(head + end + (b"" if connection.received.line.startswith(b"HEAD") else body))


def answer_with(data: bytes, *, close: bool = True) -> Behaviour:
    """Take the request, send `data`, and end the connection unless told otherwise."""

    async def behave(connection: CoreConnection) -> None:
        await connection.read_body()
        await connection.send(data)
        if close:
            connection.writer.close()

    return behave


@dataclass
class InternalRoutes:
    """What the core tells its gateways: every credential is an administrator's unless a test says otherwise.

    Attributes:
        principal: of the credentials that are good; its fields of the wire.
        refused: credential, or the pair of it and a tenant, to the code of the refusal, for those that aren't.
        asked: what was introspected, as (credential, tenant).
        instance, revision, changes: that the feed tells; use `change`.
        unavailable: code of the problem that is the answer to everything; empty where it serves.
        silent: nothing is answered, as by a core that hangs.
        held: introspections are judged, but wait for this before they are answered.
        key: that is accepted.
    """

    principal: dict[str, Any] = field(default_factory=dict)
    refused: dict[Any, str] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    instance: str = "one"
    revision: int = 0
    changes: list[dict[str, Any]] = field(default_factory=list)
    polls: int = 0
    unavailable: str = ""
    silent: bool = False
    held: asyncio.Event | None = None
    key: str = GATEWAY_KEY
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def change(self, kind: str, id_: str = "") -> None:
        """Publish a change."""
        self.revision += 1
        self.changes.append({"revision": self.revision, "kind": kind, "id": id_})
        self.changed.set()

    def restart(self, instance: str) -> None:
        """Be another process from now on."""
        self.instance, self.revision, self.changes = instance, 0, []
        self.changed.set()

    async def followed(self) -> None:
        """Wait until the gateway has heard where the core is: from then on it remembers."""
        await until(lambda: self.polls >= 2)

    async def answer(self, connection: CoreConnection) -> None:
        received = connection.received
        body = await connection.read_body()
        if self.silent:
            await connection.reader.read()
            return
        if self.unavailable:
            data = msgspec.json.encode(ApiError(self.unavailable, "as the core says").to_problem("r"))
            await connection.send(b"HTTP/1.1 503 Starting\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))
            return
        if received.values(b"x-gateway-key") != [self.key.encode()]:
            await connection.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
            return
        if received.target == b"/internal/v1/introspect":
            answer = self._introspect(msgspec.json.decode(body))
            if self.held is not None:
                await self.held.wait()
        else:
            answer = await self._tell(dict(parse_qsl(received.target.partition(b"?")[2].decode())))
            if self.silent:
                return
        data = msgspec.json.encode(answer)
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(data), data))

    def _introspect(self, asked: dict[str, Any]) -> dict[str, Any]:
        credential = asked["credential"]
        self.asked.append((credential, asked["tenant"]))
        answer: dict[str, Any] = {"instance": self.instance, "revision": self.revision}
        if code := self.refused.get(credential) or self.refused.get((credential, asked["tenant"])):
            return {**answer, "principal": None, "problem": {"error": code, "detail": "as the core says"}}
        principal = {
            "kind": "user",
            "user_id": "u-1",
            "username": "ann",
            "role": "admin",
            "permissions": sorted(Permission),
            "tenant_id": asked["tenant"] or "default",
            "key_id": "",
            "session_id": "s-1",
            "must_change_password": False,
            "expires_at": None,
            **self.principal,
        }
        return {**answer, "principal": principal, "problem": None}

    async def _tell(self, known: dict[str, str]) -> dict[str, Any]:
        self.polls += 1
        reset = known.get("instance") != self.instance
        after = int(known["after"])
        if not reset and after == self.revision:
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(int(known["wait_ms"]) / 1000):
                    await self.changed.wait()
            reset = known.get("instance") != self.instance
        changes = [] if reset else [change for change in self.changes if change["revision"] > after]
        return {"instance": self.instance, "revision": self.revision, "changes": changes, "reset": reset}


@dataclass
class FakeCore:
    """Listens where the gateway looks for the core."""

    behaviour: Behaviour = answer_ok
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    internal: InternalRoutes = field(default_factory=InternalRoutes)
    port: int = field(default_factory=lambda: free_ports(1)[0])
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            for task in self.tasks:
                task.cancel()
            for writer in self.writers:
                writer.transport.abort()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.server.wait_closed()
            self.server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            counted = False
            while not writer.is_closing():
                received = Received(await reader.readuntil(b"\r\n\r\n"))
                if received.target.startswith(b"/internal"):
                    await self.internal.answer(CoreConnection(received, reader, writer))
                    continue
                self.connections += not counted
                counted = True
                self.requests.append(received)
                await self.behaviour(CoreConnection(received, reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self.writers.discard(writer)
            self.tasks.discard(task)


class Client:
    """One connection to the gateway."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[Header]]:
        data = await self.reader.readuntil(b"\r\n\r\n")
        return int(data.split(b" ", 2)[1]), parse_headers(data)

    async def answer(self, *, method: str = "GET") -> Answer:
        status, headers = await self.head()
        bodiless = method == "HEAD" or status in (204, 304)
        body, complete = (b"", True) if bodiless else await read_body(self.reader, headers)
        return Answer(status, headers, body, complete)

    async def chunk(self) -> bytes:
        """The next piece of a chunked answer."""
        size = int((await self.reader.readuntil(b"\r\n")).strip(), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data


@dataclass
class Gateway:
    """Where the gateway listens, and the core behind it."""

    port: int

    @contextlib.asynccontextmanager
    async def connect(self, *, seconds=60):
        """A connection to use within a time."""
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
            try:
                yield Client(reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async def ask(self, method: str, target: bytes, headers: bytes = TOKEN, body: bytes = b"") -> Answer:
        """Send one request on a connection of its own and read its answer."""
        if body and b"content-length" not in headers.lower():
            headers += b"Content-Length: %d\r\n" % len(body)
        async with self.connect() as client:
            await client.send(
                method.encode() + b" " + target + b" HTTP/1.1\r\nHost: gateway\r\n" + headers + b"\r\n" + body
            )
            return await client.answer(method=method)
