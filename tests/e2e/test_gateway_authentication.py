"""The gateway's own authentication in front of the real core: alike in what is refused, and never on old knowledge."""

from __future__ import annotations

import httpx
import pytest

from tools.stack import Stack

from .callers import SOON_SECONDS, figure, until
from .conftest import GATEWAY_KEY, sign_in
from .wire import exchange

QUERY = "/api/v1/events/query"
KEY = {"X-Gateway-Key": GATEWAY_KEY}


def test_what_is_known_is_not_asked_for_again(stack: Stack, client: httpx.Client) -> None:
    def is_known() -> bool:
        before = figure(stack, "control_plane_credential_cache_hits_total")
        for _ in range(10):
            assert client.get(QUERY).status_code == 200
        hits = figure(stack, "control_plane_credential_cache_hits_total") - before
        return hits >= 9 and figure(stack, "control_plane_changes_age_seconds") < 1

    # Where the gateway has not heard from the core for a second it is, as when the machine stands still.
    until(is_known)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer ask_0123456789_ab"},
        {"X-API-Key": "ask_unknown"},
        {"Authorization": "Bearer {token}", "X-Tenant-ID": "_system"},
        {"Authorization": "Bearer {token}", "X-Tenant-ID": "nobody"},
        {"Authorization": "Bearer {token}x"},
    ],
)
def test_a_credential_is_refused_in_the_same_words_by_both(stack: Stack, token: str, headers: dict[str, str]) -> None:
    headers = {name: value.format(token=token) for name, value in headers.items()} | {"X-Request-ID": "same"}
    gateway, core = (
        exchange(url, "GET", QUERY.encode(), headers=headers) for url in (stack.gateway_url, stack.core_url)
    )
    assert core.status >= 400
    assert gateway.status == core.status
    if core.json()["error"] != "reserved_tenant":  # which the gateway sees by itself
        assert gateway.json() == core.json()


def test_what_the_services_say_to_each_other_is_not_for_clients(stack: Stack, token: str) -> None:
    admin = {"Authorization": f"Bearer {token}"}
    path = "/internal/v1/changes"
    assert httpx.get(f"{stack.core_url}{path}", headers=KEY, timeout=30).status_code == 200
    assert httpx.get(f"{stack.core_url}{path}", headers=admin, timeout=30).status_code == 403
    assert httpx.get(f"{stack.core_url}{path}", timeout=30).status_code == 401
    for target in (b"/internal/v1/changes", b"/%69nternal/v1/changes", b"/internal%2Fv1%2Fchanges"):
        for headers in (KEY, admin, {**KEY, **admin}):
            assert exchange(stack.gateway_url, "GET", target, headers=headers).status == 404
    for url in (stack.core_url, stack.gateway_url):
        assert httpx.get(f"{url}{QUERY}", headers=KEY, timeout=30).status_code == 401
        assert "/internal" not in httpx.get(f"{url}/openapi.json", timeout=30).text


def test_without_the_core_nothing_is_let_in_on_old_knowledge(own_stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {sign_in(own_stack.gateway_url)}"}
    with httpx.Client(base_url=own_stack.gateway_url, headers=headers, timeout=30) as client:
        for _ in range(3):
            assert client.get(QUERY).status_code == 200
        own_stack.kill_core()
        answer = client.get(QUERY)
        assert answer.elapsed.total_seconds() < SOON_SECONDS
        assert (answer.status_code, answer.json()["error"]) == (503, "core_unavailable")
        assert client.get(QUERY, headers={"Authorization": "Bearer hello"}).status_code == 401
        own_stack.restart_core()
        until(lambda: client.get(QUERY).status_code == 200, SOON_SECONDS)


def test_a_change_in_the_core_makes_the_gateway_ask_anew(own_stack: Stack) -> None:
    headers = {"Authorization": f"Bearer {sign_in(own_stack.gateway_url)}"}

    def asked() -> float:
        return figure(own_stack, 'control_plane_introspections_total{outcome="accepted"}')

    def asked_again() -> float:
        before = asked()
        assert client.get(QUERY).status_code == 200
        return asked() - before

    with httpx.Client(base_url=own_stack.gateway_url, headers=headers, timeout=30) as client:
        assert client.get(QUERY).status_code == 200
        # Without a change it is where the gateway has not heard from the core for a second.
        until(lambda: asked_again() == 0)
        rotated = httpx.post(f"{own_stack.core_url}/api/v1/auth/keys/rotate", headers=headers, timeout=30)
        assert rotated.is_success
        until(lambda: asked_again() > 0, SOON_SECONDS)
