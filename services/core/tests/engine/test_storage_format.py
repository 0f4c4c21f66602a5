"""docs/storage-format.md and the code say the same, in every version of the format."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from uuid import UUID

import google_crc32c
import msgspec
import pytest

from allsource_core.engine import (
    CorruptionError,
    Event,
    EventQuery,
    EventStore,
    ForeignDirectoryError,
    NotFoundError,
    Raw,
    StoreReadOnlyError,
)
from allsource_core.engine.directory import StoreDirectory
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.log_format import (
    EntityRemoved,
    EntityShortened,
    EventErased,
    LogFileHeader,
    PolicySet,
    TenantRemoved,
    encode_control,
    encode_file_header,
)

from .stores import TENANT, FaultyFilesystem, TurnableClock, new_event, open_store, without_background_work

PAGE = Path(__file__).parents[4] / "docs" / "storage-format.md"

FIRST_FORMAT = {
    "STORE": """
7b22666f726d6174223a312c2273746f72655f6964223a2234633736306631382d326537342d343734382d623437642d35613530396665
6162346430227d""",
    "log/000000000001.log": """
414c4c5352434c4701000000010000000000000001000000000000006c2130f0de8e366291000000200000000000000094a461636d6501
cf00060a24181e40009298ac6f726465722e706c61636564a76f726465722d31c40c7b22746f74616c223a31327dc40c7b227573657222
3a2275227d92a3726564a4626c7565cf0004d22ecf97c000c410000000000000000000000000000000010198aa6f726465722e70616964
a76f726465722d31c40d7b2270616964223a747275657dc090c0c002063ffc9132000000c10000000000000094a75f73797374656d03cf
00060a24182d82409198ae74656e616e742e63726561746564a461636d65c4027b7dc090c0c00179313aad4c0000000301000000000000
94a6676c6f62657804cf00060a24183cc4809198ac6f726465722e706c61636564a76f726465722d31c40b7b22746f74616c223a377dc0
90c0c4100000000000000000000000000000000101""",
    "log/000000000002.log": """
