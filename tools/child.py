"""One service as a child process that starts, becomes ready, ends in bounded time and never outlives its runner."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final
from urllib.parse import urlsplit

__all__ = ["Child", "ChildError"]

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_STANDARD_ERROR: Final = 2
_POLL_SECONDS: Final = 0.05
_PROBE_TIMEOUT_SECONDS: Final = 2.0
_LOG_TAIL_LINES: Final = 25


class ChildError(Exception):
    """A service did not start, did not become ready or did not end as it should; the message says which and why."""


class Child:
    """A Python module as a child process.

    The child leads its own session: Ctrl-C in the terminal reaches only the runner, which then ends its children in
    the order it wants. On Linux the kernel asks the child to end (SIGTERM) when the *thread* that started it ends, so
    start children from a thread that lives as long as they should.

    Args:
        name: for messages.
        module: run as ``python -m <module>`` with the interpreter that runs this.
        arguments: for the module.
        environ: the whole environment of the child.
        log_path: file that its output is appended to; None lets it write to the runner's own standard error.
        under: a program that runs the interpreter, with its arguments.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        log_path: Path | None,
        *,
        under: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = [*under, sys.executable, "-m", module, *arguments]
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process.

        Raises:
            ChildError: if none was started.
        """
        if self._process is None:
            raise ChildError(f"{self.name} is not started")
        return self._process.pid

    @property
    def started(self) -> bool:
        """Whether it was ever started."""
        return self._process is not None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Of the process that ended by itself or was terminated; negative for a signal. None while there is none."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; it is not ready yet (`wait_until_ready`)."""
        if self.running:
            raise ChildError(f"{self.name} is running already, as process {self.pid}")
        with contextlib.ExitStack() as stack:
            output: IO[bytes] | int = _STANDARD_ERROR
            if self.log_path is not None:
                self.log_path.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(self.log_path.open("ab"))
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 - it only makes two system calls
            )

    def wait_until_ready(self, url: str, timeout_seconds: float) -> None:
        """Ask `url` until it answers 200.

        Raises:
            ChildError: with the last lines of its log, if the process ends or the time is over before that.
        """
        deadline = time.monotonic() + timeout_seconds
        last = "no answer"
        while time.monotonic() < deadline:
            code = self.exit_code
            if code is not None:
                raise ChildError(f"{self.name} {describe_exit(code)} before it was ready{self._log_tail()}")
            try:
                status = probe(url)
            except OSError as error:
                last = str(error)
            else:
                if status == http.client.OK:
                    return
                last = f"status {status}"
            time.sleep(_POLL_SECONDS)
        raise ChildError(f"{self.name} was not ready within {timeout_seconds:g} s: {url} gave {last}{self._log_tail()}")

    def terminate(self, timeout_seconds: float) -> int:
        """Ask the process to end (SIGTERM) and wait; after `timeout_seconds` kill it and what it started.

        Returns:
            Its exit code, negative for a signal. One that had ended before keeps the code it ended with.
        """
        process = self._started()
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self._kill_group(process)
        return process.wait()

    def kill(self) -> None:
        """End the process and what it started at once (SIGKILL), as a crash would. No-op if it does not run."""
        if self._process is not None and self._process.poll() is None:
            self._kill_group(self._process)
            self._process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ChildError(f"{self.name} is not started")
        return self._process

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        # The child leads its session, so its process group has its own number, until it is waited for.
        os.killpg(process.pid, signal.SIGKILL)

    def _log_tail(self) -> str:
        if self.log_path is None:
            return "; its log is above"
        try:
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            return f"; its log can't be read: {error}"
        if not lines:
            return "; it logged nothing"
        return "\n".join([f"; the last lines of {self.log_path}:", *lines[-_LOG_TAIL_LINES:]])


def describe_exit(code: int) -> str:
    """``exited with code 3``, ``was ended by SIGKILL``."""
    if code >= 0:
        return f"exited with code {code}"
    return f"was ended by {signal.Signals(-code).name}"


def probe(url: str) -> int:
    """The status that a GET of `url` is answered with.

    Raises:
        OSError: if there is no answer of HTTP within two seconds.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_PROBE_TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status
    except http.client.HTTPException as error:
        raise OSError(f"not an answer of HTTP: {error!r}") from error
    finally:
        connection.close()


def _end_with_parent() -> Callable[[], None] | None:
    """What the child runs before it becomes the service, so that it ends with its runner, however that ends."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)  # looked up here: between fork and exec as little as possible may happen
    parent = os.getpid()

    def ask_for_signal() -> None:
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
            os._exit(126)
        if os.getppid() != parent:  # it ended before we asked
            os._exit(126)

    return ask_for_signal
