"""Verification: a sound store gives no finding, every damage is named with its file, and nothing is changed."""

from __future__ import annotations

import os
import random
import shutil
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from allsource_core.engine import (
    EventStore,
    Finding,
    ForeignDirectoryError,
    Severity,
    StoreLockedError,
    VerificationProgress,
    verify_store,
)
from allsource_core.engine.filenames import StorePaths
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.log_format import FILE_HEADER_BYTES, LogFileHeader, encode_file_header
from allsource_core.engine.manifest import Manifest, write_manifest
from allsource_core.engine.segment_format import SCHEMA
from allsource_core.engine.segment_writer import write_segment
from allsource_core.engine.verification_ledger import Ledger, Spool

from ..admin.rich_stores import (
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
    return copied(sound, tmp_path / "store")


def findings(path: Path, at_least: Severity = Severity.WARNING) -> list[Finding]:
    order = [Severity.INFORMATION, Severity.WARNING, Severity.ERROR]
    return [finding for finding in verify_store(path) if order.index(finding.severity) >= order.index(at_least)]


def changed(path: Path, **changes: object) -> Manifest:
    """Replace the manifest by one that says something else."""
    manifest = msgspec.structs.replace(manifest_of(path), **changes)
    write_manifest(path / "MANIFEST", manifest, LocalFilesystem())
    return manifest


# --- what is sound ---


def test_a_sound_store_gives_no_finding_and_not_one_byte_changes(sound: Path) -> None:
    before = digest(sound)
    assert list(verify_store(sound)) == []
    assert digest(sound) == before


def test_an_empty_store_is_sound(tmp_path: Path) -> None:
    EventStore.open(tmp_path / "s", options=OPTIONS).close()
    assert list(verify_store(tmp_path / "s")) == []


def test_a_store_is_sound_at_every_step_of_removing_and_compacting(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with EventStore.open(path, options=OPTIONS) as store:
        for batch in range(6):
            store.append("t", [event(f"e{n % 5}", batch * 100 + n, full=n % 3 == 0) for n in range(30)])
            store.append("u", [event("e1")])
        store.seal()
    for step in (
        lambda store: store.removals.entity("t", "e1"),
        lambda store: store.removals.tenant("u"),
        lambda store: store.append("u", [event("e1")]),
        lambda store: store.removals.set_policy("t", "e2", max_count=3),
        lambda store: store.append("t", [event("e1"), event("e2", 999, full=True)]),
        lambda store: store.compact(),
        lambda store: store.seal(),
        lambda store: store.seal(),
    ):
        with EventStore.open(path, options=OPTIONS) as store:
            step(store)
        assert findings(path) == []


def test_a_copy_without_its_lock_and_without_write_permission_can_be_verified(store: Path) -> None:
    (store / "LOCK").unlink()
    for file in [*store.rglob("*"), store]:
        file.chmod(0o500 if file.is_dir() else 0o400)
    (lock,) = verify_store(store)
    store.chmod(0o700)
    assert (lock.severity, lock.file) == (Severity.INFORMATION, "LOCK")


def test_an_unfinished_write_is_information(store: Path) -> None:
    last = log_files(store)[-1]
    end = last.stat().st_size
    with last.open("ab") as file:
        file.write(b"half a record" + bytes(20))
    (finding,) = verify_store(store)
    assert (finding.severity, finding.file, finding.offset) == ("information", f"log/{last.name}", end)
    assert "13 bytes" in finding.text


def test_what_a_crash_leaves_is_information(store: Path) -> None:
    for name in ("segments/000000099999.parquet", "keys/000000099998.ids", "tmp/x.new", "MANIFEST.tmp"):
        (store / name).write_bytes(b"left")
        (store / name).chmod(0o600)
    found = list(verify_store(store))
    assert {finding.severity for finding in found} == {Severity.INFORMATION}
    assert len(found) == 4


def test_progress_ends_at_the_total(sound: Path) -> None:
    seen: list[VerificationProgress] = []
    assert list(verify_store(sound, progress=seen.append)) == []
    assert seen[-1].bytes_done == seen[-1].bytes_total > 0
    assert {progress.phase for progress in seen} == {"log", "segments", "keys", "versions"}


# --- who may verify what ---


def test_an_open_store_is_refused(store: Path) -> None:
    with EventStore.open(store, options=OPTIONS), pytest.raises(StoreLockedError, match="another process"):
        list(verify_store(store))


def test_a_store_does_not_open_while_it_is_verified(store: Path) -> None:
    (store / "foreign").touch()
    (store / "alien").touch()
    found = verify_store(store)
    next(found)
    with pytest.raises(StoreLockedError):
        EventStore.open(store, options=OPTIONS)
    found.close()
    EventStore.open(store, options=OPTIONS).close()


def test_a_directory_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ForeignDirectoryError):
        list(verify_store(tmp_path))
    with pytest.raises(ForeignDirectoryError):
        list(verify_store(tmp_path / "missing"))


# --- bits that flip ---


@pytest.mark.timeout(1200)  # the whole store is verified for every flip: the usual limit is for what hangs
@pytest.mark.parametrize(
    "pattern, flips",
    [("MANIFEST", 12), ("log/*.log", 4), ("segments/*.parquet", 1), ("segments/*.index", 2), ("keys/*", 4)],
)
def test_every_flipped_bit_is_found_in_its_file(store: Path, pattern: str, flips: int) -> None:
    chance = random.Random(pattern)
    for path in sorted(store.glob(pattern)):
        whole = path.read_bytes()
        # The mark of a clean shutdown can't be told from an unfinished write: the last 17 bytes of the log.
        size = len(whole) - (17 if path == log_files(store)[-1] else 0)
        for _ in range(flips):
            bit = chance.randrange(size * 8)
            flip(path, bit)
            name = path.relative_to(store).as_posix()
            found = [finding for finding in findings(store) if finding.file == name]
            assert found, (name, bit)
            assert all(0 <= finding.offset <= len(whole) for finding in found)
            path.write_bytes(whole)
    assert findings(store) == []


def test_a_flipped_bit_in_a_page_is_found_where_its_column_stands(store: Path) -> None:
    path = segment_files(store)[0]
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(SCHEMA.get_field_index("payload"))
    flip(path, 8 * (chunk.data_page_offset + chunk.total_compressed_size - 2))
    (finding,) = findings(store)
    assert (finding.file, finding.offset) == (f"segments/{path.name}", chunk.data_page_offset)
    assert "payload of row group 0" in finding.text


def test_a_damaged_record_is_found_where_it_begins(store: Path) -> None:
    path = log_files(store)[0]
    flip(path, 8 * (FILE_HEADER_BYTES + 20))
    (finding,) = findings(store)
    assert (finding.file, finding.offset) == (f"log/{path.name}", FILE_HEADER_BYTES)
    assert "--cut-log" in finding.remedy


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1", b'{"format":3,"store_id":"x"}', b'{"format":2,"store_id":"x"}', b"\xff"]
)
def test_a_store_file_that_says_nothing_useful_is_found(store: Path, content: bytes) -> None:
    (store / "STORE").write_bytes(content)
    assert [finding.file for finding in findings(store)] == ["STORE"]


