"""Who does the jobs of maintenance: a child process, or the thread that orders them.

Turning a quarter million Python objects into a segment would stop a serving process for tenths of a second, thread or
not. So a child (`maintenance_child.py`) does it, which shares nothing with its parent but immutable files. Jobs and
answers are MessagePack with their length in four bytes in front, over the pipes of the child's standard streams.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Final, Protocol

import msgspec

from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filesystem import Filesystem
from allsource_core.engine.maintenance_jobs import Job, JobResult, run_job

__all__ = ["InlineRunner", "JobAnswer", "JobFailedError", "JobRunner", "ProcessRunner", "read_message", "write_message"]

_LENGTH: Final = struct.Struct("<I")


class JobFailedError(Exception):
    """A job failed for a reason that is neither damage nor the file system's."""


class JobAnswer(msgspec.Struct):
    """What the child says: a result, or what went wrong."""

    result: JobResult | None = None
    damaged: tuple[str, int, str] | None = None
    os_error: tuple[int, str] | None = None
    failure: str | None = None


_answer_decoder: Final = msgspec.msgpack.Decoder(JobAnswer)


class JobRunner(Protocol):
    """Does jobs, one at a time.

    Attributes:
        pid: of the process that does them, where it is another one.
    """

    @property
    def pid(self) -> int | None: ...

    def run(self, job: Job) -> JobResult:
        """Do a job and wait for it. Raises CorruptionError, OSError, JobFailedError."""

    def close(self) -> None:
        """Let go of what it holds; a job under way is broken off and has changed nothing."""


class InlineRunner:
    """Does jobs in the thread that orders them: for embedding programs that want no other process, and for tests."""

    pid = None

    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem

    def run(self, job: Job) -> JobResult:
        return run_job(job, self._filesystem)

    def close(self) -> None:
        """Nothing is held."""


class ProcessRunner:
    """Does jobs in a child, which is started when the first one comes and ended when none came for a while.

    Args:
        idle_seconds: after which the child is ended, so that its memory is given back.
    """

    def __init__(self, idle_seconds: float = 10.0) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._timer: threading.Timer | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the child, if there is one."""
        process = self._process
        return None if process is None else process.pid

    def run(self, job: Job) -> JobResult:
        with self._lock:
            if self._closed:
                raise JobFailedError("the store is being closed")
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            process = self._process or self._start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            write_message(process.stdin, msgspec.msgpack.encode(job))
            data = read_message(process.stdout)
        except (OSError, ValueError):
            data = None
        with self._lock:
            if data is None:
                self._end()
                raise JobFailedError("the maintenance process died")
            self._timer = threading.Timer(self._idle_seconds, self._end_idle)
            self._timer.daemon = True
            self._timer.start()
        return _result(_answer_decoder.decode(data))

    def _start(self) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "allsource_core.engine.maintenance_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environ,
            # Ctrl-C in a terminal is for the parent, which ends the child when it is ready to.
            process_group=0,
        )
        return self._process

    def _end_idle(self) -> None:
        with self._lock:
            # None: a job came in the moment that the time was up.
            if self._timer is not None:
                self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def close(self) -> None:
        self._closed = True
        process = self._process
        if process is not None:
            # Not under the lock: a job may be under way, and its thread is to see that the child is gone.
            process.kill()
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._end()


def _result(answer: JobAnswer) -> JobResult:
    if answer.damaged is not None:
        path, offset, reason = answer.damaged
        raise CorruptionError(Path(path), offset, reason)
    if answer.os_error is not None:
        raise OSError(*answer.os_error)
    if answer.result is None:
        raise JobFailedError(answer.failure)
    return answer.result


def write_message(stream: IO[bytes], data: bytes) -> None:
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def read_message(stream: IO[bytes]) -> bytes | None:
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    length = _LENGTH.unpack(head)[0]
    data = stream.read(length)
    return data if len(data) == length else None
