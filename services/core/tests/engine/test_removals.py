"""Removing entities, bodies of events, and tenants: at once for readers, and then from every file."""

from __future__ import annotations

import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from allsource_core.engine import (
    AppendCondition,
    ConditionItem,
    Event,
    EventIdConflictError,
    EventQuery,
    EventStore,
    NotFoundError,
    Removal,
    VersionConflictError,
    segment_writer,
    state_reader,
)
from allsource_core.engine.segment_format import ERASED, EVENT, REMOVED

from .data_directory import check_names, errors_of, files_with
from .stores import SMALL, TENANT, FaultyFilesystem, TurnableClock, new_event, without_background_work

OPTIONS = msgspec.structs.replace(SMALL, segment_rows_max=64, removal_seconds=0)
DAY_US = 24 * 3600 * 1_000_000


class Site:
    """A store that is opened again and again. It seals and compacts when it is told to."""

    def __init__(self, path: Path, **arguments: Any) -> None:
        self.path = path
        self.clock = TurnableClock()
        self.arguments = {"options": OPTIONS, "clock": self.clock, **arguments}
        self.store = EventStore.open(path, **self.arguments)

    def reopen(self) -> None:
        self.store.close()
        assert errors_of(self.path) == []
        self.store = EventStore.open(self.path, **self.arguments)

    def crash(self) -> None:
        """Go on with a copy of the directory as it is."""
        copy = self.path.with_name(f"{self.path.name}-copy")
        shutil.copytree(self.path, copy)
        self.store.close()
        shutil.rmtree(self.path)
        copy.rename(self.path)
        self.store = EventStore.open(self.path, **self.arguments)

    def seal(self) -> None:
        self.store.seal()

    def compact(self) -> None:
        self.store.compact()

    def nothing(self) -> None:
        """Leave it as it is."""

    def finish(self) -> None:
        """Until no removal has anything left to do."""
        for _ in range(5):
            self.store.compact()
            if not self.store.stats().removals_pending:
                return
        raise AssertionError("a removal does not end")

    def close(self) -> None:
        self.store.close()
        assert errors_of(self.path) == []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    without_background_work(monkeypatch)
    made = Site(tmp_path / "s")
    yield made
    made.close()


BEFORE = pytest.mark.parametrize("before", [Site.nothing, Site.crash, Site.seal], ids=lambda step: step.__name__)
"""Where events are when they are removed: in memory and the log, in memory that was read back, in a segment."""

AFTERWARDS = (Site.nothing, Site.crash, Site.compact, Site.reopen, Site.seal, Site.crash, Site.finish, Site.reopen)
"""What is done to a store with a removal, one behind the other; nothing of it changes what readers see."""


def secret() -> bytes:
    """Bytes that are found wherever they are, and nowhere by chance."""
    return secrets.token_hex(16).encode()


def kept_from(store: EventStore, tenant: str, gone: Event) -> None:
    """No way of reading leads to an event."""
    queries = [
        EventQuery(),
        EventQuery(entity_id=gone.entity_id),
        EventQuery(event_type=gone.event_type),
        EventQuery(tags=gone.tags),
        EventQuery(since=gone.timestamp, until=gone.timestamp),
        EventQuery(after_position=gone.position - 1, before_position=gone.position + 1),
        EventQuery(descending=True),
    ]
    for query in queries:
        assert gone.position not in [event.position for event in store.read(tenant, query)], query
    assert store.get(tenant, gone.id) is None


# --- entities ---