# --- files that are missing, cut, or mistaken for each other ---


@pytest.mark.timeout(1200)  # likewise
def test_every_missing_file_is_found(store: Path, sound: Path) -> None:
    logs = log_files(store)
    # The first log file has nothing that is not sealed.
    unknown = {"LOCK", *(f"tmp/{path.name}" for path in (store / "tmp").iterdir())}
    for path in sorted(path for path in store.rglob("*") if path.is_file()):
        name = path.relative_to(store).as_posix()
        whole = path.read_bytes()
        path.unlink()
        found = {finding.file for finding in findings(store)}
        if path in logs[:-1]:
            assert any(file.startswith("log/") for file in found) or path == logs[0]
        else:
            assert name in found or name in unknown
        path.write_bytes(whole)
        path.chmod(0o600)


@pytest.mark.parametrize("name", ["log", "segments", "keys", "tmp"])
def test_every_missing_directory_is_found(store: Path, name: str) -> None:
    shutil.rmtree(store / name)
    assert name in {finding.file for finding in findings(store)}


@pytest.mark.parametrize("pattern", ["MANIFEST", "STORE", "segments/*.parquet", "segments/*.index", "keys/*"])
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_every_cut_file_is_found(store: Path, pattern: str, left: float) -> None:
    path = min(store.glob(pattern))
    os.truncate(path, int(path.stat().st_size * left))
    assert path.relative_to(store).as_posix() in {finding.file for finding in findings(store)}


def test_a_log_file_that_is_cut_while_newer_ones_exist_is_found(store: Path) -> None:
    path = max(log_files(store)[:-1], key=lambda path: len(path.read_bytes().rstrip(b"\0")))
    with path.open("r+b") as file:
        file.truncate(FILE_HEADER_BYTES + 100)
    assert findings(store)[0].file.startswith("log/")


