from __future__ import annotations

import stat
from pathlib import Path

import pytest

from allsource_shared.configuration import ConfigurationError
from tools.development import prepare

MASTER_KEY = "ALLSOURCE_AUTH__MASTER_KEY"
GATEWAY_KEY = "ALLSOURCE_GATEWAY__KEY"
PASSWORD = "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first = prepare(tmp_path / "dev", config=None, environ={}, flags=[])
    files = [Path(first.environ[f"{name}_FILE"]) for name in (MASTER_KEY, GATEWAY_KEY, PASSWORD)]
    secrets = [file.read_text() for file in files]
    assert mode(tmp_path / "dev") == 0o700
    assert [mode(file) for file in files] == [0o600] * 3
    assert all(len(secret) >= 32 for secret in secrets)

    files[0].chmod(0o644)
    second = prepare(tmp_path / "dev", config=None, environ={}, flags=[])
    assert second == first
    assert [file.read_text() for file in files] == secrets
    assert mode(files[0]) == 0o600


def test_the_environment_holds_where_the_secrets_are_not_the_secrets(tmp_path: Path) -> None:
    development = prepare(tmp_path, config=None, environ={"PATH": "x"}, flags=[])
    secrets = {path.read_text().strip() for path in tmp_path.iterdir()}
    assert secrets.isdisjoint(development.environ.values())
    assert development.environ["PATH"] == "x"


def test_what_the_user_set_in_the_environment_stays(tmp_path: Path) -> None:
    environ = {
        MASTER_KEY: "mine",
        GATEWAY_KEY: "mine as well",
        PASSWORD: "mine too",
        "ALLSOURCE_STORAGE__DATA_DIR": "elsewhere",
    }
    development = prepare(tmp_path, config=None, environ=environ, flags=[])
    assert development.environ == environ
    assert development.password_file is None
    assert list(tmp_path.iterdir()) == []


def test_what_the_user_set_in_the_file_or_by_flag_stays(tmp_path: Path) -> None:
    config = tmp_path / "allsource.toml"
    config.write_text('[auth]\nmaster_key = "mine"\n')
    development = prepare(tmp_path / "dev", config=config, environ={}, flags=["storage.data_dir=elsewhere"])
    assert f"{MASTER_KEY}_FILE" not in development.environ
    assert "ALLSOURCE_STORAGE__DATA_DIR" not in development.environ


def test_the_users_own_password_file_is_the_one_that_is_shown(tmp_path: Path) -> None:
    environ = {f"{PASSWORD}_FILE": "mine", "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": "anna"}
    development = prepare(tmp_path, config=None, environ=environ, flags=[])
    assert development.username == "anna"
    assert development.password_file == Path("mine")


def test_a_file_that_cannot_be_read_is_left_for_the_services_to_report(tmp_path: Path) -> None:
    development = prepare(tmp_path / "dev", config=tmp_path / "none.toml", environ={}, flags=[])
    assert f"{MASTER_KEY}_FILE" in development.environ


def test_a_lost_master_key_is_not_replaced_where_there_is_data(tmp_path: Path) -> None:
    prepare(tmp_path, config=None, environ={}, flags=[])
    (tmp_path / "data" / "derived").mkdir(parents=True)
    prepare(tmp_path, config=None, environ={}, flags=[])
    key = tmp_path / "master-key"
    key.unlink()
    with pytest.raises(ConfigurationError) as refused:
        prepare(tmp_path, config=None, environ={}, flags=[])
    assert str(key) in refused.value.problems[0]
    assert str(tmp_path / "data") in refused.value.problems[0]
    assert not key.exists()
    # Neither data elsewhere nor a key of the user's own is concerned.
    prepare(tmp_path, config=None, environ={MASTER_KEY: "mine"}, flags=[])
    prepare(tmp_path, config=None, environ={}, flags=["storage.data_dir=elsewhere"])


def test_data_from_before_there_were_master_keys_gets_one(tmp_path: Path) -> None:
    (tmp_path / "data" / "log").mkdir(parents=True)
    prepare(tmp_path, config=None, environ={}, flags=[])
    assert (tmp_path / "master-key").exists()
