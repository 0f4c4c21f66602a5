"""Where a request comes from, when proxies of ours stand between the caller and the gateway."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from allsource_control_plane.asgi import RawHeaders

__all__ = ["TrustedProxies"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FORWARDED_FOR: Final = b"x-forwarded-for"

_HOPS_MAX: Final = 32
"""Proxies of ours that one request passes; a longer chain is none of ours."""

# Some proxies add the port: `192.0.2.7:4711`, `[2001:db8::7]:4711`, or the brackets alone.
_WITH_PORT: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?|([0-9.]+):[0-9]{1,5})\Z")


class _Hop(NamedTuple):
    """What a text says of who made a request or passed it on.

    Attributes:
        address: in its usual form; None if the text is none.
        trusted: whether a trusted proxy has it.
        loopback: whether it is an address of the machine that it is seen on.
    """

    address: str | None
    trusted: bool
    loopback: bool


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
            The peer, unless it is a trusted proxy: then whom it names, and None where nobody can tell whom. A proxy
            never stands for its callers: it may be on this machine where they are not. Where all are trusted it is the
            one that is farthest away.
        """
        if not self._networks or peer is None or not self._parse(peer).trusted:
            return peer
        values = [value for name, value in headers if name == _FORWARDED_FOR]
        hops = b",".join(values).decode("latin-1").rsplit(",", _HOPS_MAX)
        teller = self._parse(peer)
        for hop in reversed(hops):
            named = self._parse(hop.strip())
            if named.address is None:
                return None
            if named.loopback and not teller.loopback:
                # On the machine of who says so, which is not ours.
                return teller.address
            if not named.trusted:
                return named.address
            teller = named
        return teller.address

    def _judge(self, text: str) -> _Hop:
        match = _WITH_PORT.match(text)
        try:
            address = _plain(ipaddress.ip_address(text if match is None else match[1] or match[2]))
        except ValueError:
            return _Hop(None, trusted=False, loopback=False)
        trusted = any(address in network for network in self._networks)
        return _Hop(str(address), trusted, address.is_loopback)


def _plain(address: Address) -> Address:
    """An address of IPv4 that an IPv6 socket shows is that address."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped
