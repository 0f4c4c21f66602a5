"""``allsource-admin users`` and ``sessions`` beside the real service: who lost a password gets in, and nobody else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from allsource_core.engine import inspect_store

from ..api.seeding import user_id_of
from ..api.service import ADMIN, LOGIN, PASSWORD, Core, bearer, refusal

NEW = "wörter, die neu sind"
OWN = "another one, that nobody else knows"
DEVELOPER = "developer@default"
ME = "/api/v1/auth/me"
REFRESH = "/api/v1/auth/refresh"


def admin(*arguments: object, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """What a process of ``allsource-admin`` did, which has nothing of the service's configuration."""
    return subprocess.run(
        [sys.executable, "-m", "allsource_core.admin", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("ALLSOURCE_")},
    )


def reset(data: Path, username: str, *flags: str, password: str = NEW) -> subprocess.CompletedProcess[str]:
    return admin("users", "reset-password", "--data-dir", data, *flags, username, stdin=f"{password}\n")


def users_of(data: Path) -> dict[str, dict[str, Any]]:
    done = admin("users", "list", "--json", "--data-dir", data)
    assert (done.returncode, done.stderr) == (0, "")
    users = [json.loads(line) for line in done.stdout.splitlines()]
    return {user["username"]: user for user in users}


def sign_in(client: httpx.Client, password: str, username: str = ADMIN) -> httpx.Response:
    return client.post(LOGIN, json={"username": username, "password": password})


def refresh(client: httpx.Client, signed_in: httpx.Response) -> httpx.Response:
    return client.post(REFRESH, json={"refresh_token": signed_in.json()["refresh_token"]})


def who_has(signed_in: httpx.Response) -> dict[str, str]:
    return {"Authorization": f"Bearer {signed_in.json()['token']}"}


class Place:
    """A data directory with the usual users, and the cores that had it; one at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.core = Core(directory)
        self.data = self.core.data
        self.core.ready()

    def restart(self) -> None:
        self.core = Core(self._directory).ready()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.core.stop()


def test_who_lost_the_password_signs_in_with_the_new_one_and_must_change_it(place: Place) -> None:
    with place.core.client({}) as client:
        before = sign_in(client, PASSWORD)
        made = client.post("/api/v1/auth/api-keys", json={"name": "of a program"}, headers=who_has(before))
        key = {"Authorization": f"Bearer {made.json()['key']}"}
    assert place.core.stop() == 0

    done = reset(place.data, ADMIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert ADMIN in done.stdout
    assert not any(word in done.stdout for word in (NEW, PASSWORD, "argon2"))
    stored = b"".join(file.read_bytes() for file in place.data.rglob("*") if file.is_file())
    assert b"argon2" in stored
    assert NEW.encode() not in stored

    place.restart()
    with place.core.client({}) as client:
        refusal(sign_in(client, PASSWORD), 401, "invalid_credentials")
        refusal(client.get(ME, headers=who_has(before)), 401, "unauthorized")
        assert refresh(client, before).status_code == 401
        assert client.get(ME, headers=bearer("developer")).status_code == 200
        assert client.get(ME, headers=key).status_code == 200
        signed_in = sign_in(client, NEW)
        refusal(client.get("/api/v1/auth/users", headers=who_has(signed_in)), 403, "password_change_required")
        change = {"current": NEW, "new": OWN}
        response = client.post("/api/v1/auth/password", json=change, headers=who_has(signed_in))
        assert response.status_code == 204, response.text
        assert client.get("/api/v1/auth/users", headers=who_has(sign_in(client, OWN))).status_code == 200


def test_a_running_store_is_refused(place: Place) -> None:
    for done in (
        reset(place.data, ADMIN),
        admin("users", "list", "--data-dir", place.data),
        admin("sessions", "end-all", "--data-dir", place.data),
    ):
        assert (done.returncode, done.stdout) == (1, "")
        assert "another process has the data directory" in done.stderr
    with place.core.client({}) as client:
        assert sign_in(client, PASSWORD).status_code == 200


def test_a_deactivated_user_is_activated_where_that_is_asked_for(place: Place) -> None:
    with place.core.client() as client:
        path = f"/api/v1/auth/users/{user_id_of('developer', 'default')}"
        client.patch(path, json={"active": False}).raise_for_status()
    place.core.stop()
    assert users_of(place.data)[DEVELOPER]["active"] is False

    refused = reset(place.data, DEVELOPER)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--activate" in refused.stderr
    assert users_of(place.data)[DEVELOPER]["active"] is False

    done = reset(place.data, DEVELOPER, "--activate", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {
        "kind": "password_reset",
        "user_id": user_id_of("developer", "default"),
        "username": DEVELOPER,
        "activated": True,
    }
    place.restart()
    with place.core.client({}) as client:
        assert sign_in(client, NEW, DEVELOPER).status_code == 200


def test_ending_all_sessions_ends_them_and_nothing_else(place: Place) -> None:
    with place.core.client({}) as client:
        before = sign_in(client, PASSWORD)
    place.core.kill()
    assert (place.data / "derived" / "sessions.sqlite-wal").exists()
    kept = place.data / "derived" / "usage.sqlite"
    assert kept.exists()

    done = admin("sessions", "end-all", "--data-dir", place.data)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list((place.data / "derived").glob("sessions*"))
    assert kept.exists()

    place.restart()
    with place.core.client({}) as client:
        refusal(client.get(ME, headers=who_has(before)), 401, "unauthorized")
        assert refresh(client, before).status_code == 401
        assert sign_in(client, PASSWORD).status_code == 200


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory that no core has, and that no test changes."""
    core = Core(tmp_path_factory.mktemp("stopped"))
    core.ready().stop()
    return core.data


