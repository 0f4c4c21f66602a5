from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path

from tools.compose_secrets import write_env_file

TOP = Path(__file__).resolve().parents[2]


def variables(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_the_file_is_private_and_its_secrets_are_long(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    assert write_env_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = variables(path)
    assert len(values["ALLSOURCE_AUTH__MASTER_KEY"]) >= 48
    assert len(values["ALLSOURCE_GATEWAY__KEY"]) >= 48
    assert len(values["ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD"]) >= 20
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("mine\n")
    assert not write_env_file(path)
    assert path.read_text() == "mine\n"
    assert list(tmp_path.iterdir()) == [path]


def test_two_files_have_different_secrets(tmp_path: Path) -> None:
    write_env_file(tmp_path / "a")
    write_env_file(tmp_path / "b")
    first, second = variables(tmp_path / "a"), variables(tmp_path / "b")
    assert first.keys() == second.keys()
    assert first["ALLSOURCE_AUTH__MASTER_KEY"] != second["ALLSOURCE_AUTH__MASTER_KEY"]


def test_every_variable_that_compose_insists_on_is_written(tmp_path: Path) -> None:
    write_env_file(tmp_path / ".env")
    required = set(re.findall(r"\$\{(\w+):\?", (TOP / "docker-compose.yml").read_text()))
    assert required
    assert required <= variables(tmp_path / ".env").keys()


def test_it_runs_as_make_runs_it_without_showing_a_secret(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    command = [sys.executable, "-I", str(TOP / "tools/compose_secrets.py"), str(path)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "stays as it is" in second.stdout
    for value in variables(path).values():
        if len(value) > 10:
            assert value not in first.stdout
