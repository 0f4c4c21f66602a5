"""Real processes that are killed at random moments of everything they do. `ALLSOURCE_CRASHES` sets how many.

Each crash aims at one phase of the process, which tells through mapped memory what it is doing; and is followed by an
opening here, and a look at everything that was ever acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import msgspec
import pytest

from allsource_core.engine import Event, EventQuery, EventStore, store_lock
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.job_runners import InlineRunner, JobFailedError
from allsource_core.engine.maintenance_jobs import Job, JobResult, run_job

from .crashing_writer import LOG, MAINTENANCE, OPTIONS, TENANT, WRITERS, batch_of
from .data_directory import check_names, errors_of
from .stores import without_background_work

CRASHES = int(os.environ.get("ALLSOURCE_CRASHES", "12"))
CRASHES_OF_A_DIRECTORY = 25
"""Then another one is begun, so that looking at everything does not take longer and longer."""
SECONDS_MAX = 2.5
"""How long a crash waits for the phase that it aims at."""


class Answers:
    """What was acknowledged, by kind."""

    def __init__(self, text: str) -> None:
        self.batches: set[int] = set()
        self.victims: set[int] = set()
        self.phoenix: list[tuple[int, int]] = []
        self.erased: set[int] = set()
        self.kept: set[int] = set()
        self.tenants: set[int] = set()
        # A line that was cut is none.
        for line in text.splitlines(keepends=True):
            kind, *numbers = line.split()
            if not line.endswith("\n"):
                continue
            if kind == "phoenix":
                self.phoenix.append((int(numbers[0]), int(numbers[1])))
            else:
                of_kind: set[int] = {
                    "batch": self.batches,
                    "victim": self.victims,
                    "erased": self.erased,
                    "kept": self.kept,
                    "tenant": self.tenants,
                }[kind]
                of_kind.add(int(numbers[0]))

    def plan(self) -> dict[str, object]:
        """Where the next process goes on: each writer at its first batch without an answer, which may be stored."""
        batches = [
            max((number for number in self.batches if number % WRITERS == writer), default=writer - WRITERS) + WRITERS
            for writer in range(WRITERS)
        ]
        return {"batches": batches, "victim": max(self.victims, default=-1) + 1}


class CrashSite:
    """A data directory, and what processes that worked on it said before they were killed."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.directory = root / "s"
        self.answers = root / "answers"
        self.answers.touch()
        self.phases = root / "phases"
        self.errors = root / "errors"

    def read_answers(self) -> Answers:
        return Answers(self.answers.read_text())

    def crash(self, chance: random.Random) -> tuple[str, str, int]:
        """Run the writer, and kill it; returns what maintenance and the log were doing, and the maintenance pid."""
        self.phases.write_bytes(bytes(16))
        plan = json.dumps(self.read_answers().plan())
        arguments = [str(self.directory), str(self.answers), str(self.phases), plan]
        script = str(Path(__file__).with_name("crashing_writer.py"))
        with self.errors.open("ab") as errors:
            process = subprocess.Popen([sys.executable, script, *arguments], stderr=errors)
        aim = chance.randrange(1, len(MAINTENANCE))
        size = self.answers.stat().st_size
        deadline = time.monotonic() + 60
        # Nothing before the opening is of interest, and most of it begins with the first answers.
        while self.phases.read_bytes()[0] == 0 or (aim > 1 and self.answers.stat().st_size == size):
            assert process.poll() is None, self.errors.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        deadline = time.monotonic() + (chance.uniform(0, SECONDS_MAX) if MAINTENANCE[aim] == "nothing" else SECONDS_MAX)
        while time.monotonic() < deadline and (self.phases.read_bytes()[0] != aim or MAINTENANCE[aim] == "nothing"):
            time.sleep(0.0002)
        time.sleep(chance.choice([0.0, chance.uniform(0, 0.002), chance.uniform(0, 0.03)]))
        assert process.poll() is None, self.errors.read_text()
        process.send_signal(signal.SIGKILL)
        process.wait()
        phases = self.phases.read_bytes()
        return MAINTENANCE[phases[0]], LOG[phases[1]], struct.unpack_from("<I", phases, 8)[0]

    def check(self, chance: random.Random) -> int:
        """Open what is left and look at everything; returns how many events there are."""
        answers = self.read_answers()
        with EventStore.open(self.directory, options=OPTIONS) as store:
            check_names(store)
            versions = check_events(store, answers)
            for entity_id in chance.sample(sorted(versions), min(5, len(versions))):
                assert [event.version for event in of_entity(store, entity_id)] == versions[entity_id]
            for number in chance.sample(sorted(answers.victims), min(10, len(answers.victims))):
                assert of_entity(store, f"victim-{number}") == []
                assert store.version(TENANT, f"victim-{number}") >= 3
            for number in answers.tenants:
                assert list(store.read(f"tenant-{number}")) == []
                assert store.version(f"tenant-{number}", f"victim-{number}") == 0
            check_phoenix(store, answers.phoenix)
            check_kept(store, answers.kept)
        errors = errors_of(self.directory)
        assert not errors, errors
        return sum(map(len, versions.values()))


