"""docs/storage-format.md and the code say the same."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import google_crc32c
import msgspec

from allsource_core.engine.log_format import FORMAT_VERSION, LogFileHeader, encode_file_header

from .stores import TurnableClock, new_event, open_store

PAGE = Path(__file__).parents[4] / "docs" / "storage-format.md"


def example() -> bytes:
    block = re.search(r"```hex\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return bytes.fromhex("".join(line.split("  ", 1)[1] for line in block[1].splitlines()))


def test_the_page_s_example_is_read_by_the_rules_of_the_page_alone() -> None:
    data = example()
    assert data[:8] == b"ALLSRCLG"
    assert struct.unpack_from("<HHQQ", data, 8) == (FORMAT_VERSION, 0, 1, 1)
    assert struct.unpack_from("<I", data, 28)[0] == google_crc32c.value(data[:28])
    bodies, offset = [], 32
    while offset < len(data):
        checksum, length, durable_offset = struct.unpack_from("<IIQ", data, offset)
        assert durable_offset == offset
        end = offset + 16 + length
        assert checksum == google_crc32c.value(data[offset + 4 : end])
        bodies.append(msgspec.msgpack.decode(data[offset + 16 : end]))
        offset = end
    event = ["a", "e", b"{}", None, [], None, None, 1]
    assert bodies == [["t", 1, 1_700_000_000_000_000, [event]], None]


def test_the_engine_writes_the_page_s_example_and_reads_it(tmp_path: Path) -> None:
    clock = TurnableClock(1_700_000_000_000_000)
    with open_store(tmp_path / "s", clock=clock) as store:
        store.append("t", [new_event("e", b"{}", event_type="a")])
    log = tmp_path / "s" / "log" / "000000000001.log"
    assert log.read_bytes() == example()
    with open_store(tmp_path / "s") as store:
        (event,) = store.read("t")
    assert (event.event_type, event.entity_id, event.payload) == ("a", "e", b"{}")


def test_the_constants_of_format_1_never_change() -> None:
    assert encode_file_header(LogFileHeader(1, 1)) == example()[:32]
