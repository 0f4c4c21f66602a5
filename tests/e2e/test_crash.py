"""The core is killed, stopped and started again under load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx

from tools.ports import free_ports
from tools.stack import Stack

from .callers import SOON_SECONDS, until
from .conftest import MASTER_KEY, PASSWORD, PATIENT, sign_in

NDJSON = {"Accept": "application/x-ndjson"}


class Load:
    """Threads that append batches of ten through the gateway and remember what was acknowledged and refused."""

    def __init__(self, url: str, token: str, threads: int = 4) -> None:
        self.acknowledged: list[str] = []
        self.refusals: list[tuple[int, str]] = []
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self, thread: int) -> None:
        with httpx.Client(base_url=self._url, headers=self._headers, timeout=30) as client:
            number = 0
            while not self._stop.is_set():
                name = f"{thread}-{number}"
                number += 1
                events = [{"event_type": "load", "entity_id": name, "payload": n} for n in range(10)]
                try:
                    answer = client.post("/api/v1/events/batch", json={"events": events})
                except httpx.TransportError as error:
                    self.refusals.append((0, type(error).__name__))
                    continue
                if answer.status_code == 201:
                    self.acknowledged.append(name)
                else:
                    self.refusals.append((answer.status_code, answer.json()["error"]))
                    time.sleep(0.01)

    def wait_for(self, count: int) -> None:
        """Until `count` batches in all were acknowledged."""
        deadline = time.monotonic() + 60
        while len(self.acknowledged) < count:
            assert time.monotonic() < deadline, "the load does not get through"
            time.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def stored_batches(url: str, token: str) -> dict[str, list[int]]:
    """The payloads of every stored batch, by its name."""
    headers = {"Authorization": f"Bearer {token}", **NDJSON}
    batches: dict[str, list[int]] = {}
    with httpx.stream("GET", f"{url}/api/v1/events/query?event_type=load", headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            event = json.loads(line)
            batches.setdefault(event["entity_id"], []).append(event["payload"])
    return batches


def test_no_acknowledged_event_is_missing_after_the_core_is_killed_in_the_middle_of_a_load(own_stack: Stack) -> None:
    token = sign_in(own_stack.gateway_url)
    load = Load(own_stack.gateway_url, token)
    try:
        for round_number in range(1, 4):
            load.wait_for(100 * round_number)
            own_stack.kill_core()
            own_stack.restart_core()
        load.wait_for(400)
    finally:
        load.stop()
    batches = stored_batches(own_stack.gateway_url, token)
    assert set(load.acknowledged) <= set(batches), "an acknowledged batch is missing"
    assert all(payloads == list(range(10)) for payloads in batches.values()), "a batch is half there, or out of order"
    assert {status for status, _ in load.refusals} == {503}
    assert {error for _, error in load.refusals} <= {"core_unavailable", "starting"}


def test_while_the_core_is_away_the_gateway_says_so_within_a_second_and_recovers(own_stack: Stack) -> None:
    token = sign_in(own_stack.gateway_url)
    headers = {"Authorization": f"Bearer {token}"}
    query = f"{own_stack.gateway_url}/api/v1/events/query"
    own_stack.kill_core()
    assert httpx.get(query, timeout=30).status_code == 401
    answer = httpx.get(query, headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["error"]) == (503, "core_unavailable")
    assert answer.elapsed.total_seconds() < SOON_SECONDS
    assert "Retry-After" in answer.headers
    health = answer

    def is_said_to_be(status: str) -> bool:
        nonlocal health
        health = httpx.get(f"{own_stack.gateway_url}/health", timeout=30)
        return bool(health.json()["status"] == status)

    # What the gateway knows of the core's health is at most a second old.
    until(lambda: is_said_to_be("degraded"), SOON_SECONDS)
    assert (health.status_code, health.json()["core"]["status"]) == (200, "unavailable")
    own_stack.restart_core()
    until(lambda: is_said_to_be("healthy"), SOON_SECONDS)
    assert httpx.get(query, headers=headers, timeout=30).status_code == 200


def test_ctrl_c_during_a_load_stops_both_and_loses_no_acknowledged_event(tmp_path: Path) -> None:
    core_port, gateway_port = free_ports(2)
    url = f"http://127.0.0.1:{gateway_port}"
    environ = {
        "PATH": "/usr/bin:/bin",
        "ALLSOURCE_AUTH__MASTER_KEY": MASTER_KEY,
        "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME": "admin",
        "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD": PASSWORD,
        "ALLSOURCE_SERVER__PORT": str(core_port),
        "ALLSOURCE_GATEWAY__PORT": str(gateway_port),
        **PATIENT,
    }
    command = [sys.executable, "-m", "tools.run", "--dev-dir", str(tmp_path)]

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C stops both" in line:
                return process
        raise AssertionError("make run did not become ready")

    runner = start()
    load = Load(url, sign_in(url))
    try:
        load.wait_for(100)
        runner.send_signal(signal.SIGINT)
        assert runner.wait(timeout=60) == 0
    finally:
        load.stop()
        runner.kill()
        runner.communicate()
    runner = start()
    try:
        batches = stored_batches(url, sign_in(url))
    finally:
        runner.send_signal(signal.SIGINT)
        assert runner.wait(timeout=60) == 0
        runner.communicate()
    assert set(load.acknowledged) <= set(batches)
    assert all(len(payloads) == 10 for payloads in batches.values())