def of_entity(store: EventStore, entity_id: str) -> list[Event]:
    return list(store.read(TENANT, EventQuery(entity_id=entity_id)))


def check_events(store: EventStore, answers: Answers) -> dict[str, list[int]]:
    """Everything by position; returns the versions of each entity of the writers."""
    batches: Counter[int] = Counter()
    sizes: dict[int, int] = {}
    versions: dict[str, list[int]] = defaultdict(list)
    victims = {f"victim-{number}" for number in answers.victims}
    position = 0
    for event in store.read(TENANT):
        assert event.position > position
        assert event.entity_id not in victims
        position = event.position
        payload = msgspec.json.decode(event.payload)
        if event.event_type == "counted":
            batches[payload["batch"]] += 1
            sizes[payload["batch"]] = payload["of"]
            versions[event.entity_id].append(event.version)
        if event.position in answers.erased:
            assert (event.payload, event.erased) == (b"null", True)
            answers.erased.remove(event.position)
    assert answers.batches <= set(batches), f"lost: {sorted(answers.batches - set(batches))}"
    assert batches == sizes, "a batch is there in part, or twice"
    assert not answers.erased, "an erased event is gone altogether"
    for entity_id, found in versions.items():
        assert found == list(range(1, len(found) + 1)), entity_id
        assert store.version(TENANT, entity_id) == len(found)
    return versions


def check_phoenix(store: EventStore, versions: list[tuple[int, int]]) -> None:
    """Its versions went on over every removal and every crash; what is there of it is the end."""
    before = 0
    for first, second in versions:
        assert before < first == second - 1, versions
        before = second
    last = store.version(TENANT, "phoenix")
    left = [event.version for event in of_entity(store, "phoenix")]
    assert left == list(range(last - len(left) + 1, last + 1))
    assert last >= before


def check_kept(store: EventStore, members: set[int]) -> None:
    """Retention took events away, and nothing of what they said."""
    state = store.state(TENANT, "kept")
    assert state.version == store.version(TENANT, "kept") >= len(members)
    assert {f"member-{number}": number for number in members}.items() <= state.value().items()


def is_gone(pid: int) -> bool:
    """Whether a process ended, even if nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pid: int) -> None:
    # It is the last one to get anything of a busy machine.
    deadline = time.monotonic() + 60
    while not is_gone(pid):
        assert time.monotonic() < deadline, "the maintenance process outlives its parent"
        time.sleep(0.001)


@pytest.mark.timeout(300 + 60 * CRASHES)
def test_nothing_acknowledged_is_lost_however_often_and_whenever_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_background_work(monkeypatch)
    # Who is killed while its child comes up leaves the lock to that one for as long as it takes.
    monkeypatch.setattr(store_lock, "_SECONDS_MAX", 60)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    maintenance: Counter[str] = Counter()
    log: Counter[str] = Counter()
    with_child = events = acknowledged = 0
    site = CrashSite(tmp_path / "0")
    try:
        for crash in range(CRASHES):
            if crash and crash % CRASHES_OF_A_DIRECTORY == 0:
                acknowledged += len(site.read_answers().batches)
                site = CrashSite(tmp_path / str(crash))
            phase, writing, child = site.crash(chance)
            maintenance[phase] += 1
            log[writing] += 1
            if child:
                with_child += 1
                wait_until_gone(child)
            events = site.check(chance)
    finally:
        acknowledged += len(site.read_answers().batches)
        print(f"\nseed {seed}: {maintenance.total()} crashes, {with_child} with a maintenance process")
        print(f"killed while maintenance did: {dict(maintenance.most_common())}; the log: {dict(log.most_common())}")
        print(f"{acknowledged} batches acknowledged, {events} events in the last directory, nothing lost")
    assert acknowledged


def test_what_the_maintenance_process_of_a_killed_store_still_writes_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may live for a moment longer than its parent, with the same numbers for the files that it makes."""
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(OPTIONS, maintenance="thread")
    run = InlineRunner.run
    orphans: list[Job] = []

    def break_off(_self: InlineRunner, job: Job) -> JobResult:
        orphans.append(job)
        raise JobFailedError("the process was killed")

    def run_beside_the_orphan(self: InlineRunner, job: Job) -> JobResult:
        result = run(self, job)
        run_job(orphans[0], LocalFilesystem())
        return result

    with EventStore.open(tmp_path / "s", options=options) as store:
        events = store.append(TENANT, batch_of(1)).events
        monkeypatch.setattr(InlineRunner, "run", break_off)
        with pytest.raises(JobFailedError):
            store.seal()
    with EventStore.open(tmp_path / "s", options=options) as store:
        # Another removal is applied this time: the files have other bytes.
        store.removals.event(TENANT, events[0].id)
        monkeypatch.setattr(InlineRunner, "run", run_beside_the_orphan)
        store.seal()
    assert errors_of(tmp_path / "s") == []
    with EventStore.open(tmp_path / "s", options=options) as store:
        assert [event.erased for event in store.read(TENANT)] == [True, False, False]
        check_names(store)
