"""Telling callers of lenient routes what was ignored."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp.web import StreamResponse

__all__ = ["warn_of_ignored"]

_NAMES_MAX = 10
_NAME_CHARACTERS_MAX = 64


def warn_of_ignored(response: StreamResponse, ignored: Sequence[str]) -> None:
    """List ignored fields and parameters in a ``Warning`` header (RFC 7234, section 5.5), if there are any."""
    if not ignored:
        return
    shown = ", ".join(_printable(name) for name in ignored[:_NAMES_MAX])
    more = f" and {len(ignored) - _NAMES_MAX} more" if len(ignored) > _NAMES_MAX else ""
    response.headers["Warning"] = f'299 allsource "ignored unknown: {shown}{more}"'


def _printable(name: str) -> str:
    """A caller's name as it may stand in a header: ASCII without quotes or control characters."""
    short = name[:_NAME_CHARACTERS_MAX]
    return "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "?" for c in short)
