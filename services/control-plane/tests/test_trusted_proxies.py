"""Whose address the core is told, behind proxies and without."""

from __future__ import annotations

import pytest

from allsource_control_plane.gateway.trusted_proxies import TrustedProxies
from allsource_control_plane.settings import ControlPlaneSettings
from allsource_shared.configuration import ConfigurationError, load_settings

from .wire import TOKEN

QUERY = b"/api/v1/events/query"
CALLER = b"X-Forwarded-For: 198.51.100.1, 203.0.113.9\r\n"


@pytest.mark.parametrize(
    ("trusted", "told"),
    [((), b"127.0.0.1"), (("10.0.0.0/8",), b"127.0.0.1"), (("10.0.0.0/8", "127.0.0.1"), b"203.0.113.9")],
    ids=["nobody", "others", "the peer"],
)
@pytest.mark.asyncio
async def test_core_is_told_what_only_a_trusted_proxy_says(start_gateway, core, trusted, told):
    gateway = await start_gateway(trusted_proxies=trusted)
    assert (await gateway.ask("GET", QUERY, TOKEN + CALLER)).status == 200
    assert core.requests[0].values(b"x-forwarded-for") == [told]


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1,203.0.113.9 ,10.1.2.3,10.0.0.7"], "203.0.113.9"),
        (["2001:DB8::1, fd00::2"], "2001:db8::1"),
        (["::ffff:203.0.113.9, ::ffff:10.1.2.3"], "203.0.113.9"),
        (["10.0.0.9"], "10.0.0.7"),
        ([], "10.0.0.7"),
        ([""], "10.0.0.7"),
        (["203.0.113.9, "], "10.0.0.7"),
        (["203.0.113.9, unknown"], "10.0.0.7"),
        (["203.0.113.9:4711"], "10.0.0.7"),
        (["203.0.113.9, 10.1.2.3, 0x7f.1"], "10.0.0.7"),
        (["203.0.113.9" + ", 10.0.0.7" * 10_000], "10.0.0.7"),
        (["unknown, 203.0.113.9"], "203.0.113.9"),
        (["\xff"], "10.0.0.7"),
    ],
)
def test_caller_is_the_last_address_that_no_trusted_proxy_has(forwarded: list[str], caller: str):
    proxies = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    assert proxies.caller("10.0.0.7", headers) == caller
    assert proxies.caller("192.0.2.1", headers) == "192.0.2.1"
    assert proxies.caller(None, headers) is None


def load(value: str) -> tuple[str, ...]:
    environ = {"ALLSOURCE_GATEWAY__TRUSTED_PROXIES": value}
    return load_settings(ControlPlaneSettings, config_path=None, environ=environ).gateway.trusted_proxies


def test_proxies_are_named_with_commas_between_them():
    assert load("10.0.0.7, fd00::/8") == ("10.0.0.7", "fd00::/8")
    assert load("") == ()


@pytest.mark.parametrize("value", ["proxy.example.org", "10.0.0.7/8", "10.0.0.7,", "10.0.0.7 10.0.0.8", "*"])
def test_what_is_no_address_is_refused_by_name(value: str):
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        load(value)
