"""The one function that reads a request path.

Frameworks disagree on what a percent-encoded path means: some decode before they split, some drop ``..``, some
re-encode. Both services route on the path exactly as it came over the wire, through `read_path`, and the gateway
forwards the very bytes that it judged; so what is authorised is what is executed.

Two things the gateway never sees, because the server below it has taken them off: ``http://host`` in front of a path,
and a fragment behind it. It judges and forwards what is between them. The core, asked itself, refuses both.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from allsource_shared.problems import ApiError

__all__ = ["encode_segment", "read_path", "read_target"]

# RFC 3986 pchar without the percent sign, plus the slash; whatever else arrives was not encoded.
_PLAIN: Final = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*\Z")
_ESCAPED: Final = re.compile(rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/]|%[0-9A-Fa-f]{2})*\Z")


def read_path(raw_path: bytes) -> tuple[str, ...]:
    """Split a raw request path into its decoded segments: ``b"/a/b%2Fc"`` gives ``("a", "b/c")``.

    Args:
        raw_path: the path of the request target, without the query string, as it came over the wire.

    Returns:
        One str a segment, each decoded once. ``b"/"`` gives ``()``.

    Raises:
        ApiError: ``bad_path`` for a path that does not start with a slash, an empty segment (a trailing slash
            included), ``.`` or ``..`` in any encoding, an invalid escape, invalid UTF-8, a NUL, or a byte that
            RFC 3986 does not allow unescaped.
    """
    if raw_path == b"/":
        return ()
    if not raw_path.startswith(b"/"):
        raise ApiError("bad_path", "the path must begin with a slash")
    if _PLAIN.match(raw_path) is None:
        if _ESCAPED.match(raw_path) is None:
            raise ApiError("bad_path", "the path has an invalid percent escape or a character that must be escaped")
        segments = tuple(_decode(raw) for raw in raw_path[1:].split(b"/"))
    else:
        segments = tuple(raw_path[1:].decode("ascii").split("/"))
    for segment in segments:
        if not segment:
            raise ApiError("bad_path", "the path has an empty segment")
        if segment in (".", ".."):
            raise ApiError("bad_path", "the path has a segment that is . or ..")
    return segments


def _decode(raw: bytes) -> str:
    try:
        segment = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise ApiError("bad_path", "the path is not valid UTF-8") from None
    if "\0" in segment:
        raise ApiError("bad_path", "the path has a NUL character (%00)")
    return segment


def read_target(target: bytes) -> tuple[bytes, bytes]:
    """Split a raw request target into path and query string, neither decoded."""
    path, _, query = target.partition(b"?")
    return path, query


def encode_segment(text: str) -> str:
    """Percent-encode one path segment such that `read_path` gives `text` back; ``a/b`` becomes ``a%2Fb``."""
    return quote(text, safe="")
