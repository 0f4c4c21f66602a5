"""One service for all tests that leave it as it was; each test has entities of its own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .service import BATCH, EVENTS, NDJSON, Core, last_position


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    service = Core(tmp_path_factory.mktemp("core"))
    yield service.ready()
    assert service.stop() == 0
    lines = [json.loads(line) for line in service.log.splitlines()]
    # Whatever the tests sent, none of it was the service's own failure.
    assert [line for line in lines if line["level"] in ("error", "critical")] == []


@pytest.fixture(scope="session")
def admin(core: Core) -> Iterator[httpx.Client]:
    with core.client() as client:
        yield client


@pytest.fixture(scope="session")
def anonymous(core: Core) -> Iterator[httpx.Client]:
    with core.client({}) as client:
        yield client


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Core]]:
    """Start services of the test's own, over one directory; they are stopped after it."""
    started: list[Core] = []

    def start(**arguments: Any) -> Core:
        started.append(Core(tmp_path, **arguments))
        return started[-1]

    yield start
    for service in started:
        service.stop()


@pytest.fixture
def entity() -> str:
    """An entity id that no other test has."""
    return f"entity-{uuid.uuid4()}"


class Posting:
    """Sends bodies, and asserts of those that must be refused that nothing was stored."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def event(self, body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
        return self.post(EVENTS, body, {"Content-Type": "application/json", **headers})

    def batch(self, body: bytes | dict[str, Any], **headers: str) -> httpx.Response:
        return self.post(BATCH, body, {"Content-Type": "application/json", **headers})

    def lines(self, body: bytes, **headers: str) -> httpx.Response:
        return self.post(BATCH, body, {**NDJSON, **headers})

    def post(self, path: str, body: bytes | dict[str, Any], headers: dict[str, str]) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        before = last_position(self.client)
        response = self.client.post(path, content=content, headers=headers)
        if response.status_code != 201:
            assert last_position(self.client) == before, "a refused append was stored"
        return response


@pytest.fixture
def posting(admin: httpx.Client) -> Posting:
    return Posting(admin)
