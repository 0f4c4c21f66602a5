"""Both services as real processes, on a store of their own, for the whole session."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tools.stack import Stack

PASSWORD = "a password for the tests only"
MASTER_KEY = secrets.token_urlsafe(48)
SECRET = secrets.token_urlsafe(48)
GATEWAY_KEY = secrets.token_urlsafe(48)
PATIENT = {
    # A machine that stands still for a moment is no core that is away, and no client that does not read.
    "ALLSOURCE_GATEWAY__CONNECT_TIMEOUT_MS": "60000",
    "ALLSOURCE_GATEWAY__INTROSPECT_TIMEOUT_MS": "60000",
    "ALLSOURCE_GATEWAY__WRITE_TIMEOUT_SECONDS": "300",
}


def make_stack(directory: Path, **more: str) -> Stack:
    """A stack, not started, with an administrator named ``admin``; `more` is added to its environment."""
    environ = {
        "ALLSOURCE_AUTH__MASTER_KEY": MASTER_KEY,
        "ALLSOURCE_AUTH__JWT_SECRET": SECRET,
        "ALLSOURCE_GATEWAY__KEY": GATEWAY_KEY,
        "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": "admin",
        "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
        **PATIENT,
        **more,
    }
    patience = {"ready_timeout_seconds": 120.0, "stop_timeout_seconds": 120.0}
    return Stack(directory / "data", environ=environ, log_dir=directory, **patience)


def sign_in(url: str) -> str:
    """A fresh token."""
    answer = httpx.post(f"{url}/api/v1/auth/login", json={"username": "admin", "password": PASSWORD}, timeout=30)
    answer.raise_for_status()
    token = answer.json()["token"]
    assert isinstance(token, str)
    return token


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Shared by the tests that break nothing."""
    # One token serves the whole session, however long that takes.
    day = {"ALLSOURCE_AUTH__TOKEN_LIFETIME_MINUTES": "1440"}
    with make_stack(tmp_path_factory.mktemp("stack"), **day) as started:
        yield started


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """For a test that kills or restarts."""
    with make_stack(tmp_path) as started:
        yield started


@pytest.fixture(scope="session")
def token(stack: Stack) -> str:
    return sign_in(stack.gateway_url)


@pytest.fixture
def client(stack: Stack, token: str) -> Iterator[httpx.Client]:
    """Signed in, speaking to the gateway."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=stack.gateway_url, headers=headers, timeout=30) as opened:
        yield opened


@pytest.fixture
def stored(client: httpx.Client) -> Callable[[], int]:
    """How many events the tenant has; asked before and after what must store nothing."""

    def count() -> int:
        answer = client.get("/api/v1/events/query", headers={"Accept": "application/x-ndjson"})
        assert answer.status_code == 200
        return answer.content.count(b"\n")

    return count
