"""Bodies: how large they may be, how they may be packed, what they may be called."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import httpx
import pytest

from .conftest import Posting
from .service import BATCH, EVENTS, JSON, LOGIN, NDJSON, QUERY, Core, bearer, last_position, receive, refusal

BODY_BYTES_MAX = 16 * 1024 * 1024


def event(entity: str, payload: object = 1) -> bytes:
    return json.dumps({"event_type": "a", "entity_id": entity, "payload": payload}).encode()


def batch_of(entity: str, size: int) -> bytes:
    """A batch of exactly so many bytes, each payload within its own limit."""
    body = b'{"events":[' + b",".join([event(entity, "x" * 900_000)] * 17) + b"]}"
    return body + b" " * (size - len(body))


def count(client: httpx.Client, entity: str) -> int:
    return len(client.get(QUERY, params={"entity_id": entity}, headers={"Accept": "application/x-ndjson"}).text.split())


class TestSize:
    def test_a_body_at_the_limit_is_good(self, admin: httpx.Client, entity: str):
        response = admin.post(BATCH, content=batch_of(entity, BODY_BYTES_MAX), headers=JSON)
        assert response.status_code == 201

    def test_a_byte_more_is_refused(self, posting: Posting, entity: str):
        problem = refusal(posting.batch(batch_of(entity, BODY_BYTES_MAX + 1)), 413, "body_too_large")
        assert str(BODY_BYTES_MAX) in problem["detail"]

    def test_a_body_that_only_says_so_is_refused_without_being_read(self, core: Core):
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
        refusal(core.send((head + "Content-Length: 20000000\r\n\r\n").encode()), 413, "body_too_large")
        refusal(core.send((head + f"Content-Length: {10**30}\r\n\r\n").encode()), 400, "bad_request")

    def test_a_body_without_a_length_is_refused_when_it_has_become_too_large(self, posting: Posting, entity: str):
        def chunks() -> Iterator[bytes]:
            yield event(entity)
            for _ in range(20):
                yield b" " * 1_000_000

        before = last_position(posting.client)
        response = posting.client.post(EVENTS, content=chunks(), headers=JSON)
        refusal(response, 413, "body_too_large")
        assert last_position(posting.client) == before

    @pytest.mark.parametrize("encoding", ["identity", "gzip"])
    def test_of_a_body_without_a_length_no_more_is_read_than_the_route_takes(self, core: Core, encoding: str):
        """Also of a packed one, and before anybody is known: the end of it is never sent."""
        head = f"POST {LOGIN} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Transfer-Encoding: chunked\r\nContent-Encoding: {encoding}\r\n\r\n"
        with core.connect() as connection:
            connection.sendall(head.encode() + b"%x\r\n%b\r\n" % (70_000, gzip.compress(b"").ljust(70_000)))
            refusal(receive(connection), 413, "body_too_large")

    def test_a_chunked_body_is_good(self, posting: Posting, entity: str):
        whole = event(entity)
        response = posting.client.post(EVENTS, content=iter([whole[:5], whole[5:]]), headers=JSON)
        assert response.status_code == 201

    @pytest.mark.parametrize("path", [EVENTS, BATCH, LOGIN])
    def test_no_body_is_no_json(self, admin: httpx.Client, path: str):
        refusal(admin.post(path, headers=JSON), 400, "malformed_json")


def packed(encoding: str, body: bytes) -> bytes:
    return gzip.compress(body) if encoding == "gzip" else zlib.compress(body)


class TestEncoding:
    @pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "identity"])
    def test_packed_bodies_are_unpacked(self, posting: Posting, entity: str, encoding: str):
        body = event(entity) if encoding == "identity" else packed(encoding.lower(), event(entity))
        assert posting.event(body, **{"Content-Encoding": encoding}).status_code == 201

    def test_deflate_without_its_header_is_unpacked_too(self, posting: Posting, entity: str):
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(event(entity)) + packer.flush()
        assert posting.event(body, **{"Content-Encoding": "deflate"}).status_code == 201

    def test_several_gzip_members_are_one_body(self, posting: Posting, admin: httpx.Client, entity: str):
        body = b"".join(gzip.compress(event(entity) + b"\n") for _ in range(3))
        assert posting.lines(body, **{"Content-Encoding": "gzip"}).json()["count"] == 3

    @pytest.mark.parametrize("encoding", ["br", "zstd", "x-gzip", "gzip, gzip", "compress", "*", "gzip;q=1", ""])
    def test_others_are_refused(self, posting: Posting, entity: str, encoding: str):
        response = posting.event(event(entity), **{"Content-Encoding": encoding})
        refusal(response, 415, "unsupported_media_type")

    @pytest.mark.parametrize("first", ["gzip", "identity"])
    def test_more_than_one_is_refused(self, core: Core, entity: str, first: str):
        body = packed("gzip", event(entity))
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
        head += f"Content-Encoding: {first}\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
        refusal(core.send(head.encode() + body), 415, "unsupported_media_type")

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_what_is_cut_off_is_refused_wherever_it_was_cut(
        self, posting: Posting, admin: httpx.Client, entity: str, encoding: str
    ):
        """A batch that lost its tail on the way must not become a shorter batch."""
        packer = zlib.compressobj(wbits=31 if encoding == "gzip" else 15)
        parts = [packer.compress(event(entity, n) + b"\n") + packer.flush(zlib.Z_SYNC_FLUSH) for n in range(3)]
        whole = b"".join(parts) + packer.flush()
        for length in (0, 1, 5, len(parts[0]), len(parts[0]) + len(parts[1]), *range(len(whole) - 9, len(whole))):
            response = posting.lines(whole[:length], **{"Content-Encoding": encoding})
            refusal(response, 400, "bad_request")
        assert count(admin, entity) == 0
        assert posting.lines(whole, **{"Content-Encoding": encoding}).json()["count"] == 3

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_damage_and_appendages_are_refused(self, posting: Posting, entity: str, encoding: str):
        good = packed(encoding, event(entity))
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        for body in (flipped, good + b"x", good + b"\0" * 100, b"x" + good, event(entity), b"\x1f\x8b", b"\0" * 50):
            response = posting.event(body, **{"Content-Encoding": encoding})
            refusal(response, 400, "bad_request")

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_a_bomb_is_refused_before_it_goes_off(self, posting: Posting, encoding: str):
        bomb = packed(encoding, b" " * 200_000_000)
        refusal(posting.batch(bomb, **{"Content-Encoding": encoding}), 413, "body_too_large")

    def test_a_bomb_in_many_parts_is_refused(self, posting: Posting):
        parts = gzip.compress(b" " * 1_500_000) * 15
        refusal(posting.lines(parts, **{"Content-Encoding": "gzip"}), 413, "body_too_large")
        refusal(posting.lines(gzip.compress(b"") * 100_000, **{"Content-Encoding": "gzip"}), 400, "bad_request")

    def test_a_bomb_at_the_door_is_refused_without_credentials(self, anonymous: httpx.Client):
        bomb = gzip.compress(b" " * 50_000_000)
        headers = {**JSON, "Content-Encoding": "gzip"}
        refusal(anonymous.post(EVENTS, content=bomb, headers=headers), 401, "unauthorized")
        refusal(anonymous.post(LOGIN, content=bomb, headers=headers), 413, "body_too_large")


class TestMediaType:
    @pytest.mark.parametrize(
        "media",
        ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;x=y", None],
    )
    def test_json_in_every_spelling_and_by_default(self, posting: Posting, entity: str, media: str | None):
        headers = {} if media is None else {"Content-Type": media}
        assert posting.post(EVENTS, event(entity), headers).status_code == 201

    @pytest.mark.parametrize(
        "media",
        [
            "text/plain",
            "application/xml",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/octet-stream",
            "application/jsonx",
            "application/json,application/json",
            "json",
            "*/*",
            "",
        ],
    )
    def test_anything_else_is_refused(self, posting: Posting, entity: str, media: str):
        for path in (EVENTS, BATCH):
            response = posting.post(path, event(entity), {"Content-Type": media})
            problem = refusal(response, 415, "unsupported_media_type")
            assert "application/json" in problem["detail"]
        refusal(posting.post(LOGIN, b"{}", {"Content-Type": media}), 415, "unsupported_media_type")

    def test_lines_are_for_batches_only(self, posting: Posting, entity: str):
        refusal(posting.post(EVENTS, event(entity), NDJSON), 415, "unsupported_media_type")


def test_a_body_that_takes_too_long_is_refused(start: Callable[..., Core]):
    core = start(environ={"ALLSOURCE_SERVER__BODY_TIMEOUT_SECONDS": "0.2"}).ready()
    head = f"POST {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n"
    with core.connect() as connection:
        connection.sendall((head + "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{").encode())
        refusal(receive(connection), 408, "request_timeout")


def test_the_limit_is_that_of_the_configuration(start: Callable[..., Core], entity: str):
    core = start(environ={"ALLSOURCE_SERVER__MAX_BODY_BYTES": "1024"}).ready()
    with core.client() as client:
        assert client.post(EVENTS, content=event(entity, "x" * 900), headers=JSON).status_code == 201
        refusal(client.post(EVENTS, content=event(entity, "x" * 1024), headers=JSON), 413, "body_too_large")
        packed_body = gzip.compress(event(entity, "x" * 5000))
        response = client.post(EVENTS, content=packed_body, headers={**JSON, "Content-Encoding": "gzip"})
        refusal(response, 413, "body_too_large")
