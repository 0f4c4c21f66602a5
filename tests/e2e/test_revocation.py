"""What is revoked in the core is refused by the gateway within a second, though it was known a moment before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tools.stack import Stack

from .conftest import sign_in

QUERY = "/api/v1/events/query"


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


@contextmanager
def known(stack: Stack, credential: str) -> Iterator[httpx.Client]:
    """A client of the gateway whose credential has been used and remembered."""
    with httpx.Client(base_url=stack.gateway_url, headers=bearer(credential), timeout=30) as client:
        for _ in range(20):
            answer = client.get(QUERY)
            assert answer.status_code == 200, answer.text
        yield client


def refused_within_a_second(client: httpx.Client) -> None:
    begun = time.monotonic()
    while (answer := client.get(QUERY)).status_code == 200:
        assert time.monotonic() - begun < 1
    assert time.monotonic() - begun < 1
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")


def test_a_token_ends_with_its_session(stack: Stack) -> None:
    token = sign_in(stack.gateway_url)
    with known(stack, token) as client:
        assert httpx.post(f"{stack.core_url}/api/v1/auth/logout", headers=bearer(token)).is_success
        refused_within_a_second(client)


@pytest.mark.parametrize("through", ["gateway", "core"])
def test_an_api_key_ends_when_it_is_revoked(stack: Stack, token: str, through: str) -> None:
    made = httpx.post(f"{stack.gateway_url}/api/v1/auth/api-keys", json={"name": through}, headers=bearer(token)).json()
    with known(stack, made["key"]) as client:
        url = stack.gateway_url if through == "gateway" else stack.core_url
        assert httpx.delete(f"{url}/api/v1/auth/api-keys/{made['id']}", headers=bearer(token)).status_code == 204
        refused_within_a_second(client)
