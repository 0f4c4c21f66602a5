"""Opening a store: what an unfinished write leaves is cut, damage is named, other people's files are left alone."""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.engine import (
    CorruptionError,
    ForeignDirectoryError,
    InvalidEventError,
    RecoveryProgress,
    StoreLockedError,
)
from allsource_core.engine.log_format import FILE_HEADER_BYTES, LogFileHeader, encode_file_header, frame, read_frame
from allsource_core.engine.recovery import _possible_records

from .stores import TENANT, new_event, open_store


def payloads(path: Path) -> list[bytes]:
    """What a store holds, read by opening it."""
    with open_store(path) as store:
        return [event.payload for event in store.read(TENANT)]


def crashed_store(path: Path, batches: list[list[bytes]]) -> Path:
    """A store whose process died: its log has no mark of a clean shutdown. Returns its last log file."""
    with open_store(path) as store:
        for batch in batches:
            store.append(TENANT, [new_event(payload=payload) for payload in batch])
        shutil.copytree(path / "log", path.with_name("crashed"))
    shutil.rmtree(path / "log")
    path.with_name("crashed").rename(path / "log")
    return sorted((path / "log").iterdir())[-1]


def frames(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of every whole record of a log file."""
    found, offset = [], FILE_HEADER_BYTES
    while (record := read_frame(memoryview(data), offset)) is not None:
        found.append((offset, record[1]))
        offset = record[1]
    return found


def test_a_log_cut_at_any_byte_of_its_last_record_opens_without_that_record(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"], [b"2", b"3"]])
    whole = log.read_bytes()
    (_, first_end), (begin, end) = frames(whole)
    assert (first_end, end) == (begin, len(whole))
    for cut in range(begin, end):
        log.write_bytes(whole[:cut])
        caplog.clear()
        assert payloads(tmp_path / "s") == [b"1"]
        named = f"{cut - begin} bytes was cut from {log.name} at byte {begin}"
        assert (named in caplog.text) == (cut > begin)
    log.write_bytes(whole)
    assert payloads(tmp_path / "s") == [b"1", b"2", b"3"]


def test_what_follows_a_cut_is_appended_and_found_again(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"], [b"2"]])
    log.write_bytes(log.read_bytes()[:-1])
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(payload=b"3")])
    for _ in range(2):
        assert payloads(tmp_path / "s") == [b"1", b"3"]


def test_zeros_behind_the_last_record_are_an_unfinished_write(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"]])
    log.write_bytes(log.read_bytes() + bytes(5000))
    assert payloads(tmp_path / "s") == [b"1"]


def test_a_flipped_bit_in_acknowledged_bytes_is_named_and_nothing_is_served_or_changed(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"], [b'{"a":"b"}'], [b"3"]])
    whole = log.read_bytes()
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


def test_after_a_clean_shutdown_a_flipped_bit_in_the_last_record_is_damage_too(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event(payload=b'"last"')])
    (log,) = (tmp_path / "s" / "log").iterdir()
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
    log = crashed_store(tmp_path / "s", [[b"1"]])
    durable = log.read_bytes()
    lost = bytes(64)
    log.write_bytes(durable + lost + frame(b"\xc0", len(durable)))
    assert payloads(tmp_path / "s") == [b"1"]


def test_a_full_log_file_is_followed_by_a_new_one_and_all_are_read(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for number in range(200):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100 + b"%d" % number))])
        assert store.stats().log_files > 3
    read = payloads(tmp_path / "s")
    assert len(read) == 200
    assert read[199].endswith(b'199"')


def test_a_missing_log_file_is_named(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for _ in range(200):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100))])
    second = sorted((tmp_path / "s" / "log").iterdir())[1]
    second.unlink()
    with pytest.raises(CorruptionError, match="log file 2 is missing"):
        open_store(tmp_path / "s")


def test_a_log_file_cut_before_a_newer_one_is_damage(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        for _ in range(100):
            store.append(TENANT, [new_event(payload=b'"%s"' % (b"x" * 100))])
    first = sorted((tmp_path / "s" / "log").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-1])
    with pytest.raises(CorruptionError, match="newer log file"):
        open_store(tmp_path / "s")


def test_a_newer_log_format_is_refused_by_its_number(tmp_path: Path) -> None:
    log = crashed_store(tmp_path / "s", [[b"1"]])
    data = bytearray(log.read_bytes())
    header = bytearray(encode_file_header(LogFileHeader(1, 1)))[:-4]
    struct.pack_into("<H", header, 8, 2)
    import google_crc32c

    data[: len(header) + 4] = bytes(header) + struct.pack("<I", google_crc32c.value(bytes(header)))
    log.write_bytes(data)
    with pytest.raises(ForeignDirectoryError, match="version 2"):
        open_store(tmp_path / "s")


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ForeignDirectoryError, match=r"letter\.txt"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_directory_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    (tmp_path / "s" / "STORE").write_text('{"format":2,"store_id":"x"}')
    with pytest.raises(ForeignDirectoryError, match="format 2"):
        open_store(tmp_path / "s")


def test_files_and_directories_are_for_their_owner_alone(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        store.append(TENANT, [new_event()])
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "s").rglob("*") if path.is_file()}
    directories = {path.stat().st_mode & 0o777 for path in (tmp_path / "s", tmp_path / "s" / "log")}
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


def test_recovery_reports_how_far_it_is(tmp_path: Path) -> None:
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
    with pytest.raises(ForeignDirectoryError, match="is no store"):
        open_store(tmp_path / "s")


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