def test_all_users_are_listed(stopped: Path) -> None:
    listed = users_of(stopped)
    assert len(listed) == 8
    assert listed["readonly@other"] == {
        "kind": "user",
        "id": user_id_of("readonly", "other"),
        "username": "readonly@other",
        "role": "readonly",
        "tenant_id": "other",
        "active": True,
    }
    lines = admin("users", "list", "--data-dir", stopped).stdout.splitlines()
    assert f"{user_id_of('readonly', 'other')}\treadonly@other\treadonly\tother\tactive" in lines


@pytest.mark.parametrize(
    ("username", "password", "flags", "told"),
    [
        ("nobody", NEW, [], "there is no user 'nobody'"),
        (ADMIN, "elevenchars", [], "must be at least 12 characters"),
        (ADMIN, "a" * 15, ["--min-length", "16"], "must be at least 16 characters"),
        (ADMIN, "a" * 1025, [], "must be at most 1024 bytes"),
        (ADMIN, ADMIN.upper(), [], "must not be the username"),
        (ADMIN, "", [], "there is no password"),
    ],
)
def test_what_is_refused_changes_nothing(
    stopped: Path, username: str, password: str, flags: list[str], told: str
) -> None:
    before = inspect_store(stopped).last_position
    done = reset(stopped, username, *flags, password=password)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("allsource-admin: ")
    assert told in done.stderr
    assert not password or password not in done.stderr
    assert inspect_store(stopped).last_position == before


def test_a_password_that_is_no_utf_8_is_refused_unseen(stopped: Path) -> None:
    command = [sys.executable, "-m", "allsource_core.admin", "users", "reset-password", "--data-dir", str(stopped)]
    done = subprocess.run([*command, ADMIN], input=b"a long passw\xf6rd\n", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"allsource-admin: the password is not UTF-8: nothing was done\n"


@pytest.mark.parametrize("command", [("users", "list"), ("users", "reset-password", ADMIN), ("sessions", "end-all")])
def test_a_directory_that_is_no_store_stays_as_it_is(tmp_path: Path, command: tuple[str, ...]) -> None:
    done = admin(*command, "--data-dir", tmp_path, stdin=f"{NEW}\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no store of AllSource" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("again", "code"), [(NEW, 0), (OWN, 1)])
def test_a_terminal_is_asked_twice_and_shows_nothing(tmp_path: Path, again: str, code: int) -> None:
    core = Core(tmp_path)
    core.ready().stop()
    command = [sys.executable, "-m", "allsource_core.admin", "users", "reset-password", "--data-dir", str(core.data)]
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [*command, ADMIN])  # noqa: S606 - the very program under test
    shown = b""
    for prompt, answer in ((b"new password: ", NEW), (b"the same again: ", again)):
        while prompt not in shown:
            shown += os.read(terminal, 1000)
        os.write(terminal, f"{answer}\n".encode())
    try:
        while data := os.read(terminal, 1000):
            shown += data
    except OSError:
        pass  # Linux's way to say that nobody has the terminal any more
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == code
    assert (b"differ" in shown) == (code == 1)
    assert NEW.encode() not in shown
    assert OWN.encode() not in shown
