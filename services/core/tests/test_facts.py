"""Facts: whatever is stored gets folded, also where whoever appended it was told that this is uncertain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from allsource_core import facts as facts_module
from allsource_core.engine import AppendUncertainError, Event, EventQuery, EventStore, NewEvent, Raw, StoreOptions
from allsource_core.engine.decoded_cache import DecodedCache
from allsource_core.facts import SYSTEM_TENANT, Fact, Facts


class Body(msgspec.Struct):
    """Of a fact."""

    number: int


class Known(Facts):
    """Facts of things, and the numbers that were folded."""

    def __init__(self, store: EventStore) -> None:
        super().__init__(store)
        self.numbers: list[int] = []
        self.own("thing", self._note)

    def _note(self, _id: str, event: Event) -> None:
        self.numbers.append(msgspec.json.decode(event.payload, type=Body).number)


def fact(number: int) -> Fact:
    return Fact("thing:1", "thing.numbered", Body(number))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    options = StoreOptions(maintenance="thread", reserve_bytes=0)
    with EventStore.open(tmp_path / "data", options=options) as store:
        yield store


def make_uncertain(store: EventStore, patch: pytest.MonkeyPatch, *, stored: bool) -> list[Any]:
    """Have appends end uncertainly, stored at once or not at all yet; what was to be appended, as arguments."""
    appends: list[Any] = []
    append = store.append

    def fail(*arguments: Any) -> None:
        appends.append(arguments)
        if stored:
            append(*arguments)
        raise AppendUncertainError("the disk failed")

    async def fail_async(*arguments: Any) -> None:
        fail(*arguments)

    patch.setattr(store, "append", fail)
    patch.setattr(store, "append_async", fail_async)
    return appends


def test_an_uncertain_append_that_is_stored_is_folded_at_once(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    known = Known(store)
    make_uncertain(store, monkeypatch, stored=True)
    with pytest.raises(AppendUncertainError):
        known.append([fact(1)])
    assert known.numbers == [1]
    with pytest.raises(AppendUncertainError):
        asyncio.run(known.append_async([fact(2)]))
    assert known.numbers == [1, 2]


def test_what_is_decided_later_is_folded_soon(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(facts_module, "_FOLLOW_SECONDS", 0.001)
    known, append = Known(store), store.append
    appends = make_uncertain(store, monkeypatch, stored=False)
    failures = [OSError("the disk fails once more")]
    fold = known.fold

    def fold_or_fail() -> None:
        if appends and failures:
            raise failures.pop()
        fold()

    async def decide() -> None:
        with pytest.raises(AppendUncertainError):
            await known.append_async([fact(1)])
        assert known.numbers == []
        monkeypatch.setattr(known, "fold", fold_or_fail)
        following = asyncio.create_task(known.follow())
        append(*appends[0])
        while not known.numbers:
            await asyncio.sleep(0.001)
        following.cancel()

    asyncio.run(decide())
    assert known.numbers == [1]
    assert failures == []


def test_what_was_folded_is_not_read_again_when_it_is_sealed(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    known = Known(store)
    known.append([fact(1)])
    store.append("acme", [NewEvent("a", "b", Raw(b"1"))])
    known.fold()
    store.seal()
    decoded: list[object] = []
    get = DecodedCache.get
    monkeypatch.setattr(DecodedCache, "get", lambda cache, segment: decoded.append(segment) or get(cache, segment))

    known.fold()
    known.append([fact(2)])
    store.append("acme", [NewEvent("a", "b", Raw(b"2"))])
    known.fold()
    assert known.numbers == [1, 2]
    assert decoded == []

    # Whoever starts reads all of it.
    again = Known(store)
    again.fold()
    assert again.numbers == [1, 2]
    assert len(decoded) == 1


def test_a_fold_that_fails_goes_on_where_it_stopped(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    known, writer = Known(store), Known(store)
    failures = [OSError("a file can't be read")]
    note = known._note

    def note_or_fail(id_: str, event: Event) -> None:
        if len(known.numbers) == 1 and failures:
            raise failures.pop()
        note(id_, event)

    known._apply["thing"] = note_or_fail
    writer.append([fact(number) for number in (1, 2, 3)])
    with pytest.raises(OSError, match="can't be read"):
        known.fold()
    known.fold()
    assert known.numbers == [1, 2, 3]


def test_who_may_change_something_has_seen_everything(store: EventStore, monkeypatch: pytest.MonkeyPatch):
    known = Known(store)

    async def change() -> None:
        Known(store).append([fact(1)])
        async with known.changing:
            assert known.numbers == [1]
        with monkeypatch.context() as patch:
            patch.setattr(store, "read_chunks", None)
            store.append("acme", [NewEvent("a", "b", Raw(b"1"))])
            with pytest.raises(TypeError):
                await known.changing.__aenter__()
        assert not known.changing.locked()

    asyncio.run(change())


# --- erasing ---


def stored(store: EventStore) -> list[Event]:
    return list(store.read(SYSTEM_TENANT, EventQuery()))


def erased(store: EventStore) -> list[bool]:
    return [event.erased for event in stored(store)]


def test_what_can_not_be_erased_holds_up_nothing_else_and_is_tried_again(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(facts_module, "_ERASE_SECONDS", 0.001)
    known = Known(store)
    known.append([fact(number) for number in range(4)])
    first = stored(store)[0]
    known.erase_later(stored(store)[:3])
    failures: list[Exception] = [RuntimeError("unforeseen"), OSError("the disk fails"), OSError("it fails once more")]
    erase = known.erase

    async def erase_or_fail(events: Sequence[Event]) -> None:
        if events[0].id == first.id and failures:
            raise failures.pop()
        await erase(events)

    async def keep_erasing() -> None:
        monkeypatch.setattr(known, "erase", erase_or_fail)
        with pytest.raises(OSError, match="once more"):
            await known.erase_owed()
        await known.try_to_erase()
        assert erased(store) == [False, True, True, False]
        erasing = asyncio.create_task(known.keep_erasing())
        async with asyncio.timeout(60):
            while not erased(store)[0]:
                await asyncio.sleep(0.001)
        erasing.cancel()

    asyncio.run(keep_erasing())
    assert erased(store) == [True, True, True, False]
    assert failures == []


def test_what_is_owed_is_erased_when_that_returns_whoever_does_it(store: EventStore):
    known = Known(store)
    known.append([fact(number) for number in range(3)])

    async def erase_twice() -> None:
        known.erase_later(stored(store)[:2])
        other = asyncio.create_task(known.erase_owed())
        await asyncio.sleep(0)
        await known.erase_owed()
        assert erased(store) == [True, True, False]
        await other
        known.erase_later(stored(store)[:2])
        await known.erase_owed()

    asyncio.run(erase_twice())
