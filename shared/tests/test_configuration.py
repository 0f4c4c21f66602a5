"""Settings come from four sources in one order; every mistake is told, no secret ever."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from allsource_shared.configuration import (
    ConfigurationError,
    SectionPart,
    argument_parser,
    describe_keys,
    is_secret,
    load_settings,
    read_dev_mode,
    read_secret,
    variable_name,
)


class Server(msgspec.Struct, frozen=True):
    host: Annotated[str, Meta(min_length=1, description="Address.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port.")] = 8080
    timeout: Annotated[float, Meta(gt=0, le=3600, description="Seconds.")] = 60.0


class Auth(msgspec.Struct, frozen=True):
    jwt_secret: Annotated[str, Meta(extra={"secret": True}, description="Key.")] = ""
    minutes: Annotated[int, Meta(ge=15, description="Lifetime.")] = 60


class Logging(msgspec.Struct, frozen=True):
    level: Annotated[Literal["info", "error"], Meta(description="Level.")] = "info"
    quiet: Annotated[bool, Meta(description="Nothing at all.")] = False


class Settings(msgspec.Struct, frozen=True):
    server: Server
    auth: Auth
    logging: Logging


def load(environ: dict[str, str] | None = None, flags: list[str] | None = None, file: Path | None = None) -> Settings:
    return load_settings(Settings, config_path=file, environ=environ or {}, flags=flags or [])


def mistakes(*arguments: Any, **named: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(*arguments, **named)
    return caught.value.problems


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "allsource.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_without_any_source_there_are_the_defaults():
    assert load() == Settings(Server(), Auth(), Logging())


def test_flags_win_over_the_environment_over_the_file_over_defaults(toml: Any):
    file = toml('[server]\nhost = "file"\nport = 1\ntimeout = 1.0\n[auth]\nminutes = 21\n')
    settings = load({"ALLSOURCE_SERVER__PORT": "2", "ALLSOURCE_SERVER__TIMEOUT": "2"}, ["server.timeout=3"], file)
    assert settings.server == Server("file", 2, 3.0)
    assert settings.auth.minutes == 21
    assert settings.logging == Logging()


def test_a_variable_that_equals_the_default_still_wins_over_the_file(toml: Any):
    assert load({"ALLSOURCE_SERVER__PORT": "8080"}, file=toml("[server]\nport = 1\n")).server.port == 8080


def test_a_flag_that_equals_the_default_still_wins_over_the_environment():
    assert load({"ALLSOURCE_SERVER__PORT": "1"}, ["server.port=8080"]).server.port == 8080


def test_the_last_of_two_flags_wins_and_a_value_may_hold_an_equals_sign():
    assert load(flags=["server.host=a", "server.host=b=c"]).server.host == "b=c"


def test_sections_of_the_other_service_are_passed_over(toml: Any):
    environ = {"ALLSOURCE_GATEWAY__CORE_URL": "x", "ALLSOURCE_STORAGE__DATA_DIR": "x"}
    assert load(environ, ["gateway.core_url=x"], toml('[gateway]\ncore_url = "x"\n')) == load()


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"ALLSOURCE_SERVR__PORT": "1"}, "'servr'"),
        ({"ALLSOURCE_SERVER__PROT": "1"}, "'prot'"),
        ({"ALLSOURCE_SERVER_PORT": "1"}, "ALLSOURCE_SERVER_PORT"),
        ({"ALLSOURCE_PORT": "1"}, "ALLSOURCE_PORT"),
        ({"ALLSOURCE_": "1"}, "ALLSOURCE_"),
        ({"ALLSOURCE_SERVER__": "1"}, "ALLSOURCE_SERVER__"),
        ({"ALLSOURCE___PORT": "1"}, "ALLSOURCE___PORT"),
        ({"ALLSOURCE_SERVER__PORT_FILE": "1"}, "'port_file'"),
        ({"ALLSOURCE_BOOTSTRAP_ADMIN_USER": "1"}, "ALLSOURCE_BOOTSTRAP_ADMIN_USER"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(environ: dict[str, str], named: str):
    (problem,) = mistakes(environ)
    assert named in problem


def test_variables_of_other_programs_are_none_of_our_business():
    assert load({"PATH": "x", "ALLSOURCEX__A": "1", "allsource_server__port": "1", "ALLSOURCE_DEV": "1"}) == load()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[servr]\nport = 1\n", "'servr'"),
        ("[server]\nprot = 1\n", "'prot'"),
        ("port = 1\n", "port must be a section"),
        ("server = 1\n", "server must be a section"),
        ("[[server]]\nport = 1\n", "server must be a section"),
        ("[server]\nport = 1\nport = 2\n", "configuration file"),
        ("[server\nport = 1\n", "configuration file"),
        ("[server]\nport = \n", "configuration file"),
        ("\0", "configuration file"),
    ],
)
def test_a_mistake_in_the_file_is_named(toml: Any, text: str, named: str):
    (problem,) = mistakes(file=toml(text))
    assert named in problem
    assert "allsource.toml" in problem


def test_a_file_that_was_named_must_be_readable(tmp_path: Path):
    assert "no.toml" in mistakes(file=tmp_path / "no.toml")[0]
    assert str(tmp_path) in mistakes(file=tmp_path)[0]
    (tmp_path / "latin.toml").write_bytes(b'[server]\nhost = "\xe4"\n')
    assert "latin.toml" in mistakes(file=tmp_path / "latin.toml")[0]


@pytest.mark.parametrize("flag", ["", "server", "server.port", "port=1", "=", ".=", "server.=1", ".port=1", "a.b=1"])
def test_a_malformed_flag_is_refused(flag: str):
    assert len(mistakes(flags=[flag])) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SERVER__PORT", "-1"),
        ("SERVER__PORT", "65536"),
        ("SERVER__PORT", "http"),
        ("SERVER__PORT", ""),
        ("SERVER__PORT", "80.5"),
        ("SERVER__PORT", "1" * 5000),
        ("SERVER__HOST", ""),
        ("SERVER__TIMEOUT", "0"),
        ("SERVER__TIMEOUT", "3601"),
        ("SERVER__TIMEOUT", "inf"),
        ("SERVER__TIMEOUT", "nan"),
        ("AUTH__MINUTES", "14"),
        ("LOGGING__LEVEL", "verbose"),
        ("LOGGING__QUIET", "yes"),
        ("LOGGING__QUIET", "on"),
        ("LOGGING__QUIET", "2"),
        ("LOGGING__QUIET", ""),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(name: str, value: str):
    (problem,) = mistakes({f"ALLSOURCE_{name}": value})
    assert f"ALLSOURCE_{name}" in problem


@pytest.mark.parametrize(
    "line",
    [
        'server.port = "8080"',
        "server.port = 80.5",
        "server.port = true",
        "server.port = [1]",
        "server.port = 1979-05-27",
        "server.host = 1",
        "server.timeout = nan",
        "server.timeout = inf",
        "server.port.a = 1",
        'logging.quiet = "true"',
        "logging.quiet = 1",
    ],
)
def test_types_in_the_file_are_those_of_toml(toml: Any, line: str):
    (problem,) = mistakes(file=toml(line + "\n"))
    assert line.partition(" ")[0].removesuffix(".a") in problem


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("True", True), ("TRUE", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_spellings_of_true_and_false(text: str, value: bool):
    assert load({"ALLSOURCE_LOGGING__QUIET": text}).logging.quiet is value
    assert load(flags=[f"logging.quiet={text}"]).logging.quiet is value


class TestLists:
    class Lists(msgspec.Struct, frozen=True):
        class Section(msgspec.Struct, frozen=True):
            names: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(description="Names.")] = ("x",)
            numbers: list[int] = []

        gateway: Section

    def load(self, environ: dict[str, str], flags: list[str], file: Path | None = None) -> Any:
        return load_settings(self.Lists, config_path=file, environ=environ, flags=flags).gateway

    def test_they_have_commas_in_the_environment_and_in_flags(self):
        loaded = self.load({"ALLSOURCE_GATEWAY__NAMES": "a, b c"}, ["gateway.numbers=1,2"])
        assert (loaded.names, loaded.numbers) == (("a", "b c"), [1, 2])

    def test_they_may_be_empty(self):
        assert self.load({"ALLSOURCE_GATEWAY__NAMES": " "}, []).names == ()

    def test_their_items_are_looked_at(self):
        with pytest.raises(ConfigurationError, match="ALLSOURCE_GATEWAY__NAMES"):
            self.load({"ALLSOURCE_GATEWAY__NAMES": "a,"}, [])
        with pytest.raises(ConfigurationError, match=r"--set gateway\.numbers"):
            self.load({}, ["gateway.numbers=1,x"])

    def test_in_the_file_they_are_those_of_toml(self, toml: Any):
        assert self.load({}, [], toml("[gateway]\nnames = ['a,b']\n")).names == ("a,b",)
        with pytest.raises(ConfigurationError):
            self.load({}, [], toml("[gateway]\nnames = 'a'\n"))


def test_every_mistake_of_every_source_is_told_at_once(toml: Any):
    problems = mistakes(
        {"ALLSOURCE_SERVER__PORT": "x", "ALLSOURCE_NOPE": "1", "ALLSOURCE_AUTH__MINUTES": "1"},
        ["server.timeout=-1", "nonsense"],
        toml("[server]\nhost = 5\nprot = 1\n[nope]\na = 1\n"),
    )
    assert len(problems) == 8


@pytest.mark.parametrize("name", ["ALLSOURCE_AUTH__JWT_SECRET", "ALLSOURCE_SERVER__HOST", "ALLSOURCE_SERVER__PORT"])
def test_a_variable_that_is_no_text_is_refused_once(name: str):
    assert mistakes({name: "hunter2\udcff"}) == [f"{name}: is not valid UTF-8"]


class Gateway(SectionPart, frozen=True):
    key: Annotated[str, Meta(extra={"secret": True}, min_length=3, description="Key.")] = ""


class Reader(msgspec.Struct, frozen=True):
    gateway: Gateway


class TestPartsOfSections:
    def read(self, environ: dict[str, str], flags: list[str] | None = None, file: Path | None = None) -> str:
        return load_settings(Reader, config_path=file, environ=environ, flags=flags or []).gateway.key

    def test_what_is_declared_is_read_from_every_source(self, toml: Any, tmp_path: Path):
        (tmp_path / "key").write_text("from a file\n")
        assert self.read({"ALLSOURCE_GATEWAY__KEY_FILE": str(tmp_path / "key")}) == "from a file"
        assert self.read({"ALLSOURCE_GATEWAY__KEY": "abc"}) == "abc"
        assert self.read({}, ["gateway.key=abc"]) == "abc"
        assert self.read({}, file=toml('[gateway]\nkey = "abc"\n')) == "abc"

    def test_other_keys_of_the_section_are_passed_over(self, toml: Any):
        file = toml('[gateway]\nport = "nonsense"\nkey = "abc"\n')
        assert self.read({"ALLSOURCE_GATEWAY__HOST": ""}, ["gateway.core_url=x"], file) == "abc"

    def test_a_value_that_is_out_of_range_is_refused(self):
        with pytest.raises(ConfigurationError, match="ALLSOURCE_GATEWAY__KEY"):
            self.read({"ALLSOURCE_GATEWAY__KEY": "ab"})


class TestSecrets:
    SECRET = "hunter2-hunter2-hunter2"

    def test_a_secret_is_read_from_the_file_that_is_named(self, tmp_path: Path):
        (tmp_path / "secret").write_text(self.SECRET + "\r\n")
        environ = {"ALLSOURCE_AUTH__JWT_SECRET_FILE": str(tmp_path / "secret")}
        assert load(environ).auth.jwt_secret == self.SECRET

    def test_white_space_inside_a_secret_is_part_of_it(self, tmp_path: Path):
        (tmp_path / "secret").write_text(" a\nb \n")
        assert load({"ALLSOURCE_AUTH__JWT_SECRET_FILE": str(tmp_path / "secret")}).auth.jwt_secret == " a\nb "

    def test_a_value_and_a_file_together_are_refused(self, tmp_path: Path):
        (tmp_path / "secret").write_text(self.SECRET)
        problems = mistakes(
            {"ALLSOURCE_AUTH__JWT_SECRET": "x", "ALLSOURCE_AUTH__JWT_SECRET_FILE": str(tmp_path / "secret")}
        )
        assert problems == ["ALLSOURCE_AUTH__JWT_SECRET and ALLSOURCE_AUTH__JWT_SECRET_FILE are both set; set one"]

    def test_a_file_that_is_not_there_is_named(self, tmp_path: Path):
        (problem,) = mistakes({"ALLSOURCE_AUTH__JWT_SECRET_FILE": str(tmp_path / "nope")})
        assert "ALLSOURCE_AUTH__JWT_SECRET_FILE" in problem
        assert "nope" in problem

    def test_a_file_that_is_not_text_is_refused_without_its_bytes(self, tmp_path: Path):
        (tmp_path / "secret").write_bytes(self.SECRET.encode() + b"\xff")
        (problem,) = mistakes({"ALLSOURCE_AUTH__JWT_SECRET_FILE": str(tmp_path / "secret")})
        assert self.SECRET not in problem

    @pytest.mark.parametrize(
        "text",
        [
            '[auth]\njwt_secret = ["{}"]\n',
            '[auth]\njwt_secret = "{}\n',
            "[auth]\njwt_secret = {}\n",
            '[auth]\njwt_secret = "{}"\njwt_secret = "{}"\n',
            '[auth]\njwt_secret = "{}"\nminutes = 1\n',
            'auth = "{}"\n',
            '[nope]\njwt_secret = "{}"\n',
        ],
    )
    def test_no_mistake_in_the_file_shows_a_secret(self, toml: Any, text: str):
        assert self.SECRET not in "\n".join(mistakes(file=toml(text.replace("{}", self.SECRET))))

    @pytest.mark.parametrize(
        "name", ["ALLSOURCE_JWT_SECRET", "ALLSOURCE_AUTH__JWT_SECRT", "ALLSOURCE_ATUH__JWT_SECRET", "ALLSOURCE_SECRET"]
    )
    def test_no_mistake_in_a_name_shows_the_secret(self, name: str):
        assert self.SECRET not in "\n".join(mistakes({name: self.SECRET}))

    @pytest.mark.parametrize("flag", ["jwt_secret={}", "auth.secret={}", "nope.jwt_secret={}"])
    def test_no_mistake_in_a_flag_shows_the_secret(self, flag: str):
        assert self.SECRET not in "\n".join(mistakes(flags=[flag.format(self.SECRET)]))

    def test_secrets_are_marked_in_their_type(self):
        marked = {key for section, key, field in describe_keys(Settings) if is_secret(field.type)}
        assert marked == {"jwt_secret"}

    def test_reading_one_secret_notes_its_mistakes(self):
        problems: list[str] = []
        assert read_secret({}, "A", problems) is None
        assert read_secret({"A": "x"}, "A", problems) == "x"
        assert problems == []
        assert read_secret({"A": "x", "A_FILE": "y"}, "A", problems) is None
        assert len(problems) == 1


@pytest.mark.parametrize(("value", "expected"), [({}, False), ("", False), ("0", False), ("1", True)])
def test_development_mode_is_a_one(value: Any, expected: bool):
    assert read_dev_mode({"ALLSOURCE_DEV": value} if value != {} else {}) is expected


@pytest.mark.parametrize("value", ["true", "yes", "2", " 1", "01"])
def test_development_mode_is_not_guessed(value: str):
    with pytest.raises(ConfigurationError, match="ALLSOURCE_DEV"):
        read_dev_mode({"ALLSOURCE_DEV": value})


def test_the_variable_of_a_key():
    assert variable_name("server", "body_timeout_seconds") == "ALLSOURCE_SERVER__BODY_TIMEOUT_SECONDS"


def test_flags_of_the_command_line():
    arguments = argument_parser("x", "y").parse_args(["--config", "a.toml", "--set", "a.b=1", "--set", "c.d=2"])
    assert (arguments.config, arguments.flags) == (Path("a.toml"), ["a.b=1", "c.d=2"])
