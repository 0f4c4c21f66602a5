"""The gateway as a client sees it: sign in, send with patience, read events as a stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from time import monotonic
from typing import Any, Final

import httpx
import msgspec

__all__ = ["Gateway", "GatewayError", "Patience", "StoredEvent", "open_gateway", "sign_in"]

_API: Final = "/api/v1"
# Another try may succeed: too many requests, or a gateway or store that is starting, stopping or not there.
_PASSING: Final = frozenset({429, 502, 503, 504})


class GatewayError(Exception):
    """The gateway refused a request or could not be reached. The message is meant for people.

    Attributes:
        status: the HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Patience(msgspec.Struct, frozen=True):
    """How long to go on trying, in seconds: in total from the first failure, and before the next try."""

    total: float = 60.0
    first_wait: float = 0.25
    longest_wait: float = 8.0


class StoredEvent(msgspec.Struct):
    """What this program reads of an event; the answer has more."""

    event_type: str
    entity_id: str
    payload: dict[str, Any]
    tags: list[str]
    timestamp: str
    version: int
    position: int


class Gateway:
    """A connection pool with a token. Made by `open_gateway`.

    Attributes:
        retries: how often a request was sent again so far.
    """

    def __init__(self, client: httpx.AsyncClient, patience: Patience) -> None:
        self._client = client
        self._patience = patience
        self.retries = 0

    async def append(self, body: bytes) -> bytes:
        """Send a batch of events, again and again while the failure may pass.

        Trying again is safe only because every event has an id: a batch whose answer got lost is then a duplicate.

        Returns:
            The answer's JSON.

        Raises:
            GatewayError: it was refused, or `Patience` is over.
        """
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        began: float | None = None
        wait = self._patience.first_wait
        while True:
            try:
                answer = await self._client.post(f"{_API}/events/batch", content=body, headers=headers)
            except httpx.TransportError as error:
                failure, asked = _unreachable(self._client, error), 0.0
            else:
                if answer.is_success:
                    return answer.content
                failure, asked = refusal(answer), _retry_after(answer)
                if answer.status_code not in _PASSING:
                    raise failure
            now = monotonic()
            began = now if began is None else began
            # Half of the wait is left to chance, lest all connections come back at the same moment.
            pause = max(asked, wait * random.uniform(0.5, 1.0))
            if now + pause - began > self._patience.total:
                raise GatewayError(f"gave up after {now - began:.0f} s of trying again: {failure}", failure.status)
            await asyncio.sleep(pause)
            wait = min(wait * 2, self._patience.longest_wait)
            self.retries += 1

    async def stream(self, **query: str) -> AsyncIterator[StoredEvent]:
        """Every stored event that matches, in the order of positions, without a limit on their number.

        Args:
            query: parameters of ``GET /api/v1/events/query``: entity_id, event_type, tag …

        Raises:
            GatewayError: it was refused, or the stream broke off.
        """
        decoder = msgspec.json.Decoder(StoredEvent)
        headers = {"Accept": "application/x-ndjson"}
        try:
            async with self._client.stream("GET", f"{_API}/events/query", params=query, headers=headers) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise refusal(answer)
                rest = b""
                async for chunk in answer.aiter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield decoder.decode(line)
                if rest:
                    yield decoder.decode(rest)
        except httpx.TransportError as error:
            raise _unreachable(self._client, error) from error
        except msgspec.DecodeError as error:
            raise GatewayError(f"the gateway streamed something that is not an event: {error}") from error


@asynccontextmanager
async def open_gateway(
    base_url: str,
    token: str,
    *,
    connections: int = 4,
    patience: Patience | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncIterator[Gateway]:
    """Open up to `connections` connections to `base_url` (``http://host:port``), all with this access token.

    `transport` takes the network's place in tests.
    """
    headers = {"Authorization": f"Bearer {token}"}
    async with _client(base_url, headers, connections, transport) as client:
        yield Gateway(client, patience or Patience())


async def sign_in(
    base_url: str, username: str, password: str, *, transport: httpx.AsyncBaseTransport | None = None
) -> str:
    """Exchange username and password for an access token.

    Raises:
        GatewayError: wrong password, too many attempts, or no gateway there.
    """
    async with _client(base_url, {}, 1, transport) as client:
        try:
            credentials = {"username": username, "password": password}
            answer = await client.post(f"{_API}/auth/login", json=credentials)
        except httpx.TransportError as error:
            raise _unreachable(client, error) from error
    if not answer.is_success:
        raise refusal(answer)
    return str(answer.json()["token"])


def refusal(answer: httpx.Response) -> GatewayError:
    """What a problem+json says, in one line; the bare status where the answer is something else."""
    request = f"{answer.request.method} {answer.request.url.path}"
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        problem = {}
    text = problem.get("detail") or problem.get("title") or answer.reason_phrase
    code = f" {problem['error']}" if "error" in problem else ""
    return GatewayError(f"{request}: {answer.status_code}{code}: {text}", answer.status_code)


def _client(
    base_url: str, headers: dict[str, str], connections: int, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    url = httpx.URL(base_url)
    if url.scheme not in ("http", "https") or not url.host:
        raise GatewayError(f"{base_url!r} is not a URL such as http://127.0.0.1:8081")
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        timeout=httpx.Timeout(30.0, connect=5.0),
        # A proxy for the outside world, set in the environment, can't reach a service on this machine.
        trust_env=not _is_this_machine(url.host),
        transport=transport,
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unreachable(client: httpx.AsyncClient, error: httpx.TransportError) -> GatewayError:
    reason = str(error) or type(error).__name__
    return GatewayError(f"no answer from {client.base_url} ({reason}); does the gateway run there?")


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the answer asks to wait, 0 where it does not; its form with a date is not used here."""
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else 0.0