414c4c5352434c470100000002000000000000000500000000000000f2c3d5c294009f513a000000200000000000000094a461636d6505
cf00060a24184c06c09198ad6f726465722e73686970706564a76f726465722d31c40b7b22746f223a22c3a9227dc090c0c003808d3321
010000006a00000000000000c0""",
}
"""A data directory that release 0.1.0 left."""

IN_FIRST_FORMAT = {
    "_system": [(3, 1, "tenant.created", "acme", b"{}")],
    "acme": [
        (1, 1, "order.placed", "order-1", b'{"total":12}'),
        (2, 2, "order.paid", "order-1", b'{"paid":true}'),
        (5, 3, "order.shipped", "order-1", '{"to":"é"}'.encode()),
    ],
    "globex": [(4, 1, "order.placed", "order-1", b'{"total":7}')],
}
"""What is in it: (position, version, type, entity, payload) by tenant."""


def example() -> bytes:
    block = re.search(r"```hex\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    return bytes.fromhex("".join(line.split("  ", 1)[1] for line in block[1].splitlines()))


def test_the_page_s_example_is_read_by_the_rules_of_the_page_alone() -> None:
    data = example()
    assert data[:8] == b"ALLSRCLG"
    assert struct.unpack_from("<HHQQ", data, 8) == (2, 0, 2, 1)
    assert struct.unpack_from("<I", data, 28)[0] == google_crc32c.value(data[:28])
    bodies, offset = [], 32
    while offset < len(data):
        checksum, length, durable_offset = struct.unpack_from("<IIQ", data, offset)
        assert durable_offset == offset
        end = offset + 16 + length
        assert checksum == google_crc32c.value(data[offset + 4 : end])
        bodies.append(data[offset + 16 : end])
        offset = end
    record, mark = bodies
    assert mark == b"\xc0"
    content_offset = 4 + struct.unpack_from("<I", record)[0]
    assert msgspec.msgpack.decode(record[4:content_offset]) == [1, 1, 1, 1_700_000_000_000_000, "t", [1]]
    assert msgspec.msgpack.decode(record[content_offset:]) == ["a", ["e"], [b"{}"], None, None, None, None]


def test_the_engine_writes_the_page_s_example_and_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    with open_store(tmp_path / "s", clock=TurnableClock(1_700_000_000_000_000)) as store:
        store.append("t", [new_event("e", b"{}", event_type="a")])
    log = tmp_path / "s" / "log"
    assert (log / "000000000002.log").read_bytes() == example()
    assert (log / "000000000001.log").read_bytes() == encode_file_header(LogFileHeader(1, 1))
    with open_store(tmp_path / "s") as store:
        (event,) = store.read("t")
    assert (event.event_type, event.entity_id, event.payload) == ("a", "e", b"{}")


@pytest.mark.parametrize(
    ("record", "head"),
    [
        (EntityRemoved(7, 5, 9, "e", 3, 2), [2, 7, 5, 9, "e", 3, 2]),
        (EntityShortened(7, 5, 9, "e", 3, 2, b"{}", b"{}"), [3, 7, 5, 9, "e", 3, 2, b"{}", b"{}"]),
        (EventErased(7, 5, 9, "e", 3, 4), [4, 7, 5, 9, "e", 3, 4]),
        (TenantRemoved(7, 5, 9, 2), [5, 7, 5, 9, 2]),
        (PolicySet(7, 5, 9, "t", "p", None, 10), [6, 7, 5, 9, "t", "p", None, 10]),
    ],
)
def test_records_without_events_are_what_the_page_says(record: object, head: list[object]) -> None:
    body = encode_control(record)  # type: ignore[arg-type]
    assert struct.unpack_from("<I", body)[0] == len(body) - 4
    assert msgspec.msgpack.decode(body[4:]) == head


def test_a_manifest_is_what_the_page_says(tmp_path: Path) -> None:
    with open_store(tmp_path / "s", clock=TurnableClock()) as store:
        store.append(TENANT, [new_event(event_id=UUID(int=1))])
        store.seal()
    data = (tmp_path / "s" / "MANIFEST").read_bytes()
    magic, version, reserved, length, checksum = struct.unpack_from("<8sHHQI", data)
    assert (magic, version, reserved, length) == (b"ALLSRCMF", 2, 0, len(data) - 24)
    assert checksum == google_crc32c.value(data[:20] + data[24:])
    body = json.loads(data[24:])
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("The body is an object") : page.index("The checksums of segments")]
    assert set(body) == set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    (segment,), key_files = body["segments"], body["key_files"]
    assert set(segment) == set(re.findall(r"\w+", re.search(r"`\{(file, first.*?)\}`", table)[1]))  # type: ignore[index]
    assert [set(entry) for entry in key_files] == [{"file", "kind", "entries", "bytes", "checksum"}] * 2
    assert (body["sealed_through"], body["recorded_at"], body["tenants"]) == (1, 1_700_000_000_000_000, [[1, TENANT]])
    path = tmp_path / "s" / "segments" / f"{segment['file']:012d}.parquet"
    assert google_crc32c.value(path.read_bytes()) == segment["checksum"]


def test_an_index_is_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_background_work(monkeypatch)
    with open_store(tmp_path / "s") as store:
        store.append("acme", [new_event("é", b"[1]", tags=["eu", "ü"], metadata=Raw(b"{}")), new_event("a", b"22")])
        store.append(TENANT, [new_event("b", b"333", event_type="paid")])
        store.seal()
        (first_path,) = (tmp_path / "s" / "segments").glob("*.index")
        indexes = [first_path.read_bytes()]
        store.removals.entity(TENANT, "b")
        store.seal()
        indexes += [path.read_bytes() for path in (tmp_path / "s" / "segments").glob("*.index")]
    page = PAGE.read_text(encoding="utf-8")
    table = page[page.index("## Index of a segment") : page.index("## Hashes")]
    heads = []
    for data in indexes:
        magic, version, reserved, length = struct.unpack_from("<8sHHI", data)
        assert (magic, reserved) == (b"ALLSRCIX", 0)
        assert f"format version, {version} |" in table
        head = msgspec.msgpack.decode(data[16 : 16 + length])
        assert head["filter_bits"] == 8 * len(data[16 + length :])
        heads.append(head)
    members = table[table.index("The head is a map") : table.index("The filter is a Bloom filter")]
    assert [set(head) for head in heads] == [set(re.findall(r"`(\w+)`", members))] * len(heads)
    first = heads[0]
    assert first["tenants"] == [[1, 2], [2, 1]]
    assert first["tenant_bytes"] == [[1, (2 + 12 + 3 + 2 + 4) + (1 + 12 + 2)], [2, 1 + 4 + 3]]
    assert first["row_group_starts"] == [[1, "a", 1, 0]]
    # A tenant of which only a removal is told has no events here.
    (told,) = [head for head in heads if [2, 0] in head["tenants"]]
    assert 2 not in dict(told["tenant_bytes"])


# --- other versions ---


def first_format(path: Path) -> Path:
    """A data directory of format 1."""
    for name, data in FIRST_FORMAT.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(bytes.fromhex(data))
    return path


def upgrade(path: Path, filesystem: LocalFilesystem | None = None) -> None:
    directory = StoreDirectory.open(path, filesystem or LocalFilesystem(), create=False)
    try:
        directory.upgrade()
    finally:
        directory.close()


def content(store: EventStore) -> dict[str, list[tuple[int, int, str, str, bytes]]]:
    def row(event: Event) -> tuple[int, int, str, str, bytes]:
        return event.position, event.version, event.event_type, event.entity_id, event.payload

    return {tenant: [row(event) for event in store.read(tenant)] for tenant in IN_FIRST_FORMAT}


def test_a_directory_of_format_1_opens_for_reading_alone_and_stays_as_it_is(tmp_path: Path) -> None:
    path = first_format(tmp_path / "s")
    before = {name: bytes.fromhex(data) for name, data in FIRST_FORMAT.items()}
    for _ in range(2):
        with open_store(path) as store:
            assert content(store) == IN_FIRST_FORMAT
            first = store.get("acme", UUID(int=1))
            assert first is not None
            assert (first.tags, first.metadata, first.timestamp) == (("red", "blue"), b'{"user":"u"}', 1356998400000000)
            assert (store.version("acme", "order-1"), store.last_position) == (3, 5)
            assert [event.position for event in store.read("acme", EventQuery(tags=("red",)))] == [1]
            for tenant in ("acme", "_system"):
                with pytest.raises(StoreReadOnlyError, match="upgrade"):
                    store.append(tenant, [new_event()])
            for remove in (store.removals.tenant, lambda tenant: store.removals.entity(tenant, "order-1")):
                with pytest.raises(StoreReadOnlyError, match="upgrade"):
                    remove("acme")
            store.seal()
            store.compact()
            assert "upgrade" in (store.stats().read_only_reason or "")
        files = {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        assert files == {"LOCK": b"", **before}


def test_damage_in_format_1_is_found_and_an_unfinished_write_is_passed_over_without_being_cut(tmp_path: Path) -> None:
    path = first_format(tmp_path / "s")
    for name, offset in (("log/000000000001.log", 100), ("log/000000000002.log", 60)):
        whole = (path / name).read_bytes()
        (path / name).write_bytes(whole[:offset] + bytes([whole[offset] ^ 1]) + whole[offset + 1 :])
        with pytest.raises(CorruptionError, match=name[4:]):
            open_store(path)
        (path / name).write_bytes(whole)
    unfinished = (path / name).read_bytes()[:90]
    (path / name).write_bytes(unfinished)
    with open_store(path) as store:
        assert store.last_position == 4
    assert (path / name).read_bytes() == unfinished


def test_an_upgraded_directory_goes_on_where_format_1_ended(tmp_path: Path) -> None:
    path = first_format(tmp_path / "s")
    upgrade(path)
    upgrade(path)
    for name in ("log/000000000001.log", "log/000000000002.log"):
        assert (path / name).read_bytes() == bytes.fromhex(FIRST_FORMAT[name])
    for step in range(3):
        with open_store(path, clock=TurnableClock()) as store:
            before = content(store)
            assert {tenant: rows[: len(IN_FIRST_FORMAT[tenant])] for tenant, rows in before.items()} == IN_FIRST_FORMAT
            repeated = new_event("order-1", b'{"total":7}', event_type="order.placed", event_id=UUID(int=1))
            assert store.append("globex", [repeated]).duplicate
            (event,) = store.append("acme", [new_event("order-1")]).events
            assert (event.version, event.position) == (4 + step, 6 + step)
            # The clock is behind what release 0.1.0 recorded.
            assert event.recorded_at == 1_700_000_003_000_000
            after = content(store)
            store.seal()
            assert content(store) == after
            assert store.stats().sealed_through == 6 + step
    assert not (path / "log" / "000000000001.log").exists()


def test_an_upgrade_that_fails_anywhere_leaves_a_directory_of_one_format_and_can_be_repeated(tmp_path: Path) -> None:
    counting = FaultyFilesystem()
    upgrade(first_format(tmp_path / "count"), counting)
    assert counting.operations > 8
    for fail_at in range(1, counting.operations + 1):
        path = first_format(tmp_path / str(fail_at))
        with pytest.raises(OSError, match="injected"):
            upgrade(path, FaultyFilesystem(fail_at))
        with open_store(path) as store:
            assert content(store) == IN_FIRST_FORMAT
        upgrade(path)
        with open_store(path) as store:
            store.append("acme", [new_event()])


def test_a_tenant_of_format_1_that_is_removed_stays_removed_when_it_is_sealed(tmp_path: Path) -> None:
    """Records of format 1 name no number: sealing, and the next start, must find the one that was removed."""
    path = first_format(tmp_path / "s")
    upgrade(path)
    with open_store(path) as store:
        store.removals.tenant("acme")
        (event,) = store.append("acme", [new_event("order-1")]).events
        assert (event.version, event.position) == (1, 7)
        store.seal()
        assert list(store.read("acme")) == [event]
    with open_store(path) as store:
        assert list(store.read("acme")) == [event]
        store.removals.tenant("acme")
        store.compact()
    with open_store(path) as store:
        assert list(store.read("acme")) == []
        with pytest.raises(NotFoundError):
            store.removals.tenant("acme")


def raised(data: bytes, checksum_offset: int, *, body_offset: int | None = None) -> bytes:
    """A file of ours that says format 3."""
    changed = bytearray(data)
    struct.pack_into("<H", changed, 8, 3)
    covered = changed[:checksum_offset] + (changed[body_offset:] if body_offset else b"")
    struct.pack_into("<I", changed, checksum_offset, google_crc32c.value(bytes(covered)))
    return bytes(changed)


def test_newer_formats_are_refused_by_their_numbers_and_nothing_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with open_store(path) as store:
        store.append(TENANT, [new_event()])
    identity, manifest, log = path / "STORE", path / "MANIFEST", path / "log" / "000000000002.log"
    for file, data, named in (
        (identity, b'{"format":3,"store_id":"x"}', "format 3"),
        (manifest, raised(manifest.read_bytes(), 20, body_offset=24), "manifest format 3"),
        (log, raised(log.read_bytes(), 28), "format version 3"),
    ):
        before = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(ForeignDirectoryError, match=named):
            open_store(path)
        assert file.read_bytes() == data
        file.write_bytes(before)
    with open_store(path) as store:
        assert store.last_position == 1


def test_an_identity_that_can_t_be_read_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "s").close()
    for data in (b"", b"{", b"[]", b'{"format":"2","store_id":"x"}'):
        (tmp_path / "s" / "STORE").write_bytes(data)
        with pytest.raises(ForeignDirectoryError, match="can't be read"):
            open_store(tmp_path / "s")


def test_only_a_store_is_upgraded(tmp_path: Path) -> None:
    with pytest.raises(ForeignDirectoryError, match="no store"):
        upgrade(tmp_path / "none")
    assert not (tmp_path / "none").exists()
