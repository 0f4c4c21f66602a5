"""Starting and stopping: what is refused, what is made once, what is never written anywhere."""

from __future__ import annotations

import json
import resource
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .service import ADMIN, EVENTS, LOGIN, MASTER_KEY, PASSWORD, QUERY, SECRET, Core, bearer, refusal

Start = Callable[..., Core]
MASTER = "ALLSOURCE_AUTH__MASTER_KEY"
PREFIX = "ALLSOURCE_BOOTSTRAP_ADMIN_"


def sign_in(core: Core, password: str = PASSWORD, username: str = ADMIN) -> Any:
    with core.client({}) as client:
        return client.post(LOGIN, json={"username": username, "password": password})


REFUSED: dict[str, tuple[dict[str, str | None], str]] = {
    "no master key": ({MASTER: None}, f"{MASTER} (or …_FILE) is not set"),
    "empty master key": ({MASTER: ""}, f"{MASTER} (or …_FILE) is not set"),
    "placeholder as master key": ({MASTER: "changeme-" * 5}, f"{MASTER} looks like a placeholder"),
    "short master key": ({MASTER: "hunter2" * 4}, f"{MASTER} is shorter than 32 bytes"),
    "unknown algorithm": ({"ALLSOURCE_AUTH__JWT_ALGORITHM": "none"}, "ALLSOURCE_AUTH__JWT_ALGORITHM"),
    "placeholder": ({"ALLSOURCE_AUTH__JWT_SECRET": "changeme-" * 5}, "looks like a placeholder"),
    "secret of one letter": ({"ALLSOURCE_AUTH__JWT_SECRET": "a" * 44}, "looks like a placeholder"),
    "short secret": ({"ALLSOURCE_AUTH__JWT_SECRET": "hunter2" * 4}, "is shorter than 32 bytes"),
    "short gateway key": ({"ALLSOURCE_GATEWAY__KEY": "hunter2" * 4}, "ALLSOURCE_GATEWAY__KEY is shorter than 32 bytes"),
    "gateway key of few letters": ({"ALLSOURCE_GATEWAY__KEY": "hunter2" * 8}, "looks like a placeholder"),
    "gateway key twice": ({"ALLSOURCE_GATEWAY__KEY_FILE": "/nope"}, "are both set"),
    "secret file missing": (
        {"ALLSOURCE_AUTH__JWT_SECRET": None, "ALLSOURCE_AUTH__JWT_SECRET_FILE": "/nope"},
        "ALLSOURCE_AUTH__JWT_SECRET_FILE",
    ),
    "secret twice": ({"ALLSOURCE_AUTH__JWT_SECRET_FILE": "/nope"}, "are both set"),
    "short password": ({f"{PREFIX}PASSWORD": "hunter2hunt"}, "is shorter than auth.password_min_length, 12"),
    "password alone": ({f"{PREFIX}USERNAME": None}, "go together"),
    "name alone": ({f"{PREFIX}PASSWORD": None}, "go together"),
    "name with a line break": ({f"{PREFIX}USERNAME": "a\nb"}, "printable"),
    "name too long": ({f"{PREFIX}USERNAME": "a" * 257}, "at most 256"),
    "unknown variable": ({"ALLSOURCE_SERVER__PROT": "1"}, "ALLSOURCE_SERVER__PROT"),
    "unknown section": ({"ALLSOURCE_SERVR__PORT": "1"}, "ALLSOURCE_SERVR__PORT"),
    "port out of range": ({"ALLSOURCE_SERVER__PORT": "70000"}, "ALLSOURCE_SERVER__PORT"),
    "development mode guessed": ({"ALLSOURCE_DEV": "yes"}, "ALLSOURCE_DEV"),
    "secret that is no text": ({"ALLSOURCE_AUTH__JWT_SECRET": "hunter2" * 8 + "\udcff"}, "is not valid UTF-8"),
    "password that is no text": ({f"{PREFIX}PASSWORD": "hunter2" * 8 + "\udcff"}, "is not valid UTF-8"),
    "no short lifetime": ({"ALLSOURCE_AUTH__TOKEN_LIFETIME_MINUTES": "14"}, "TOKEN_LIFETIME_MINUTES"),
}


@pytest.mark.parametrize(("environ", "message"), REFUSED.values(), ids=list(REFUSED))
def test_a_configuration_that_can_not_be_used_is_refused(start: Start, environ: dict[str, str | None], message: str):
    core = start(environ=environ, seeded=False)
    assert core.exit_code() == 2
    assert message in core.log
    assert all(line.startswith("allsource-core: ") for line in core.log.splitlines())
    assert "hunter2" not in core.log
    assert not core.data.exists()


def test_every_mistake_is_told_at_once(start: Start):
    core = start(environ={"ALLSOURCE_NOPE": "1", "ALLSOURCE_SERVER__PORT": "x"}, flags=["--set", "a.b=1"], seeded=False)
    assert core.exit_code() == 2
    assert len(core.log.splitlines()) == 3


