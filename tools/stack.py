"""Both services as child processes: for development, the demo and the end-to-end tests.

    environ = {"ALLSOURCE_AUTH__MASTER_KEY": secret, "ALLSOURCE_GATEWAY__KEY": key}
    with Stack(data_dir, environ=environ) as stack:
        httpx.get(f"{stack.gateway_url}/health")

Nothing here signs in or knows a route beyond the health probes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from allsource_shared.configuration import PREFIX
from tools.child import Child, ChildError, describe_exit
from tools.ports import free_ports

__all__ = ["ServiceName", "Stack", "StackError", "service_url"]

ServiceName = Literal["core", "gateway"]
StackError = ChildError

_STOP_ORDER: Final[tuple[ServiceName, ...]] = ("gateway", "core")
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - compared, never bound
_WATCH_SECONDS: Final = 0.2


def service_url(host: str, port: int) -> str:
    """Where a service that listens on `host` is reached from this machine."""
    host = _WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Stack:
    """One core and one gateway in front of it.

    Start it in a thread that lives as long as the services should (see `Child`).

    Args:
        data_dir: of the core. Kept when the stack ends.
        environ: ``ALLSOURCE_…`` variables for both services. Those of the running process are *not* inherited, so
            that a test means the same on every machine; everything else is.
        config: TOML file for both.
        flags: ``section.key=value`` for both, over the file and the environment.
        core_host, gateway_host: that they listen on.
        core_port, gateway_port: None takes a free one.
        core_url: where the gateway looks for the core; None means the one that is started here.
        log_dir: gets ``core.log`` and ``gateway.log``, appended to; None lets both write to standard error.
        ready_timeout_seconds: for each service to become ready.
        stop_timeout_seconds: for each service to end by itself before it is killed.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        environ: Mapping[str, str] | None = None,
        config: Path | None = None,
        flags: Sequence[str] = (),
        core_host: str = "127.0.0.1",
        core_port: int | None = None,
        gateway_host: str = "127.0.0.1",
        gateway_port: int | None = None,
        core_url: str | None = None,
        log_dir: Path | None = None,
        ready_timeout_seconds: float = 30.0,
        stop_timeout_seconds: float = 20.0,
    ) -> None:
        free = free_ports(2)
        core_port = free[0] if core_port is None else core_port
        gateway_port = free[1] if gateway_port is None else gateway_port
        self.core_url: Final = service_url(core_host, core_port)
        self.gateway_url: Final = service_url(gateway_host, gateway_port)
        self._ready_timeout_seconds = ready_timeout_seconds
        self._stop_timeout_seconds = stop_timeout_seconds
        # What has to end with code 0: a service that has not become ready may end in any way, and so may one that
        # was killed on purpose.
        self._must_end_well: set[ServiceName] = set()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        places = {
            "server.host": core_host,
            "server.port": core_port,
            "storage.data_dir": data_dir,
            "gateway.host": gateway_host,
            "gateway.port": gateway_port,
            "gateway.core_url": core_url or self.core_url,
        }
        arguments = [] if config is None else ["--config", str(config)]
        for flag in [*flags, *(f"{name}={value}" for name, value in places.items())]:
            arguments += ["--set", flag]  # of two flags for one setting the later holds: what is decided here

        def child(name: ServiceName, module: str) -> Child:
            log_path = None if log_dir is None else log_dir / f"{name}.log"
            return Child(name, module, arguments, {**inherited, **(environ or {})}, log_path)

        self._children: dict[ServiceName, Child] = {
            "core": child("core", "allsource_core"),
            "gateway": child("gateway", "allsource_control_plane"),
        }

    @property
    def core_pid(self) -> int:
        """Process number of the core."""
        return self._children["core"].pid

    @property
    def gateway_pid(self) -> int:
        """Process number of the gateway."""
        return self._children["gateway"].pid

    def start(self) -> None:
        """Start the core, and when it is ready the gateway; return when that is ready too.

        Raises:
            StackError: with the last lines of its log, if one does not become ready. Nothing is left running.
        """
        try:
            for name in reversed(_STOP_ORDER):
                self._start(name)
        except BaseException as error:
            self._stop_after(error)
            raise

    def stop(self) -> None:
        """End the gateway, then the core (SIGTERM), each in bounded time; what is not running is passed over.

        Raises:
            StackError: naming each service that had been ready and did not end with code 0, those that were killed
                on purpose aside. Both have ended nevertheless.
        """
        problems = []
        for name in _STOP_ORDER:
            child = self._children[name]
            if child.started:
                code = child.terminate(self._stop_timeout_seconds)
                if code != 0 and name in self._must_end_well:
                    problems.append(f"{name} {describe_exit(code)}")
        self._must_end_well.clear()
        if problems:
            raise StackError("; ".join(problems))

    def terminate(self, name: ServiceName) -> int:
        """End one service (SIGTERM), in bounded time; its exit code, negative for a signal."""
        return self._children[name].terminate(self._stop_timeout_seconds)

    def kill(self) -> None:
        """End both at once (SIGKILL)."""
        self._must_end_well.clear()
        for child in self._children.values():
            child.kill()

    def kill_core(self) -> None:
        """End the core as a crash would (SIGKILL)."""
        self._must_end_well.discard("core")
        self._children["core"].kill()

    def restart_core(self) -> None:
        """End the core if it runs, start it on the same port and data, and return when it is ready.

        Raises:
            StackError: if it ran and did not end with code 0, or does not become ready.
        """
        self._restart("core")

    def wait_for_exit(self, timeout_seconds: float) -> tuple[ServiceName, int] | None:
        """The first service that ends by itself and its exit code; None if both still run after that time."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            for name, child in self._children.items():
                code = child.exit_code
                if code is not None:
                    return name, code
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(left, _WATCH_SECONDS))

    def _restart(self, name: ServiceName) -> None:
        child = self._children[name]
        if child.running:
            code = self.terminate(name)
            if code != 0:
                raise StackError(f"{name} {describe_exit(code)}")
        self._start(name)

    def _start(self, name: ServiceName) -> None:
        child = self._children[name]
        self._must_end_well.discard(name)
        child.start()
        url = f"{self.core_url}/health/ready" if name == "core" else f"{self.gateway_url}/health"
        child.wait_until_ready(url, self._ready_timeout_seconds)
        self._must_end_well.add(name)

    def _stop_after(self, error: BaseException) -> None:
        """Stop because of `error`, which stays what is reported first."""
        try:
            self.stop()
        except StackError as problem:
            error.add_note(str(problem))

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self._stop_after(error)
