"""Where a request comes from: the connection says so, or a gateway that proves that it is one of ours."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp.web import BaseRequest
from multidict import CIMultiDict

from allsource_core.api.addresses import caller_address, is_local

KEY = "a-key-of-the-gateway"


def address(*headers: tuple[str, str], peer: str | None = "192.0.2.7", key: str = KEY) -> str:
    request = Mock(BaseRequest, remote=peer, headers=CIMultiDict(headers))
    return caller_address(request, key)


PROOF = ("X-Gateway-Key", KEY)


def test_without_a_gateway_it_is_that_of_the_connection():
    assert address() == "192.0.2.7"
    assert address(("X-Forwarded-For", "198.51.100.1")) == "192.0.2.7"
    assert address(("X-Forwarded-For", "198.51.100.1"), ("X-Gateway-Key", "another")) == "192.0.2.7"
    assert address(("X-Forwarded-For", "198.51.100.1"), ("X-Gateway-Key", "")) == "192.0.2.7"
    assert address(("X-Forwarded-For", "198.51.100.1"), ("X-Gateway-Key", "\udcff\u00e4")) == "192.0.2.7"
    assert address(("X-Forwarded-For", "198.51.100.1"), PROOF, PROOF) == "192.0.2.7"


@pytest.mark.parametrize("sent", ["", KEY])
def test_where_no_key_is_configured_nobody_is_believed(sent: str):
    assert address(("X-Forwarded-For", "198.51.100.1"), ("X-Gateway-Key", sent), key="") == "192.0.2.7"


def test_a_gateway_is_believed_the_last_address_that_it_names():
    assert address(("X-Forwarded-For", "198.51.100.1"), PROOF) == "198.51.100.1"
    assert address(("X-Forwarded-For", "203.0.113.9, 198.51.100.1"), PROOF) == "198.51.100.1"
    assert address(("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "198.51.100.1"), PROOF) == "198.51.100.1"
    assert address(("x-forwarded-for", "2001:DB8::0:1"), PROOF) == "2001:db8::1"


@pytest.mark.parametrize("value", ["", "unknown", "198.51.100.1,", "198.51.100.1:80", "[::1]", "a" * 10_000])
def test_what_is_no_address_is_not_taken_for_one(value: str):
    assert address(("X-Forwarded-For", value), PROOF) == ""
    assert address(("X-Forwarded-For", value)) == "192.0.2.7"


def test_a_gateway_that_names_nobody_does_not_stand_for_whoever_calls_it():
    for peer in ("127.0.0.1", "::1", "192.0.2.7"):
        assert address(PROOF, peer=peer) == ""
        assert address(("X-Forwarded-For", "unknown"), PROOF, peer=peer) == ""


def test_an_address_has_one_form():
    assert address(peer="::ffff:192.0.2.7") == "192.0.2.7"
    assert address(peer="2001:db8:0:0::1") == "2001:db8::1"
    assert address(peer=None) == ""


@pytest.mark.parametrize("key", [KEY, ""])
def test_a_gateway_with_another_key_makes_nobody_local(key: str):
    def local(*headers: tuple[str, str]) -> bool:
        return is_local(Mock(BaseRequest, remote="127.0.0.1", headers=CIMultiDict(headers)), key)

    assert local()
    assert not local(("X-Gateway-Key", "another"), ("X-Forwarded-For", "127.0.0.1"))
    assert not local(PROOF, PROOF)
    assert local(PROOF, ("X-Forwarded-For", "::1")) == (key == KEY)
    assert not local(PROOF, ("X-Forwarded-For", "198.51.100.1"))
