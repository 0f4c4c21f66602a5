"""``If-Match``: replacing only what the caller has seen."""

from __future__ import annotations

from aiohttp import hdrs

from allsource_core.api.call import Call
from allsource_shared.problems import ApiError

__all__ = ["check_if_match"]


def check_if_match(call: Call, tag: str | None, *, what: str) -> None:
    """Refuse to replace what the caller has not seen (RFC 9110, section 13.1.1).

    Args:
        call: that replaces something.
        tag: the ``ETag`` of what is there, with its quotes; None if nothing is.
        what: it is, for people.

    Raises:
        ApiError: ``precondition_failed``.
    """
    wanted = call.request.headers.get(hdrs.IF_MATCH)
    if wanted is None:
        return
    tags = [one.strip() for one in wanted.split(",")]
    if tag is None or ("*" not in tags and tag not in tags):
        detail = f"the {what} is not the one that If-Match names" if tag is not None else f"there is no {what} yet"
        raise ApiError("precondition_failed", detail, expected=wanted, actual=tag)
