"""Opening a store: what an unfinished write leaves is cut, damage is named, other people's files are left alone."""

from __future__ import annotations

import mmap
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.engine import (
    CorruptionError,
    Event,
    EventStore,
    ForeignDirectoryError,
    InvalidEventError,
    RecoveryProgress,
    StoreLockedError,
)
from allsource_core.engine.log_format import FILE_HEADER_BYTES, frame, read_frame
from allsource_core.engine.recovery import _possible_records

from .stores import SMALL, TENANT, kill, new_event, open_store, without_background_work


def payloads(path: Path) -> list[bytes]:
    """What a store holds, read by opening it."""
    with open_store(path) as store:
        return [event.payload for event in store.read(TENANT)]


def copy_of(store: EventStore, to: Path) -> None:
    """The directory of an open store as a process leaves it that is killed now."""
    root = store._parts.catalog.paths.root
    shutil.copytree(root, to, ignore=shutil.ignore_patterns("LOCK"))


def crashed_store(path: Path, batches: list[list[bytes]], *, zeros: bool = True) -> Path:
    """A store whose process died: its log has no mark of a clean shutdown. Returns its last log file.

    Nothing was at work in the background, or the copy would be of several moments.

    Args:
        path: of the store.
        batches: payloads, an append each.
        zeros: whether the zeros stay that the file was filled with.
    """
    with pytest.MonkeyPatch.context() as patch:
        without_background_work(patch)
        with open_store(path.with_name("live")) as store:
            for batch in batches:
                store.append(TENANT, [new_event(payload=payload) for payload in batch])
            copy_of(store, path)
    shutil.rmtree(path.with_name("live"))
    log = sorted((path / "log").iterdir())[-1]
    if not zeros:
        data = log.read_bytes()
        log.write_bytes(data[: frames(data)[-1][1]])
    return log


def frames(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of every whole record of a log file."""
    found, offset = [], FILE_HEADER_BYTES
    while (record := read_frame(memoryview(data), offset)) is not None:
        found.append((offset, record[1]))
        offset = record[1]
    return found


def everything(path: Path) -> dict[str, bytes]:
    """All files of a directory but the lock."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "LOCK"
    }


@pytest.mark.parametrize("zeros", [False, True], ids=["file cut", "zeros from there on"])
def test_a_log_cut_at_any_byte_of_its_last_record_opens_without_that_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, zeros: bool
) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"], [b"2", b"3"]])
    whole = log.read_bytes()
    assert len(whole) == SMALL.log_file_bytes_max
    (_, first_end), (begin, end) = frames(whole)
    assert first_end == begin
    for cut in range(begin, end):
        log.write_bytes(whole[:cut].ljust(len(whole) if zeros else 0, b"\0"))
        caplog.clear()
        assert payloads(tmp_path / "s") == [b"1"]
        unfinished = len(whole[begin:cut].rstrip(b"\0"))
        assert (f"of {unfinished} bytes was cut from {log.name} at byte {begin}" in caplog.text) == (unfinished > 0)
        assert log.stat().st_size == begin
    log.write_bytes(whole)
    caplog.clear()
    assert payloads(tmp_path / "s") == [b"1", b"2", b"3"]
    assert "was cut" not in caplog.text


