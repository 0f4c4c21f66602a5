"""Real processes that append and are killed at random moments. `ALLSOURCE_CRASHES` sets how many."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from allsource_core.engine import EventQuery, NewEvent, Raw, store_lock

from .stores import TENANT, open_store

CRASHES = int(os.environ.get("ALLSOURCE_CRASHES", "10"))

# Appends batches of three from four threads and prints the number of each batch that was acknowledged; segments are
# made meanwhile, in this process or in a child of it.
WRITER = """
import sys, threading
from pathlib import Path
from uuid import UUID
from allsource_core.engine import EventStore, NewEvent, OverloadedError, Raw, StoreOptions, store_lock
# Who was killed while a child came up leaves the lock to that one for as long as it takes.
store_lock._SECONDS_MAX = 60
path, first, maintenance, durability = sys.argv[1:]
options = StoreOptions(
    log_file_bytes_max=20000, segment_rows_max=300, reserve_bytes=0, maintenance=maintenance, durability=durability
)
store = EventStore.open(Path(path), options=options)
def write(thread):
    number = int(first) + thread
    while True:
        payload = Raw(b'{"batch":%d,"pad":"%s"}' % (number, b"x" * (number % 500)))
        ids = UUID(int=number + 1), None, None
        try:
            store.append("default", [NewEvent("t", f"e-{thread}", payload, event_id=event_id) for event_id in ids])
        except OverloadedError:
            # Sealing gets nothing of a machine that others use as well.
            continue
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
        number += 4
for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def wait_for(process: subprocess.Popen[bytes], what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None, "the writer ended"
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def crash_once(path: Path, first: int, chance: random.Random, maintenance: str = "") -> set[int]:
    """Run the writer, kill it some time after it has acknowledged something; returns what it acknowledged.

    Args:
        path: of the store.
        first: number of a batch.
        chance: for whatever is not given.
        maintenance: where segments are made; then the writer lives until some are.
    """
    modes = [maintenance or chance.choice(["thread", "process"]), chance.choice(["fsync", "os"])]
    command = [sys.executable, "-c", WRITER, str(path), str(first), *modes]
    segments = set(path.glob("segments/*.parquet"))
    # When there is a second one, the first is in the manifest.
    enough = len(segments) + 2

    def has_sealed() -> bool:
        segments.update(path.glob("segments/*.parquet"))
        return len(segments) >= enough

    # A file takes any number of lines; a pipe that nobody reads would stop the writer.
    output = path.with_name("acknowledged")
    with output.open("wb") as file:
        process = subprocess.Popen(command, stdout=file)
    try:
        wait_for(process, "nothing is acknowledged", lambda: output.stat().st_size > 0)
        if maintenance:
            wait_for(process, "no segments are made", has_sealed)
        # Usually soon; now and then late enough that a child has come up and makes segments.
        time.sleep(chance.uniform(0, 0.05) if chance.random() < 0.75 else chance.uniform(0, 1))
        assert process.poll() is None, "the writer ended"
    finally:
        process.kill()
        process.wait()
    # The last line may be cut: a number without its line end is not counted as acknowledged.
    return {int(line) for line in output.read_bytes().split(b"\n")[:-1] if line}


@pytest.mark.timeout(300 + 60 * CRASHES)
def test_no_acknowledged_batch_is_lost_or_halved_however_often_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_lock, "_SECONDS_MAX", 60)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: set[int] = set()
    for crash in range(CRASHES):
        # The first two live until they have made segments, each in its way.
        maintenance = ("thread", "process")[crash] if crash < 2 else ""
        acknowledged |= crash_once(tmp_path / "s", crash * 1_000_000, chance, maintenance)
    with open_store(tmp_path / "s") as store:
        events = list(store.read(TENANT))
        batches = Counter(msgspec.json.decode(event.payload)["batch"] for event in events)
        assert acknowledged
        assert acknowledged <= set(batches), f"lost with seed {seed}"
        assert set(batches.values()) == {3}, f"halved with seed {seed}"
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        for entity_id in {event.entity_id for event in events}:
            versions = [event.version for event in events if event.entity_id == entity_id]
            assert versions == list(range(1, len(versions) + 1))
            read = [event.version for event in store.read(TENANT, EventQuery(entity_id=entity_id))]
            assert (read, store.version(TENANT, entity_id)) == (versions, len(versions))
        for event in chance.sample([event for event in events if event.client_id is not None], 50):
            assert store.get(TENANT, event.id) == event
            again = NewEvent("t", event.entity_id, Raw(event.payload), event_id=UUID(bytes=event.client_id))
            assert store.append(TENANT, [again]).duplicate
        assert store.stats().segments > 0
