"""Errors as they travel: ``application/problem+json`` (RFC 9457).

``PROBLEMS`` is the one table of machine codes; docs/errors.md is generated from it. Whoever answers a request
raises `ApiError` with a code of that table; the service's edge turns it into a `Problem` with `ApiError.to_problem`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from allsource_shared.masking import mask_credentials

__all__ = ["PROBLEMS", "PROBLEM_MEDIA_TYPE", "ApiError", "Problem", "ProblemItem", "ProblemKind"]

PROBLEM_MEDIA_TYPE: Final = "application/problem+json"


class ProblemKind(msgspec.Struct, frozen=True):
    """One row of the table of errors.

    Attributes:
        status: the HTTP status.
        title: the same for every occurrence.
        meaning: for the documentation: when it happens, and what the caller can do.
        other_status: of some occurrences, as `meaning` says; None where there are none.
    """

    status: int
    title: str
    meaning: str
    other_status: int | None = None


PROBLEMS: Final[dict[str, ProblemKind]] = {
    "bad_request": ProblemKind(400, "Bad request", "The request is malformed in a way that no other code names."),
    "bad_path": ProblemKind(
        400,
        "Bad path",
        "The path has an empty, `.` or `..` segment in any encoding, an invalid escape, invalid UTF-8 or `%00`.",
    ),
    "bad_query": ProblemKind(
        400, "Bad query string", "A query parameter is unknown, repeated, malformed or out of range; `errors` names it."
    ),
    "bad_header": ProblemKind(
        400, "Bad header", "A request header has a value that is not allowed; `detail` names it."
    ),
    "malformed_json": ProblemKind(400, "Malformed JSON", "The body is not JSON, or not UTF-8."),
    "invalid_body": ProblemKind(
        400, "Invalid body", "The body is JSON of the wrong shape; `errors` names the place and what is allowed there."
    ),
    "invalid_event": ProblemKind(
        400, "Invalid event", "An event breaks a rule of the store; `errors` names its index and field."
    ),
    "condition_too_broad": ProblemKind(
        400,
        "Condition too broad",
        "The condition of an append has too many items or values, an empty item, or would have to look at too many "
        "events: name a later `after`, or narrower items.",
    ),
    "invalid_cursor": ProblemKind(
        400, "Invalid cursor", "The cursor is not one that this query returned. Start again without it."
    ),
    "reserved_tenant": ProblemKind(
        400, "Reserved tenant", "Tenants whose name begins with `_` belong to the store itself."
    ),
    "unauthorized": ProblemKind(
        401, "Not authenticated", "There is no credential, or it is malformed, expired or not ours. Sign in again."
    ),
    "invalid_credentials": ProblemKind(401, "Sign-in refused", "Username or password is wrong."),
    "forbidden": ProblemKind(403, "Not allowed", "The caller is known but lacks the permission that `detail` names."),
    "tenant_inactive": ProblemKind(
        403, "Tenant inactive", "The tenant of the credential was deactivated. An administrator can activate it again."
    ),
    "password_change_required": ProblemKind(
        403,
        "Password change required",
        "An administrator set the password: it must be changed with `POST /api/v1/auth/password` before anything else.",
    ),
    "admin_outside_default": ProblemKind(
        400, "Administrator outside the default tenant", "Administrators exist in the tenant `default` only."
    ),
    "weak_password": ProblemKind(
        400,
        "Password too weak",
        "The password is shorter than `auth.password_min_length`, longer than 1,024 bytes, the user's own name, or the "
        "one that it is to replace; `errors` names its place.",
    ),
    "last_admin": ProblemKind(
        409, "Last administrator", "The last active administrator can't be removed, demoted or deactivated."
    ),
    "default_tenant": ProblemKind(409, "Default tenant", "The tenant `default` can't be deleted or deactivated."),
    "already_exists": ProblemKind(409, "Already exists", "Something has this name or id; `detail` says what."),
    "not_found": ProblemKind(404, "Not found", "There is no such route or thing, or it belongs to another tenant."),
    "method_not_allowed": ProblemKind(405, "Method not allowed", "`Allow` lists the methods of this route."),
    "not_acceptable": ProblemKind(406, "Not acceptable", "The route offers none of the types that `Accept` asks for."),
    "request_timeout": ProblemKind(408, "Request timed out", "The body did not arrive in time. Nothing was done."),
    "version_conflict": ProblemKind(
        409, "Version conflict", "An entity is not at the expected version; see `expected` and `actual`."
    ),
    "condition_failed": ProblemKind(
        409,
        "Condition failed",
        "An event exists that the condition of the append excludes: `actual` has its position and id. Nothing was "
        "stored; read again and decide anew.",
    ),
    "event_id_conflict": ProblemKind(
        409,
        "Event id conflict",
        "An event id is known with other content, or only a part of the batch is known; `errors` lists them.",
    ),
    "not_yet": ProblemKind(
        409,
        "Not yet",
        "The store did not reach `min_position` within `wait_ms`; or what was asked for goes on by itself "
        "and takes longer than a request may. Ask again, or wait longer.",
    ),
    "precondition_failed": ProblemKind(
        412, "Precondition failed", "What is to be replaced is not what `If-Match` names: `actual` has its `ETag`."
    ),
    "body_too_large": ProblemKind(
        413, "Body too large", "The body, as sent or unpacked, is over the limit in `detail`."
    ),
    "unsupported_media_type": ProblemKind(
        415, "Unsupported media type", "`Content-Type` or `Content-Encoding` is not one that the route reads."
    ),
    "rate_limited": ProblemKind(429, "Too many requests", "Try again after `Retry-After` seconds."),
    "quota_exceeded": ProblemKind(
        429,
        "Quota exceeded",
        "The tenant has used up a quota: `detail` names it, `expected` is the quota, `actual` what is used. 429 with "
        "`Retry-After` where it begins anew by itself (events a day, queries an hour), else 403.",
        other_status=403,
    ),
    "internal_error": ProblemKind(
        500, "Internal error", "A defect of ours. The log has the cause under the answer's `request_id`."
    ),
    "storage_damaged": ProblemKind(
        500,
        "Storage damaged",
        "Stored bytes that the request needs are damaged. The log names file and offset; restore them from a backup.",
    ),
    "storage_mending": ProblemKind(
        503,
        "Storage being mended",
        "Stored bytes that the request needs are damaged, and are being made anew from the events. Nothing was stored; "
        "try again after `Retry-After` seconds.",
    ),
    "starting": ProblemKind(503, "Starting", "The store is recovering; `/health/ready` shows how far it is."),
    "stopping": ProblemKind(503, "Stopping", "The service is shutting down and takes no new requests."),
    "read_only": ProblemKind(
        503, "Read only", "The store takes no appends at present; `detail` says why. Nothing was stored."
    ),
    "overloaded": ProblemKind(
        503,
        "Overloaded",
        "Too much is waiting already, bodies and answers under way take too much memory, or the system has no "
        "descriptors or memory left, or refuses a file. Nothing was stored; try again after `Retry-After` seconds.",
    ),
    "append_uncertain": ProblemKind(
        503,
        "Append uncertain",
        "The disk failed while the events were being written: they may or may not be there. "
        "Repeating is safe only with event ids.",
    ),
    "core_unavailable": ProblemKind(
        503, "Core unavailable", "The gateway can't reach the core; `detail` says whether a write may have happened."
    ),
}


class ProblemItem(msgspec.Struct, frozen=True):
    """One place that is wrong: where (``events[3].payload``, ``query.limit``) and why."""

    path: str
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    """The body of every answer that reports an error, members of RFC 9457 first, ours after them."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    request_id: str
    errors: list[ProblemItem] = []
    policy_id: str | None = None
    expected: Any = None
    actual: Any = None


