"""Hashes of names: what the page says, one at a time or many at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import shake_256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.engine.hashes import Hash, Hasher, Hashes
from allsource_core.engine.limits import ENTITY_ID_BYTES_MAX

KEY = bytes(range(32))
HASHER = Hasher(KEY)

names = st.one_of(
    st.text(max_size=20),
    # Around the words that names are cut into, and the longest that there may be.
    st.sampled_from([1, 3, 4, 5, 7, 8, 9, 511, 512, 513, 600]).map("x".__mul__),
    st.sampled_from(["", "\0", "a", "a\0", "a\0\0\0", "ü", "\U0001f600" * 3]),
)


def by_the_page(key: bytes, kind: str, tenant: int, name: bytes) -> Hash:
    """As docs/storage-format.md, Hashes, says."""
    words = [256 * len(name) + ord(kind), tenant]
    words += [int.from_bytes(name[at : at + 4], "little") for at in range(0, len(name), 4)]
    digest = shake_256(key).digest(8 * (3 + 4 * (1 + len(words))))
    chance = [int.from_bytes(digest[at : at + 8], "little") for at in range(0, len(digest), 8)]
    multipliers, rows = [number | 1 for number in chance[:3]], [chance[at : at + 4] for at in range(3, len(chance), 4)]
    s = [
        (rows[0][j] + sum(row[j] * word for row, word in zip(rows[1:], words, strict=True))) % 2**64 >> 32
        for j in range(4)
    ]
    a, b = 2**32 * s[0] + s[1], 2**32 * s[2] + s[3]
    for multiplier in multipliers:
        x = a * multiplier % 2**64
        x ^= x >> 32
        a, b = (b + x) % 2**64, a
    return a, b


def pairs(hashes: Hashes) -> list[Hash]:
    return list(zip(hashes.hi.tolist(), hashes.lo.tolist(), strict=True))


def test_a_hash_is_the_one_of_the_page() -> None:
    page = (Path(__file__).parents[4] / "docs" / "storage-format.md").read_text(encoding="utf-8")
    example = re.search(r"entity `order-1` of tenant 1 has the halves `(\w{16})` and `(\w{16})`", page)
    assert example is not None
    assert HASHER.entity(1, "order-1") == (int(example[1], 16), int(example[2], 16))
    for tenant, name in ((1, "order-1"), (2**31 - 1, "ü" * 256), (7, "abc")):
        assert HASHER.entity(tenant, name) == by_the_page(KEY, "e", tenant, name.encode())
        assert HASHER.event_type(tenant, name) == by_the_page(KEY, "t", tenant, name.encode())
        assert HASHER.tag(tenant, name) == by_the_page(KEY, "g", tenant, name.encode())
    assert HASHER.client_id(3, b"0123456789abcdef") == by_the_page(KEY, "i", 3, b"0123456789abcdef")
    assert Hasher(KEY[::-1]).entity(1, "order-1") == by_the_page(KEY[::-1], "e", 1, b"order-1")


@settings(max_examples=200)
@given(st.lists(names, max_size=12), st.integers(0, 12), st.data())
def test_many_at_once_get_the_hashes_that_each_gets(chosen: list[str], skipped: int, data: st.DataObject) -> None:
    array = pa.array(chosen, pa.string())[skipped:]
    chosen = chosen[skipped:]
    tenants = data.draw(st.lists(st.integers(1, 2**31 - 1), min_size=len(chosen), max_size=len(chosen)))
    ids = [name.encode()[:16].ljust(16, b"i") for name in chosen]
    array_of_ids = pa.array([b"-" * 16, *ids], pa.binary(16))[1:]
    for many, one, given_names, given_array in (
        (HASHER.entities, HASHER.entity, chosen, array),
        (HASHER.event_types, HASHER.event_type, chosen, array),
        (HASHER.tags, HASHER.tag, chosen, array),
        (HASHER.client_ids, HASHER.client_id, ids, ids),
        (HASHER.client_ids, HASHER.client_id, ids, array_of_ids),
    ):
        make: Callable[..., Hash] = one  # type: ignore[assignment] # of names and of ids
        expected = [make(tenant, name) for tenant, name in zip(tenants, given_names, strict=True)]
        assert pairs(many(np.array(tenants, np.int32), given_array)) == expected  # type: ignore[arg-type] # likewise
        assert pairs(many(5, given_array)) == [make(5, name) for name in given_names]  # type: ignore[arg-type]


def test_more_names_than_are_hashed_at_a_time_keep_their_order() -> None:
    count = 20_000
    array = pa.array([f"entity-{number}" for number in range(count)])
    tenants = np.arange(count) % 3 + 1
    ids = [number.to_bytes(16, "big") for number in range(count)]
    hashes, of_ids = pairs(HASHER.entities(tenants, array)), pairs(HASHER.client_ids(tenants, ids))
    for number in (0, 8191, 8192, 16_383, 16_384, count - 1):
        assert hashes[number] == HASHER.entity(number % 3 + 1, f"entity-{number}")
        assert of_ids[number] == HASHER.client_id(number % 3 + 1, ids[number])
    assert len(set(hashes)) == len(set(of_ids)) == count


def test_what_is_hashed_tells_tenants_kinds_and_lengths_apart() -> None:
    longest = "x" * ENTITY_ID_BYTES_MAX
    hashes = [
        make(tenant, name)
        for make in (HASHER.entity, HASHER.event_type, HASHER.tag)
        for tenant in (1, 2, 256)
        for name in ("", "\0", "\0\0\0\0", "a", "a\0", "\0a", longest, longest + "y", longest + "yy")
    ]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("pattern", ["{:06d}", "entity-{}", "{:x}", "x" * 500 + "{}"])
def test_names_that_differ_little_are_spread_evenly(pattern: str) -> None:
    """Over the ranges that key files cut by the upper half, and over the bits of filters."""
    hashes = HASHER.entities(1, pa.array([pattern.format(number) for number in range(65_536)]))
    for places in (hashes.hi >> np.uint64(56), hashes.hi & np.uint64(255), hashes.lo & np.uint64(255)):
        counts = np.bincount(places.astype(np.int64), minlength=256)
        # 256 each; the variance of counts by chance is the mean.
        assert 0.5 < counts.var() / counts.mean() < 2
