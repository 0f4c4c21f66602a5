"""Which request is being served: its id and its trace, for every log line and every answer.

The ids live in one context variable, so that whatever logs while a request is served carries them; setting it is
all that a request pays for that.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from contextvars import ContextVar
from random import getrandbits
from typing import Any, Final, NamedTuple

from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["REQUEST_ID_HEADER", "TRACEPARENT_HEADER", "RequestIds", "add_request_ids", "begin_request"]

REQUEST_ID_HEADER: Final = "X-Request-ID"
TRACEPARENT_HEADER: Final = "traceparent"

# What a client may choose as its request id: it is echoed into headers and logs.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:@=+/-]{1,128}\Z")
_TRACEPARENT_CHARACTERS: Final = 55
"""Of a W3C ``traceparent``. A later version may have more behind them, of any length and with any characters."""

_propagator: Final = TraceContextTextMapPropagator()


class RequestIds(NamedTuple):
    """The names of one request.

    Attributes:
        request_id: the caller's ``X-Request-ID``, or ours.
        trace_id: 32 hex digits.
        traceparent: the W3C header value to send on with calls made for this request.
    """

    request_id: str
    trace_id: str
    traceparent: str


_current: ContextVar[RequestIds | None] = ContextVar("allsource_request", default=None)


def begin_request(request_id: str | None, traceparent: str | None) -> RequestIds:
    """Name the request that the running task serves from here on.

    Args:
        request_id: the caller's ``X-Request-ID``; one that is missing or not 1–128 of ``A-Z a-z 0-9 . _ : @ = + / -``
            is replaced by a new random one.
        traceparent: the caller's W3C ``traceparent``; without a valid one a new trace begins. What a later version of
            it has behind what is known is left out.
    """
    # Names, not secrets. The system's own randomness is a call into the kernel, around which other threads take over.
    fresh = f"{getrandbits(320):080x}"
    if request_id is None or _REQUEST_ID.match(request_id) is None:
        request_id = fresh[:32]
    trace_id = _trace_id(traceparent) if traceparent is not None else None
    if trace_id is None or traceparent is None:
        trace_id = fresh[32:64]
        traceparent = f"00-{trace_id}-{fresh[64:]}-01"
    elif len(traceparent) > _TRACEPARENT_CHARACTERS:
        traceparent = traceparent.strip()[:_TRACEPARENT_CHARACTERS]
    ids = RequestIds(request_id, trace_id, traceparent)
    _current.set(ids)
    return ids


def _trace_id(traceparent: str) -> str | None:
    carrier = {TRACEPARENT_HEADER: traceparent}
    span = get_current_span(_propagator.extract(carrier)).get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else None


def add_request_ids(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The structlog processor that puts the ids into a line that is logged while a request is served."""
    ids = _current.get()
    if ids is not None:
        event.setdefault("request_id", ids.request_id)
        event.setdefault("trace_id", ids.trace_id)
    return event
