"""Key files and the directory over them, against a dict: the right answer or CorruptionError, never a wrong one."""

from __future__ import annotations

import gc
import random
import re
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.engine import EventStore, NewEvent, StoreOptions
from allsource_core.engine.errors import CorruptionError, ForeignDirectoryError, StoreClosedError
from allsource_core.engine.filesystem import LocalFilesystem
from allsource_core.engine.hashes import Hasher
from allsource_core.engine.key_columns import KeyColumns, columns_from_segment_rows, entities_of_rows
from allsource_core.engine.key_directory import EntityHead, KeyDirectory
from allsource_core.engine.key_file import KeyFile
from allsource_core.engine.key_file_format import POSITION_LIMIT, VERSION_LIMIT, Kind, write_key_file
from allsource_core.engine.key_merging import FILES_MAX, WORTH_RATIO, files_to_merge, files_worth_one, merge_key_files
from allsource_core.engine.manifest import KeyFileEntry

FILESYSTEM = LocalFilesystem()
HASHER = Hasher(bytes(range(32)))

Key = tuple[int, int]
Value = tuple[int, int, bool]  # version, position, removed
Write = tuple[Key, Value]


def columns_of(writes: list[Write]) -> KeyColumns:
    return KeyColumns.of(
        np.array([key[0] for key, _ in writes], np.uint64),
        np.array([key[1] for key, _ in writes], np.uint64),
        np.array([value[1] for _, value in writes], np.uint64),
        np.array([value[0] for _, value in writes], np.uint64),
        np.array([value[2] for _, value in writes], np.bool_),
    )


def make_file(directory: Path, columns: KeyColumns, number: int = 1, kind: Kind = "entities") -> KeyFile:
    path = directory / f"{number}.{kind}"
    entry = write_key_file(path, kind, columns, file=number, filesystem=FILESYSTEM)
    assert path.stat().st_size == entry.bytes
    return KeyFile(entry, path)


def looked_up(file: KeyFile, keys: list[Key]) -> list[Value | None]:
    """What `lookup` says, and `find` must say the same."""
    found = file.lookup(np.array([key[0] for key in keys], np.uint64), np.array([key[1] for key in keys], np.uint64))
    answers: list[Value | None] = [
        (version, position, removed) if known else None
        for known, position, version, removed in zip(*(column.tolist() for column in found), strict=True)
    ]
    assert [file.find(*key) for key in keys] == answers
    return answers


def block_of(at: int, kind: Kind) -> int:
    """Where the block of a full file begins that has this byte."""
    size = {"entities": 292 * 28, "ids": 340 * 24}[kind]
    return at - (at - 64) % size


def random_columns(count: int, seed: int = 1) -> KeyColumns:
    chance = np.random.default_rng(seed)
    hi, lo = chance.integers(0, 2**64, (2, count), dtype=np.uint64)
    version = chance.integers(1, VERSION_LIMIT, count, dtype=np.uint64)
    position = chance.integers(1, POSITION_LIMIT, count, dtype=np.uint64)
    return KeyColumns.of(hi, lo, position, version, chance.integers(0, 2, count) == 1)


def as_model(columns: KeyColumns) -> dict[Key, Value]:
    rows = zip(
        columns.hi.tolist(),
        columns.lo.tolist(),
        columns.version.tolist(),
        columns.position.tolist(),
        columns.removed.tolist(),
        strict=True,
    )
    return {(hi, lo): (version, position, removed) for hi, lo, version, position, removed in rows}


EDGES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
# Few halves, so that keys are written again and share upper halves.
keys = st.tuples(st.sampled_from(EDGES), st.sampled_from([*EDGES, 3, 4, 5]))
versions = st.one_of(st.integers(1, 20), st.sampled_from([2**31, 2**32 - 1, 2**32, VERSION_LIMIT - 1]))
files_of_writes = st.lists(st.lists(st.tuples(keys, versions, st.booleans()), max_size=30), min_size=1, max_size=6)


