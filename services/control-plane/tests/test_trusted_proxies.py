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
        (["203.0.113.9:4711"], "203.0.113.9"),
        (["[2001:DB8::1]:4711"], "2001:db8::1"),
        (["198.51.100.1, [2001:DB8::1], 10.1.2.3:80"], "2001:db8::1"),
        (["10.0.0.9"], "10.0.0.9"),
        (["fd00::2, 10.0.0.9"], "fd00::2"),
        (["unknown, 203.0.113.9"], "203.0.113.9"),
        (["127.0.0.1"], "10.0.0.7"),
        (["127.0.0.1, 10.1.2.3"], "10.1.2.3"),
    ],
)
def test_caller_is_the_last_address_that_no_trusted_proxy_has(forwarded: list[str], caller: str):
    assert caller_of(forwarded) == caller


@pytest.mark.parametrize(
    "forwarded",
    [
        [],
        [""],
        ["203.0.113.9, "],
        ["203.0.113.9, unknown"],
        ["203.0.113.9, 10.1.2.3, 0x7f.1"],
        ["203.0.113.9" + ", 10.0.0.7" * 10_000],
        ["203.0.113.9:port"],
        ["203.0.113.9:"],
        ["[203.0.113.9"],
        ["2001:db8::1]:80"],
        ["\xff"],
    ],
)
def test_who_is_named_in_a_way_that_nobody_can_read_has_no_address(forwarded: list[str]):
    assert caller_of(forwarded) is None


def caller_of(forwarded: list[str]) -> str | None:
    """Of a request that a trusted proxy passes on."""
    proxies = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
    headers = [(b"x-forwarded-for", value.encode("latin-1")) for value in forwarded]
    assert proxies.caller("192.0.2.1", headers) == "192.0.2.1"
    assert proxies.caller(None, headers) is None
    return proxies.caller("10.0.0.7", headers)


@pytest.mark.parametrize(
    ("forwarded", "caller"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("127.0.0.1, 10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("unknown", None),
        ("203.0.113.9:4711", "203.0.113.9"),
    ],
)
def test_proxy_on_this_machine_makes_nobody_else_local(forwarded: str, caller: str | None):
    """Whoever is local may register as the first administrator."""
    proxies = TrustedProxies(["127.0.0.1", "10.0.0.0/8"])
    assert proxies.caller("127.0.0.1", [(b"x-forwarded-for", forwarded.encode())]) == caller


@pytest.mark.asyncio
async def test_core_is_told_no_address_where_a_trusted_proxy_names_none(start_gateway, core):
    gateway = await start_gateway(trusted_proxies=("127.0.0.1",))
    assert (await gateway.ask("GET", QUERY, TOKEN + b"X-Forwarded-For: unknown\r\n")).status == 200
    assert core.requests[0].values(b"x-forwarded-for") == []


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
