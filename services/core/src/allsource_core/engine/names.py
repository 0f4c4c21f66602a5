"""The grammar of entity ids, event types, tags and tenant ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["are_plain", "name_fault", "tenant_fault"]

# Control characters (C0, DEL, C1), the line and paragraph separators, which split lines in SSE and logs, and
# surrogates, which no UTF-8 can carry.
_FORBIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TOO_LONG: Final = "must be at most {} bytes of UTF-8"
_UTF8_BYTES_MAX: Final = 4
"""Bytes of a character, at most."""
_TENANT: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")


def name_fault(name: str, bytes_max: int) -> str | None:
    """What is wrong with an entity id, event type or tag; None if nothing is."""
    if len(name) > bytes_max:
        return _TOO_LONG.format(bytes_max)
    if not name:
        return "must not be empty"
    if name in (".", ".."):
        return "must not be . or .."
    if _FORBIDDEN.search(name) is not None:
        return "must not contain control characters, line separators or surrogates"
    if not name.isascii() and len(name.encode()) > bytes_max:
        return _TOO_LONG.format(bytes_max)
    return None


def are_plain(names: Sequence[str], bytes_max: int) -> bool:
    """Whether nothing is wrong with any of these names, for certain; where it is not, `name_fault` tells of each.

    One search for all of them: 0.1 µs a name, a tenth of what asking for each costs.
    """
    joined = "/".join(names)
    return (
        max(map(len, names), default=0) * _UTF8_BYTES_MAX <= bytes_max
        and "" not in names
        and "." not in names
        and ".." not in names
        and _FORBIDDEN.search(joined) is None
    )


def tenant_fault(tenant_id: str) -> str | None:
    """What is wrong with a tenant id; None if nothing is. Names that begin with ``_`` are the store's own."""
    if _TENANT.match(tenant_id) is None:
        return "must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter, a digit or _"
    return None