@settings(max_examples=150)
@given(files_of_writes, st.sets(st.integers(0, 5)), st.integers(1, 40), st.sampled_from([1, 2**32 - 20, 2**53 - 400]))
def test_files_and_their_merges_answer_like_a_dict(
    written: list[list[tuple[Key, int, bool]]], merged: set[int], slice_entries: int, first_position: int
) -> None:
    model: dict[Key, Value] = {}
    position = first_position
    with tempfile.TemporaryDirectory() as name:
        files = []
        for number, of_file in enumerate(written):
            writes = []
            for key, version, removed in of_file:
                position += 1
                value = (version, position, removed)
                writes.append((key, value))
                model[key] = max(value, model.get(key, value))
            files.append(make_file(Path(name), columns_of(writes), number))
        together = [file for number, file in enumerate(files) if number in merged]
        if together:
            path = Path(name) / "merged"
            entry = merge_key_files(together, path, file=99, filesystem=FILESYSTEM, slice_entries=slice_entries)
            files = [file for file in files if file not in together]
            files.insert(len(files) // 2, KeyFile(entry, path))
        asked = [(hi, lo) for hi in EDGES for lo in [*EDGES, 3, 4, 5]]
        by_file = [looked_up(file, asked) for file in files]
        answers = [max(filter(None, of_key), default=None) for of_key in zip(*by_file, strict=True)]
        assert answers == [model.get(key) for key in asked]


@pytest.mark.parametrize("count", [0, 1, 2, 291, 292, 293, 339, 340, 341, 583, 584, 585, 680, 681, 10_000])
@pytest.mark.parametrize("kind", ["entities", "ids"])
def test_every_entry_is_found_at_every_edge_of_a_block(tmp_path: Path, count: int, kind: Kind) -> None:
    columns = random_columns(count)
    if kind == "ids":
        columns = KeyColumns.of(columns.hi, columns.lo, columns.position)
    model = as_model(columns)
    file = make_file(tmp_path, columns, kind=kind)
    asked = list(model)
    asked += [(hi, lo ^ 1) for hi, lo in asked[:500]] + [(hi ^ 1, lo) for hi, lo in asked[:500]]
    asked += [(0, 0), (2**64 - 1, 2**64 - 1)]
    assert looked_up(file, asked) == [model.get(key) for key in asked]


@pytest.mark.parametrize("run", [2, 291, 292, 293, 5_000])
def test_keys_that_share_their_upper_half_over_blocks_are_told_apart(tmp_path: Path, run: int) -> None:
    lo = np.arange(0, 2 * run, 2, dtype=np.uint64)
    position = np.arange(1, run + 1, dtype=np.uint64)
    around = random_columns(5_000)
    columns = KeyColumns.of(
        np.concatenate([np.full(run, 2**63, np.uint64), around.hi]),
        np.concatenate([lo, around.lo]),
        np.concatenate([position, around.position]),
        np.concatenate([position, around.version]),
        np.concatenate([position % 2 == 0, around.removed]),
    )
    model = as_model(columns)
    path = tmp_path / "merged"
    files = [make_file(tmp_path, columns.take(np.arange(n, len(columns), 3)), n) for n in range(3)]
    entry = merge_key_files(files, path, file=9, filesystem=FILESYSTEM, slice_entries=9_000)
    asked = [(2**63, n) for n in range(2 * run + 2)] + list(model)
    for file in (make_file(tmp_path, columns, 8), KeyFile(entry, path)):
        assert looked_up(file, asked) == [model.get(key) for key in asked]


def test_merging_in_slices_gives_the_bytes_of_writing_at_once(tmp_path: Path) -> None:
    columns = random_columns(100_000)
    columns.hi[::7], columns.lo[::7] = columns.hi[0], columns.lo[0]
    files = [make_file(tmp_path, columns.take(np.arange(n, 100_000, 4)), n) for n in range(4)]
    whole = make_file(tmp_path, columns, 8)
    for slice_entries in (1, 10_000, 1_000_000):
        path = tmp_path / f"merged-{slice_entries}"
        entry = merge_key_files(files, path, file=8, filesystem=FILESYSTEM, slice_entries=slice_entries)
        assert entry == whole.entry
        assert path.read_bytes() == whole.path.read_bytes()
    assert sorted(tmp_path.glob("*tmp*")) == []


def test_values_beyond_the_format_are_refused_and_write_nothing(tmp_path: Path) -> None:
    for value in ((1, POSITION_LIMIT, False), (VERSION_LIMIT, 1, False)):
        with pytest.raises(ValueError, match="below"):
            make_file(tmp_path, columns_of([((1, 1), value)]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["entities", "ids"])
def test_a_flipped_bit_is_found_or_harmless(tmp_path: Path, kind: Kind) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    columns = random_columns(20_000, seed=seed)
    if kind == "ids":
        columns = KeyColumns.of(columns.hi, columns.lo, columns.position)
    model = as_model(columns)
    whole = make_file(tmp_path, columns, kind=kind)
    data = whole.path.read_bytes()
    path = tmp_path / "damaged"
    known = list(model)
    tail = len(data) - 200
    harmless, found = 0, []
    for _ in range(400):
        # Anywhere; in the header; in the fence and the table.
        at = chance.choice([chance.randrange(len(data)), chance.randrange(64), chance.randrange(tail, len(data))])
        damaged = bytearray(data)
        damaged[at] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        asked = [*chance.sample(known, 3), (chance.randrange(2**64), 1)]
        right = [model.get(key) for key in asked]
        file = KeyFile(whole.entry, path)
        try:
            assert [file.find(*key) for key in asked] == right
            assert looked_up(file, asked) == right
            harmless += 1
        except CorruptionError as error:
            found.append((error.path == path, error.offset in (block_of(at, kind), 0)))
        with pytest.raises(CorruptionError):
            file.verify()
        file.close()
    assert set(found) == {(True, True)}
    assert min(len(found), harmless) > 20


def test_a_flipped_bit_in_any_upper_half_never_hides_a_key(tmp_path: Path) -> None:
    """The canary of the fence: a search over the whole column would go wrong here without touching a checksum."""
    whole = make_file(tmp_path, random_columns(60_000))
    data = bytearray(whole.path.read_bytes())
    # An upper half in the middle of a block.
    middle = 64 + 8176 * 100 + 8 * 150
    data[middle : middle + 8] = bytes(8)
    path = tmp_path / "damaged"
    path.write_bytes(data)
    everything = whole.columns(0, 60_000)
    model = as_model(everything)
    column = np.ndarray((60_000 // 292, 292), "<u8", data, 64, (8176, 8)).reshape(-1)
    assert not np.array_equal(np.searchsorted(column, everything.hi[: len(column)]), np.arange(len(column)))
    offsets = []
    for key in [*random.Random(1).sample(list(model), 400), *list(model)[29_200:29_300]]:
        file = KeyFile(whole.entry, path)
        for ask in (lambda file=file, key=key: file.find(*key), lambda file=file, key=key: looked_up(file, [key])[0]):
            try:
                assert ask() == model[key]
            except CorruptionError as error:
                offsets.append(error.offset)
    assert set(offsets) == {block_of(middle, "entities")}
    assert len(offsets) < 1_000


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda _data: b""])
def test_a_file_of_another_size_is_damaged(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    file = make_file(tmp_path, random_columns(100))
    file.path.write_bytes(change(file.path.read_bytes()))
    with pytest.raises(CorruptionError):
        file.find(1, 1)


def test_a_missing_file_is_damage_but_another_format_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_file(tmp_path, random_columns(100))
    file.path.unlink()
    with pytest.raises(CorruptionError, match="missing"):
        file.find(1, 1)
    monkeypatch.setattr("allsource_core.engine.key_file_format.FORMAT_VERSION", 3)
    file = make_file(tmp_path, random_columns(100))
    monkeypatch.undo()
    with pytest.raises(ForeignDirectoryError):
        file.find(1, 1)


def test_damage_stops_a_merge(tmp_path: Path) -> None:
    files = [make_file(tmp_path, random_columns(20_000, seed), seed) for seed in (1, 2)]
    data = bytearray(files[1].path.read_bytes())
    data[400_000] ^= 4
    files[1].path.write_bytes(data)
    with pytest.raises(CorruptionError) as raised:
        merge_key_files(files, tmp_path / "merged", file=3, filesystem=FILESYSTEM)
    assert raised.value.offset == block_of(400_000, "entities")
    assert not (tmp_path / "merged").exists()


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    file = make_file(tmp_path, random_columns(10))
    file.path.unlink()
    KeyDirectory([file], HASHER).client_ids(1, [bytes(16)])


def test_an_obsolete_file_stays_until_its_last_reader_is_gone(tmp_path: Path) -> None:
    columns = random_columns(10)
    file = make_file(tmp_path, columns)
    path = file.path
    view = KeyDirectory([file], HASHER)
    file.mark_obsolete(FILESYSTEM)
    file.mark_obsolete(FILESYSTEM)
    del file
    gc.collect()
    assert path.exists()
    assert view.entities(1, ["e"]) == {}
    del view
    gc.collect()
    assert not path.exists()


def test_closing_removes_an_obsolete_file_and_ends_look_ups(tmp_path: Path) -> None:
    kept, obsolete = make_file(tmp_path, random_columns(10), 1), make_file(tmp_path, random_columns(10), 2)
    obsolete.mark_obsolete(FILESYSTEM)
    for file in (kept, obsolete):
        assert file.find(1, 1) is None
        file.close()
        file.close()
        with pytest.raises(StoreClosedError):
            file.find(1, 1)
    assert kept.path.exists()
    assert not obsolete.path.exists()


def test_threads_may_share_a_file(tmp_path: Path) -> None:
    columns = random_columns(30_000)
    model = as_model(columns)
    file = make_file(tmp_path, columns)
    wrong: list[object] = []

    def ask(seed: int) -> None:
        asked = random.Random(seed).sample(list(model), 200)
        try:
            assert looked_up(file, asked) == [model[key] for key in asked]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("asked", [1, 32, 33, 1_000])
def test_the_directory_gives_the_newest_of_all_files_by_name(tmp_path: Path, asked: int) -> None:
    chance = random.Random(asked)
    heads: dict[tuple[int, str], EntityHead] = {}
    positions: dict[tuple[int, bytes], int] = {}
    files, position = [], 0
    for number in range(0, 10, 2):
        writes, ids = [], []
        for _ in range(300):
            position += 1
            name = (chance.randrange(1, 4), f"entity-{chance.randrange(500)}")
            version = heads[name].version + 1 if name in heads else 1
            heads[name] = EntityHead(version, position, chance.random() < 0.2)
            writes.append((HASHER.entity(*name), (version, position, heads[name].removed)))
            client_id = (name[0], chance.randbytes(16))
            positions[client_id] = position
            ids.append((HASHER.client_id(*client_id), (0, position, False)))
        files += [
            make_file(tmp_path, columns_of(writes), number),
            make_file(tmp_path, columns_of(ids), number + 1, "ids"),
        ]
    chance.shuffle(files)
    directory = KeyDirectory(files, HASHER)
    for tenant in range(1, 4):
        names = [f"entity-{chance.randrange(700)}" for _ in range(asked)]
        assert directory.entities(tenant, names) == {
            name: heads[tenant, name] for name in names if (tenant, name) in heads
        }
        known = [client_id for _, client_id in chance.sample(list(positions), asked // 2)]
        client_ids = [*known, *(chance.randbytes(16) for _ in range(asked))]
        assert directory.client_ids(tenant, client_ids) == {
            one: positions[tenant, one] for one in client_ids if (tenant, one) in positions
        }


def test_a_directory_without_files_or_keys_knows_nothing(tmp_path: Path) -> None:
    assert KeyDirectory([], HASHER).entities(1, ["a", "b"]) == {}
    assert KeyDirectory([], HASHER).client_ids(1, [bytes(16)]) == {}
    file = make_file(tmp_path, random_columns(10))
    assert KeyDirectory([file], HASHER).entities(1, []) == {}


def test_retention_of_old_versions_does_not_hide_newer_ones(tmp_path: Path) -> None:
    """A later segment says that versions up to 5 are gone; version 9 was sealed before."""
    key = HASHER.entity(1, "e")
    files = [
        make_file(tmp_path, columns_of([(key, (9, 50, False))]), 1),
        make_file(tmp_path, columns_of([(key, (5, 100, True))]), 2),
    ]
    path = tmp_path / "merged"
    merged = KeyFile(merge_key_files(files, path, file=3, filesystem=FILESYSTEM), path)
    for of_view in (files, files[::-1], [merged]):
        directory = KeyDirectory(of_view, HASHER)
        assert directory.entities(1, ["e"]) == {"e": EntityHead(9, 50, False)}
        assert directory.entities(1, ["e"] * 50) == {"e": EntityHead(9, 50, False)}


ROWS = [  # tenant, entity id, version, kind, position, event id
    (1, "a", 1, 0, 1, b"1" * 16),
    (1, "a", 2, 1, 5, b"2" * 16),
    (1, "b", 3, 0, 6, None),
    (1, "b", 3, 3, 9, None),
    (1, "c", 2, 2, 12, None),
    (1, "c", 3, 0, 7, b"3" * 16),
    (1, "ü", 4, 2, 11, None),
    (2, "a", 7, 0, 2, None),
    (2, "ü", 1, 0, 3, b"1" * 16),
]


@pytest.mark.parametrize("form", ["plain", "chunked", "dictionary", "empty", "no ids"])
def test_the_rows_of_a_segment_become_heads_and_ids(tmp_path: Path, form: str) -> None:
    rows = [] if form == "empty" else ROWS
    tenant, entity, version, kind, position, event_id = zip(*rows, strict=True) if rows else ((),) * 6
    names: pa.Array | pa.ChunkedArray = pa.array(entity, pa.string())
    ids: pa.Array | pa.ChunkedArray | None = pa.array(event_id, pa.binary(16))
    if form == "chunked":
        names, ids = pa.chunked_array([names[:4], names[4:]]), pa.chunked_array([ids[:2], ids[2:]])
    elif form == "dictionary":
        names = names.dictionary_encode()
    elif form == "no ids":
        ids = None
    tenants = np.array(tenant, np.int32)
    entities, client_ids = columns_from_segment_rows(
        entities_of_rows(tenants, names, HASHER),
        tenants,
        np.array(version, np.int64),
        np.array(kind, np.int8),
        np.array(position, np.int64),
        ids,
        HASHER,
    )
    files = [make_file(tmp_path, entities, 1), make_file(tmp_path, client_ids, 2, "ids")]
    directory = KeyDirectory(files, HASHER)
    ids_of_first = {b"1" * 16: 1, b"2" * 16: 5, b"3" * 16: 7}
    heads_of_first = {
        "a": EntityHead(2, 5, False),
        "b": EntityHead(3, 9, True),
        "c": EntityHead(3, 7, False),
        "ü": EntityHead(4, 11, True),
    }
    heads_of_second = {"a": EntityHead(7, 2, False), "ü": EntityHead(1, 3, False)}
    assert directory.entities(1, ["a", "b", "c", "d", "ü"]) == (heads_of_first if rows else {})
    assert directory.entities(2, ["a", "ü", "b"]) == (heads_of_second if rows else {})
    assert len(files[0]) == (6 if rows else 0)
    has_ids = rows and ids is not None
    assert directory.client_ids(1, [*ids_of_first, b"4" * 16]) == (ids_of_first if has_ids else {})
    assert directory.client_ids(2, list(ids_of_first)) == ({b"1" * 16: 3} if has_ids else {})


@settings(max_examples=60)
@given(st.lists(st.integers(1, 262_144), min_size=1, max_size=300), st.integers(0, 2**32))
def test_files_stay_few_and_rewriting_bounded(sizes: list[int], distinct: int) -> None:
    """Sizes of sealed files in their order; merges may lose what is written twice, up to so many distinct keys."""
    distinct = max(distinct, 262_144)
    files: list[KeyFileEntry] = []
    rewritten = 0
    for number, size in enumerate(sizes):
        files.append(KeyFileEntry(number, "entities", size, 0, 0))
        while merged := files_to_merge(files):
            assert len(merged) > 1
            rewritten += sum(file.entries for file in merged)
            files = [file for file in files if file not in merged]
            entries = min(sum(file.entries for file in merged), distinct)
            files.append(KeyFileEntry(merged[-1].file, "entities", entries, 0, 0))
        assert len(files) <= FILES_MAX
    assert rewritten <= 8 * sum(sizes)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 262_144), st.booleans()), min_size=1, max_size=300))
def test_what_is_merged_when_nothing_else_is_to_do_leaves_little_to_gain(sizes: list[tuple[int, bool]]) -> None:
    """Files of these sizes are sealed in turn, behind some of them there is nothing to do for a while."""
    files: list[KeyFileEntry] = []
    sealed = rewritten = 0
    for number, (size, is_quiet) in enumerate(sizes):
        files.append(KeyFileEntry(number, "entities", size, 0, 0))
        sealed += size
        while merged := files_to_merge(files) or (files_worth_one(files) if is_quiet else []):
            assert len(merged) > 1
            entries = sum(file.entries for file in merged)
            rewritten += entries
            files = [file for file in files if file not in merged]
            files.append(KeyFileEntry(merged[-1].file, "entities", entries, 0, 0))
        if is_quiet:
            counts = sorted(file.entries for file in files)
            assert WORTH_RATIO * sum(counts[:-1]) <= counts[-1]
    # Nine times for each factor of eight between a new file and the largest, and what keeps files few.
    levels = 1 + sealed.bit_length() / 3
    assert rewritten <= ((WORTH_RATIO + 1) * levels + 8) * sealed


def test_ten_million_entries_from_sealed_segments_are_in_a_few_files() -> None:
    files: list[KeyFileEntry] = []
    for number in range(40):
        files.append(KeyFileEntry(number, "entities", 250_000, 0, 0))
        while merged := files_to_merge(files):
            files = [file for file in files if file not in merged]
            files.append(KeyFileEntry(number, "entities", sum(file.entries for file in merged), 0, 0))
    assert sorted(file.entries for file in files) == [1_000_000, 1_000_000, 4_000_000, 4_000_000]


def key_files_of(store: EventStore) -> list[str]:
    return sorted(entry.kind for entry in store._parts.catalog.manifest.key_files)


def sealed_thrice(store: EventStore) -> None:
    """The same entities and some more, client event ids of their own, in three segments."""
    for part in range(3):
        for number in range(40 * (part + 1)):
            store.append("t", [NewEvent("a", f"e-{number}", b"{}", event_id=UUID(int=1 + 1000 * part + number))])
        store.seal()


def check_sealed_thrice(store: EventStore) -> None:
    versions = {}
    for number in (0, 39, 40, 119, 120):
        (event,) = store.append("t", [NewEvent("a", f"e-{number}", b"{}")]).events
        versions[number] = event.version
    assert versions == {0: 4, 39: 4, 40: 3, 119: 2, 120: 1}
    again = store.append("t", [NewEvent("a", "e-7", b"{}", event_id=UUID(int=1008))])
    assert (again.duplicate, [event.version for event in again.events]) == (True, [2])


def test_compacting_leaves_one_key_file_of_each_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # They are merged because somebody says so, and not because the disk was so slow that all seemed to be quiet.
    monkeypatch.setattr("allsource_core.engine.maintenance._QUIET_SECONDS", 3600.0)
    with EventStore.open(tmp_path / "s", options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        sealed_thrice(store)
        assert key_files_of(store) == ["entities"] * 3 + ["ids"] * 3
        store.compact()
        assert key_files_of(store) == ["entities", "ids"]
        check_sealed_thrice(store)
    with EventStore.open(tmp_path / "s", options=StoreOptions(reserve_bytes=0)) as store:
        assert key_files_of(store) == ["entities", "ids"]
        assert len(list((tmp_path / "s" / "keys").iterdir())) == 2


def test_key_files_are_merged_when_no_segment_came_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EventStore.open(tmp_path / "s", options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        sealed_thrice(store)
    monkeypatch.setattr("allsource_core.engine.maintenance._QUIET_SECONDS", 0.0)
    with EventStore.open(tmp_path / "s", options=StoreOptions(maintenance="thread", reserve_bytes=0)) as store:
        for _ in range(1200):
            if key_files_of(store) == ["entities", "ids"]:
                break
            time.sleep(0.05)
        check_sealed_thrice(store)
        assert key_files_of(store) == ["entities", "ids"]


def test_the_page_and_a_file_agree(tmp_path: Path) -> None:
    """A file read by the rules of docs/storage-format.md alone."""
    page = (Path(__file__).parents[4] / "docs" / "storage-format.md").read_text(encoding="utf-8")
    assert re.search(r"`ALLSRCKY`", page)
    version, position = 3 << 32 | 7, 5 << 32 | 9
    writes = [((2, 4), (version, position, True)), ((1, 9), (1, 1, False)), ((3, 5), (8, 6, False))]
    data = make_file(tmp_path, columns_of(writes)).path.read_bytes()
    assert data.hex(" ", -4).split() == [
        *("414c4c53", "52434b59", "02000100", "04000000"),
        *["00000000"] * 12,
        *("01000000", "00000000", "02000000", "00000000", "03000000", "00000000", "ffffffff", "ffffffff"),
        *("09000000", "00000000", "04000000", "00000000", "05000000", "00000000", "ffffffff", "ffffffff"),
        *("01000000", "09000000", "06000000", "ffffffff"),
        *("01000000", "07000000", "08000000", "ffffffff"),
        *("00000000", "05006080", "00000000", "ffffffff"),
        *("01000000", "00000000"),
        google_crc32c.value(data[64:176]).to_bytes(4, "little").hex(),
        *("03000000", "00000000"),
    ]
