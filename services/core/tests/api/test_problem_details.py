"""Every error that a request can meet has its problem, and none is left without."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from allsource_core import engine
from allsource_core.api.problem_details import problem_response, to_api_error
from allsource_core.identity.errors import IdentityError, InvalidCredentialsError, SignInQueueFullError
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.problems import ApiError

ERRORS: list[tuple[Exception, int, str]] = [
    (engine.InvalidEventError(3, "payload", "is wrong"), 400, "invalid_event"),
    (engine.InvalidEventError(None, "events", "are too many"), 400, "invalid_event"),
    (engine.VersionConflictError("e", "none", 3), 409, "version_conflict"),
    (engine.EventIdConflictError([(0, uuid.uuid4())], changed=True), 409, "event_id_conflict"),
    (engine.EventIdConflictError([(1, uuid.uuid4())], changed=False), 409, "event_id_conflict"),
    (engine.OverloadedError("too much waits"), 503, "overloaded"),
    (engine.StoreReadOnlyError("the disk failed"), 503, "read_only"),
    (engine.AppendUncertainError("[Errno 5] a detail of the machine"), 503, "append_uncertain"),
    (engine.StoreClosedError("closed"), 503, "stopping"),
    (InvalidCredentialsError(), 401, "invalid_credentials"),
    (SignInQueueFullError(), 429, "rate_limited"),
]
NOT_OF_A_REQUEST = {engine.StoreLockedError, engine.ForeignDirectoryError, engine.CorruptionError}


@pytest.mark.parametrize(("error", "status", "code"), ERRORS, ids=[type(error).__name__ for error, *_ in ERRORS])
def test_an_error_is_the_problem_that_was_agreed(error: Exception, status: int, code: str):
    refusal = to_api_error(error)
    assert refusal is not None
    assert (refusal.code, refusal.kind.status) == (code, status)
    response = problem_response(refusal, "request-1")
    assert (response.status, response.content_type) == (status, "application/problem+json")
    assert response.headers["X-Request-ID"] == "request-1"
    assert "Errno" not in refusal.detail


@pytest.mark.parametrize("code", ["overloaded", "rate_limited", "stopping"])
def test_what_passes_says_when_to_try_again(code: str):
    (refusal,) = [to_api_error(error) for error, _, of_error in ERRORS if of_error == code]
    assert refusal is not None
    assert refusal.headers["Retry-After"] == "1"


def test_no_error_of_the_packages_below_is_forgotten():
    known = {type(error) for error, *_ in ERRORS} | NOT_OF_A_REQUEST
    assert set(engine.EngineError.__subclasses__()) <= known
    assert set(IdentityError.__subclasses__()) <= known


def test_append_routes_declare_what_appends_can_meet():
    codes = {code for error, _, code in ERRORS if isinstance(error, engine.EngineError)} - {"stopping"}
    for row in CORE_ROUTES:
        if row.operation.startswith("append"):
            assert codes <= set(row.problems)


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), engine.CorruptionError(Path("log"), 1, "x"), RecursionError(), OSError(5)]
)
def test_a_defect_is_no_refusal(error: Exception):
    assert to_api_error(error) is None


def test_a_refusal_stays_itself():
    error = ApiError("not_found", "gone")
    assert to_api_error(error) is error
