"""Where a request comes from."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Final

from aiohttp.web import BaseRequest

from allsource_core.identity.setup_token import is_loopback
from allsource_shared.wire.internal import GATEWAY_KEY_HEADER

__all__ = ["FORWARDED_HEADER", "caller_address", "is_local", "is_of_gateway"]

FORWARDED_HEADER: Final = "X-Forwarded-For"


def caller_address(request: BaseRequest, gateway_key: str) -> str:
    """The address of whoever made a request, in its usual form.

    It is that of the connection, unless a gateway of ours is at its other end: then it is the last one that
    ``X-Forwarded-For`` names, which is the one that the gateway wrote. What stands before it is hearsay.

    Args:
        request: as it came.
        gateway_key: what a gateway of ours proves itself with; empty if there is none, and nobody is believed.

    Returns:
        An address of IPv4 or IPv6; empty where the connection has none, or a gateway does not say whose it is: never
        the gateway's own, which may be local where the caller is not.
    """
    if is_of_gateway(request, gateway_key):
        forwarded = request.headers.getall(FORWARDED_HEADER, [])
        return (_address(forwarded[-1].rpartition(",")[2].strip()) if forwarded else None) or ""
    return _address(request.remote or "") or ""


def is_local(request: BaseRequest, gateway_key: str) -> bool:
    """Whether somebody on this machine made a request; arguments as of `caller_address`.

    A gateway with another key than ours has callers of its own, whose addresses can't be believed: they are from
    anywhere, though the gateway may be on this machine.
    """
    if GATEWAY_KEY_HEADER in request.headers and not is_of_gateway(request, gateway_key):
        return False
    return is_loopback(caller_address(request, gateway_key))


def is_of_gateway(request: BaseRequest, gateway_key: str) -> bool:
    """Whether a gateway of ours sent a request, for itself or for somebody else; arguments as of `caller_address`."""
    if not gateway_key:
        return False
    keys = request.headers.getall(GATEWAY_KEY_HEADER, [])
    # As bytes: of text only ASCII can be compared in constant time.
    return len(keys) == 1 and hmac.compare_digest(keys[0].encode("utf-8", "surrogateescape"), gateway_key.encode())


def _address(text: str) -> str | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
