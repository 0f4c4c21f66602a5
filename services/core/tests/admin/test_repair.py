"""Repair: nothing without being told, each one leaves a store that opens and verifies, and nothing is destroyed."""

from __future__ import annotations

import errno
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import msgspec
import pytest

from allsource_core.engine import (
    CorruptionError,
    EventQuery,
    EventStore,
    Finding,
    RepairRefusedError,
    Repairs,
    Severity,
    StoreLockedError,
    plan_repairs,
    repair_store,
    verify_store,
)
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.log_format import FILE_HEADER_BYTES, read_frame
from allsource_core.engine.manifest import write_manifest

from ..engine.stores import FaultyFilesystem, without_background_work
from .rich_stores import (
    OPTIONS,
    copied,
    digest,
    event,
    flip,
    log_files,
    make_rich_store,
    manifest_of,
    segment_files,
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rich_store(tmp_path_factory.mktemp("sound") / "store")


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> Path:
    """A copy, to damage."""
    return copied(sound, tmp_path / "parent" / "store")


def wrong(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings if finding.severity != Severity.INFORMATION]


def check_sound(path: Path) -> None:
    """It verifies, opens, takes events, and verifies again."""
    assert wrong(list(verify_store(path))) == []
    with EventStore.open(path, options=OPTIONS) as opened:
        before = opened.last_position
        opened.append("shop", [event("after-repair"), event("order-2"), event("late-1")])
        assert opened.last_position == before + 3
        for tenant in ("shop", "other", "newcomer", "_system"):
            list(opened.read(tenant))
        opened.seal()
    assert wrong(list(verify_store(path))) == []


def kept_in(path: Path) -> Path:
    (directory,) = path.parent.glob("store.damaged-*")
    return directory


def frames(path: Path) -> list[tuple[int, int]]:
    """(begin, end) of every whole record of a log file."""
    data, found, offset = memoryview(path.read_bytes()), [], FILE_HEADER_BYTES
    while (record := read_frame(data, offset)) is not None:
        found.append((offset, record[1]))
        offset = record[1]
    return found


DAMAGES: dict[str, Callable[[Path], object]] = {
    "segment": lambda path: flip(segment_files(path)[1], 8 * 100),
    "index": lambda path: flip(min((path / "segments").glob("*.index")), 8 * 100),
    "key file": lambda path: flip(min((path / "keys").glob("*.entities")), 8 * 70),
    "log": lambda path: flip(log_files(path)[1], 8 * 60),
    "stray": lambda path: (path / "segments" / "000000099999.parquet").write_bytes(b"left"),
    "manifest": lambda path: flip(path / "MANIFEST", 8 * 60),
    "store file": lambda path: (path / "STORE").unlink(),
    "permission": lambda path: (path / "MANIFEST").chmod(0o644),
    "foreign": lambda path: (path / "notes").write_text("mine"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_plan_changes_nothing_and_names_a_way_out(store: Path, damage: str) -> None:
    DAMAGES[damage](store)
    before = digest(store.parent)
    findings, planned = plan_repairs(store)
    assert digest(store.parent) == before
    assert findings
    assert planned
    flag = {
        "segment": "--drop-segment",
        "index": "--rebuild",
        "key file": "--rebuild",
        "log": "--cut",
        "stray": "--rem",
    }
    assert planned[0].flag.startswith(flag.get(damage, ""))
    assert damage in flag or planned[0].flag == ""


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage not in ("manifest", "store file")])
def test_repairs_that_nobody_asked_for_are_not_done(store: Path, damage: str) -> None:
    DAMAGES[damage](store)
    before = digest(store.parent)
    repair_store(store, Repairs())
    assert digest(store.parent) == before


def test_a_plan_for_a_sound_store_is_empty(store: Path) -> None:
    assert plan_repairs(store) == ([], [])


def test_an_open_store_is_refused(store: Path) -> None:
    with EventStore.open(store, options=OPTIONS):
        for act in (lambda: plan_repairs(store), lambda: repair_store(store, Repairs(remove_stray=True))):
            with pytest.raises(StoreLockedError):
                act()


def test_no_repair_mends_a_manifest(store: Path) -> None:
    flip(store / "MANIFEST", 8 * 60)
    before = digest(store.parent)
    with pytest.raises(CorruptionError, match="MANIFEST"):
        repair_store(store, Repairs(rebuild_derived=True, remove_stray=True, cut_log=True))
    assert digest(store.parent) == before


# --- derived files ---


@pytest.mark.parametrize("how", ["flip", "remove", "cut"])
def test_derived_files_are_made_anew(store: Path, how: str) -> None:
    with EventStore.open(store, options=OPTIONS) as opened:
        versions = {name: opened.version("shop", name) for name in ("order-1", "order-2", "order-3", "never")}
    indexes = {path: path.read_bytes() for path in (store / "segments").glob("*.index")}
    for path in [*indexes, *(store / "keys").iterdir()]:
        if how == "flip":
            flip(path, 8 * 70)
        elif how == "cut":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.unlink()
    told: list[str] = []
    assert wrong(repair_store(store, Repairs(rebuild_derived=True), tell=told.append)) == []
    assert {path: path.read_bytes() for path in indexes} == indexes
    assert any("key files anew" in text for text in told)
    assert not list(store.parent.glob("store.damaged-*"))
    with EventStore.open(store, options=OPTIONS) as opened:
        assert {name: opened.version("shop", name) for name in versions} == versions
    check_sound(store)


def test_derived_files_that_are_right_stay_as_they_are(store: Path) -> None:
    before = digest(store)
    repair_store(store, Repairs(rebuild_derived=True))
    assert digest(store) == before


def test_an_index_that_the_manifest_does_not_know_as_its_segment_makes_it_is_put_right(store: Path) -> None:
    manifest = manifest_of(store)
    first = msgspec.structs.replace(manifest.segments[0], index_checksum=1)
    segments = [first, *manifest.segments[1:]]
    write_manifest(store / "MANIFEST", msgspec.structs.replace(manifest, segments=segments), LocalFilesystem())
    assert wrong(list(verify_store(store)))
    assert wrong(repair_store(store, Repairs(rebuild_derived=True))) == []
    check_sound(store)


def test_missing_directories_of_derived_files_are_made(store: Path) -> None:
    for name in ("keys", "tmp"):
        for path in (store / name).iterdir():
            path.unlink()
        (store / name).rmdir()
    assert wrong(repair_store(store, Repairs(rebuild_derived=True))) == []
    check_sound(store)


def test_key_files_are_not_made_of_damaged_segments(store: Path) -> None:
    flip(segment_files(store)[1], 8 * 100)
    flip(min((store / "keys").glob("*.entities")), 8 * 70)
    before = digest(store.parent)
    with pytest.raises(RepairRefusedError, match="damaged"):
        repair_store(store, Repairs(rebuild_derived=True))
    assert digest(store.parent) == before


# --- stray files ---


def test_what_a_crash_left_is_removed_and_what_is_not_of_a_store_is_not(store: Path) -> None:
    left = [store / name for name in ("segments/000000099999.parquet", "keys/000000099998.ids", "tmp/x", "STORE.tmp")]
    for path in left:
        path.write_bytes(b"left")
    (store / "notes").write_text("mine")
    (store / "notes").chmod(0o600)
    findings = repair_store(store, Repairs(remove_stray=True))
    assert [finding.file for finding in findings] == ["notes"]
    assert not any(path.exists() for path in left)
    assert (store / "notes").read_text() == "mine"
    (store / "notes").unlink()
    check_sound(store)


# --- segments ---


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_damaged_segment_is_given_up_and_kept_aside(store: Path, place: int) -> None:
    entry = manifest_of(store).segments[place]
    with EventStore.open(store, options=OPTIONS) as opened:
        versions = {name: opened.version("shop", name) for name in ("order-0", "order-1", "order-2", "order-new")}
    entry = manifest_of(store).segments[place]
    path = segment_files(store)[place]
    flip(path, 8 * 100)
    damaged, index = path.read_bytes(), path.with_suffix(".index").read_bytes()
    told: list[str] = []
    assert wrong(repair_store(store, Repairs(drop_segments=(entry.file,)), tell=told.append)) == []
    assert f"{entry.events} of them events" in told[0]
    assert f"positions {entry.first_position} to {entry.last_position}" in told[0]
    assert (kept_in(store) / "segments" / path.name).read_bytes() == damaged
    assert (kept_in(store) / "segments" / path.with_suffix(".index").name).read_bytes() == index
    assert not path.exists()
    assert entry.file not in [other.file for other in manifest_of(store).segments]
    with EventStore.open(store, options=OPTIONS) as opened:
        # Key files still know the last versions: none is assigned a second time.
        assert {name: opened.version("shop", name) for name in versions} == versions
        positions = [found.position for found in opened.read("shop")]
        assert not [at for at in positions if entry.first_position <= at <= entry.last_position]
    check_sound(store)
    assert kept_in(store).stat().st_mode & 0o777 == 0o700


def test_an_event_that_was_given_up_can_be_appended_again(store: Path) -> None:
    with EventStore.open(store, options=OPTIONS) as opened:
        (lost,) = opened.read("shop", EventQuery(limit=1))
    entry = manifest_of(store).segments[0]
    flip(segment_files(store)[0], 8 * 100)
    repair_store(store, Repairs(drop_segments=(entry.file,)))
    with EventStore.open(store, options=OPTIONS) as opened:
        assert opened.get("shop", lost.id) is None
        opened.append("shop", [event(lost.entity_id, 0, full=True)])
    check_sound(store)


def test_a_segment_that_is_missing_is_given_up(store: Path) -> None:
    entry = manifest_of(store).segments[1]
    segment_files(store)[1].unlink()
    assert wrong(repair_store(store, Repairs(drop_segments=(entry.file,)))) == []
    check_sound(store)


def test_several_damaged_segments_are_given_up_together(store: Path) -> None:
    entries = manifest_of(store).segments
    for path in segment_files(store):
        flip(path, 8 * 100)
    assert wrong(repair_store(store, Repairs(drop_segments=tuple(entry.file for entry in entries)))) == []
    assert manifest_of(store).segments == []
    check_sound(store)


@pytest.mark.parametrize("number", [10**6, None])
def test_a_segment_that_is_sound_or_not_there_is_not_given_up(store: Path, number: int | None) -> None:
    before = digest(store.parent)
    with pytest.raises(RepairRefusedError):
        repair_store(store, Repairs(drop_segments=(number or manifest_of(store).segments[0].file,)))
    assert digest(store.parent) == before


# --- the log ---


def cut(store: Path) -> list[str]:
    told: list[str] = []
    last = max(finding.offset for finding in verify_store(store))
    assert last >= 0
    assert wrong(repair_store(store, Repairs(cut_log=True), tell=told.append)) == []
    return told


def test_the_log_is_cut_at_its_first_damage_and_no_position_is_assigned_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is to be damaged is still in the log after a look at it.
    without_background_work(monkeypatch)
    with EventStore.open(store, options=OPTIONS) as opened:
        last_before = opened.last_position
    logs = log_files(store)
    begin, end = frames(logs[1])[3]
    flip(logs[1], 8 * (begin + 30))
    damaged = {path.name: path.read_bytes() for path in logs}
    told = cut(store)
    kept = kept_in(store) / "log"
    assert (kept / f"{logs[1].name}.from-{begin}").read_bytes() == damaged[logs[1].name][begin:]
    for path in logs[2:]:
        assert (kept / path.name).read_bytes() == damaged[path.name]
    assert f"{logs[1].name} is cut at byte {begin}" in told[0]
    assert end > begin
    with EventStore.open(store, options=OPTIONS) as opened:
        readable = [found.position for found in opened.read("shop")]
        assert max(readable) < last_before
        opened.append("shop", [event("order-2")])
        assert opened.last_position > last_before
    check_sound(store)


def test_what_stands_before_the_damage_is_all_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    with EventStore.open(store, options=OPTIONS) as opened:
        everything = list(opened.read("shop"))
    logs = log_files(store)
    begin, _ = frames(logs[-2])[-1]
    flip(logs[-2], 8 * (begin + 30))
    repair_store(store, Repairs(cut_log=True))
    with EventStore.open(store, options=OPTIONS) as opened:
        left = list(opened.read("shop"))
    assert left == everything[: len(left)]
    assert len(left) > len(everything) - 40


@pytest.mark.parametrize("place", [0, 1, -1])
def test_a_log_file_whose_header_is_damaged_is_kept_whole(store: Path, place: int) -> None:
    path = log_files(store)[place]
    flip(path, 8 * 10 + 7)
    flip(path, 8 * 13)
    damaged = path.read_bytes()
    cut(store)
    assert (kept_in(store) / "log" / path.name).read_bytes() == damaged
    check_sound(store)


def test_a_log_whose_files_are_all_gone_begins_anew(store: Path) -> None:
    for path in log_files(store):
        path.unlink()
    cut(store)
    check_sound(store)


def test_a_newest_log_file_that_is_missing_ends_the_log(store: Path) -> None:
    with EventStore.open(store, options=OPTIONS) as opened:
        last = opened.append("acme", [event("e")]).events[0].position
    log_files(store)[-1].unlink()
    with pytest.raises(CorruptionError, match=r"the file is missing"):
        EventStore.open(store, options=OPTIONS)
    cut(store)
    check_sound(store)
    with EventStore.open(store, options=OPTIONS) as opened:
        assert opened.append("acme", [event("e")]).events[0].position > last


def test_a_log_file_that_is_missing_between_others_ends_the_log(store: Path) -> None:
    logs = log_files(store)
    assert len(logs) >= 3
    logs[-2].unlink()
    newest = logs[-1].read_bytes()
    cut(store)
    assert (kept_in(store) / "log" / logs[-1].name).read_bytes() == newest
    check_sound(store)


@pytest.mark.timeout(1200)  # a store for every operation that fails: the usual limit is for what hangs
@pytest.mark.parametrize("leaves", ["nothing", "all"])
def test_cutting_may_be_broken_off_anywhere_and_goes_on(sound: Path, tmp_path: Path, leaves: str) -> None:
    with EventStore.open(copied(sound, tmp_path / "s"), options=OPTIONS) as opened:
        last_before = opened.last_position
    # One in so many operations fails, beginning anywhere: over many runs, each of them.
    step = 1 if os.environ.get("ALLSOURCE_FAULTS") == "all" else 5
    operations = random.randint(1, step)
    while True:
        store = copied(sound, tmp_path / "s")
        flip(log_files(store)[1], 8 * (FILE_HEADER_BYTES + 30))
        faulty = FaultyFilesystem(operations, leaves=leaves)  # type: ignore[arg-type]
        try:
            repair_store(store, Repairs(cut_log=True), keep_in=tmp_path / str(operations), filesystem=faulty)
        except OSError:
            # Whatever is left to do is asked for; nothing is, once the last manifest is in place.
            asked = [finding.remedy for finding in verify_store(store) if finding.severity == Severity.ERROR]
            is_done = manifest_of(store).sealed_through > last_before
            assert is_done or any("--cut-log" in remedy for remedy in asked)
        if not faulty.failed:
            break
        assert wrong(repair_store(store, Repairs(cut_log=True), keep_in=tmp_path / str(operations))) == []
        with EventStore.open(store, options=OPTIONS) as opened:
            opened.append("shop", [event("order-2")])
            assert opened.last_position > last_before
        operations += step
    assert operations > 20


def test_a_log_that_is_not_damaged_is_not_cut(store: Path) -> None:
    before = digest(store)
    told: list[str] = []
    repair_store(store, Repairs(cut_log=True), tell=told.append)
    assert told == ["the log is not damaged, and is not cut"]
    assert digest(store) == before


def test_a_log_file_of_a_newer_release_is_not_given_up(store: Path) -> None:
    path = log_files(store)[-1]
    data = bytearray(path.read_bytes())
    data[8] = 9
    struct.pack_into("<I", data, 28, google_crc32c.value(bytes(data[:28])))
    path.write_bytes(data)
    (finding,) = verify_store(store)
    assert "log format version 9" in finding.text
    before = digest(store)
    repair_store(store, Repairs(cut_log=True))
    assert digest(store) == before


# --- where things are kept ---


def test_what_is_taken_out_is_kept_where_the_caller_says(store: Path, tmp_path: Path) -> None:
    path = segment_files(store)[0]
    flip(path, 8 * 100)
    damaged = path.read_bytes()
    drop = Repairs(drop_segments=(manifest_of(store).segments[0].file,))
    repair_store(store, drop, keep_in=tmp_path / "kept")
    assert (tmp_path / "kept" / "segments" / path.name).read_bytes() == damaged
    assert not list(store.parent.glob("store.damaged-*"))


def test_nothing_that_is_kept_is_ever_replaced(store: Path, tmp_path: Path) -> None:
    path = segment_files(store)[0]
    flip(path, 8 * 100)
    (tmp_path / "kept" / "segments").mkdir(parents=True)
    (tmp_path / "kept" / "segments" / path.name).write_bytes(b"older")
    before = digest(store.parent)
    drop = Repairs(drop_segments=(manifest_of(store).segments[0].file,))
    with pytest.raises(FileExistsError):
        repair_store(store, drop, keep_in=tmp_path / "kept")
    assert (tmp_path / "kept" / "segments" / path.name).read_bytes() == b"older"
    assert digest(store.parent) == before


def test_nothing_is_kept_in_the_store_itself(store: Path) -> None:
    with pytest.raises(ValueError, match="in the data directory"):
        repair_store(store, Repairs(cut_log=True), keep_in=store / "kept")


class Full(LocalFilesystem):
    """A disk on which nothing can be kept."""

    def write_new(self, path: Path, parts: object) -> None:
        raise OSError(errno.ENOSPC, "no space left", str(path))


@pytest.mark.parametrize("damage", ["log", "segment"])
def test_nothing_is_changed_if_it_can_t_be_kept(store: Path, damage: str) -> None:
    DAMAGES[damage](store)
    before = digest(store)
    repairs = (
        Repairs(cut_log=True) if damage == "log" else Repairs(drop_segments=(manifest_of(store).segments[1].file,))
    )
    with pytest.raises(OSError, match="no space"):
        repair_store(store, repairs, filesystem=Full())
    assert digest(store) == before
    # Nobody is locked out by a repair that failed.
    assert wrong(list(verify_store(store)))
