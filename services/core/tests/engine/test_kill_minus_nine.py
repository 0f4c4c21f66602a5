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

import msgspec

from .stores import TENANT, open_store

CRASHES = int(os.environ.get("ALLSOURCE_CRASHES", "25"))

# Appends batches of three from four threads and prints the number of each batch that was acknowledged.
WRITER = """
import sys, threading
from pathlib import Path
from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions
store = EventStore.open(Path(sys.argv[1]), options=StoreOptions(log_file_bytes_max=20000))
first = int(sys.argv[2])
def write(thread):
    number = first + thread
    while True:
        payload = Raw(b'{"batch":%d,"pad":"%s"}' % (number, b"x" * (number % 500)))
        store.append("default", [NewEvent("t", f"e-{thread}", payload) for _ in range(3)])
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()
        number += 4
for thread in range(4):
    threading.Thread(target=write, args=(thread,), daemon=True).start()
threading.Event().wait()
"""


def crash_once(path: Path, first: int, seconds: float) -> set[int]:
    """Run the writer, kill it after it has acknowledged something and `seconds` more; returns what it acknowledged."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(first)], stdout=subprocess.PIPE, bufsize=0)
    assert process.stdout is not None
    output = process.stdout.read(1)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    output += process.stdout.read()
    process.wait()
    process.stdout.close()
    # The last line may be cut: a number without its line end is not counted as acknowledged.
    return {int(line) for line in output.split(b"\n")[:-1] if line}


def test_no_acknowledged_batch_is_lost_or_halved_however_often_the_process_is_killed(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    acknowledged: set[int] = set()
    for crash in range(CRASHES):
        acknowledged |= crash_once(tmp_path / "s", crash * 1_000_000, moments.uniform(0, 0.05))
    with open_store(tmp_path / "s") as store:
        events = list(store.read(TENANT))
    batches = Counter(msgspec.json.decode(event.payload)["batch"] for event in events)
    assert acknowledged
    assert acknowledged <= set(batches), f"lost with seed {seed}"
    assert set(batches.values()) == {3}, f"halved with seed {seed}"
    assert [event.position for event in events] == list(range(1, len(events) + 1))
    for entity in {event.entity_id for event in events}:
        versions = [event.version for event in events if event.entity_id == entity]
        assert versions == list(range(1, len(versions) + 1))
