"""Paths are read once, raw, by one function; what it gives back is what was meant, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_shared.paths import encode_segment, read_path, read_target
from allsource_shared.problems import ApiError

text_without_surrogates = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
segments = st.lists(text_without_surrogates.filter(lambda text: text not in (".", "..")), min_size=1, max_size=5)


def refusal(raw: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        read_path(raw)
    return caught.value.code


@given(segments)
def test_encoded_segments_come_back_as_they_were(parts: list[str]):
    raw = "".join("/" + encode_segment(part) for part in parts)
    assert read_path(raw.encode("ascii")) == tuple(parts)


@given(segments)
def test_escaping_every_byte_means_the_same_path(parts: list[str]):
    raw = "".join("/" + "".join(f"%{byte:02x}" for byte in part.encode()) for part in parts)
    assert read_path(raw.encode("ascii")) == tuple(parts)


@given(segments)
def test_nothing_is_decoded_twice(parts: list[str]):
    once = [encode_segment(part) for part in parts]
    raw = "".join("/" + encode_segment(text) for text in once)
    assert read_path(raw.encode("ascii")) == tuple(once)


@given(st.binary())
def test_any_bytes_are_read_or_refused_as_a_bad_path(raw: bytes):
    try:
        parts = read_path(raw)
    except ApiError:
        assert refusal(raw) == "bad_path"
    else:
        assert all(part and part not in (".", "..") and "\0" not in part for part in parts)
        assert read_path("".join("/" + encode_segment(part) for part in parts).encode() or b"/") == parts


def test_the_root_has_no_segments():
    assert read_path(b"/") == ()


@pytest.mark.parametrize(
    "dots", [b".", b"..", b"%2e", b"%2E", b"%2e%2e", b"%2E%2E", b".%2e", b"%2e.", b".%2E", b"%2E."]
)
@pytest.mark.parametrize("around", [(b"/", b""), (b"/", b"/health"), (b"/api/v1/", b"/events"), (b"/a%20b/", b"")])
def test_dot_segments_are_refused_in_every_encoding(dots: bytes, around: tuple[bytes, bytes]):
    assert refusal(dots.join(around)) == "bad_path"


@pytest.mark.parametrize("raw", [b"//", b"/health/", b"//health", b"/api//v1", b"/a%2Fb//", b"/%61//b"])
def test_empty_segments_are_refused(raw: bytes):
    assert refusal(raw) == "bad_path"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"health",
        b"*",
        b"http://core/health",
        b"/%",
        b"/%2",
        b"/%2/",
        b"/%zz",
        b"/%ZZ",
        b"/%2G",
        b"/%%41",
        b"/% 1",
        b"/%u0041",
        b"/%00",
        b"/a%00b",
        b"/%ff",
        b"/%c0%ae",
        b"/%c0%af",
        b"/%e0%80%af",
        b"/%ed%a0%80",
        b"/%f5%80%80%80",
        b"/%E4",
        b"/\xff",
        b"/\xc3\xa4",
        b"/a b",
        b"/a\tb",
        b"/a\nb",
        b"/a\n",
        b"/health\n",
        b"/a\\b",
        b"/a#b",
        b"/a?b",
        b'/a"b',
        b"/<a>",
        b"/{a}",
        b"/a|b",
        b"/a^b",
        b"/a`b",
    ],
)
def test_what_is_no_encoded_path_is_refused(raw: bytes):
    assert refusal(raw) == "bad_path"


def test_more_than_two_dots_are_a_name_like_any_other():
    assert read_path(b"/.../.a/..b") == ("...", ".a", "..b")


def test_a_slash_inside_a_segment_stays_inside():
    assert read_path(b"/a%2Fb/c%2fd") == ("a/b", "c/d")


def test_a_plus_is_a_plus():
    assert read_path(b"/a+b") == ("a+b",)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a?b=c", b"/a", b"b=c"),
        (b"/a", b"/a", b""),
        (b"/a?", b"/a", b""),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"/a%3Fb?c", b"/a%3Fb", b"c"),
    ],
)
def test_a_target_is_cut_at_its_first_question_mark_and_not_decoded(target: bytes, path: bytes, query: bytes):
    assert read_target(target) == (path, query)
