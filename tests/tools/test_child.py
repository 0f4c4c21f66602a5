"""How a service starts and ends, shown with small stand-ins for services: real processes, no service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.child import Child, ChildError, probe
from tools.ports import free_ports, is_free

from .processes import alive, wait_until

TOP = Path(__file__).resolve().parents[2]

ANSWER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(sys.argv[2]))
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
FAIL = """
import sys
print("cannot go on: no disk", file=sys.stderr)
sys.exit(3)
"""
DEAF = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""

MakeChild = Callable[..., Child]


@pytest.fixture
def make_child(tmp_path: Path) -> Iterator[MakeChild]:
    made: list[Child] = []

    def make(source: str, *arguments: str) -> Child:
        (tmp_path / "stand_in.py").write_text(textwrap.dedent(source))
        environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
        made.append(Child("the stand-in", "stand_in", arguments, environ, tmp_path / "log" / "stand-in.log"))
        return made[-1]

    yield make
    for child in made:
        child.kill()


def answers(url: str, status: int) -> bool:
    try:
        return probe(url) == status
    except OSError:
        return False


def test_a_service_is_ready_when_it_answers_200(make_child: MakeChild) -> None:
    [port] = free_ports(1)
    child = make_child(ANSWER, str(port), "200")
    child.start()
    child.wait_until_ready(f"http://127.0.0.1:{port}/health", 60)
    assert child.running
    assert not is_free("127.0.0.1", port)
    assert child.terminate(60) == -signal.SIGTERM
    assert not child.running
    assert is_free("127.0.0.1", port)


class AnsweredTime:
    """Time that passes by a second with every answer, and by nothing else."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None:
        time.sleep(0.01)

    def probe(self, url: str) -> int:
        status = probe(url)
        self.now += 1.0
        return status


def test_another_answer_is_not_ready_and_the_error_says_what_came(
    make_child: MakeChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}/health"
    child = make_child(ANSWER, str(port), "503")
    child.start()
    assert wait_until(lambda: answers(url, 503))
    passing = AnsweredTime()
    monkeypatch.setattr("tools.child.time", passing)
    monkeypatch.setattr("tools.child.probe", passing.probe)
    with pytest.raises(ChildError, match=r"the stand-in was not ready within 1 s: .* status 503"):
        child.wait_until_ready(url, 1)


def test_a_service_that_fails_is_reported_at_once_with_its_last_lines(make_child: MakeChild) -> None:
    child = make_child(FAIL)
    child.start()
    with pytest.raises(ChildError, match=r"exited with code 3 before it was ready[^$]*no disk"):
        child.wait_until_ready("http://127.0.0.1:1/", 60)


def test_a_service_that_does_not_end_is_killed(make_child: MakeChild) -> None:
    child = make_child(DEAF)
    child.start()
    assert child.log_path is not None
    log = child.log_path
    assert wait_until(lambda: "deaf" in log.read_text())
    assert child.terminate(0.2) == -signal.SIGKILL


def test_killing_a_service_ends_what_it_started(make_child: MakeChild, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    child = make_child(
        f"""
        import pathlib, subprocess, sys, time
        inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        pathlib.Path({str(note)!r}).write_text(str(inner.pid))
        time.sleep(600)
        """
    )
    child.start()
    assert wait_until(lambda: note.exists() and note.read_text() != "")
    child.kill()
    assert wait_until(lambda: not alive(int(note.read_text())))


def test_the_log_of_an_earlier_start_is_kept(make_child: MakeChild) -> None:
    child = make_child(FAIL)
    for _ in range(2):
        child.start()
        assert wait_until(lambda: not child.running)
    assert child.log_path is not None
    assert child.log_path.read_text().count("no disk") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tell a process that its parent has ended")
def test_a_service_does_not_outlive_a_runner_that_was_killed(make_child: MakeChild, tmp_path: Path) -> None:
    make_child("import time; time.sleep(600)")
    runner = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, pathlib, time; from tools.child import Child;"
            "child = Child('x', 'stand_in', [], dict(os.environ), pathlib.Path(os.environ['PYTHONPATH'], 'x.log'));"
            "child.start(); print(child.pid, flush=True); time.sleep(600)",
        ],
        cwd=TOP,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdout is not None
    with runner, runner.stdout:
        pid = int(runner.stdout.readline())
        assert alive(pid)
        runner.kill()
    assert wait_until(lambda: not alive(pid))
