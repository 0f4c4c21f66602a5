"""Which header fields travel through the gateway.

Fields that concern one connection only (RFC 9110, section 7.6.1) end here in both directions. What a client claims
about itself in ``Forwarded`` and ``X-Forwarded-*`` ends here too, and ``X-Forwarded-For`` is set anew (see
`trusted_proxies`); the core
believes it because of the gateway's key beside it, which no client can send through.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from allsource_control_plane.asgi import RawHeaders
from allsource_control_plane.gateway.credentials import CREDENTIAL_FIELDS
from allsource_shared.context import REQUEST_ID_HEADER, TRACEPARENT_HEADER, RequestIds
from allsource_shared.problems import ApiError
from allsource_shared.wire.internal import GATEWAY_KEY_HEADER

__all__ = ["answer_headers", "request_headers"]

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

# Set anew for the core, or answered here: the server answers `Expect: 100-continue` when the body is first asked for.
_OURS: Final = frozenset(
    {
        b"content-length",
        b"expect",
        b"forwarded",
        b"host",
        b"traceparent",
        GATEWAY_KEY_HEADER.lower().encode(),
        b"x-real-ip",
        b"x-request-id",
    }
)
_REQUEST_DROPPED: Final = _HOP_BY_HOP | _OURS
_FORWARDED_PREFIX: Final = b"x-forwarded-"

# The server in front of us writes these two itself, and the exchange adds the request id.
_ANSWER_DROPPED: Final = _HOP_BY_HOP | {b"date", b"server", b"x-request-id"}


def request_headers(
    headers: RawHeaders, ids: RequestIds, caller: str | None, *, gateway_key: str
) -> list[tuple[str, str]]:
    """The header fields that the core gets.

    Args:
        headers: as the client sent them.
        ids: of the request.
        caller: the address that the request comes from.
        gateway_key: by which the core knows that they come from the gateway.

    Raises:
        ApiError: ``bad_header`` for a value that is not UTF-8; the core's parser would read other bytes than came.
    """
    dropped = _REQUEST_DROPPED | _connection_options(headers)
    kept: list[tuple[str, str]] = []
    trace_continues = False
    for name, value in headers:
        if name in dropped or name.startswith(_FORWARDED_PREFIX):
            trace_continues = trace_continues or (name == b"traceparent" and value == ids.traceparent.encode())
            continue
        try:
            kept.append((name.decode("ascii"), value.decode("utf-8")))
        except UnicodeDecodeError:
            raise ApiError("bad_header", f"the value of {name.decode('ascii', 'replace')} is not UTF-8") from None
    if not trace_continues:
        kept = [field for field in kept if field[0] != "tracestate"]
    kept.append((REQUEST_ID_HEADER, ids.request_id))
    kept.append((TRACEPARENT_HEADER, ids.traceparent))
    kept.append((GATEWAY_KEY_HEADER, gateway_key))
    if caller is not None:
        kept.append(("X-Forwarded-For", caller))
    return kept


def answer_headers(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """The header fields of the core's answer that the client gets."""
    lowered = [(name.lower(), value) for name, value in headers]
    dropped = _ANSWER_DROPPED | _connection_options(lowered)
    return [field for field in lowered if field[0] not in dropped]


def _connection_options(headers: RawHeaders) -> set[bytes]:
    """The fields that ``Connection`` names as belonging to this connection."""
    options: set[bytes] = set()
    for name, value in headers:
        if name == b"connection":
            options.update(option.strip().lower() for option in value.split(b","))
    # A length that frames the body is not the client's to hide, nor is who calls and for which tenant: what the gateway
    # judged is what the core gets.
    return options - {b"content-length"} - CREDENTIAL_FIELDS
