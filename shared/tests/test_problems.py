"""Errors on the wire: one shape, one table of codes."""

from __future__ import annotations

import re

import msgspec
import pytest

from allsource_shared.problems import PROBLEMS, ApiError, Problem, ProblemItem


@pytest.mark.parametrize("code", sorted(PROBLEMS))
def test_every_code_comes_back_from_the_wire_as_it_was(code: str):
    problem = ApiError(code, "what was wrong").to_problem("request-1")
    assert msgspec.json.decode(msgspec.json.encode(problem), type=Problem) == problem
    assert problem.error == code
    assert problem.type == f"urn:allsource:error:{code}"


@pytest.mark.parametrize(("code", "kind"), sorted(PROBLEMS.items()))
def test_every_row_of_the_table_is_complete(code: str, kind: object):
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", code)
    assert PROBLEMS[code].status in {400, 401, 403, 404, 405, 406, 408, 409, 412, 413, 415, 429, 500, 503}
    assert PROBLEMS[code].title
    assert PROBLEMS[code].meaning.endswith(".")


def test_titles_name_one_code_each():
    titles = [kind.title for kind in PROBLEMS.values()]
    assert len(set(titles)) == len(titles)


def test_the_shape_of_a_problem_is_pinned():
    error = ApiError(
        "version_conflict", "at 3", errors=[ProblemItem("expected_versions[a]", "is 3")], expected="none", actual=3
    )
    assert msgspec.json.encode(error.to_problem("r-1")) == (
        b'{"type":"urn:allsource:error:version_conflict","title":"Version conflict","status":409,"detail":"at 3",'
        b'"instance":"urn:allsource:request:r-1","error":"version_conflict","request_id":"r-1",'
        b'"errors":[{"path":"expected_versions[a]","message":"is 3"}],"expected":"none","actual":3}'
    )


def test_members_without_a_value_are_left_out():
    assert set(msgspec.to_builtins(ApiError("not_found", "gone").to_problem("r"))) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "error",
        "request_id",
    }


def test_zero_is_an_actual_value_and_stays():
    problem = msgspec.to_builtins(ApiError("version_conflict", "at 0", expected=1, actual=0).to_problem("r"))
    assert (problem["expected"], problem["actual"]) == (1, 0)


@pytest.mark.parametrize("code", sorted(code for code, kind in PROBLEMS.items() if kind.status == 401))
def test_401_says_how_to_authenticate(code: str):
    assert ApiError(code, "who are you").headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("code", sorted(code for code, kind in PROBLEMS.items() if kind.status != 401))
def test_nothing_else_asks_for_authentication(code: str):
    assert "WWW-Authenticate" not in ApiError(code, "x").headers


def test_a_challenge_of_the_raiser_is_kept():
    assert ApiError("unauthorized", "x", headers={"WWW-Authenticate": "Ticket"}).headers == {
        "WWW-Authenticate": "Ticket"
    }


@pytest.mark.parametrize(
    "credential", ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2lnbmF0dXJl", "ask_0123456789_abcdef", "asr_0123_4_abcdef"]
)
def test_a_credential_where_a_name_belongs_is_not_repeated(credential: str):
    error = ApiError(
        "precondition_failed",
        f"there is no tenant {credential!r}; send Authorization: Bearer <token>",
        errors=[ProblemItem(f"query.{credential}", f"{credential}: unknown")],
        expected=credential,
    )
    problem = error.to_problem("r")
    assert credential.encode() not in msgspec.json.encode(problem)
    assert problem.detail == "there is no tenant '***'; send Authorization: Bearer <token>"


def test_a_code_that_is_not_in_the_table_is_a_defect():
    with pytest.raises(KeyError):
        ApiError("no_such_code", "x")


def test_every_code_that_the_sources_raise_is_in_the_table():
    from pathlib import Path

    import allsource_core
    import allsource_shared

    pattern = re.compile(r"""(?:ApiError|_retry|_error)\(\s*"([a-z]+(?:_[a-z]+)*)",""")
    for package in (allsource_core, allsource_shared):
        for path in Path(str(package.__file__)).parent.rglob("*.py"):
            assert set(pattern.findall(path.read_text(encoding="utf-8"))) <= set(PROBLEMS), path.name