def test_what_follows_a_cut_is_appended_and_found_again(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"], [b"2"]], zeros=False)
    log.write_bytes(log.read_bytes()[:-1])
    with open_store(tmp_path / "s") as store:
        (event,) = store.append(TENANT, [new_event(payload=b"3")]).events
        assert (event.version, event.position) == (2, 2)
    for _ in range(2):
        assert payloads(tmp_path / "s") == [b"1", b"3"]


def test_two_restarts_in_a_row_give_the_same_store_and_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_background_work(monkeypatch)
    crashed_store(tmp_path / "s", [[b"1"], [b"2"]])

    def look() -> tuple[list[Event], int, int, dict[str, bytes]]:
        with open_store(tmp_path / "s") as store:
            seen = list(store.read(TENANT)), store.last_position, store.version(TENANT, "order-1")
        return *seen, everything(tmp_path / "s")

    assert look() == look() == look()


@pytest.mark.parametrize("sealed", [False, True])
def test_what_is_known_of_tenants_without_events_is_theirs_after_a_restart(tmp_path: Path, sealed: bool) -> None:
    with open_store(tmp_path / "s") as store:
        store.removals.set_policy("a", "x", max_count=7)
        if sealed:
            store.seal()
    with open_store(tmp_path / "s") as store:
        store.append("b", [new_event()])
        assert store.removals.policies("b") == []
        assert [(policy.prefix, policy.max_count) for policy in store.removals.policies("a")] == [("x", 7)]


def test_a_clean_start_and_stop_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store.seal()
        store.append(TENANT, [new_event()])
    before = everything(tmp_path / "s")
    open_store(tmp_path / "s").close()
    assert everything(tmp_path / "s") == before


def test_zeros_behind_the_last_record_are_its_end_and_no_unfinished_write(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"]])
    log.write_bytes(log.read_bytes() + bytes(5000))
    assert payloads(tmp_path / "s") == [b"1"]
    assert "was cut" not in caplog.text


def test_a_flipped_bit_in_acknowledged_bytes_is_named_and_nothing_is_served_or_changed(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"], [b'{"a":"b"}'], [b"3"]], zeros=False)
    (tmp_path / "s" / "tmp" / "000000000009.parquet.new").write_bytes(b"what a crash left")
    whole = log.read_bytes()
    before = everything(tmp_path / "s")
    (_, _), (begin, end), (_, _) = frames(whole)
    for offset in [*range(FILE_HEADER_BYTES), *range(begin, end)]:
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << bit
            log.write_bytes(damaged)
            with pytest.raises((CorruptionError, ForeignDirectoryError)) as refusal:
                open_store(tmp_path / "s")
            assert log.name in str(refusal.value)
            if isinstance(refusal.value, CorruptionError):
                assert refusal.value.offset == (begin if offset >= begin else 0)
            assert log.read_bytes() == bytes(damaged)
    log.write_bytes(whole)
    assert everything(tmp_path / "s") == before
    assert payloads(tmp_path / "s") == [b"1", b'{"a":"b"}', b"3"]


def test_a_flipped_bit_in_the_manifest_is_named_and_nothing_is_served_or_changed(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store.seal()
        store.append(TENANT, [new_event()])
    manifest = tmp_path / "s" / "MANIFEST"
    whole = manifest.read_bytes()
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << offset % 8
        manifest.write_bytes(damaged)
        before = everything(tmp_path / "s") if offset % 50 == 0 else {}
        with pytest.raises(CorruptionError, match="MANIFEST"):
            open_store(tmp_path / "s")
        assert not before or everything(tmp_path / "s") == before
    for cut in range(len(whole)):
        manifest.write_bytes(whole[:cut])
        with pytest.raises(CorruptionError, match="MANIFEST"):
            open_store(tmp_path / "s")
    manifest.unlink()
    with pytest.raises(CorruptionError, match="the manifest is missing"):
        open_store(tmp_path / "s")


def test_a_segment_that_is_missing_or_of_another_size_is_named(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store.seal()
    (segment,) = (tmp_path / "s" / "segments").glob("*.parquet")
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-1])
    with pytest.raises(CorruptionError, match=segment.name):
        open_store(tmp_path / "s")
    segment.unlink()
    with pytest.raises(CorruptionError, match=f"{segment.name}.*missing"):
        open_store(tmp_path / "s")
    segment.write_bytes(whole)
    assert len(payloads(tmp_path / "s")) == 1


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_after_a_clean_shutdown_a_flipped_bit_in_the_last_record_is_damage_too(tmp_path: Path, durability: str) -> None:
    options = msgspec.structs.replace(SMALL, durability=durability)
    with open_store(tmp_path / "s", options=options) as store:
        store.append(TENANT, [new_event(payload=b'"last"')])
    log = sorted((tmp_path / "s" / "log").iterdir())[-1]
    whole = log.read_bytes()
    (begin, end), (_, _) = frames(whole)
    for offset in range(begin, end):
        damaged = bytearray(whole)
        damaged[offset] ^= 0x10
        log.write_bytes(damaged)
        with pytest.raises(CorruptionError):
            open_store(tmp_path / "s")


def test_two_records_of_one_write_of_which_only_the_second_reached_the_disk_are_an_unfinished_write(
    tmp_path: Path,
) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"]], zeros=False)
    durable = log.read_bytes()
    lost = bytes(64)
    log.write_bytes(durable + lost + frame(b"\xc0", len(durable)))
    assert payloads(tmp_path / "s") == [b"1"]
    # Had it been written later, what is lost was acknowledged.
    log.write_bytes(durable + lost + frame(b"\xc0", len(durable) + 1))
    with pytest.raises(CorruptionError, match=f"at byte {len(durable)}"):
        open_store(tmp_path / "s")


def test_a_full_log_file_is_followed_by_a_new_one_and_all_are_read(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for number in range(200):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100 + b"%d" % number))])
        large = new_event(payload=b'"%s"' % (b"x" * 10_000))
        store.append(TENANT, [large])
        assert store.stats().log_files > 3
    sizes = [file.stat().st_size for file in sorted((tmp_path / "s" / "log").iterdir())]
    assert [size for size in sizes if size > SMALL.log_file_bytes_max] == sizes[-1:]
    read = payloads(tmp_path / "s")
    assert len(read) == 201
    assert read[199].endswith(b'199"')


