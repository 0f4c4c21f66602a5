"""Which problem each error of the packages below is to an HTTP caller: one table, read by the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs
from aiohttp.web import Response

from allsource_core import engine
from allsource_core.api.call import json_response
from allsource_core.identity.errors import InvalidCredentialsError, SignInQueueFullError
from allsource_shared.context import REQUEST_ID_HEADER
from allsource_shared.problems import PROBLEM_MEDIA_TYPE, ApiError, ProblemItem

__all__ = ["SERVER_NAME", "invalid_event", "problem_response", "to_api_error"]

SERVER_NAME: Final = "allsource"
"""The ``Server`` header: which versions of what are inside is nobody's business."""


def invalid_event(path: str, message: str) -> ApiError:
    """An event that breaks a rule; `path` names it, as ``events[3].payload``."""
    return ApiError("invalid_event", f"{path}: {message}", errors=[ProblemItem(path, message)])


def _invalid_event(error: engine.InvalidEventError) -> ApiError:
    path = error.field if error.index is None else f"events[{error.index}].{error.field}"
    return invalid_event(path, error.message)


def _version_conflict(error: engine.VersionConflictError) -> ApiError:
    item = ProblemItem(f"expected_versions[{error.entity_id}]", str(error))
    return ApiError("version_conflict", str(error), errors=[item], expected=error.expected, actual=error.actual)


def _event_id_conflict(error: engine.EventIdConflictError) -> ApiError:
    message = "known with other content" if error.changed else "known"
    items = [
        ProblemItem(f"events[{index}].event_id", f"{event_id} is {message}") for index, event_id in error.conflicts
    ]
    return ApiError("event_id_conflict", str(error), errors=items)


def _retry(code: str, detail: str) -> ApiError:
    return ApiError(code, detail, headers={"Retry-After": "1"})


_TABLE: Final[dict[type[Exception], Callable[[Any], ApiError]]] = {
    engine.InvalidEventError: _invalid_event,
    engine.VersionConflictError: _version_conflict,
    engine.EventIdConflictError: _event_id_conflict,
    engine.OverloadedError: lambda error: _retry("overloaded", str(error)),
    engine.StoreReadOnlyError: lambda error: ApiError("read_only", error.reason),
    engine.AppendUncertainError: lambda _: ApiError(
        "append_uncertain", "the disk failed during the append; the events may be stored or not"
    ),
    engine.StoreClosedError: lambda _: _retry("stopping", "the service is shutting down"),
    InvalidCredentialsError: lambda _: ApiError("invalid_credentials", "username or password is wrong"),
    SignInQueueFullError: lambda _: _retry("rate_limited", "too many sign-ins are waiting"),
}


def to_api_error(error: Exception) -> ApiError | None:
    """The refusal that an error means, or None for one that is a defect of ours."""
    if isinstance(error, ApiError):
        return error
    translate = _TABLE.get(type(error))
    return translate(error) if translate is not None else None


def problem_response(error: ApiError, request_id: str) -> Response:
    """The answer to a refused request."""
    response = json_response(error.to_problem(request_id), error.kind.status)
    response.content_type = PROBLEM_MEDIA_TYPE
    response.headers.update(error.headers)
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[hdrs.SERVER] = SERVER_NAME
    return response
