"""Which media type a caller wants."""

from __future__ import annotations

from aiohttp import hdrs

from allsource_core.api.call import Call
from allsource_shared.problems import ApiError

__all__ = ["preferred_type"]


def preferred_type(call: Call) -> str:
    """The type of the route that ``Accept`` ranks highest; the route's first where it has no preference.

    Raises:
        ApiError: ``not_acceptable`` where it takes none of them.
    """
    offered = call.match.route.response_types
    accept = call.request.headers.get(hdrs.ACCEPT)
    if accept is None or accept == "*/*":
        return offered[0]
    ranked = [(_quality(part), part.partition(";")[0].strip().lower()) for part in accept.split(",")]
    best, best_quality = None, 0.0
    for media in offered:
        patterns = (media, media.partition("/")[0] + "/*", "*/*")
        # The most specific pattern that is named decides about a type (RFC 9110, section 12.5.1).
        quality = next((q for pattern in patterns for q, name in ranked if name == pattern), 0.0)
        if quality > best_quality:
            best, best_quality = media, quality
    if best is None:
        raise ApiError("not_acceptable", f"this route answers {', '.join(offered)}")
    return best


def _quality(part: str) -> float:
    for parameter in part.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