def test_both_weak_secrets_are_told_of_at_once(start: Start):
    core = start(environ={MASTER: "hunter2", "ALLSOURCE_AUTH__JWT_SECRET": "hunter2"}, seeded=False)
    assert core.exit_code() == 2
    assert len(core.log.splitlines()) == 2


def test_development_mode_allows_short_secrets(start: Start):
    core = start(environ={"ALLSOURCE_DEV": "1", MASTER: "short", "ALLSOURCE_AUTH__JWT_SECRET": "short"}).ready()
    token = sign_in(core).json()["token"]
    with core.client({"Authorization": f"Bearer {token}"}) as client:
        assert client.get(QUERY).status_code == 200


def test_other_keys_of_the_gateways_section_are_passed_over(start: Start):
    environ = {"ALLSOURCE_GATEWAY__PORT": "no number", "ALLSOURCE_GATEWAY__KEY": None}
    assert start(environ=environ, flags=["--set", "gateway.host=x"]).ready()


def test_development_mode_still_needs_a_master_key(start: Start):
    core = start(environ={"ALLSOURCE_DEV": "1", MASTER: None}, seeded=False)
    assert core.exit_code() == 2


@pytest.mark.parametrize("secret", [MASTER, "ALLSOURCE_AUTH__JWT_SECRET"])
@pytest.mark.parametrize("way", ["data/key", "data/below/../key", "link/key", "other/link"])
def test_a_secret_inside_the_data_directory_is_refused(start: Start, tmp_path: Path, secret: str, way: str):
    (tmp_path / "data" / "below").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "key").write_text(MASTER_KEY)
    (tmp_path / "other" / "link").symlink_to(tmp_path / "data" / "key")
    core = start(environ={secret: None, f"{secret}_FILE": str(tmp_path / way)}, seeded=False)
    assert core.exit_code() == 2
    assert core.log == (
        f"allsource-core: {secret}_FILE is inside storage.data_dir; keep it where no copy of the data takes it along\n"
    )


def test_a_master_key_in_a_configuration_file_inside_the_data_directory_is_refused(start: Start, tmp_path: Path):
    (tmp_path / "data").mkdir()
    config = tmp_path / "data" / "a.toml"
    config.write_text(f'[auth]\nmaster_key = "{MASTER_KEY}"\n')
    core = start(environ={MASTER: None}, flags=["--config", str(config)], seeded=False)
    assert core.exit_code() == 2
    assert "which is inside storage.data_dir" in core.log
    assert MASTER_KEY not in core.log


def test_secrets_are_read_from_files(start: Start, tmp_path: Path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "master").write_text(MASTER_KEY + "\n")
    (tmp_path / "password").write_text(PASSWORD + "\n")
    environ = {
        MASTER: None,
        f"{MASTER}_FILE": str(tmp_path / "master"),
        "ALLSOURCE_AUTH__JWT_SECRET": None,
        "ALLSOURCE_AUTH__JWT_SECRET_FILE": str(tmp_path / "secret"),
        f"{PREFIX}PASSWORD": None,
        f"{PREFIX}PASSWORD_FILE": str(tmp_path / "password"),
    }
    core = start(environ=environ).ready()
    assert sign_in(core).status_code == 200
    with core.client(bearer()) as client:
        assert client.get(QUERY).status_code == 200


def test_without_an_administrator_it_serves_and_says_that_nobody_can_sign_in(start: Start):
    core = start(environ={f"{PREFIX}USERNAME": None, f"{PREFIX}PASSWORD": None}).ready()
    assert '"event":"no_users"' in core.log
    refusal(sign_in(core), 401, "invalid_credentials")


def test_the_first_administrator_is_made_once(start: Start):
    first = start().ready()
    user = sign_in(first).json()["user"]
    assert first.stop() == 0
    changed = {f"{PREFIX}PASSWORD": "another password, just as long", f"{PREFIX}USERNAME": "somebody.else"}
    second = start(environ=changed).ready()
    assert "first_admin_created" not in second.log
    assert sign_in(second).json()["user"] == user
    refusal(sign_in(second, changed[f"{PREFIX}PASSWORD"]), 401, "invalid_credentials")
    refusal(sign_in(second, changed[f"{PREFIX}PASSWORD"], "somebody.else"), 401, "invalid_credentials")
    assert second.stop() == 0
    third = start(environ={f"{PREFIX}USERNAME": None, f"{PREFIX}PASSWORD": None}).ready()
    assert sign_in(third).json()["user"] == user


def test_events_and_tokens_outlive_a_restart_and_another_secret(start: Start):
    first = start().ready()
    token = sign_in(first).json()["token"]
    with first.client({"Authorization": f"Bearer {token}"}) as client:
        client.post(EVENTS, json={"event_type": "a", "entity_id": "b", "payload": 1.50, "tags": ["t"]})
        before = client.get(QUERY).content
    assert first.stop() == 0
    second = start().ready()
    with second.client({"Authorization": f"Bearer {token}"}) as client:
        assert client.get(QUERY).content == before
    assert second.stop() == 0
    third = start(environ={"ALLSOURCE_AUTH__JWT_SECRET": "pL8wXn2Vb6Qs4Kd0Rm3Tz7Jf5Hy1Gc9EuA"}).ready()
    with third.client({"Authorization": f"Bearer {token}"}) as client:
        assert client.get(QUERY).status_code == 200


