"""Which problem each error of the packages below is to an HTTP caller: one table, read by the dispatcher."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs
from aiohttp.web import Response

from allsource_core import engine
from allsource_core.api.call import json_response
from allsource_core.identity.errors import (
    IdentityRuleError,
    InvalidCredentialsError,
    InvalidUserError,
    RefreshRefusedError,
    SessionsUnavailableError,
    SignInQueueFullError,
    SlowedDownError,
    TenantInactiveError,
    UnknownKeyError,
    UnknownSessionError,
    UnknownUserError,
    UsernameTakenError,
)
from allsource_core.tenancy.errors import (
    DefaultTenantError,
    DeletionPendingError,
    InvalidTenantError,
    QuotaExceededError,
    ReservedTenantError,
    TenantExistsError,
    UnknownTenantError,
)
from allsource_shared.context import REQUEST_ID_HEADER
from allsource_shared.problems import PROBLEM_MEDIA_TYPE, ApiError, ProblemItem
from allsource_shared.wire.times import format_instant

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


def _condition_failed(error: engine.ConditionFailedError) -> ApiError:
    actual = {"position": error.position, "event_id": str(error.event_id)}
    return ApiError("condition_failed", str(error), expected={"after": error.after}, actual=actual)


def _invalid_user(error: InvalidUserError) -> ApiError:
    return ApiError(error.code, str(error), errors=[ProblemItem(error.field, error.message)])


def _read_only(error: engine.StoreReadOnlyError) -> ApiError:
    # The store's own words may name files of the machine; those are for the log, and for `/health` with `metrics`.
    why = _READ_ONLY.get(error.code or "", "it can't be written at present")
    return ApiError("read_only", f"{error.code or 'read_only'}: {why}")


_READ_ONLY: Final[dict[str, str]] = {
    "disk_space_low": "little space is left on the disk of the store; it goes on when there is more",
    "disk_full": "no space is left on the disk of the store; it goes on when there is some",
    "log_blocked": "no new file can be made for the log; it goes on when one can",
    "log_failed": "the log could not be written, nor repaired; the service must be restarted",
    "storage_damaged": "stored data is damaged",
    "old_format": "the data directory has the format of an older release; allsource-admin store upgrade makes it new",
}


def _quota_exceeded(error: QuotaExceededError) -> ApiError:
    if error.resets_at is None:
        return ApiError("quota_exceeded", str(error), expected=error.limit, actual=error.used, other_status=True)
    seconds = max(1, math.ceil(error.resets_at / 1_000_000 - time.time()))
    return ApiError(
        "quota_exceeded",
        f"{error}; it begins anew at {format_instant(error.resets_at)}",
        expected=error.limit,
        actual=error.used,
        headers={"Retry-After": str(seconds)},
    )


def _invalid_tenant(error: InvalidTenantError) -> ApiError:
    return ApiError("invalid_body", str(error), errors=[ProblemItem(error.field, error.message)])


def _retry(code: str, detail: str) -> ApiError:
    return ApiError(code, detail, headers={"Retry-After": "1"})


_TABLE: Final[dict[type[Exception], Callable[[Any], ApiError]]] = {
    engine.InvalidEventError: _invalid_event,
    engine.VersionConflictError: _version_conflict,
    engine.EventIdConflictError: _event_id_conflict,
    engine.ConditionFailedError: _condition_failed,
    engine.ConditionTooBroadError: lambda error: ApiError("condition_too_broad", str(error)),
    engine.NotFoundError: lambda error: ApiError("not_found", str(error)),
    engine.OverloadedError: lambda error: _retry("overloaded", str(error)),
    engine.StoreReadOnlyError: _read_only,
    engine.AppendUncertainError: lambda _: ApiError(
        "append_uncertain", "the disk failed meanwhile; what was to be stored may be stored or not"
    ),
    engine.CorruptionError: lambda _: ApiError(
        "storage_damaged", "stored bytes that the request needs are damaged; the log names the file"
    ),
    engine.KeysDamagedError: lambda error: _retry("storage_mending", str(error)),
    engine.StoreClosedError: lambda _: _retry("stopping", "the service is shutting down"),
    InvalidCredentialsError: lambda _: ApiError("invalid_credentials", "username or password is wrong"),
    SignInQueueFullError: lambda _: _retry("rate_limited", "too many sign-ins are waiting"),
    SlowedDownError: lambda error: ApiError(
        "rate_limited", str(error), headers={"Retry-After": str(math.ceil(error.retry_after_seconds))}
    ),
    TenantInactiveError: lambda _: ApiError("tenant_inactive", "the tenant of the user was deactivated"),
    RefreshRefusedError: lambda _: ApiError("unauthorized", "the refresh token is not good, or not any more; sign in"),
    UnknownSessionError: lambda error: ApiError("not_found", str(error)),
    SessionsUnavailableError: lambda _: _retry("overloaded", "sessions can't be stored at present"),
    UnknownUserError: lambda error: ApiError("not_found", str(error)),
    UnknownKeyError: lambda error: ApiError("not_found", str(error)),
    UsernameTakenError: lambda error: ApiError("already_exists", str(error)),
    InvalidUserError: _invalid_user,
    IdentityRuleError: lambda error: ApiError(error.code, str(error)),
    UnknownTenantError: lambda error: ApiError("not_found", str(error)),
    TenantExistsError: lambda error: ApiError("already_exists", str(error)),
    ReservedTenantError: lambda error: ApiError("reserved_tenant", str(error)),
    DefaultTenantError: lambda error: ApiError("default_tenant", str(error)),
    DeletionPendingError: lambda error: _retry("not_yet", str(error)),
    InvalidTenantError: _invalid_tenant,
    QuotaExceededError: _quota_exceeded,
}


def to_api_error(error: Exception) -> ApiError | None:
    """The refusal that an error means, or None for one that is a defect of ours."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OSError) and error.errno:
        # Not the error's own words, which name files of the machine.
        return _retry("overloaded", f"the system refuses it at present: {os.strerror(error.errno)}")
    translate = _TABLE.get(type(error))
    return translate(error) if translate is not None else None


def problem_response(error: ApiError, request_id: str) -> Response:
    """The answer to a refused request."""
    response = json_response(error.to_problem(request_id), error.status)
    response.content_type = PROBLEM_MEDIA_TYPE
    response.headers.update(error.headers)
    response.headers[REQUEST_ID_HEADER] = request_id
    response.headers[hdrs.SERVER] = SERVER_NAME
    return response
