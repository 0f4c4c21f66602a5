"""`make run` as its user sees it: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.ports import free_ports

from .processes import alive, children, wait_until

TOP = Path(__file__).resolve().parents[2]
READY = "Ctrl-C stops both."


class Run:
    """A running ``python -m tools.run`` and everything it printed."""

    def __init__(self, dev_dir: Path, environ: dict[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ALLSOURCE_")}
        self.core_port, self.gateway_port = free_ports(2)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.run", "--dev-dir", str(dev_dir), "--set", f"server.port={self.core_port}"],
            cwd=TOP,
            env={
                **inherited,
                "ALLSOURCE_GATEWAY__PORT": str(self.gateway_port),
                # A machine that stands still for a moment is no core that is away.
                "ALLSOURCE_GATEWAY__CONNECT_TIMEOUT_MS": "60000",
                "ALLSOURCE_GATEWAY__INTROSPECT_TIMEOUT_MS": "60000",
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.output = ""
        self.children: list[int] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.output += line
                if READY in line:
                    self._ready.set()

    def wait_until_ready(self) -> None:
        assert self._ready.wait(100), self.output
        self.children = children(self.process.pid)
        assert len(self.children) == 2

    def wait(self) -> int:
        """The exit code; nothing that was started may be left."""
        code = self.process.wait(60)
        self._reader.join(60)
        assert not any(alive(pid) for pid in self.children)
        return code


@pytest.fixture
def runs() -> Iterator[list[Run]]:
    started: list[Run] = []
    yield started
    for run in started:
        run.process.kill()
        run.process.wait()
        run._reader.join(60)


@pytest.fixture
def run(tmp_path: Path, runs: list[Run]) -> Run:
    runs.append(Run(tmp_path / "dev", {}))
    runs[0].wait_until_ready()
    return runs[0]


def sign_in(run: Run, password: str) -> str:
    body = json.dumps({"username": "admin", "password": password}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{run.gateway_port}/api/v1/auth/login", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["token"])


def test_the_generated_admin_signs_in_at_the_configured_port_and_no_secret_is_shown(run: Run, tmp_path: Path) -> None:
    secrets = [path for path in (tmp_path / "dev").iterdir() if path.is_file()]
    assert [stat.S_IMODE(path.stat().st_mode) for path in secrets] == [0o600] * 3
    assert stat.S_IMODE((tmp_path / "dev").stat().st_mode) == 0o700
    assert sign_in(run, (tmp_path / "dev" / "admin-password").read_text().strip())
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 0
    for path in secrets:
        assert path.read_text().strip() not in run.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_ends_both_cleanly(run: Run, number: signal.Signals) -> None:
    os.killpg(run.process.pid, number)  # as the terminal does it: to the runner's whole process group
    assert run.wait() == 0
    assert run.output.endswith("both have stopped\n")


def test_a_request_to_stop_while_they_start_leaves_nothing(tmp_path: Path, runs: list[Run]) -> None:
    runs.append(Run(tmp_path / "dev", {}))
    assert wait_until(lambda: children(runs[0].process.pid) != [])
    runs[0].children = children(runs[0].process.pid)
    runs[0].process.send_signal(signal.SIGINT)
    assert runs[0].wait() == 0


def test_a_configured_core_url_is_honoured(tmp_path: Path, runs: list[Run]) -> None:
    [nobody] = free_ports(1)
    runs.append(Run(tmp_path / "dev", {"ALLSOURCE_GATEWAY__CORE_URL": f"http://127.0.0.1:{nobody}"}))
    runs[0].wait_until_ready()
    with urllib.request.urlopen(f"http://127.0.0.1:{runs[0].gateway_port}/health", timeout=30) as answer:
        assert json.load(answer)["core"]["status"] == "unavailable"


def test_a_second_start_finds_the_first_ones_admin(run: Run, tmp_path: Path, runs: list[Run]) -> None:
    password = (tmp_path / "dev" / "admin-password").read_text().strip()
    run.process.send_signal(signal.SIGTERM)
    assert run.wait() == 0
    runs.append(Run(tmp_path / "dev", {}))
    runs[1].wait_until_ready()
    assert (tmp_path / "dev" / "admin-password").read_text().strip() == password
    assert sign_in(runs[1], password)


def test_a_service_that_ends_by_itself_ends_the_other(run: Run) -> None:
    os.kill(run.children[0], signal.SIGKILL)
    assert run.wait() == 1
    assert "core was ended by SIGKILL, though nobody asked it to" in run.output


def test_a_second_request_to_stop_kills_what_does_not_end(run: Run) -> None:
    os.kill(run.children[0], signal.SIGSTOP)  # a core that hangs
    run.process.send_signal(signal.SIGINT)
    assert wait_until(lambda: not alive(run.children[1]))
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 1
    assert run.output.endswith("killed both\n")


def test_a_killed_runner_leaves_nothing(run: Run) -> None:
    run.process.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in run.children))


def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path, runs: list[Run]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        runs.append(Run(tmp_path / "dev", {"ALLSOURCE_GATEWAY__PORT": str(port)}))
        assert runs[0].wait() == 2
    assert f"port {port} on 127.0.0.1 is in use" in runs[0].output
    assert "ALLSOURCE_GATEWAY__PORT" in runs[0].output


def test_mistakes_in_the_configuration_of_both_are_reported_at_once(tmp_path: Path, runs: list[Run]) -> None:
    environ = {"ALLSOURCE_GATEWAY__PORT": "x", "ALLSOURCE_SERVER__NO_SUCH_KEY": "1", "ALLSOURCE_OOPS": "1"}
    runs.append(Run(tmp_path / "dev", environ))
    assert runs[0].wait() == 2
    for name in environ:
        assert runs[0].output.count(f"make run: {name}") == 1


def test_a_lost_password_file_is_not_taken_for_the_administrators(run: Run, tmp_path: Path, runs: list[Run]) -> None:
    run.wait_until_ready()
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 0
    (tmp_path / "dev" / "admin-password").unlink()
    again = Run(tmp_path / "dev", {})
    runs.append(again)
    again.wait_until_ready()
    assert "The store was made earlier" in again.output
    again.process.send_signal(signal.SIGINT)
    assert again.wait() == 0
