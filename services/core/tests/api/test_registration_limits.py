"""How many register themselves, counted by the network that they come from."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from allsource_core.api import registration
from allsource_core.api.registration import RegistrationRoutes
from allsource_shared.problems import ApiError


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens flow in while a test is held up."""
    monkeypatch.setattr(registration, "time", SimpleNamespace(monotonic=lambda: 1000.0))


def admitted(*addresses: str) -> int:
    """How many of so many who register from these addresses at once are let through."""
    routes = RegistrationRoutes(Mock(), Mock(), Mock(), Mock(), is_local=Mock(), anonymous_per_minute=60)
    count = 0
    for address in addresses:
        try:
            routes._slow_down(address)
        except ApiError:
            continue
        count += 1
    return count


@pytest.mark.parametrize(
    ("form", "passes"),
    [("2001:db8:1:2::{:x}", 10), ("2001:db8:1:{:x}::1", 20), ("::ffff:192.0.2.{}", 20), ("192.0.2.{}", 20)],
)
def test_addresses_of_ipv6_count_by_what_one_customer_is_given(form: str, passes: int):
    assert admitted(*(form.format(number) for number in range(1, 21))) == passes
