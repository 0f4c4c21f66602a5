"""Real processes that append and are killed at random moments. `ALLSOURCE_CRASHES` sets how many."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from uuid import UUID

import msgspec

from allsource_core.engine import EventQuery, NewEvent, Raw

from .stores import TENANT, open_store

CRASHES = int(os.environ.get("ALLSOURCE_CRASHES", "10"))

# Appends batches of three from four threads and prints the number of each batch that was acknowledged; segments are
# made meanwhile, in this process or in a child of it.
WRITER = """
import sys, threading
from pathlib import Path
from uuid import UUID
from allsource_core.engine import EventStore, NewEvent, OverloadedError, Raw, StoreOptions
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


def crash_once(path: Path, first: int, chance: random.Random) -> set[int]:
    """Run the writer, kill it some time after it has acknowledged something; returns what it acknowledged."""
    modes = [chance.choice(["thread", "process"]), chance.choice(["fsync", "os"])]
    command = [sys.executable, "-c", WRITER, str(path), str(first), *modes]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    output = process.stdout.read(1)
    # Usually soon; now and then late enough that a child has come up and makes segments.
    time.sleep(chance.uniform(0, 0.05) if chance.random() < 0.75 else chance.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    output += process.stdout.read()
    process.wait()
    process.stdout.close()
    # The last line may be cut: a number without its line end is not counted as acknowledged.
    return {int(line) for line in output.split(b"\n")[:-1] if line}


def test_no_acknowledged_batch_is_lost_or_halved_however_often_the_process_is_killed(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: set[int] = set()
    for crash in range(CRASHES):
        acknowledged |= crash_once(tmp_path / "s", crash * 1_000_000, chance)
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