def test_a_second_process_on_the_same_directory_is_refused(start: Start):
    start().ready()
    second = start()
    assert second.exit_code() == 1
    assert "another process has the data directory" in second.log


def test_a_directory_of_something_else_is_refused_and_left_alone(start: Start, tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("years of work")
    core = start(seeded=False)
    assert core.exit_code() == 1
    assert "is no store" in core.log
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["thesis.txt"]


def test_an_address_that_is_taken_is_refused(start: Start):
    first = start().ready()
    second = start(
        environ={"ALLSOURCE_SERVER__PORT": str(first.port), "ALLSOURCE_STORAGE__DATA_DIR": str(first.data) + "2"}
    )
    assert second.exit_code() == 1
    assert '"event":"cannot_serve"' in second.log


def test_what_it_writes_is_for_its_own_user_alone(start: Start):
    core = start().ready()
    for path in [core.data, *core.data.rglob("*")]:
        # It may take one away before it is looked at.
        with suppress(FileNotFoundError):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_no_secret_is_in_the_log_or_in_any_byte_of_the_data(start: Start):
    core = start(environ={"ALLSOURCE_LOGGING__LEVEL": "debug", "ALLSOURCE_LOGGING__REQUESTS": "all"}).ready()
    typo = PASSWORD + " with a typo"
    token = sign_in(core).json()["token"]
    sign_in(core, typo)
    with core.client({"Authorization": f"Bearer {token}"}) as client:
        client.get(f"{QUERY}?ticket={token}&token={token}")
        client.get(f"/{token}")
        client.get("/health", headers={"X-API-Key": "ask_0123456789.secretpart"})
        client.post(LOGIN, content=json.dumps({"username": token, "password": typo, "x": 1})[:-1])
        client.post(EVENTS, json={"event_type": "a", "entity_id": "b", "payload": "confidential"})
        client.post(EVENTS, json={"event_type": "a", "entity_id": "..", "payload": "confidential"})
    assert core.stop() == 0
    data = b"".join(path.read_bytes() for path in core.data.rglob("*") if path.is_file())
    assert b"$argon2id$" in data
    for secret in (PASSWORD, typo, token, token.rpartition(".")[2], SECRET, MASTER_KEY, "secretpart"):
        assert secret not in core.log
        assert secret.encode() not in data
    for text in ("$argon2", "confidential"):
        assert text not in core.log


def test_every_request_has_its_line_where_that_is_asked_for(start: Start):
    core = start(environ={"ALLSOURCE_LOGGING__REQUESTS": "all"}).ready()
    trace = "0123456789abcdef0123456789abcdef"
    with core.client() as client:
        headers = {"X-Request-ID": "request-7", "traceparent": f"00-{trace}-0123456789abcdef-01"}
        client.post(EVENTS, json={"event_type": "a", "entity_id": "b", "payload": 1}, headers=headers)
    core.stop()
    lines = [json.loads(line) for line in core.log.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "request-7"]
    assert (line["event"], line["operation"], line["status"]) == ("request", "append_event", 201)
    assert line["trace_id"] == trace


def test_flags_win_over_the_environment_over_the_file(start: Start, tmp_path: Path):
    (tmp_path / "a.toml").write_text(
        '[auth]\njwt_issuer = "file"\njwt_audience = "file"\ntoken_lifetime_minutes = 15\n'
    )
    environ = {"ALLSOURCE_AUTH__JWT_ISSUER": "environment", "ALLSOURCE_AUTH__JWT_AUDIENCE": "environment"}
    flags = ["--config", str(tmp_path / "a.toml"), "--set", "auth.jwt_audience=flag"]
    core = start(environ=environ, flags=flags).ready()
    with core.client(bearer(issuer="environment", audience="flag")) as client:
        assert client.get(QUERY).status_code == 200
        refusal(client.get(QUERY, headers=bearer(issuer="file", audience="flag")), 401, "unauthorized")


def test_it_stops_cleanly_and_says_so(start: Start):
    core = start().ready()
    assert core.stop() == 0
    events = [json.loads(line)["event"] for line in core.log.splitlines()]
    assert events[-2:] == ["stopping", "stopped"]


def test_a_data_directory_that_can_not_be_made_is_refused(start: Start, tmp_path: Path):
    (tmp_path / "data").write_text("a file is in its place")
    core = start(seeded=False)
    assert core.exit_code() == 1
    assert '"event":"cannot_serve"' in core.log


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be(start: Start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = 256 if soft == resource.RLIM_INFINITY else min(soft, 256)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        core = start().ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(core._process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert ("few_descriptors" in core.log) == (hard != resource.RLIM_INFINITY and hard < 4096)
