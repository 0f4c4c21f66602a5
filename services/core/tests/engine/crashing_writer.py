"""A process to be killed: it appends, removes, seals and compacts all the time, and says what was acknowledged.

    python crashing_writer.py DIRECTORY ANSWERS PHASES PLAN

ANSWERS gets a line for each answer, written at once and by one write. PHASES is a file of 16 bytes, mapped: what the
maintenance of the store is doing, what its log is doing, and the pid of its maintenance process. PLAN is JSON and says
where to go on.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions
from allsource_core.engine import catalog as catalog_module
from allsource_core.engine.catalog import Catalog
from allsource_core.engine.job_runners import ProcessRunner
from allsource_core.engine.log_writer import LogWriter
from allsource_core.engine.maintenance import Maintenance

MAINTENANCE = (
    *("starting", "opening", "nothing", "SealJob", "CompactJob", "MergeKeysJob", "RetentionJob"),
    *("naming files", "replacing the manifest", "dropping log files"),
)
LOG = ("nothing", "writing records", "beginning a file")
OPTIONS = StoreOptions(
    segment_rows_max=200,
    log_file_bytes_max=20_000,
    removal_seconds=0,
    retention_seconds=0.2,
    reserve_bytes=0,
    wait_seconds_max=100,
)
WRITERS = 3
TENANT = "default"


def batch_of(number: int) -> list[NewEvent]:
    """The events of a batch: always the same for a number, and an id for each, so that it can be sent again."""
    count = 30 if number % 10 == 0 else 3
    return [
        NewEvent(
            "counted",
            f"e-{number % WRITERS}-{number // WRITERS % 5}",
            Raw(b'{"batch":%d,"of":%d,"pad":"%s"}' % (number, count, b"x" * (number * 37 % 400))),
            tags=[f"tag-{number % 4}"],
            event_id=UUID(int=number * 32 + part + 1),
        )
        for part in range(count)
    ]


class Phases:
    """Tells the parent, who reads it when this process is no more, what was under way."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), 16)

    def pid(self, pid: int) -> None:
        struct.pack_into("<I", self._bytes, 8, pid)

    def around(self, owner: Any, name: str, place: int, number: Callable[..., int]) -> None:
        """Have a function say that it is under way."""
        function = getattr(owner, name)

        def told(*arguments: Any, **named: Any) -> Any:
            before = self._bytes[place]
            self._bytes[place] = number(*arguments)
            try:
                return function(*arguments, **named)
            finally:
                self._bytes[place] = before

        setattr(owner, name, told)

    def set(self, phase: str) -> None:
        self._bytes[0] = MAINTENANCE.index(phase)


def watch(phases: Phases) -> None:
    def always(name: str, names: tuple[str, ...] = MAINTENANCE) -> Callable[..., int]:
        return lambda *_: names.index(name)

    phases.around(ProcessRunner, "run", 0, lambda _self, job: MAINTENANCE.index(type(job).__name__))
    phases.around(Catalog, "_name_files", 0, always("naming files"))
    phases.around(catalog_module, "write_manifest", 0, always("replacing the manifest"))
    phases.around(Maintenance, "_drop_log_files", 0, always("dropping log files"))
    phases.around(LogWriter, "commit", 1, always("writing records", LOG))
    phases.around(LogWriter, "_begin_file", 1, always("beginning a file", LOG))
    start = ProcessRunner._start

    def start_and_tell(self: ProcessRunner) -> Any:
        process = start(self)
        phases.pid(process.pid)
        return process

    ProcessRunner._start = start_and_tell  # type: ignore[method-assign]


def main() -> None:
    directory, answers_path, phases_path = map(Path, sys.argv[1:4])
    plan = json.loads(sys.argv[4])
    answers = os.open(answers_path, os.O_WRONLY | os.O_APPEND)
    phases = Phases(phases_path)
    watch(phases)
    phases.set("opening")
    store = EventStore.open(directory, options=OPTIONS)
    phases.set("nothing")

    def answer(line: str) -> None:
        os.write(answers, f"{line}\n".encode())

    def write(number: int) -> None:
        while True:
            store.append(TENANT, batch_of(number))
            answer(f"batch {number}")
            number += WRITERS
            time.sleep(0.003)

    def remove(number: int) -> None:
        """Everything that removes, one kind after the other."""
        store.removals.set_policy(TENANT, "kept", max_count=5)
        while True:
            events = [NewEvent("doomed", f"victim-{number}", Raw(b'{"victim":%d}' % number)) for _ in range(3)]
            store.append(TENANT, events)
            store.removals.entity(TENANT, f"victim-{number}")
            answer(f"victim {number}")
            appended = store.append(TENANT, [NewEvent("risen", "phoenix", Raw(b"{}"))] * 2)
            answer(f"phoenix {appended.events[0].version} {appended.events[1].version}")
            if number % 3 == 0:
                store.removals.entity(TENANT, "phoenix")
            (diary,) = store.append(TENANT, [NewEvent("written", "diary", Raw(b'{"secret":%d}' % number))]).events
            store.removals.event(TENANT, diary.id)
            answer(f"erased {diary.position}")
            store.append(TENANT, [NewEvent("kept", "kept", Raw(b'{"member-%d":%d}' % (number, number)))])
            answer(f"kept {number}")
            if number % 4 == 0:
                store.append(f"tenant-{number}", events)
                store.removals.tenant(f"tenant-{number}")
                answer(f"tenant {number}")
            number += 1
            time.sleep(0.02)

    for number in plan["batches"]:
        threading.Thread(target=write, args=(number,), daemon=True).start()
    threading.Thread(target=remove, args=(plan["victim"],), daemon=True).start()
    # Whatever happens to a thread above, the parent would wait: it is told by what comes to standard error.
    threading.Event().wait()


if __name__ == "__main__":
    main()
