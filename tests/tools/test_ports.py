"""Ports that the processes of one run of tests have each for themselves."""

from __future__ import annotations

import pytest

from tools.ports import free_ports, share


def process(number: int, count: int) -> dict[str, str]:
    return {"PYTEST_XDIST_WORKER": f"gw{number}", "PYTEST_XDIST_WORKER_COUNT": str(count)}


def test_processes_of_a_run_have_ports_of_their_own() -> None:
    ports = [port for number in range(7) for port in share(process(number, 7))]
    assert ports == sorted(set(ports))
    lowest, highest = share({})
    assert lowest <= ports[0]
    assert ports[-1] <= highest < 32_768  # where Linux begins to take ports for outgoing connections


def test_free_ports_are_of_the_share_of_their_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in process(1, 100).items():
        monkeypatch.setenv(name, value)
    lowest, highest = share(process(1, 100))
    found = free_ports(5)
    assert len(set(found)) == 5
    assert all(lowest <= port <= highest for port in found)


def test_process_in_place_of_one_that_crashed_has_ports_too() -> None:
    assert share(process(3, 3)) == share(process(0, 3))