@BEFORE
def test_a_removed_entity_is_gone_at_once_and_stays_gone(site: Site, before: Callable[[Site], None]) -> None:
    own = [new_event("gone", b'{"a":1}', tags=["t"], event_id=UUID(int=7)), new_event("gone", b'{"b":2}', tags=["t"])]
    events = site.store.append(TENANT, [*own, new_event("left", tags=["t"])]).events
    (others,) = site.store.append("other", [new_event("gone", tags=["t"])]).events
    before(site)
    removal = site.store.removals.entity(TENANT, "gone")
    assert (removal.kind, removal.version, removal.events_removed) == ("entity", 2, 2)
    for afterwards in AFTERWARDS:
        afterwards(site)
        for event in events[:2]:
            kept_from(site.store, TENANT, event)
        assert list(site.store.read(TENANT)) == events[2:]
        assert list(site.store.read(TENANT, EventQuery(tags=("t",), limit=1))) == events[2:]
        state = site.store.state(TENANT, "gone")
        assert (state.version, state.event_count, state.value()) == (0, 0, {})
        # The other tenant's entity of that name is another one.
        assert list(site.store.read("other")) == [others]
        assert site.store.state("other", "gone").version == 1
    assert site.store.removals.find(TENANT, removal.position).finished_at


@BEFORE
def test_versions_go_on_over_removals_whatever_is_sealed_when(site: Site, before: Callable[[Site], None]) -> None:
    version = 0
    for turn, afterwards in enumerate(AFTERWARDS):
        site.store.append(TENANT, [new_event("e", b'{"turn":%d}' % turn)] * 2)
        version += 2
        before(site)
        # The events fill a memtable with something else, which is sealed by itself, without the record of the removal.
        site.store.append(TENANT, [new_event("filling")] * 62)
        site.store.removals.entity(TENANT, "e")
        site.compact()
        afterwards(site)
        assert site.store.version(TENANT, "e") == version
        with pytest.raises(VersionConflictError) as refusal:
            site.store.append(TENANT, [new_event("e")], expected_versions={"e": "exists"})
        assert refusal.value.actual == version
        with pytest.raises(VersionConflictError):
            site.store.append(TENANT, [new_event("e")], expected_versions={"e": 0})
        dry = site.store.append(TENANT, [new_event("e")], expected_versions={"e": "none"}, dry_run=True)
        (event,) = site.store.append(TENANT, [new_event("e")], expected_versions={"e": version}).events
        version += 1
        assert dry.events[0].version == event.version == version
        assert list(site.store.read(TENANT, EventQuery(entity_id="e"))) == [event]
        assert site.store.state(TENANT, "e").event_count == 1
        site.store.removals.entity(TENANT, "e")
        site.compact()


@BEFORE
def test_ids_of_removed_events_can_be_used_again(site: Site, before: Callable[[Site], None]) -> None:
    batch = [new_event("e", event_id=UUID(int=1)), new_event("e")]
    for turn, afterwards in enumerate(AFTERWARDS):
        changed = [new_event("e", b"%d" % turn, event_id=UUID(int=1)), new_event("e")]
        appended = site.store.append(TENANT, changed)
        assert not appended.duplicate
        before(site)
        assert site.store.append(TENANT, changed).duplicate
        with pytest.raises(EventIdConflictError):
            site.store.append(TENANT, batch)
        site.store.removals.entity(TENANT, "e")
        afterwards(site)
        assert site.store.get(TENANT, UUID(int=1)) is None


# --- bodies of events ---


@BEFORE
def test_an_erased_event_keeps_its_place_and_nothing_else(site: Site, before: Callable[[Site], None]) -> None:
    event = new_event("e", b'{"a":1,"b":2}', tags=["t"], event_id=UUID(int=3), metadata=b'{"by":"me"}')
    first, second = site.store.append(TENANT, [new_event("e", b'{"a":0}', tags=["t"]), event]).events
    before(site)
    removal = site.store.removals.event(TENANT, UUID(int=3))
    assert (removal.kind, removal.event_position, removal.version) == ("event", second.position, 2)
    erased = msgspec.structs.replace(second, payload=b"null", metadata=None, tags=(), erased=True)
    for afterwards in AFTERWARDS:
        afterwards(site)
        assert list(site.store.read(TENANT)) == [first, erased]
        assert list(site.store.read(TENANT, EventQuery(entity_id="e", from_version=2))) == [erased]
        assert list(site.store.read(TENANT, EventQuery(event_type=erased.event_type, descending=True, limit=1))) == [
            erased
        ]
        # It bears no tags any more.
        assert list(site.store.read(TENANT, EventQuery(tags=("t",)))) == [first]
        assert list(site.store.read(TENANT, EventQuery(entity_id="e", tags=("t",)))) == [first]
        assert site.store.get(TENANT, UUID(int=3)) == erased
        state = site.store.state(TENANT, "e")
        assert (state.version, state.event_count, state.value()) == (2, 2, {"a": 0})
        # Its id is taken, and its content is another one now.
        with pytest.raises(EventIdConflictError):
            site.store.append(TENANT, [event])
        with pytest.raises(NotFoundError):
            site.store.removals.event(TENANT, UUID(int=3))


