"""What tenants use is counted exactly, wherever their events are."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import google_crc32c
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.engine import (
    DAY_US,
    AppendUncertainError,
    CorruptionError,
    Event,
    EventStore,
    NotFoundError,
    Raw,
    Repairs,
    StoreClosedError,
    TenantUsage,
    inspect_store,
    repair_store,
    verify_store,
)
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.manifest import read_manifest, write_manifest
from allsource_core.engine.segment_index import FIRST_INDEX_FORMAT, build_index, index_format_of

from .stores import SMALL, TENANT, FaultyFilesystem, Made, TurnableClock, new_event, open_store, without_background_work

OTHER = "other"
TENANTS = (TENANT, OTHER)
SOME_EVENTS = [
    new_event(),
    new_event("kåre-1", b'{"name":"K\xc3\xa5re"}', tags=["eu", "größe", "eu"]),
    new_event("order-2", b"[]", event_type="ordre.passé", metadata=Raw(b'{"by":"me"}')),
    new_event("order-3", b'{\n  "a": 1\n}'),
]


def size_of(event: Event) -> int:
    names = (event.entity_id, event.event_type, *event.tags)
    return sum(len(name.encode()) for name in names) + len(event.payload) + len(event.metadata or b"")


def kept(store: EventStore, tenant: str = TENANT) -> TenantUsage:
    events = list(store.read(tenant))
    return TenantUsage(len(events), sum(map(size_of, events)))


# --- events and bytes that are kept ---


def test_bytes_are_those_of_names_bodies_and_tags(made: Made) -> None:
    store, settle = made
    assert store.tenant_usage(TENANT) == TenantUsage(0, 0)
    appended = store.append(TENANT, [new_event("é", b'{"a":1}', event_type="tt", tags=["ü", "x"], metadata=Raw(b"{}"))])
    assert appended.content_bytes == 2 + 7 + 2 + 3 + 2
    settle(store)
    assert store.tenant_usage(TENANT) == TenantUsage(1, 16)
    assert store.tenant_usage(OTHER) == TenantUsage(0, 0)


def test_what_an_append_says_of_its_bytes_is_what_is_kept(made: Made) -> None:
    store, settle = made
    size = store.append(TENANT, SOME_EVENTS).content_bytes
    for event in SOME_EVENTS:
        size += store.append(TENANT, [event]).content_bytes
    assert store.append(TENANT, SOME_EVENTS, dry_run=True).content_bytes == 0
    settle(store)
    assert store.tenant_usage(TENANT) == kept(store) == TenantUsage(8, size)


def test_a_repetition_has_no_bytes_and_the_time_of_the_first_one(made: Made, clock: TurnableClock) -> None:
    store, settle = made
    events = [msgspec.structs.replace(event, event_id=UUID(int=n + 1)) for n, event in enumerate(SOME_EVENTS)]
    first = store.append(TENANT, events)
    settle(store)
    clock.now += DAY_US
    again = store.append(TENANT, events)
    assert again.duplicate
    assert (again.content_bytes, again.recorded_at) == (0, first.recorded_at)
    assert store.tenant_usage(TENANT) == kept(store)


def test_appends_that_are_not_durable_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    filesystem = FaultyFilesystem(only=lambda kind, _path: kind == "sync", lasting=False)
    with open_store(tmp_path / "s", filesystem=filesystem) as store:
        store.append(TENANT, SOME_EVENTS)
        assert store.tenant_usage(TENANT).events == 4
        filesystem.fail_next()
        with pytest.raises(AppendUncertainError):
            store.append(TENANT, SOME_EVENTS)
        assert store.tenant_usage(TENANT) == kept(store) == TenantUsage(4, sum(map(size_of, store.read(TENANT))))
        store.append(TENANT, SOME_EVENTS[:1])
        assert store.tenant_usage(TENANT) == kept(store)
    with pytest.raises(StoreClosedError):
        store.tenant_usage(TENANT)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from("aaaaaassrrwwcod"), min_size=1, max_size=30))
def test_usage_is_exact_after_anything_that_happens(
    tmp_path_factory: pytest.TempPathFactory, seed: int, steps: list[str]
) -> None:
    chance = random.Random(seed)
    path = tmp_path_factory.mktemp("usage") / "s"
    with pytest.MonkeyPatch.context() as patch:
        without_background_work(patch)
        # On a disk that syncs nothing: there are thousands of syncs.
        arguments = {"options": msgspec.structs.replace(SMALL, segment_rows_max=20), "filesystem": FaultyFilesystem()}
        store = open_store(path, **arguments)
        removed = False
        for step in steps:
            match step:
                case "a":
                    if store.stats().memory_events > 20:
                        # Nobody else makes room.
                        store.seal()
                    events = chance.choices(SOME_EVENTS, k=chance.randint(1, 6))
                    store.append(chance.choice(TENANTS), events)
                case "s":
                    store.seal()
                    removed = removed and bool(store.stats().removals_pending)
                case "r":
                    list(store.read(chance.choice(TENANTS)))
                case "w":
                    store.tenant_usage(chance.choice(TENANTS))
                case "c":
                    store.compact()
                case "o":
                    store.close()
                    store = open_store(path, **arguments)
                case "d":
                    tenant = chance.choice(TENANTS)
                    with suppress(NotFoundError):
                        store.removals.entity(tenant, "order-1")
                        removed = True
            for tenant in TENANTS:
                usage, rest = store.tenant_usage(tenant), kept(store, tenant)
                assert usage == rest or (removed and usage.events >= rest.events and usage.bytes >= rest.bytes)
        store.seal()
        store.compact()
        store.compact()
        assert [store.tenant_usage(tenant) for tenant in TENANTS] == [kept(store, tenant) for tenant in TENANTS]
        store.close()


def test_removed_events_count_until_their_bytes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, removal_seconds=0)
    with open_store(tmp_path / "s", options=options) as store:
        without = store.append(TENANT, [new_event("order-2")])
        store.append(TENANT, [new_event("order-1", b'{"large":"%s"}' % (b"x" * 1000))] * 5)
        store.seal()
        before = store.tenant_usage(TENANT)
        store.removals.entity(TENANT, "order-1")
        assert store.tenant_usage(TENANT) in (before, TenantUsage(1, without.content_bytes))
        store.compact()
        store.compact()
        assert store.tenant_usage(TENANT) == TenantUsage(1, without.content_bytes)


def test_the_body_of_an_erased_event_counts_until_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    with open_store(tmp_path / "s", options=msgspec.structs.replace(SMALL, removal_seconds=0)) as store:
        (event,) = store.append(TENANT, [new_event("order-1", b'{"large":"%s"}' % (b"x" * 1000), tags=["t"])]).events
        store.removals.event(TENANT, event.id)
        assert store.tenant_usage(TENANT).bytes > 1000
        store.seal()
        store.compact()
        assert store.tenant_usage(TENANT) == kept(store) == TenantUsage(1, len("order-1order.placednull"))


def test_nothing_of_a_removed_tenant_counts_for_the_next_one_of_its_id(made: Made) -> None:
    store, settle = made
    store.append(TENANT, SOME_EVENTS)
    settle(store)
    store.append(TENANT, SOME_EVENTS)
    store.removals.tenant(TENANT)
    assert store.tenant_usage(TENANT) == TenantUsage(0, 0)
    assert list(store.appended_since(0)) == []
    store.append(TENANT, SOME_EVENTS[:1])
    settle(store)
    assert store.tenant_usage(TENANT) == kept(store)
    assert sum(appends.events for appends in store.appended_since(0)) == 1


# --- appends behind a position ---


def counted(store: EventStore, position: int, **bounds: int) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for appends in store.appended_since(position, **bounds):
        found[appends.tenant_id, appends.day] += appends.events
        assert position < appends.last_position <= bounds.get("up_to", store.last_position)
    return found


def days_of(events: Iterator[Event] | list[Event]) -> Counter[tuple[str, int]]:
    return Counter((event.tenant_id, event.recorded_at // DAY_US) for event in events)


@pytest.fixture
def over_days(tmp_path: Path, clock: TurnableClock) -> Iterator[EventStore]:
    """A store with appends of three tenants over four days: two segments, a complete memtable and a growing one."""
    chance = random.Random(1)
    with pytest.MonkeyPatch.context() as patch:
        without_background_work(patch)
        with open_store(tmp_path / "s", clock=clock) as store:
            for part in range(4):
                # Over midnight by single microseconds: some are recorded just at it.
                clock.now = (1000 + part) * DAY_US - 3
                for _ in range(12):
                    tenant = chance.choice([*TENANTS, "_system"]) if clock.now % DAY_US else TENANT
                    store.append(tenant, chance.choices(SOME_EVENTS, k=chance.choice([1, 1, 5])))
                    clock.now += chance.choice([0, 1, 1])
                store.removals.set_policy(TENANT, f"p{part}", max_age_us=DAY_US)
                if part < 2:
                    store.seal()
                else:
                    store._parts.path.freeze()
            list(store.read(OTHER))
            yield store


def test_appends_behind_a_position_are_those_of_its_events(over_days: EventStore) -> None:
    store = over_days
    events = [event for tenant in TENANTS for event in store.read(tenant)]
    end = store.last_position
    assert {event.recorded_at for event in events} >= {day * DAY_US for day in range(1000, 1004)}
    for position in range(end + 2):
        assert counted(store, position) == days_of([event for event in events if event.position > position])
    for up_to in range(0, end, 3):
        expected = days_of([event for event in events if 7 < event.position <= up_to])
        assert counted(store, 7, up_to=up_to) == expected
    for event in events:
        since = event.recorded_at
        assert counted(store, 0, recorded_since=since) == days_of([one for one in events if one.recorded_at >= since])


def test_appends_are_the_same_after_a_restart(over_days: EventStore, tmp_path: Path) -> None:
    before = counted(over_days, 10)
    over_days.close()
    for _ in range(2):
        with open_store(tmp_path / "s") as store:
            assert counted(store, 10) == before
            store.seal()
            assert counted(store, 10) == before
            store.compact()


def test_removed_events_in_memory_count_as_appended(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        without_background_work(patch)
        with open_store(tmp_path / "s") as store:
            store.append(TENANT, SOME_EVENTS)
            store.removals.entity(TENANT, "order-1")
            assert sum(counted(store, 0).values()) == 4
        with open_store(tmp_path / "s") as store:
            assert sum(counted(store, 0).values()) == 4


# --- indexes of the format before ---


def with_old_indexes(path: Path) -> Path:
    """Make the indexes of a store what the release before wrote."""
    paths = StorePaths(path)
    manifest = read_manifest(paths.manifest)
    hasher = Hasher(bytes.fromhex(manifest.hash_key))
    entries = []
    for entry in manifest.segments:
        data = build_index(paths.segment(entry.file), hasher, index_format=FIRST_INDEX_FORMAT)
        paths.segment_index(entry.file).write_bytes(data)
        checksum = google_crc32c.value(data)
        entries.append(msgspec.structs.replace(entry, index_bytes=len(data), index_checksum=checksum))
    write_manifest(paths.manifest, msgspec.structs.replace(manifest, segments=entries), LocalFilesystem())
    return path


def formats(path: Path) -> set[int | None]:
    return {index_format_of(file.read_bytes()) for file in (path / "segments").glob("*.index")}


def old_store(path: Path) -> tuple[Path, list[TenantUsage]]:
    with pytest.MonkeyPatch.context() as patch:
        without_background_work(patch)
        with open_store(path) as store:
            for _ in range(3):
                for tenant in TENANTS:
                    store.append(tenant, SOME_EVENTS)
                store.seal()
            usage = [store.tenant_usage(tenant) for tenant in TENANTS]
            assert len(store._catalog.segments) == 3
    return with_old_indexes(path), usage


def check_upgraded(path: Path, usage: list[TenantUsage]) -> None:
    with open_store(path) as store:
        assert [store.tenant_usage(tenant) for tenant in TENANTS] == usage
        assert [kept(store, tenant) for tenant in TENANTS] == usage
    assert formats(path) == {3}
    assert list(verify_store(path)) == []


def test_a_start_makes_old_indexes_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, usage = old_store(tmp_path / "s")
    assert formats(path) == {2}
    assert list(verify_store(path)) == []
    description = inspect_store(path)
    assert [tenant.events for tenant in description.tenants] == [12, 12]
    assert not description.faults
    phases: list[str] = []
    with open_store(path, progress=lambda progress: phases.append(progress.phase)):
        assert phases.count("rebuilding_indexes") == 3
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    check_upgraded(path, usage)


def test_a_start_that_fails_anywhere_among_old_indexes_can_be_repeated(tmp_path: Path) -> None:
    for operation in range(1, 100):
        path, usage = old_store(tmp_path / str(operation))
        filesystem = FaultyFilesystem(operation, leaves="half" if operation % 2 else "all")
        with suppress(OSError):
            open_store(path, filesystem=filesystem).close()
        check_upgraded(path, usage)
        if not filesystem.failed:
            break
    assert operation > 10


@pytest.mark.parametrize("damage", ["missing", "shorter", "flipped"])
def test_a_damaged_old_index_is_made_anew(tmp_path: Path, damage: str) -> None:
    path, usage = old_store(tmp_path / "s")
    index = next((path / "segments").glob("*.index"))
    data = bytearray(index.read_bytes())
    if damage == "missing":
        index.unlink()
    elif damage == "shorter":
        index.write_bytes(data[:-1])
    else:
        data[-1] ^= 1
        index.write_bytes(data)
    check_upgraded(path, usage)


def test_repair_makes_a_damaged_old_index_anew(tmp_path: Path) -> None:
    path, usage = old_store(tmp_path / "s")
    next((path / "segments").glob("*.index")).unlink()
    repairs = Repairs(rebuild_derived=True)
    repair_store(path, repairs)
    assert list(verify_store(path)) == []
    check_upgraded(path, usage)


def test_an_index_that_its_segment_makes_in_no_format_is_damage(tmp_path: Path) -> None:
    path, _ = old_store(tmp_path / "s")
    paths = StorePaths(path)
    manifest = read_manifest(paths.manifest)
    entries = [msgspec.structs.replace(manifest.segments[0], index_checksum=1), *manifest.segments[1:]]
    write_manifest(paths.manifest, msgspec.structs.replace(manifest, segments=entries), LocalFilesystem())
    with pytest.raises(CorruptionError, match="not the one that it had"):
        open_store(path)


def test_files_of_who_uses_the_store_are_left_alone_and_no_finding(tmp_path: Path) -> None:
    path = tmp_path / "s"
    open_store(path).close()
    (path / "derived").mkdir(mode=0o700)
    (path / "derived" / "usage.sqlite").touch(mode=0o600)
    open_store(path).close()
    assert list(verify_store(path)) == []
    (path / "derived" / "usage.sqlite").chmod(0o644)
    assert [finding.file for finding in verify_store(path)] == ["derived/usage.sqlite"]