def test_two_segments_that_changed_places_are_found(store: Path) -> None:
    one, other = segment_files(store)[:2]
    one.rename(store / "aside")
    other.rename(one)
    (store / "aside").rename(other)
    assert {f"segments/{one.name}", f"segments/{other.name}"} <= {finding.file for finding in findings(store)}


def test_two_entries_that_changed_places_are_found(store: Path) -> None:
    segments = manifest_of(store).segments
    changed(store, segments=[segments[1], segments[0], *segments[2:]])
    assert "MANIFEST" in {finding.file for finding in findings(store)}


# --- what should not be there, and who may read it ---


def test_a_wrong_count_of_what_a_segment_holds_is_found(store: Path) -> None:
    one, *others = manifest_of(store).segments
    changed(store, segments=[msgspec.structs.replace(one, content_bytes=one.content_bytes + 1), *others])
    (finding,) = findings(store)
    assert (finding.file, finding.severity) == (f"segments/{one.file:012d}.parquet", Severity.ERROR)
    assert f"{one.content_bytes} bytes, not {one.content_bytes + 1}" in finding.text


def test_a_file_of_somebody_else_is_found_and_left_alone(store: Path) -> None:
    (store / "notes.txt").write_text("mine")
    (store / "log" / "old").mkdir()
    found = findings(store)
    assert {finding.file for finding in found} == {"notes.txt", "log/old"}
    assert {finding.severity for finding in found} == {Severity.WARNING}


@pytest.mark.parametrize("name", [".", "MANIFEST", "LOCK", "log", "segments/*.parquet", "keys/*.ids", "log/*.log"])
def test_a_permission_that_is_too_wide_is_found(store: Path, name: str) -> None:
    path = store if name == "." else min(store.glob(name))
    path.chmod(path.stat().st_mode | 0o040)
    (finding,) = findings(store)
    assert finding.severity == Severity.WARNING
    assert finding.file == path.relative_to(store).as_posix()
    assert "chmod" in finding.remedy


# --- what checksums say nothing of ---


def rewrite(store: Path, change: Callable[[pa.Table], pa.Table], place: int = 0) -> str:
    """Write a segment anew with other rows, in right files of right checksums; returns its name."""
    manifest, paths = manifest_of(store), StorePaths(store)
    entry = manifest.segments[place]
    path = paths.segment(entry.file)
    table = change(pq.read_table(path).cast(SCHEMA))
    made = write_segment(
        table,
        file=entry.file,
        segment_path=path,
        index_path=paths.segment_index(entry.file),
        filesystem=LocalFilesystem(),
        hasher=Hasher(bytes.fromhex(manifest.hash_key)),
        first_position=entry.first_position,
        last_position=entry.last_position,
        removals_through=entry.removals_through,
    )
    segments = list(manifest.segments)
    segments[place] = made
    changed(store, segments=segments)
    return f"segments/{path.name}"