def test_log_files_are_filled_with_zeros_before_they_are_written_and_the_next_one_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as 4 MiB while somebody waits for one, whole where there is time."""
    without_background_work(monkeypatch)
    options = msgspec.structs.replace(SMALL, log_file_bytes_max=5 * 1024 * 1024)
    event = new_event(payload=b'"%s"' % (b"x" * 1_000_000))
    with open_store(tmp_path / "s", options=options) as store:
        store.append(TENANT, [new_event()])
        store._parts.writer.prepare_next()
        for _ in range(5):
            store.append(TENANT, [event])
        sizes = [file.stat().st_size for file in sorted((tmp_path / "s" / "log").iterdir())]
    assert sizes == [FILE_HEADER_BYTES, 4 * 1024 * 1024, 5 * 1024 * 1024]
    assert not list((tmp_path / "s" / "tmp").glob("begun*"))
    last = sorted((tmp_path / "s" / "log").iterdir())[-1]
    assert last.stat().st_size == frames(last.read_bytes())[-1][1]


def test_a_missing_log_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A file that was prepared in time is larger than others, and takes more.
    without_background_work(monkeypatch)
    with open_store(tmp_path / "s") as store:
        for _ in range(200):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100))])
    files = sorted((tmp_path / "s" / "log").iterdir())
    files[2].rename(tmp_path / "aside")
    with pytest.raises(CorruptionError, match=rf"{files[3].name}.*a file is missing"):
        open_store(tmp_path / "s")
    (tmp_path / "aside").rename(files[2])
    # The first one has no record, and is not missed; the second one is.
    for file in files[:2]:
        assert len(payloads(tmp_path / "s")) == 200
        file.unlink()
    with pytest.raises(CorruptionError, match=rf"{files[2].name}.*needed is 1"):
        open_store(tmp_path / "s")
    for file in files[2:]:
        file.unlink()
    with pytest.raises(CorruptionError, match="the file is missing"):
        open_store(tmp_path / "s")


@pytest.mark.parametrize("killed", [False, True])
def test_that_the_newest_log_file_is_missing_is_noticed(tmp_path: Path, killed: bool) -> None:
    store = open_store(tmp_path / "s")
    store.append(TENANT, [new_event()])
    if killed:
        # Otherwise the end names it.
        store.compact()
        kill(store)
    else:
        store.close()
    newest = sorted((tmp_path / "s" / "log").iterdir())[-1]
    newest.rename(tmp_path / "aside")
    with pytest.raises(CorruptionError, match=r"\.log.*the file is missing"):
        open_store(tmp_path / "s")
    (tmp_path / "aside").rename(newest)
    assert len(payloads(tmp_path / "s")) == 1


def test_a_log_file_under_another_number_is_named(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"]])
    log.rename(log.with_name("000000000007.log"))
    with pytest.raises(CorruptionError, match=r"000000000007\.log.*says that it is log file 2"):
        open_store(tmp_path / "s")


def test_a_log_file_cut_before_a_newer_one_is_damage(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for _ in range(100):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100))])
    second = sorted((tmp_path / "s" / "log").iterdir())[1]
    whole = second.read_bytes()
    begin, end = frames(whole)[-1]
    # The zeros at its end may be missing. A record may not: then the next file begins too far on.
    second.write_bytes(whole[:end])
    assert len(payloads(tmp_path / "s")) == 100
    second.write_bytes(whole[: end - 1])
    with pytest.raises(CorruptionError, match=rf"{second.name}.*byte {begin}.*newer log file"):
        open_store(tmp_path / "s")
    second.write_bytes(whole[:begin])
    with pytest.raises(CorruptionError, match="a file is missing"):
        open_store(tmp_path / "s")
    assert second.read_bytes() == whole[:begin]


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ForeignDirectoryError, match=r"letter\.txt"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_files_and_directories_are_for_their_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No file gets another name while it is looked at.
    without_background_work(monkeypatch)
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(event_id=UUID(int=1))])
        store.seal()
        store.append(TENANT, [new_event()])
        store._parts.writer.prepare_next()
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "s").rglob("*") if path.is_file()}
        directories = {path.stat().st_mode & 0o777 for path in (tmp_path / "s").rglob("*") if path.is_dir()}
        directories.add((tmp_path / "s").stat().st_mode & 0o777)
    assert (modes, directories) == ({0o600}, {0o700})


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from allsource_core.engine import *\n"
        "try: EventStore.open(Path(sys.argv[1]))\n"
        "except StoreLockedError as error: print(error)"
    )
    with open_store(tmp_path / "s"):
        with pytest.raises(StoreLockedError):
            open_store(tmp_path / "s")
        result = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "s")], capture_output=True, text=True, check=True
        )
    assert "another process has the data directory" in result.stdout
    open_store(tmp_path / "s").close()


def test_recovery_reports_how_far_it_is_and_may_be_broken_off(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for _ in range(200):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100))])
        files = store.stats().log_files
    seen: list[RecoveryProgress] = []
    open_store(tmp_path / "s", progress=seen.append).close()
    assert len(seen) >= files > 3
    done = [progress.bytes_done for progress in seen]
    assert done == sorted(done)
    assert done[-1] == seen[-1].bytes_total
    assert seen[-1].seconds_left == 0

    def break_off(_progress: RecoveryProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path / "s", progress=break_off)
    assert len(payloads(tmp_path / "s")) == 200


def test_a_store_whose_log_is_missing_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
    shutil.rmtree(tmp_path / "s" / "log")
    with pytest.raises((CorruptionError, FileNotFoundError), match="log"):
        open_store(tmp_path / "s")
    (tmp_path / "s" / "log").mkdir()
    with pytest.raises(CorruptionError, match=r"000000000001\.log"):
        open_store(tmp_path / "s")


def test_a_log_without_the_file_that_says_whose_it_is_is_not_taken_over(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
    (tmp_path / "s" / "STORE").unlink()
    before = everything(tmp_path / "s")
    with pytest.raises(ForeignDirectoryError, match="is no store"):
        open_store(tmp_path / "s")
    assert everything(tmp_path / "s") == before


def test_what_a_crash_left_is_removed_and_what_is_no_file_of_a_store_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_background_work(monkeypatch)
    path = tmp_path / "s"
    with open_store(path) as store:
        for number in range(30):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 500), event_id=UUID(int=number))])
        store.seal()
    before = everything(path)
    left = [
        "segments/000000000077.parquet",
        "segments/000000000077.index",
        "keys/000000000078.entities",
        "keys/000000000079.ids",
        "log/000000000001.log",
        "tmp/000000000080.parquet.new",
        "tmp/prepared.log",
        "tmp/whatever",
    ]
    foreign = ["segments/notes.txt", "log/000000000001.log.bak", "keys/lost+found", "readme"]
    for name in [*left, *foreign]:
        (path / name).write_bytes(b"x")
    assert len(payloads(path)) == 30
    assert everything(path) == before | dict.fromkeys(foreign, b"x")


def test_an_append_that_is_too_large_for_a_record_is_refused_before_it_is_stored(tmp_path: Path) -> None:
    large = new_event(payload=b'"%s"' % (b"x" * (1024 * 1024 - 2)))
    with open_store(tmp_path / "s") as store:
        with pytest.raises(InvalidEventError, match="in the log together"):
            store.append(TENANT, [large] * 65)
        store.append(TENANT, [large] * 60)
    with open_store(tmp_path / "s") as store:
        assert store.last_position == 60


@given(
    pieces=st.lists(st.binary(max_size=40) | st.integers(1, 30).map(bytes), max_size=8),
    bodies=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4),
)
def test_every_whole_record_is_among_the_places_that_are_looked_at(pieces: list[bytes], bodies: list[bytes]) -> None:
    data, records = b"\x01", []
    for index, body in enumerate(bodies):
        data += pieces[index] if index < len(pieces) else b""
        records.append(len(data))
        data += frame(body, len(data))
    data += b"".join(pieces[len(bodies) :])
    with mmap.mmap(-1, len(data)) as mapped:
        mapped.write(data)
        assert set(records) <= set(_possible_records(mapped, 1))


@pytest.mark.parametrize("name", ["tmp", "keys"])
def test_empty_directories_that_a_copy_left_out_are_made(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
    shutil.rmtree(tmp_path / "s" / name)
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
        store.seal()
        assert [event.version for event in store.read(TENANT)] == [1, 2]
