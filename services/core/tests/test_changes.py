"""Changes: in order, none left out, and nobody waits for one that was there before."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator

import pytest

from allsource_core.changes import Change, Changes


def test_changes_are_told_in_order():
    changes = Changes()
    changes.publish("user", "a")
    changes.publish("tenant", "b")
    told = changes.since(0)
    assert told is not None
    assert [(change.revision, change.kind, change.id) for change in told] == [(1, "user", "a"), (2, "tenant", "b")]
    assert [change.id for change in changes.since(1) or []] == ["b"]
    assert changes.since(2) == []


@pytest.mark.parametrize("revision", [-1, 3, 2**60])
def test_revisions_of_another_process_are_not_known(revision: int):
    changes = Changes()
    changes.publish("user", "a")
    changes.publish("user", "b")
    assert changes.since(revision) is None


def test_of_changes_that_are_not_kept_any_more_nothing_is_told():
    changes = Changes()
    for number in range(10_002):
        changes.publish("session", str(number))
    assert changes.since(1) is None
    assert len(changes.since(2) or []) == 10_000


@pytest.mark.parametrize("published", [1, 7, 9_999, 10_000, 12_345])
def test_what_is_told_begins_behind_the_revision_and_is_all(published: int):
    changes = Changes()
    for number in range(1, published + 1):
        changes.publish("session", str(number))
    first = max(0, published - 10_000)
    for revision in sorted({first, first + 1, (first + published) // 2, published - 1, published}):
        told = changes.since(revision)
        assert told is not None
        assert [change.revision for change in told] == list(range(revision + 1, published + 1))
        assert [int(change.id) for change in told] == [change.revision for change in told]


def test_whoever_asks_for_the_newest_does_not_have_all_looked_at():
    class Looked(deque[Change]):
        """Notes how many were looked at."""

        count = 0

        def __iter__(self) -> Iterator[Change]:
            return map(self._note, super().__iter__())

        def __reversed__(self) -> Iterator[Change]:
            return map(self._note, super().__reversed__())

        def _note(self, change: Change) -> Change:
            self.count += 1
            return change

    changes = Changes()
    changes._kept = kept = Looked(maxlen=10_000)
    for number in range(10_000):
        changes.publish("session", str(number))
    assert [change.id for change in changes.since(9_998) or []] == ["9998", "9999"]
    assert kept.count == 2


def test_listeners_hear_of_every_change():
    changes, heard = Changes(), []
    changes.listen(lambda: heard.append(changes.revision))
    changes.publish("user", "a")
    changes.publish("user", "b")
    assert heard == [1, 2]


@pytest.mark.asyncio
async def test_whoever_waits_hears_at_once():
    changes = Changes()
    waiting = asyncio.create_task(changes.wait(0, 120))
    await asyncio.sleep(0)
    changes.publish("user", "a")
    await asyncio.wait_for(waiting, 60)
    await asyncio.wait_for(changes.wait(0, 120), 60)


@pytest.mark.asyncio
async def test_waiting_ends_when_the_time_is_over_or_the_service_stops():
    changes = Changes()
    await asyncio.wait_for(changes.wait(0, 0.01), 60)
    waiting = asyncio.create_task(changes.wait(0, 120))
    await asyncio.sleep(0)
    changes.wake()
    await asyncio.wait_for(waiting, 60)
