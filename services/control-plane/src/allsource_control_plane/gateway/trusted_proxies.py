"""Where a request comes from, when proxies of ours stand between the caller and the gateway."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from allsource_control_plane.asgi import RawHeaders

__all__ = ["TrustedProxies"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORWARDED_FOR: Final = b"x-forwarded-for"

_HOPS_MAX: Final = 32
"""Proxies of ours that one request passes; a longer chain is none of ours."""


class TrustedProxies:
    """The proxies whose word on a caller's address is taken.

    Args:
        texts: their addresses and networks, as in the configuration.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in texts]
        self._parse = lru_cache(maxsize=1024)(self._judge)

    def caller(self, peer: str | None, headers: RawHeaders) -> str | None:
        """The address of whoever made a request: the last one on its way that is no trusted proxy's.

        Args:
            peer: at the other end of the connection; None where the server does not know.
            headers: as they came. ``X-Forwarded-For`` is believed as far as trusted proxies wrote it.

        Returns:
            The peer, unless it is a trusted proxy and names somebody else.
        """
        if not self._networks or peer is None or not self._parse(peer)[1]:
            return peer
        values = [value for name, value in headers if name == _FORWARDED_FOR]
        hops = b",".join(values).decode("latin-1").rsplit(",", _HOPS_MAX)
        for hop in reversed(hops):
            address, trusted = self._parse(hop.strip())
            if address is None:
                return peer
            if not trusted:
                return address
        return peer

    def _judge(self, text: str) -> tuple[str | None, bool]:
        """An address in its usual form, None for what is none; and whether a trusted proxy has it."""
        try:
            address = _plain(ipaddress.ip_address(text))
        except ValueError:
            return None, False
        return str(address), any(address in network for network in self._networks)


def _plain(address: Address) -> Address:
    """An address of IPv4 that an IPv6 socket shows is that address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
