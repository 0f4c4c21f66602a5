"""The real core as a process, on a data directory of the benchmark's own: without a gateway."""

from __future__ import annotations

import json
import os
import secrets
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from allsource_shared.configuration import PREFIX
from tools.benchmarking.memory import anonymous_mib
from tools.benchmarking.processor import processor_seconds
from tools.child import Child, ChildError, probe
from tools.ports import free_ports

__all__ = ["CoreService"]

_POLL_SECONDS: Final = 0.005
_READY_SECONDS_MAX: Final = 120.0
_STOP_SECONDS_MAX: Final = 60.0
_OK: Final = 200


class CoreService:
    """``python -m allsource_core`` with its settings in the environment.

    Args:
        directory: gets the data and the log.
        module: that is run instead.
        under: as `Child`.
    """

    def __init__(self, directory: Path, *, module: str = "allsource_core", under: Sequence[str] = ()) -> None:
        self.data_dir = directory / "data"
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._password = secrets.token_urlsafe(16)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environ = {
            f"{PREFIX}STORAGE__DATA_DIR": str(self.data_dir),
            f"{PREFIX}SERVER__PORT": str(port),
            f"{PREFIX}AUTH__MASTER_KEY": secrets.token_urlsafe(48),
            f"{PREFIX}BOOTSTRAP_ADMIN_USERNAME": "admin",
            f"{PREFIX}BOOTSTRAP_ADMIN_PASSWORD": self._password,
        }
        self._child = Child("core", module, [], {**inherited, **environ}, directory / "core.log", under=under)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.kill()

    def start(self) -> float:
        """Start it; the seconds from then until it says that it is ready.

        Raises:
            ChildError: it ended, or is not ready after two minutes.
        """
        started = time.perf_counter()
        self._child.start()
        while time.perf_counter() - started < _READY_SECONDS_MAX and self._child.running:
            try:
                if probe(f"{self.url}/health/ready") == _OK:
                    return time.perf_counter() - started
            except OSError:
                pass
            time.sleep(_POLL_SECONDS)
        raise ChildError(f"the core did not become ready; its log is {self._child.log_path}")

    def stop(self) -> None:
        """End it (SIGTERM) and wait. Raises ChildError: it did not end well."""
        code = self._child.terminate(_STOP_SECONDS_MAX)
        if code != 0:
            raise ChildError(f"the core ended with {code}; its log is {self._child.log_path}")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    def anonymous_mib(self) -> float:
        """`RssAnon` of all its processes."""
        return anonymous_mib(self._child.pid)

    def processor_seconds(self) -> float:
        """What it has taken of a core up to now."""
        return processor_seconds(self._child.pid)

    def token(self) -> str:
        """Of its administrator."""
        body = json.dumps({"username": "admin", "password": self._password}).encode()
        request = urllib.request.Request(f"{self.url}/api/v1/auth/login", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            return str(json.load(answer)["token"])
