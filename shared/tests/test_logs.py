"""Log lines: one shape for ours and those of libraries, with the request's ids and without credentials."""

from __future__ import annotations

import contextvars
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from allsource_shared.context import begin_request
from allsource_shared.logs import configure_logging, mask_secrets
from allsource_shared.settings import LoggingSettings

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1LTEifQ.c2lnbmF0dXJl"
API_KEY = "ask_0123456789abcdef.secretpart"


class Lines:
    """What was written to the stream of the logs."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def one(self) -> dict[str, Any]:
        (line,) = self.text.splitlines()
        return json.loads(line)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def configure() -> Callable[..., Lines]:
    def configure(**settings: Any) -> Lines:
        lines = Lines()
        configure_logging(LoggingSettings(**{"format": "json", **settings}), service="core", stream=lines.stream)
        return lines

    return configure


@pytest.fixture(params=["json", "console"])
def lines(request: pytest.FixtureRequest, configure: Callable[..., Lines]) -> Lines:
    return configure(format=request.param)


def in_request(function: Callable[[], None]) -> None:
    """Run a function as a request would be served: with ids that end with it."""

    def run() -> None:
        begin_request("request-7", "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
        function()

    contextvars.copy_context().run(run)


def test_a_line_is_one_json_object_with_time_level_and_service(configure: Callable[..., Lines]):
    lines = configure()
    structlog.get_logger().info("event_name", number=3, nested={"a": [1, None]})
    line = lines.one()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "event_name", "level": "info", "service": "core", "number": 3, "nested": {"a": [1, None]}}


def test_a_line_of_a_library_has_the_same_shape(configure: Callable[..., Lines]):
    lines = configure()
    logging.getLogger("some.library").warning("went %s", "wrong")
    line = lines.one()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "went wrong", "level": "warning", "service": "core"}


def test_every_line_of_a_request_carries_its_ids(configure: Callable[..., Lines]):
    lines = configure()

    def serve() -> None:
        structlog.get_logger().info("ours")
        logging.getLogger("library").info("theirs")

    in_request(serve)
    for line in map(json.loads, lines.text.splitlines()):
        assert (line["request_id"], line["trace_id"]) == ("request-7", "0123456789abcdef0123456789abcdef")


def test_outside_a_request_there_are_no_ids(configure: Callable[..., Lines]):
    lines = configure()
    structlog.get_logger().info("ours")
    assert not {"request_id", "trace_id"} & set(lines.one())


def test_lines_below_the_level_are_not_written(configure: Callable[..., Lines]):
    lines = configure(level="warning")
    structlog.get_logger().info("no")
    logging.getLogger("library").info("no")
    assert lines.text == ""


def test_debug_lines_of_libraries_are_never_written(configure: Callable[..., Lines]):
    lines = configure(level="debug")
    logging.getLogger("library").debug("no")
    structlog.get_logger().debug("yes")
    assert lines.one()["event"] == "yes"


def test_line_breaks_in_a_value_do_not_break_the_line(configure: Callable[..., Lines]):
    lines = configure()
    structlog.get_logger().info("a", value='x\r\n{"event":"forged"}\u2028y')
    logging.getLogger("library").info('x\n{"event":"forged"}')
    assert len(lines.text.split("\n")) == 3


def test_what_json_does_not_know_is_written_as_text(configure: Callable[..., Lines]):
    lines = configure()
    structlog.get_logger().info("a", value=object, surrogate="\ud800", error=ValueError("why"))
    assert lines.one()["error"] == "why"


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "Password",
        "new_password",
        "jwt_secret",
        "token",
        "refresh_token",
        "Authorization",
        "api_key",
        "apikey",
        "ticket",
        "Cookie",
        "private_key",
        "credential",
    ],
)
def test_secrets_are_masked_by_their_key_at_any_depth(lines: Lines, key: str):
    structlog.get_logger().info("a", **{key: "hunter2", "nested": {key: "hunter2", "list": [{key: ["hunter2"]}]}})
    assert "hunter2" not in lines.text
    assert "***" in lines.text


@pytest.mark.parametrize(
    "value",
    [
        TOKEN,
        API_KEY,
        f"Authorization: Bearer {TOKEN}",
        f"bearer {TOKEN}",
        f"GET /api/v1/events/stream?ticket={TOKEN}&x=1",
        f"failed for {API_KEY}, giving up",
        {"inner": f"Bearer {TOKEN}"},
        [f"x {TOKEN}"],
        (f"x {TOKEN}",),
        {f"Bearer {TOKEN}"},
        f"Bearer {TOKEN}".encode(),
        ValueError(f"bad token {TOKEN}"),
    ],
)
def test_secrets_are_masked_by_their_form_in_any_value(lines: Lines, value: Any):
    structlog.get_logger().info("a", value=value)
    logging.getLogger("library").info("a %s", value)
    for part in (TOKEN, TOKEN.rpartition(".")[2], "secretpart"):
        assert part not in lines.text


def test_opaque_credentials_behind_bearer_and_ticket_are_masked(lines: Lines):
    structlog.get_logger().info("a", value="Bearer opaque-credential", address="/stream?ticket=opaque-ticket&a=b")
    assert "opaque" not in lines.text
    assert "a=b" in lines.text


def fail_with_secrets(password: str) -> None:
    body = b'{"username":"ann","password":"%s"}' % password.encode()
    raise ValueError(f"refused Bearer {TOKEN}", len(body))


PASSWORD = "correct horse"


def caught() -> ValueError:
    with pytest.raises(ValueError) as info:
        fail_with_secrets(PASSWORD)
    return info.value


@pytest.mark.parametrize("form", ["instance", "triple", "current"])
@pytest.mark.parametrize("logger", ["structlog", "library"])
def test_tracebacks_are_written_without_secrets_and_local_variables(lines: Lines, form: str, logger: str):
    error = caught()
    write: Any = structlog.get_logger() if logger == "structlog" else logging.getLogger("library")
    if form == "current":
        try:
            raise error
        except ValueError:
            write.error("failed", exc_info=True)
    else:
        write.error("failed", exc_info=error if form == "instance" else (type(error), error, error.__traceback__))
    assert "ValueError" in lines.text
    assert "fail_with_secrets" in lines.text
    assert TOKEN not in lines.text
    assert PASSWORD not in lines.text


def test_numbers_and_truth_values_stay_what_they_are(configure: Callable[..., Lines]):
    lines = configure()
    structlog.get_logger().info("a", i=1, f=0.5, t=True, n=None)
    line = lines.one()
    assert (line["i"], line["f"], line["t"], line["n"]) == (1, 0.5, True, None)


def test_what_only_looks_a_little_like_a_secret_is_kept():
    event = {"event": "ask_me", "user_id": "u-1", "path": "/api/v1/events?limit=1", "duration_ms": 1.5}
    assert mask_secrets(None, "info", dict(event)) == event


def test_the_console_format_is_for_people(configure: Callable[..., Lines]):
    lines = configure(format="console")
    structlog.get_logger().warning("event_name", number=3)
    assert "event_name" in lines.text
    assert "number=3" in lines.text
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines.text)


def test_auto_is_json_where_there_is_no_terminal(configure: Callable[..., Lines]):
    lines = configure(format="auto")
    structlog.get_logger().info("a")
    assert lines.one()["event"] == "a"


def test_a_line_that_can_not_be_written_breaks_nobody() -> None:
    class FullDisk(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    for stream in (FullDisk(), closed):
        configure_logging(LoggingSettings(format="json"), service="test", stream=stream)
        structlog.get_logger().info("lost")
        logging.getLogger("library").warning("lost as well")
