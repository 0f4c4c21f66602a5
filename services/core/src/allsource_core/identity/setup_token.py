"""The setup token: what allows whoever reads the core's log or data directory to make the first user."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["SETUP_TOKEN_FILE", "SetupToken", "is_loopback", "listens_on_loopback"]

SETUP_TOKEN_FILE: Final = "setup-token"  # noqa: S105 - a name
"""Its name in the data directory."""

_TOKEN_BYTES: Final = 32
_FILE_MODE: Final = 0o600


class SetupToken:
    """A secret that is good until there is a user. Every start makes another one; the one before is of no use then.

    Args:
        path: of its file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = b""

    def issue(self) -> str:
        """Make the token. The one before, if there was one, is worthless."""
        token = secrets.token_hex(_TOKEN_BYTES)
        self._digest = _digest(token)
        return token

    def write(self, token: str) -> None:
        """Leave the token in its file, which its owner alone can read.

        Raises:
            OSError: it can't be written. The token is good all the same.
        """
        self.path.unlink(missing_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _FILE_MODE)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")

    def matches(self, text: str | None) -> bool:
        """Whether a text is the token, in constant time. Nothing is, before `issue` and after `discard`."""
        return bool(self._digest) and hmac.compare_digest(_digest(text or ""), self._digest)

    def discard(self) -> None:
        """Make the token worthless and remove its file, if there is one.

        Raises:
            OSError: the file can't be removed. The token is worthless all the same.
        """
        self._digest = b""
        self.path.unlink(missing_ok=True)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="replace")).digest()


def listens_on_loopback(hosts: Iterable[str]) -> bool:
    """Whether a service is reached from its own machine alone.

    Args:
        hosts: the addresses that its sockets are bound to, as numbers. What is no address counts as one that is reached
            from elsewhere.
    """
    hosts = list(hosts)
    return bool(hosts) and all(map(is_loopback, hosts))


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
