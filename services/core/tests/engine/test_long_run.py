"""A store that is written to, read from and removed from at the same time, while it seals and compacts by itself.

`ALLSOURCE_LONG_EVENTS` says how many events. What is checked is what a reader may rely on at any moment, everything at
the end, and that memory does not grow with the number of events.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import msgspec
import numpy as np
import pytest

from allsource_core.engine import CaughtUp, EventQuery, EventStore, NewEvent, Raw, StoreOptions
from allsource_core.engine.job_runners import ProcessRunner

from .data_directory import check_names, errors_of
from .stores import TENANT

EVENTS = int(os.environ.get("ALLSOURCE_LONG_EVENTS", "100000"))
BATCH = 100
WRITERS = 2
ENTITIES = max(EVENTS // 200, 50)
PHASES = 20
"""So many times an entity is removed that has an event in each batch since the last time, and memory is measured."""

READER_SECONDS = 0.001
"""Between two reads of one thread, or there would be little time for others."""

MEBIBYTE = 1024 * 1024
# About forty segments, whatever the number of events; less memory for all that may keep some than the events take.
OPTIONS = StoreOptions(
    segment_rows_max=min(max(EVENTS // 40, 1000), 262_144),
    log_file_bytes_max=min(max(EVENTS * 4, MEBIBYTE), 64 * MEBIBYTE),
    memory_budget_bytes=32 * MEBIBYTE,
    cache_bytes_max=min(max(EVENTS * 10, MEBIBYTE), 128 * MEBIBYTE),
    removal_seconds=0,
    reserve_bytes=0,
    wait_seconds_max=300,
)

_payloads = msgspec.json.Decoder(dict[str, int])


def client_id(number: int) -> UUID | None:
    """Every fourth event has an id of its author's."""
    return UUID(int=number + 1) if number % 4 == 0 else None


