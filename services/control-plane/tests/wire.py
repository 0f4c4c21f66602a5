"""The two ends of the gateway as raw sockets: a core that does what a test says, and a client that hides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

TOKEN = b"Authorization: Bearer ask_0123456789abcdef\r\n"
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{"ok":true}'

Header = tuple[bytes, bytes]


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
        import msgspec

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
class FakeCore:
    """Listens where the gateway looks for the core."""

    behaviour: Behaviour = answer_ok
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    server: asyncio.Server | None = None
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)
        self.port = self.server.sockets[0].getsockname()[1]

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
        self.connections += 1
        self.writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while not writer.is_closing():
                received = Received(await reader.readuntil(b"\r\n\r\n"))
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
    async def connect(self):
        async with asyncio.timeout(30):
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