class ApiError(Exception):
    """A request that is refused, with everything its answer says.

    Args:
        code: a key of `PROBLEMS`.
        detail: what was wrong in this occurrence, and what is allowed. It reaches the caller: no secret, no trace.
        errors: the places that are wrong.
        expected: what a condition asked for, if one failed.
        actual: what was found instead; always present when `expected` is.
        headers: further answer headers (``Allow``, ``Retry-After``, ``WWW-Authenticate`` …).
        other_status: answer with the other of the two statuses that the code has.

    Attributes:
        status: of the answer.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[ProblemItem] = (),
        expected: Any = None,
        actual: Any = None,
        headers: Mapping[str, str] | None = None,
        other_status: bool = False,
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.kind = kind = PROBLEMS[code]
        self.status = kind.other_status if other_status and kind.other_status is not None else kind.status
        self.detail = detail
        self.errors = list(errors)
        self.expected = expected
        self.actual = actual
        self.headers = dict(headers or {})
        if self.status == 401:
            self.headers.setdefault("WWW-Authenticate", 'Bearer realm="allsource"')

    def to_problem(self, request_id: str) -> Problem:
        """The answer's body for the request of this id. A credential that it would quote is masked.

        Callers put credentials where names belong; what answers them is shown and kept in places that they don't think
        of.
        """
        return Problem(
            type=f"urn:allsource:error:{self.code}",
            title=self.kind.title,
            status=self.status,
            detail=mask_credentials(self.detail),
            instance=f"urn:allsource:request:{request_id}",
            error=self.code,
            request_id=request_id,
            errors=[ProblemItem(mask_credentials(item.path), mask_credentials(item.message)) for item in self.errors],
            expected=_masked(self.expected),
            actual=self.actual,
        )


def _masked(value: Any) -> Any:
    return mask_credentials(value) if isinstance(value, str) else value
