"""What is done to a store while its disk fails or its power does, and what must be left of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec

from allsource_core.engine import AppendUncertainError, EventQuery, EventStore, NotFoundError, StoreReadOnlyError

from .stores import TENANT, FaultyFilesystem, new_event, open_store

PADDING = b"x" * 200


class Work:
    """Appends, sealing and removals, one after the other, and what became of them.

    Attributes:
        acknowledged, uncertain, refused: numbers of batches.
        removed: entities that are removed for certain; `perhaps_removed`, those that may be.
    """

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.uncertain: list[int] = []
        self.refused: list[int] = []
        self.removed: set[str] = set()
        self.perhaps_removed: set[str] = set()
        self.failed_jobs = 0
        self._next = 0

    def append(self, store: EventStore, count: int = 1) -> None:
        """Batches of three events: two of an entity that all have, one of its own."""
        for _ in range(count):
            number, self._next = self._next, self._next + 1
            payload = b'{"n":%d,"pad":"%s"}' % (number, PADDING)
            own = new_event(f"own-{number}", payload, event_id=UUID(int=number + 1))
            try:
                store.append(TENANT, [new_event("all", payload), own, new_event("all", payload)])
                self.acknowledged.append(number)
            except AppendUncertainError:
                self.uncertain.append(number)
            except StoreReadOnlyError:
                self.refused.append(number)

    def maintain(self, job: Callable[[], None]) -> None:
        try:
            job()
        except OSError:
            self.failed_jobs += 1

    def remove(self, store: EventStore, number: int) -> None:
        entity_id = f"own-{number}"
        try:
            store.removals.entity(TENANT, entity_id)
            self.removed.add(entity_id)
        except AppendUncertainError:
            self.perhaps_removed.add(entity_id)
        except (StoreReadOnlyError, NotFoundError):
            pass

    def write(self, store: EventStore) -> None:
        """Appends into several log files, which a removal and a policy divide."""
        self.append(store, 8)
        self.remove(store, 1)
        self.append(store, 6)

    def seal_and_compact(self, store: EventStore) -> None:
        """On a store that `prepared` made: a fourth segment, so that four become one, then a removal."""
        self.append(store, 2)
        self.maintain(store.seal)
        self.remove(store, 1)
        self.append(store, 2)
        self.maintain(store.seal)
        self.append(store, 2)
        self.maintain(store.compact)
        self.append(store, 2)

    def check(self, store: EventStore) -> None:
        """What is readable is what may be, whole, in order, without a gap."""
        events = list(store.read(TENANT))
        positions = [event.position for event in events]
        assert positions == sorted(set(positions))
        batches: dict[int, list[str]] = {}
        for event in events:
            batches.setdefault(msgspec.json.decode(event.payload)["n"], []).append(event.entity_id)
        readable = set(batches)
        assert set(self.acknowledged) <= readable, "an acknowledged batch is lost"
        assert readable <= set(self.acknowledged) | set(self.uncertain), "a batch that was refused is there"
        for number, entities in batches.items():
            own = f"own-{number}"
            whole = ["all", own, "all"]
            may_be = [["all", "all"]] if own in self.removed else [whole]
            if own in self.perhaps_removed:
                may_be.append(["all", "all"])
            assert entities in may_be, f"batch {number} is not whole"
        versions = [event.version for event in events if event.entity_id == "all"]
        assert versions == list(range(1, 2 * len(batches) + 1))
        assert [event.version for event in store.read(TENANT, EventQuery(entity_id="all"))] == versions
        assert store.version(TENANT, "all") == len(versions)
        # Records without events are where positions are missing; the store has no other gap.
        removals = len(self.removed) + len(self.perhaps_removed)
        assert 3 * len(batches) <= store.last_position <= 3 * len(batches) + removals

    def check_gone(self, store: EventStore) -> None:
        """Where the log was repaired, nothing is left of what its authors were told is uncertain."""
        numbers = {msgspec.json.decode(event.payload)["n"] for event in store.read(TENANT)}
        assert numbers == set(self.acknowledged)


def prepared(path: Path) -> Work:
    """Make a store of three segments, to copy from; returns what was done to it."""
    work = Work()
    with open_store(path) as store:
        for _ in range(3):
            work.append(store, 2)
            store.seal()
        work.append(store, 1)
    return work


def restarted(path: Path, work: Work) -> None:
    """Open the store on a disk that works, check it, go on with it, and check it once more after another start."""
    with open_store(path, filesystem=FaultyFilesystem()) as store:
        work.check(store)
        work.append(store, 2)
        work.check(store)
    with open_store(path, filesystem=FaultyFilesystem()) as store:
        work.check(store)