# --- tenants ---


@BEFORE
def test_a_removed_tenant_leaves_nothing_to_one_of_its_name(site: Site, before: Callable[[Site], None]) -> None:
    batch = [new_event("e", b'{"old":1}', tags=["t"], event_id=UUID(int=1)), new_event("e", b"1")]
    events = site.store.append(TENANT, batch).events
    others = site.store.append("other", batch).events
    site.store.removals.set_policy(TENANT, "e", max_count=5)
    before(site)
    assert site.store.state(TENANT, "e").version == 2
    assert site.store.removals.tenant(TENANT).events_removed == 2
    for afterwards in AFTERWARDS:
        afterwards(site)
        for event in events:
            kept_from(site.store, TENANT, event)
        assert site.store.version(TENANT, "e") == site.store.state(TENANT, "e").version == 0
        assert site.store.removals.policies(TENANT) == []
        assert list(site.store.read("other")) == others
        dry = site.store.append(TENANT, batch, expected_versions={"e": 0}, dry_run=True)
        assert (dry.duplicate, [event.version for event in dry.events]) == (False, [1, 2])
        with pytest.raises(NotFoundError):
            site.store.removals.tenant(TENANT)
    condition = AppendCondition((ConditionItem(tags=("t",)), ConditionItem(entity_ids=("e",))))
    again = site.store.append(TENANT, batch, expected_versions={"e": 0}, condition=condition)
    assert (again.duplicate, [event.version for event in again.events]) == (False, [1, 2])
    for afterwards in AFTERWARDS:
        afterwards(site)
        assert list(site.store.read(TENANT)) == again.events
        assert site.store.append(TENANT, batch).duplicate
        assert site.store.state(TENANT, "e").event_count == 2


def test_of_two_removals_of_a_tenant_at_once_one_finds_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.store.append(TENANT, [new_event("e")])
    path = site.store._parts.path
    append_controls = path.append_controls

    def come_second(makes: Any) -> None:
        monkeypatch.undo()
        site.store.removals.tenant(TENANT)
        append_controls(makes)

    monkeypatch.setattr(path, "append_controls", come_second)
    with pytest.raises(NotFoundError):
        site.store.removals.tenant(TENANT)
    assert len(site.store.removals.latest(TENANT, limit=10)) == 0
    site.store.append(TENANT, [new_event("e")])
    assert site.store.version(TENANT, "e") == 1


