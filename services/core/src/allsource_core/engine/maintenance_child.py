"""The process in which maintenance runs: ``python -m allsource_core.engine.maintenance_child``.

It reads jobs from its standard input and ends when that does, in the middle of a job too; so it does not outlive a
parent that was killed.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import threading
from contextlib import suppress
from typing import Final

import msgspec

from allsource_core.engine.errors import CorruptionError
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.job_runners import JobAnswer, read_message, write_message
from allsource_core.engine.maintenance_jobs import Job, run_job

__all__ = ["main"]

_NICENESS: Final = 10
"""Serving comes first: the child gets what the serving process leaves it."""

_decoder: Final = msgspec.msgpack.Decoder(Job)


def main() -> None:
    """Do the jobs that come until no more can come."""
    os.nice(_NICENESS)
    # A job makes a million objects and no cycles: looking for some would take a third of its time.
    gc.disable()
    threading.Thread(target=_end_with_parent, name="allsource-parent", daemon=True).start()
    # Nothing but answers may reach the pipe, whatever a library prints.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # A parent that was killed reads no answer.
    with suppress(BrokenPipeError):
        while (data := read_message(sys.stdin.buffer)) is not None:
            write_message(answers, msgspec.msgpack.encode(_answer(data)))


def _end_with_parent() -> None:
    """End this process at once when nobody holds the other end of its standard input any more."""
    poll = select.poll()
    # Asked for nothing, it still tells that the other end was closed.
    poll.register(0, 0)
    poll.poll()
    os._exit(1)


def _answer(data: bytes) -> JobAnswer:
    try:
        return JobAnswer(run_job(_decoder.decode(data), LocalFilesystem()))
    except CorruptionError as error:
        return JobAnswer(damaged=(str(error.path), error.offset, error.reason))
    except OSError as error:
        return JobAnswer(os_error=(error.errno or 0, str(error)))
    except Exception as error:
        return JobAnswer(failure=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