class LongRun:
    """What all threads share.

    Attributes:
        acknowledged: by writer: numbers below this were acknowledged, of those that are the writer's.
        doomed: number of the entity that is removed next.
        memory: anonymous memory of this process and of its child at the end of each phase, in MiB.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.acknowledged = [0] * WRITERS
        self.doomed = 0
        self.memory: list[tuple[int, int]] = []
        self.over = threading.Event()
        self.errors: list[BaseException] = []
        self.reads = {"by entity": 0, "by position": 0, "by id": 0, "subscribed": 0}

    def start(self, function: Callable[..., None], *arguments: int) -> threading.Thread:
        def run() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self.errors.append(error)
                self.over.set()

        thread = threading.Thread(target=run, name=function.__name__)
        thread.start()
        return thread

    # --- writing ---

    def write(self, writer: int) -> None:
        """The writer's share of the batches."""
        for batch in range(writer, EVENTS // BATCH, WRITERS):
            if self.over.is_set():
                return
            numbers = range(batch * BATCH, (batch + 1) * BATCH)
            events = [
                NewEvent(
                    "counted",
                    f"e-{number * 7919 % ENTITIES}",
                    Raw(b'{"n":%d,"square":%d}' % (number, number * number)),
                    tags=[f"tag-{number % 50}"] if number % 3 == 0 else [],
                    event_id=client_id(number),
                )
                for number in numbers
            ]
            events.append(NewEvent("doomed", f"doomed-{self.doomed}", Raw(b"{}")))
            self.store.append(TENANT, events)
            self.acknowledged[writer] = numbers.stop
            if writer == 0 and batch * PHASES // (EVENTS // BATCH) > len(self.memory):
                self.end_phase()

    def end_phase(self) -> None:
        removed, self.doomed = self.doomed, self.doomed + 1
        self.store.removals.entity(TENANT, f"doomed-{removed}")
        self.memory.append(self.anonymous_mebibytes())

    def anonymous_mebibytes(self) -> tuple[int, int]:
        return anonymous_mebibytes(os.getpid()), anonymous_mebibytes(self.store.maintenance_pid)

    def wait_for_readers(self) -> None:
        """Until each has read once, however late it got its first turn; the subscriber counts at its end."""
        deadline = time.monotonic() + 60
        while min(self.reads["by entity"], self.reads["by position"], self.reads["by id"]) == 0:
            if self.over.is_set() or time.monotonic() > deadline:
                return
            time.sleep(0.01)

    # --- reading, while it lasts ---

    def read_by_entity(self) -> None:
        chance = random.Random(1)
        while not self.over.is_set():
            entity = f"e-{chance.randrange(ENTITIES)}"
            version = self.store.version(TENANT, entity)
            first = chance.randint(1, max(version, 1))
            query = EventQuery(entity_id=entity, from_version=first, descending=chance.random() < 0.3)
            events = list(self.store.read(TENANT, query))
            if query.descending:
                events.reverse()
            # Versions without a gap; those that are not durable yet were counted above, and others may have come since.
            assert [event.version for event in events] == list(range(first, first + len(events)))
            assert all(event.position < behind.position for event, behind in pairwise(events))
            self.reads["by entity"] += 1
            time.sleep(READER_SECONDS)

    def read_by_position(self) -> None:
        """Catching up with a cursor, over and over, by pages of all sizes."""
        chance = random.Random(2)
        cursor = 0
        while not self.over.is_set():
            limit = chance.choice([10, 1000, 20_000])
            last = self.store.last_position
            count = 0
            for chunk in self.store.read_chunks(TENANT, EventQuery(after_position=cursor, limit=limit)):
                for event in chunk:
                    assert event.position > cursor
                    cursor = event.position
                count += len(chunk)
            assert count <= limit
            if count < limit:
                missed = self.store.read_chunks(TENANT, EventQuery(after_position=cursor), up_to=last)
                assert next(missed, []) == []
                cursor = 0
            self.reads["by position"] += 1
            time.sleep(READER_SECONDS)

    def read_by_id(self) -> None:
        chance = random.Random(3)
        while not self.over.is_set():
            writer = chance.randrange(WRITERS)
            below = self.acknowledged[writer]
            if not below:
                continue
            number = chance.randrange(below) // 4 * 4
            if number // BATCH % WRITERS == writer:
                event_id = client_id(number)
                assert event_id is not None
                event = self.store.get(TENANT, event_id)
                assert event is not None
                assert _payloads.decode(event.payload)["n"] == number
                position_after = EventQuery(after_position=event.position - 1, limit=1)
                assert next(self.store.read(TENANT, position_after)) == event
            assert self.store.get(TENANT, UUID(int=EVENTS + 1 + number)) is None
            self.reads["by id"] += 1
            time.sleep(READER_SECONDS)

    def subscribe(self) -> None:
        """Everything with a tag, each exactly once, in order, up to the event that says that it is over."""
        position = count = 0
        for item in self.store.subscribe(TENANT, EventQuery(tags=("tag-7",))):
            if isinstance(item, CaughtUp):
                continue
            assert item.position > position
            position = item.position
            if item.event_type == "end":
                break
            count += 1
        self.reads["subscribed"] = count


def anonymous_mebibytes(pid: int | None) -> int:
    """Memory of a process that no file stands behind; 0 for one that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def check_everything(store: EventStore) -> None:
    seen = np.zeros(EVENTS, np.bool_)
    versions = np.zeros(ENTITIES, np.int64)
    position = 0
    for event in store.read(TENANT):
        assert event.position > position
        position = event.position
        if event.event_type == "counted":
            number = _payloads.decode(event.payload)["n"]
            entity = number * 7919 % ENTITIES
            assert not seen[number]
            seen[number] = True
            assert event.entity_id == f"e-{entity}"
            assert event.version == versions[entity] + 1
            versions[entity] += 1
            assert event.client_id == (None if number % 4 else UUID(int=number + 1).bytes)
    assert seen.all()
    for entity in random.sample(range(ENTITIES), 20):
        found = [event.version for event in store.read(TENANT, EventQuery(entity_id=f"e-{entity}"))]
        assert found == list(range(1, versions[entity] + 1))
        assert store.version(TENANT, f"e-{entity}") == versions[entity]


@pytest.mark.timeout(600 + EVENTS // 500)
def test_nothing_goes_wrong_in_a_long_run_and_memory_does_not_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child stays, however long nothing comes: in every phase its memory counts.
    monkeypatch.setattr(ProcessRunner, "_end_idle", lambda _self: None)
    with EventStore.open(tmp_path / "s", options=OPTIONS) as store:
        run = LongRun(store)
        readers = [
            run.start(function)
            for function in (run.read_by_entity, run.read_by_position, run.read_by_id, run.subscribe)
        ]
        writers = [run.start(run.write, writer) for writer in range(WRITERS)]
        for thread in writers:
            thread.join()
        run.wait_for_readers()
        run.over.set()
        store.append(TENANT, [NewEvent("end", "end", Raw(b"{}"), tags=["tag-7"])])
        for thread in readers:
            thread.join()
        if run.errors:
            raise run.errors[0]
        mebibytes = list(map(sum, run.memory))
        stats = store.stats()
        print(f"\n{EVENTS} events, {stats.segments} segments, {stats.compactions} compactions, reads: {run.reads}")
        print(f"anonymous memory over {len(mebibytes)} phases, in MiB, and its child's: {run.memory}")
        assert stats.maintenance_failures == 0, stats.maintenance_failure
        assert min(run.reads.values()) > 0
        assert run.reads["subscribed"] == sum(1 for number in range(0, EVENTS, 3) if number % 50 == 7)
        check_everything(store)
        store.seal()
        for _ in range(3):
            store.compact()
        assert store.stats().compactions
        assert (store.stats().removals_pending, store.stats().memory_events) == (0, 0)
        check_everything(store)
        check_names(store)
        middle, end = mebibytes[len(mebibytes) // 2 : -len(mebibytes) // 4], mebibytes[-len(mebibytes) // 4 :]
        assert max(end) < max(middle) * 1.15 + 16, run.memory
    assert errors_of(tmp_path / "s") == []
    with EventStore.open(tmp_path / "s", options=OPTIONS) as store:
        check_everything(store)
