"""Both real services, started and ended by `Stack`."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from tools.stack import Stack, StackError, service_url

from .processes import alive, wait_until

SECRETS = {
    "ALLSOURCE_AUTH__MASTER_KEY": "kZ3vN8qTj1Wm5xRb7Lc0Yd9Hf2Gs6Pu4EaQi",
    "ALLSOURCE_GATEWAY__KEY": "w3Nq8Zt1Kx6Vb0Lj5Rm9Yc4Hf7Dg2Pu5TiSo",
}


def make_stack(directory: Path, environ: dict[str, str] | None = None) -> Stack:
    """A stack, not started, that waits for services longer than a machine stands still."""
    patience = {"ready_timeout_seconds": 120.0, "stop_timeout_seconds": 120.0}
    environ = SECRETS if environ is None else environ
    return Stack(directory / "data", environ=environ, log_dir=directory / "log", **patience)


def status(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return int(answer.status)


def test_both_serve_on_loopback_and_end_together(tmp_path: Path) -> None:
    with make_stack(tmp_path) as stack:
        pids = [stack.core_pid, stack.gateway_pid]
        assert status(f"{stack.core_url}/health") == 200
        assert status(f"{stack.gateway_url}/health") == 200
        assert stack.core_url.startswith("http://127.0.0.1:")
        assert all(os.getsid(pid) == pid for pid in pids)
    assert not any(alive(pid) for pid in pids)
    stack.stop()


def test_a_core_that_was_killed_comes_back_where_it_was(tmp_path: Path) -> None:
    with make_stack(tmp_path) as stack:
        first = stack.core_pid
        stack.kill_core()
        assert not alive(first)
        stack.restart_core()
        assert stack.core_pid != first
        assert status(f"{stack.core_url}/health/ready") == 200
        second = stack.core_pid
        stack.restart_core()
        assert not alive(second)
        assert status(f"{stack.core_url}/health/ready") == 200


def test_a_core_that_stays_killed_is_no_complaint_at_the_end(tmp_path: Path) -> None:
    with make_stack(tmp_path) as stack:
        stack.kill_core()


def test_a_core_that_crashed_is_a_complaint_at_the_end(tmp_path: Path) -> None:
    stack = make_stack(tmp_path)
    stack.start()
    os.kill(stack.core_pid, 9)
    assert stack.wait_for_exit(60) == ("core", -9)
    with pytest.raises(StackError, match="core was ended by SIGKILL"):
        stack.stop()
    assert wait_until(lambda: not alive(stack.gateway_pid))


def test_a_core_that_cannot_start_is_reported_with_its_log(tmp_path: Path) -> None:
    stack = make_stack(tmp_path, {"ALLSOURCE_AUTH__MASTER_KEY": ""})
    with pytest.raises(StackError, match=r"core exited with code 2 before it was ready[^$]*ALLSOURCE_AUTH__MASTER_KEY"):
        stack.start()
    assert not alive(stack.core_pid)


def test_settings_of_the_process_itself_do_not_leak_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLSOURCE_NO_SUCH__THING", "1")
    with make_stack(tmp_path) as stack:
        assert status(f"{stack.gateway_url}/health") == 200


@pytest.mark.parametrize(
    "host, url",
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_a_wildcard_address_is_reached_over_loopback(host: str, url: str) -> None:
    assert service_url(host, 80) == url