def test_an_append_that_is_late_takes_nothing_from_a_removed_tenant_to_the_new_one_of_its_name(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked up versions and ids before the removal, and is sequenced behind it."""
    event = new_event("e", event_id=UUID(int=1))
    site.store.append(TENANT, [event, new_event("e")])
    site.seal()
    path = site.store._parts.path
    look = path._facts

    def look_early(*arguments: Any) -> Any:
        facts = look(*arguments)
        monkeypatch.undo()
        site.store.removals.tenant(TENANT)
        site.store.append(TENANT, [new_event("first")])
        return facts

    monkeypatch.setattr(path, "_facts", look_early)
    appended = site.store.append(TENANT, [event, new_event("e")])
    assert (appended.duplicate, [event.version for event in appended.events]) == (False, [1, 2])


# --- bytes ---


def remove_entity(store: EventStore, _event: Event) -> Removal:
    return store.removals.entity(TENANT, "e")


def remove_event(store: EventStore, event: Event) -> Removal:
    return store.removals.event(TENANT, event.id)


def remove_tenant(store: EventStore, _event: Event) -> Removal:
    return store.removals.tenant(TENANT)


REMOVING = pytest.mark.parametrize("remove", [remove_entity, remove_event, remove_tenant])


def append_secret(site: Site, needle: bytes) -> Event:
    """An event with secrets everywhere, and another tenant's around it that is to stay."""
    site.store.append("other", [new_event("e", b'{"other":"%s"}' % needle[::-1])])
    named = needle.decode()
    event = new_event("e", b'{"a":"%s"}' % needle, tags=[f"tag-{named}"], metadata=b'{"b":"%s"}' % needle)
    (stored,) = site.store.append(TENANT, [event]).events
    site.store.append("other", [new_event("e")])
    return stored


@BEFORE
@REMOVING
def test_when_a_removal_is_finished_its_bytes_are_nowhere(
    site: Site, before: Callable[[Site], None], remove: Callable[[EventStore, Event], Removal]
) -> None:
    needle = secret()
    stored = append_secret(site, needle)
    before(site)
    # The search finds it where it is.
    assert files_with(site.path, needle)
    removal = remove(site.store, stored)
    assert not removal.finished_at
    assert files_with(site.path, needle)
    site.finish()
    assert removal.finished_at
    assert files_with(site.path, needle) == []
    assert files_with(site.path, needle[::-1])
    check_names(site.store)
    site.reopen()
    assert files_with(site.path, needle) == []


@REMOVING
def test_a_removal_is_not_finished_while_a_reader_holds_the_segment(
    site: Site, remove: Callable[[EventStore, Event], Removal]
) -> None:
    needle = secret()
    stored = append_secret(site, needle)
    site.seal()
    reader = site.store.read(TENANT)
    assert next(reader) == stored
    removal = remove(site.store, stored)
    for _ in range(3):
        site.compact()
        assert files_with(site.path, needle)
        assert not removal.finished_at
        assert list(site.store.read(TENANT, EventQuery(tags=(f"tag-{needle.decode()}",)))) == []
    del reader
    site.finish()
    assert files_with(site.path, needle) == []


def test_an_error_that_somebody_keeps_holds_no_removal_up(site: Site) -> None:
    stored = append_secret(site, secret())
    site.seal()
    with pytest.raises(NotFoundError) as _kept:
        site.store.removals.event(TENANT, UUID(int=9))
    remove_entity(site.store, stored)
    site.finish()


def test_a_removal_is_not_finished_while_the_log_holds_what_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash a file of the log may hold records that become two segments."""
    without_background_work(monkeypatch)
    site = Site(tmp_path / "s", options=msgspec.structs.replace(OPTIONS, log_file_bytes_max=1024 * 1024))
    needle = secret()
    for _ in range(10):
        site.store.append(TENANT, [new_event("before")])
    site.store._parts.path.freeze()
    (stored,) = site.store.append(TENANT, [new_event("e", b'"%s"' % needle)]).events
    removal = site.store.removals.event(TENANT, stored.id)
    for _ in range(60):
        site.store.append(TENANT, [new_event("behind")])
    site.crash()
    states = []
    for _ in range(5):
        site.compact()
        found = site.store.removals.find(TENANT, removal.position)
        assert found is not None
        states.append((bool(found.finished_at), bool(files_with(site.path, needle))))
    site.close()
    assert states[0] == (False, True)
    assert states[-1] == (True, False)
    assert (True, True) not in states


@pytest.mark.timeout(1200)  # a store for every operation that may fail: the usual limit is for what hangs
@pytest.mark.parametrize("remove, lasting", [(remove_entity, False), (remove_event, True), (remove_tenant, True)])
def test_whatever_fails_on_the_way_a_finished_removal_has_left_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: Callable[[EventStore, Event], Removal], lasting: bool
) -> None:
    without_background_work(monkeypatch)
    filesystem = FaultyFilesystem(lasting=lasting, leaves="half")
    fail_at = failed = 0
    while failed == fail_at:
        site = Site(tmp_path / f"{fail_at}", filesystem=filesystem)
        needle = secret()
        stored = append_secret(site, needle)
        site.seal()
        removal = remove(site.store, stored)
        fail_at += 1
        filesystem.fail_at = filesystem.operations + fail_at
        for _ in range(3):
            try:
                site.compact()
            except OSError:
                failed += 1
                break
            assert not (removal.finished_at and files_with(site.path, needle))
        filesystem.fail_at = 0
        site.finish()
        assert removal.finished_at
        assert files_with(site.path, needle) == []
        # A merged key file that could not be removed goes at the next start; it holds nothing but hashes.
        site.reopen()
        check_names(site.store)
        site.close()
    assert failed > 10


@BEFORE
@pytest.mark.parametrize("later", [False, True], ids=["all shortened", "with later events"])
def test_who_removes_an_entity_removes_what_retention_left_of_it(
    site: Site, before: Callable[[Site], None], later: bool
) -> None:
    needle = secret()
    site.store.append(TENANT, [new_event("e", b'{"secret":"%s"}' % needle), new_event("e")])
    site.seal()
    site.store.removals.set_policy(TENANT, "e", max_age_us=1)
    site.clock.now += DAY_US
    site.finish()
    site.store.removals.set_policy(TENANT, "e")
    assert list(site.store.read(TENANT)) == []
    assert needle in site.store.state(TENANT, "e").to_json()
    if later:
        site.store.append(TENANT, [new_event("e")])
    before(site)
    removal = site.store.removals.entity(TENANT, "e")
    assert (removal.version, removal.events_removed) == (2 + later, int(later))
    for afterwards in AFTERWARDS:
        afterwards(site)
        assert site.store.state(TENANT, "e").version == 0
        assert site.store.version(TENANT, "e") == 2 + later
        with pytest.raises(NotFoundError):
            site.store.removals.entity(TENANT, "e")
    assert files_with(site.path, needle) == []
    (event,) = site.store.append(TENANT, [new_event("e")], expected_versions={"e": "none"}).events
    state = site.store.state(TENANT, "e")
    assert (event.version, state.version, state.event_count) == (3 + later, 3 + later, 1)


# --- files, for other programs ---


def in_order(row: dict[str, Any]) -> tuple[str, int]:
    return row["entity_id"], row["version"]


def test_segments_show_removals_to_other_programs_as_the_format_says(site: Site) -> None:
    for number in range(3):
        site.store.append(TENANT, [new_event("removed"), new_event("left", b'{"n":%d}' % number, tags=["t"])])
    site.store.append("other", [new_event("e")])
    site.seal()
    record = site.store.removals.entity(TENANT, "removed")
    erased = next(site.store.read(TENANT, EventQuery(entity_id="left", from_version=2)))
    site.store.removals.event(TENANT, erased.id)
    site.store.removals.tenant("other")
    site.finish()
    files = sorted((site.path / "segments").glob("*.parquet"))
    rows = sorted(chain.from_iterable(pq.read_table(file).to_pylist() for file in files), key=in_order)
    assert [(row["entity_id"], row["version"], row["kind"], row["payload"], row["tags"]) for row in rows] == [
        ("left", 1, EVENT, '{"n":0}', ["t"]),
        ("left", 2, ERASED, "null", None),
        ("left", 3, EVENT, '{"n":2}', ["t"]),
        ("removed", 3, REMOVED, "null", None),
    ]
    assert rows[1]["position"] == erased.position
    assert (rows[3]["position"], rows[3]["event_type"]) == (record.position, "")
    relation = duckdb.read_parquet([str(file) for file in files])
    events = relation.filter("kind < 2").order("position").select("entity_id, version, payload")
    assert events.fetchall() == [("left", 1, '{"n":0}'), ("left", 2, "null"), ("left", 3, '{"n":2}')]


# --- operations ---


def test_what_is_not_there_can_not_be_removed(site: Site) -> None:
    (event,) = site.store.append(TENANT, [new_event("e")]).events
    for remove in (site.store.removals.entity, site.store.removals.event):
        of: Any = "e" if remove == site.store.removals.entity else event.id
        with pytest.raises(NotFoundError):
            remove("other", of)
        with pytest.raises(NotFoundError):
            remove(TENANT, UUID(int=9) if isinstance(of, UUID) else "f")
    site.store.removals.entity(TENANT, "e")
    with pytest.raises(NotFoundError):
        site.store.removals.entity(TENANT, "e")
    with pytest.raises(NotFoundError):
        site.store.removals.event(TENANT, event.id)
    with pytest.raises(NotFoundError):
        site.store.removals.tenant("other")
    assert site.store.last_position == 2


def test_a_removal_is_found_by_its_tenant_alone_until_seven_days_after_its_end(site: Site) -> None:
    site.store.append(TENANT, [new_event("e"), new_event("f")])
    site.store.append("other", [new_event("e")])
    removals = [site.store.removals.entity(TENANT, "e"), site.store.removals.entity(TENANT, "f")]
    assert site.store.removals.find("other", removals[0].position) is None
    assert site.store.removals.find(TENANT, 1) is None
    site.finish()
    for afterwards in (Site.nothing, Site.reopen):
        afterwards(site)
        assert [site.store.removals.find(TENANT, removal.position) for removal in removals] == removals
        assert site.store.removals.latest(TENANT, limit=5) == removals[::-1]
    site.clock.now += 8 * DAY_US
    # The next one's end clears away.
    site.store.removals.entity("other", "e")
    site.finish()
    assert site.store.removals.latest(TENANT, limit=5) == []


def test_a_state_that_was_being_made_during_a_removal_is_not_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.store.append(TENANT, [new_event("e", b'{"a":1}')])
    fold = state_reader.fold

    def fold_slowly(*arguments: Any) -> Any:
        state = fold(*arguments)
        monkeypatch.undo()
        site.store.removals.entity(TENANT, "e")
        return state

    monkeypatch.setattr(state_reader, "fold", fold_slowly)
    assert site.store.state(TENANT, "e").value() == {}
    assert site.store.state(TENANT, "e").value() == {}


def test_records_of_removals_do_not_make_a_memtable_larger_than_a_segment_may_be(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "SEGMENT_ROWS_MAX", OPTIONS.segment_rows_max)
    for number in range(5):
        site.store.append(TENANT, [new_event(f"e-{number}")])
    site.seal()
    site.store.append(TENANT, [new_event("filling")] * 64)
    for number in range(5):
        site.store.removals.entity(TENANT, f"e-{number}")
    site.crash()
    site.seal()
    site.finish()
    assert {event.entity_id for event in site.store.read(TENANT)} == {"filling"}


def test_versions_have_no_gap_while_an_entity_is_appended_to_and_removed_at_once(tmp_path: Path) -> None:
    """With sealing and compaction in the background, whenever they like."""
    versions: list[list[int]] = [[] for _ in range(4)]
    over = threading.Event()

    def append(number: int, store: EventStore) -> None:
        for _ in range(150):
            versions[number] += [event.version for event in store.append(TENANT, [new_event("e")] * 2).events]

    def remove(store: EventStore) -> None:
        while not over.is_set():
            try:
                removal = store.removals.entity(TENANT, "e")
            except NotFoundError:
                continue
            left = next(store.read(TENANT, EventQuery(entity_id="e")), None)
            assert left is None or left.version > removal.version

    with EventStore.open(tmp_path / "s", options=OPTIONS) as opened:
        threads = [threading.Thread(target=append, args=(number, opened)) for number in range(4)]
        remover = threading.Thread(target=remove, args=(opened,))
        for thread in (*threads, remover):
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        remover.join()
        assert sorted(chain.from_iterable(versions)) == list(range(1, 4 * 300 + 1))
        left = [event.version for event in opened.read(TENANT, EventQuery(entity_id="e"))]
        assert left == list(range(1200 - len(left) + 1, 1201))
    assert errors_of(tmp_path / "s") == []