def with_value(name: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[row] = value
        column = pa.array(values, SCHEMA.field(name).type)
        return table.set_column(table.column_names.index(name), SCHEMA.field(name), column)

    return change


@pytest.mark.parametrize(
    "name, row, value, text",
    [
        ("payload", 3, "{", "no JSON"),
        ("payload", 3, "{\n}", "line breaks"),
        ("payload", 3, "[" * 5000 + "]" * 5000, "no JSON"),
        ("metadata", 3, "[]", "no JSON"),
        ("position", 3, 2**40, "has position"),
        ("version", 3, 900, "missing"),
        ("version", 3, 0, "has version 0"),
        ("kind", 3, 7, "which nobody knows"),
        ("event_type", 3, "", "event type ''"),
        ("tenant", 3, 99, "the manifest does not know"),
        ("tenant_id", 3, "who", "the manifest 'shop'"),
        ("recorded_at", 3, 0, "was recorded before"),
    ],
)
def test_a_row_that_can_t_be_right_is_found(store: Path, name: str, row: int, value: object, text: str) -> None:
    segment = rewrite(store, with_value(name, row, value))
    assert any(finding.file == segment and text in finding.text for finding in findings(store, Severity.ERROR))


def test_a_position_that_is_there_twice_is_found(store: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        return with_value("position", 3, table["position"][4].as_py())(table)

    segment = rewrite(store, change)
    assert any(finding.file == segment and "twice" in finding.text for finding in findings(store))


def test_events_that_are_gone_from_a_segment_are_found_by_their_versions(store: Path) -> None:
    rewrite(store, lambda table: table.filter(pa.array([n != 5 for n in range(table.num_rows)])))
    found = findings(store, Severity.ERROR)
    # It is the version behind those that are gone which is out of place.
    assert found[0].file in [f"segments/{path.name}" for path in segment_files(store)]
    assert "are missing, in 'order-" in found[0].text


def test_a_segment_that_the_manifest_forgot_is_found_by_versions_and_keys(store: Path) -> None:
    segments = manifest_of(store).segments
    changed(store, segments=[*segments[:1], *segments[2:]])
    found = findings(store, Severity.ERROR)
    assert found
    assert all("missing" in finding.text for finding in found)


def test_an_erased_event_that_is_still_there_is_found(store: Path) -> None:
    removal = next(removal for removal in manifest_of(store).removals if removal.kind == "event")

    def change(table: pa.Table) -> pa.Table:
        row = table["position"].to_pylist().index(removal.event_position)
        return with_value("kind", row, 0)(table)

    place = next(
        place
        for place, entry in enumerate(manifest_of(store).segments)
        if entry.last_position >= removal.event_position
    )
    segment = rewrite(store, change, place)
    assert any(finding.file == segment and "was erased" in finding.text for finding in findings(store))


def test_removed_events_that_are_still_there_are_found(store: Path) -> None:
    removals = [
        msgspec.structs.replace(removal, entity_id="order-5", version=9) if removal.kind == "entity" else removal
        for removal in manifest_of(store).removals
    ]
    changed(store, removals=removals)
    assert any("but removed up to 9" in finding.text for finding in findings(store, Severity.ERROR))


@pytest.mark.parametrize("kind", ["entities", "ids"])
def test_key_files_that_know_nothing_of_what_segments_have_are_found(store: Path, kind: str) -> None:
    changed(store, key_files=[entry for entry in manifest_of(store).key_files if entry.kind != kind])
    (finding,) = findings(store)
    assert finding.file == "keys"
    assert "no key file knows" in finding.text
    assert "--rebuild-derived" in finding.remedy


def test_key_files_that_are_behind_segments_are_found(store: Path) -> None:
    """Only what the first one says of an entity is left, which others superseded."""
    keys = [entry for entry in manifest_of(store).key_files if entry.kind == "entities"]
    others = [entry for entry in manifest_of(store).key_files if entry.kind != "entities"]
    changed(store, key_files=[keys[0], *others])
    found = findings(store)
    assert any(finding.file.startswith("keys/") and "of a key it says version" in finding.text for finding in found)


def test_a_log_that_begins_too_late_is_found(store: Path) -> None:
    first = log_files(store)[0]
    number, begins = struct.unpack_from("<QQ", first.read_bytes(), 12)
    data = encode_file_header(LogFileHeader(number, begins + 100)) + first.read_bytes()[FILE_HEADER_BYTES:]
    first.write_bytes(data)
    assert findings(store, Severity.ERROR)[0].file == f"log/{first.name}"


# --- what is remembered between segments ---


def test_what_a_ledger_remembers_does_not_depend_on_into_how_many_parts_it_is_cut() -> None:
    chance = random.Random(5)
    rows = [[chance.getrandbits(64), chance.getrandbits(64)] for _ in range(1000)]
    whole = pa.array([row[0] for row in rows], pa.uint64()).to_numpy()
    other = pa.array([row[1] for row in rows], pa.uint64()).to_numpy()
    for parts in (1, 2, 7, 256):
        spool = Spool(2, parts)
        spool.append(whole[:300], other[:300])
        spool.append(whole[300:], other[300:])
        found = [spool.part(number).tolist() for number in range(parts)]
        spool.close()
        assert sorted(row for part in found for row in part) == sorted(rows)
        assert all(max(a)[0] < min(b)[0] for a, b in pairwise(found) if a and b)


def test_a_store_in_many_parts_gives_the_same_findings(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite(store, lambda table: table.filter(pa.array([n != 5 for n in range(table.num_rows)])))
    whole = sorted(map(str, verify_store(store)))
    begin = Ledger.__init__

    def in_parts(self: Ledger, hasher: Hasher, items: int, left_out: set[int]) -> None:
        begin(self, hasher, 50_000_000, left_out)

    monkeypatch.setattr(Ledger, "__init__", in_parts)
    assert sorted(map(str, verify_store(store))) == whole
