"""``python -m examples.flights``."""

from __future__ import annotations

import pytest

from examples.flights import __main__ as command
from examples.flights.gateway import GatewayError


@pytest.fixture
def runs(monkeypatch):
    """The calls of `run_demo`, which does nothing."""
    calls = []

    class Report:
        def text(self) -> str:
            return "the report"

    def run_demo(*arguments, **options):
        calls.append((arguments, options))
        return Report()

    monkeypatch.setattr(command, "run_demo", run_demo)
    monkeypatch.delenv("ALLSOURCE_PASSWORD", raising=False)
    return calls


def test_password_comes_from_the_environment(runs, monkeypatch, capsys):
    monkeypatch.setenv("ALLSOURCE_PASSWORD", "secret")
    assert command.main(["--limit", "10"]) == 0
    assert runs == [(("http://127.0.0.1:8081", "admin", "secret"), {"flights_limit": 10, "skip_load": False})]
    assert capsys.readouterr().out == "the report\n"


def test_password_file_comes_first_and_its_last_line_end_does_not_count(runs, monkeypatch, tmp_path):
    monkeypatch.setenv("ALLSOURCE_PASSWORD", "other")
    file = tmp_path / "password"
    file.write_text("from file \n")
    assert command.main(["--password-file", str(file), "--username", "ann", "--skip-load"]) == 0
    assert runs[0][0] == ("http://127.0.0.1:8081", "ann", "from file ")
    assert runs[0][1]["skip_load"]


def test_no_password_is_an_error_that_says_where_to_put_it(runs, capsys):
    assert command.main([]) == 1
    assert "set ALLSOURCE_PASSWORD or give --password-file" in capsys.readouterr().err
    assert runs == []


def test_missing_password_file_is_an_error_without_a_trace(runs, tmp_path, capsys):
    assert command.main(["--password-file", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("arguments", [["--password", "secret"], ["--limit", "0"], ["--limit", "many"]])
def test_password_as_an_argument_and_a_bad_limit_are_refused(runs, arguments):
    with pytest.raises(SystemExit) as raised:
        command.main(arguments)
    assert raised.value.code == 2


def test_error_of_the_gateway_is_printed_and_is_the_exit_code(monkeypatch, capsys):
    def run_demo(*arguments, **options):
        raise GatewayError("POST /api/v1/auth/login: 401 invalid_credentials: wrong")

    monkeypatch.setattr(command, "run_demo", run_demo)
    monkeypatch.setenv("ALLSOURCE_PASSWORD", "secret")
    assert command.main([]) == 1
    error = capsys.readouterr().err
    assert error == "error: POST /api/v1/auth/login: 401 invalid_credentials: wrong\n"
