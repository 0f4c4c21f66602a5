"""Every error that a request can meet has its problem, and none is left without."""

from __future__ import annotations

import errno
import time
import uuid
from pathlib import Path

import pytest

from allsource_core import engine
from allsource_core.api.problem_details import problem_response, to_api_error
from allsource_core.identity.errors import (
    IdentityError,
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
    TenancyError,
    TenantExistsError,
    UnknownTenantError,
)
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.problems import ApiError

ERRORS: list[tuple[Exception, int, str]] = [
    (engine.InvalidEventError(3, "payload", "is wrong"), 400, "invalid_event"),
    (engine.InvalidEventError(None, "events", "are too many"), 400, "invalid_event"),
    (engine.VersionConflictError("e", "none", 3), 409, "version_conflict"),
    (engine.EventIdConflictError([(0, uuid.uuid4())], changed=True), 409, "event_id_conflict"),
    (engine.EventIdConflictError([(1, uuid.uuid4())], changed=False), 409, "event_id_conflict"),
    (engine.ConditionFailedError(7, uuid.uuid4(), 3), 409, "condition_failed"),
    (engine.ConditionTooBroadError("too much to look at"), 400, "condition_too_broad"),
    (engine.NotFoundError("entity 'e' has no events"), 404, "not_found"),
    (engine.OverloadedError("too much waits"), 503, "overloaded"),
    (engine.StoreReadOnlyError("[Errno 5] /srv/data"), 503, "read_only"),
    (engine.StoreReadOnlyError("[Errno 5] /srv/data", "log_failed"), 503, "read_only"),
    (engine.CorruptionError(Path("/srv/data/log/1.log"), 7, "its checksum does not match"), 500, "storage_damaged"),
    (engine.KeysDamagedError("keys are being made anew"), 503, "storage_mending"),
    (engine.AppendUncertainError("[Errno 5] a detail of the machine"), 503, "append_uncertain"),
    (engine.StoreClosedError("closed"), 503, "stopping"),
    (OSError(errno.EMFILE, "Too many open files", "/srv/data/segments/1.parquet"), 503, "overloaded"),
    (PermissionError(errno.EACCES, "[Errno 13] Detail: '/srv/data'"), 503, "overloaded"),
    (InvalidCredentialsError(), 401, "invalid_credentials"),
    (SignInQueueFullError(), 429, "rate_limited"),
    (SlowedDownError(0.3), 429, "rate_limited"),
    (TenantInactiveError(), 403, "tenant_inactive"),
    (RefreshRefusedError(), 401, "unauthorized"),
    (UnknownSessionError("there is no such session"), 404, "not_found"),
    (SessionsUnavailableError("/srv/data/derived/sessions.sqlite: disk full"), 503, "overloaded"),
    (UnknownUserError("there is no such user"), 404, "not_found"),
    (UnknownKeyError("there is no such key"), 404, "not_found"),
    (UsernameTakenError("the username is taken"), 409, "already_exists"),
    (InvalidUserError("email", "is no address"), 400, "invalid_body"),
    (InvalidUserError("new", "is too short", "weak_password"), 400, "weak_password"),
    (IdentityRuleError("last_admin", "the last one can't be removed"), 409, "last_admin"),
    (UnknownTenantError("there is no such tenant"), 404, "not_found"),
    (TenantExistsError("the tenant exists"), 409, "already_exists"),
    (ReservedTenantError("it is the store's own"), 400, "reserved_tenant"),
    (DefaultTenantError("the tenant default can't be deleted"), 409, "default_tenant"),
    (InvalidTenantError("name", "must not be empty"), 400, "invalid_body"),
    (DeletionPendingError("it goes on"), 409, "not_yet"),
    (QuotaExceededError("max_api_keys", limit=2, used=2), 403, "quota_exceeded"),
    (QuotaExceededError("max_events_per_day", limit=9, used=8, resets_at=1_000_000), 429, "quota_exceeded"),
]
NOT_OF_A_REQUEST = {"StoreLockedError", "ForeignDirectoryError", "RepairRefusedError", "StateNotKeptError"}
OF_BATCHES_ALONE = {"condition_failed", "condition_too_broad"}


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS])
def test_an_error_is_the_problem_that_was_agreed(error: Exception, status: int, code: str):
    refusal = to_api_error(error)
    assert refusal is not None
    assert (refusal.code, refusal.status) == (code, status)
    response = problem_response(refusal, "request-1")
    assert (response.status, response.content_type) == (status, "application/problem+json")
    assert response.headers["X-Request-ID"] == "request-1"
    assert "Errno" not in refusal.detail
    assert "/srv" not in refusal.detail


@pytest.mark.parametrize("code", ["not_yet", "overloaded", "rate_limited", "stopping", "storage_mending"])
def test_what_passes_says_when_to_try_again(code: str):
    refusals = [to_api_error(error) for error, _, of_error in ERRORS if of_error == code]
    assert refusals
    for refusal in refusals:
        assert refusal is not None
        assert refusal.headers["Retry-After"] == "1"


def test_whoever_is_slowed_down_is_told_for_how_long():
    refusal = to_api_error(SlowedDownError(4.2))
    assert refusal is not None
    assert refusal.headers["Retry-After"] == "5"


def test_no_error_of_the_packages_below_is_forgotten():
    known = {type(error).__name__ for error, *_ in ERRORS} | NOT_OF_A_REQUEST
    assert {error.__name__ for error in engine.EngineError.__subclasses__()} <= known
    assert {error.__name__ for error in IdentityError.__subclasses__()} <= known
    assert {error.__name__ for error in TenancyError.__subclasses__()} <= known


def test_append_routes_declare_what_appends_can_meet():
    codes = {code for error, _, code in ERRORS if isinstance(error, engine.EngineError)} - {"stopping", "not_found"}
    problems = {row.operation: set(row.problems) for row in CORE_ROUTES}
    assert codes <= problems["append_batch"]
    assert codes - OF_BATCHES_ALONE <= problems["append_event"]


def test_a_store_that_takes_no_appends_says_why_by_code():
    refusal = to_api_error(engine.StoreReadOnlyError("words of the machine", "disk_space_low"))
    assert refusal is not None
    assert refusal.detail.startswith("disk_space_low: ")


def test_what_failed_a_condition_is_named():
    event_id = uuid.uuid4()
    refusal = to_api_error(engine.ConditionFailedError(7, event_id, 3))
    assert refusal is not None
    assert (refusal.expected, refusal.actual) == ({"after": 3}, {"position": 7, "event_id": str(event_id)})


def test_a_quota_says_how_much_it_is_and_when_it_begins_anew():
    resets_at = (int(time.time()) + 100) * 1_000_000
    refusal = to_api_error(QuotaExceededError("max_events_per_day", limit=9, used=8, resets_at=resets_at))
    assert refusal is not None
    assert (refusal.expected, refusal.actual) == (9, 8)
    assert "max_events_per_day" in refusal.detail
    assert resets_at / 1_000_000 - time.time() <= int(refusal.headers["Retry-After"]) <= 100
    for_good = to_api_error(QuotaExceededError("max_api_keys", limit=2, used=2))
    assert for_good is not None
    assert "Retry-After" not in for_good.headers


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RecursionError(), OSError(5)])
def test_a_defect_is_no_refusal(error: Exception):
    assert to_api_error(error) is None


def test_a_refusal_stays_itself():
    error = ApiError("not_found", "gone")
    assert to_api_error(error) is error
