"""Retention policies: set, replaced only where they are as the caller thinks, ended."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from .service import BATCH, JSON, QUERY, Core, bearer, last_position, new_tenant, places, refusal, until

RETENTION = "/api/v1/retention"


@pytest.fixture
def prefix() -> str:
    return f"prefix-{uuid.uuid4()}"


@pytest.fixture
def other(admin: httpx.Client) -> dict[str, str]:
    """The admin of a tenant that no other test has."""
    return bearer(tenant=new_tenant(admin))


def test_a_policy_is_set_read_replaced_and_ended(admin: httpx.Client, prefix: str):
    path = f"{RETENTION}/{prefix}"
    refusal(admin.get(path), 404, "not_found")
    put = admin.put(path, json={"max_age_seconds": 86_400, "max_count": 10})
    assert (put.status_code, put.json()) == (200, {"prefix": prefix, "max_age_seconds": 86_400, "max_count": 10})
    read = admin.get(path)
    assert (read.status_code, read.content, read.headers["ETag"]) == (200, put.content, put.headers["ETag"])
    replaced = admin.put(path, json={"max_count": 5})
    assert replaced.json() == {"prefix": prefix, "max_age_seconds": None, "max_count": 5}
    assert replaced.headers["ETag"] != put.headers["ETag"]
    ended = admin.delete(path)
    assert (ended.status_code, ended.content) == (204, b"")
    refusal(admin.get(path), 404, "not_found")
    refusal(admin.delete(path), 404, "not_found")


def test_all_of_a_tenants_policies_are_listed_by_prefix(admin: httpx.Client, other: dict[str, str]):
    assert admin.get(RETENTION, headers=other).json() == {"policies": [], "count": 0}
    for prefix in ("b", "a", "a/b"):
        admin.put(f"{RETENTION}/{quote(prefix, safe='')}", json={"max_count": 1}, headers=other).raise_for_status()
    listed = admin.get(RETENTION, headers=other).json()
    assert ([one["prefix"] for one in listed["policies"]], listed["count"]) == (["a", "a/b", "b"], 3)


@pytest.mark.parametrize("prefix", ["", ".", "..", "a/b", "é ", "x" * 512])
def test_any_beginning_of_an_id_can_be_given_as_a_parameter(admin: httpx.Client, other: dict[str, str], prefix: str):
    put = admin.put(RETENTION, params={"prefix": prefix}, json={"max_count": 3}, headers=other)
    assert (put.status_code, put.json()["prefix"]) == (200, prefix)
    assert [one["prefix"] for one in admin.get(RETENTION, headers=other).json()["policies"]] == [prefix]
    assert admin.delete(RETENTION, params={"prefix": prefix}, headers=other).status_code == 204
    assert admin.get(RETENTION, headers=other).json()["count"] == 0


def test_without_a_prefix_nothing_is_meant(admin: httpx.Client, other: dict[str, str]):
    for method in ("PUT", "DELETE"):
        problem = refusal(admin.request(method, RETENTION, headers={**other, **JSON}), 400, "bad_query")
        assert places(problem) == ["query.prefix"]


@pytest.mark.parametrize("prefix", ["a\nb", "x" * 513, "é" * 257, "a\x7f", "\u2028"])
def test_what_no_id_begins_with_is_refused(admin: httpx.Client, prefix: str):
    before = last_position(admin)
    in_path = admin.put(f"{RETENTION}/{quote(prefix, safe='')}", json={"max_count": 1})
    assert places(refusal(in_path, 400, "bad_path")) == ["prefix"]
    as_parameter = admin.put(RETENTION, params={"prefix": prefix}, json={"max_count": 1})
    assert places(refusal(as_parameter, 400, "bad_query")) == ["query.prefix"]
    assert last_position(admin) == before


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"[]", "invalid_body"),
        (b"{}", "invalid_body"),
        (b"null", "invalid_body"),
        (b'{"max_count":null}', "invalid_body"),
        (b'{"max_count":0}', "invalid_body"),
        (b'{"max_count":-1}', "invalid_body"),
        (b'{"max_count":1.5}', "invalid_body"),
        (b'{"max_count":"1"}', "invalid_body"),
        (b'{"max_count":9007199254740992}', "invalid_body"),
        (b'{"max_age_seconds":0}', "invalid_body"),
        (b'{"max_age_seconds":10000000001}', "invalid_body"),
        (b'{"max_count":1,"max_age":1}', "invalid_body"),
        (b"[" * 5000, "invalid_body"),
    ],
)
def test_a_bad_body_changes_nothing(admin: httpx.Client, prefix: str, body: bytes, code: str):
    before = last_position(admin)
    refusal(admin.put(f"{RETENTION}/{prefix}", content=body, headers=JSON), 400, code)
    assert last_position(admin) == before
    refusal(admin.get(f"{RETENTION}/{prefix}"), 404, "not_found")


def test_other_bodies_are_refused_by_type_and_size(admin: httpx.Client, prefix: str):
    path = f"{RETENTION}/{prefix}"
    refusal(admin.put(path, content=b"{}", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type")
    refusal(admin.put(path, content=b" " * 65_537, headers=JSON), 413, "body_too_large")


class TestIfMatch:
    def test_it_replaces_what_is_as_named(self, admin: httpx.Client, prefix: str):
        path = f"{RETENTION}/{prefix}"
        tag = admin.put(path, json={"max_count": 1}).headers["ETag"]
        for named in (tag, "*", f'"x", {tag}'):
            response = admin.put(path, json={"max_count": 1}, headers={"If-Match": named})
            assert (response.status_code, response.headers["ETag"]) == (200, tag)
        assert admin.delete(path, headers={"If-Match": tag}).status_code == 204

    def test_anything_else_is_left_as_it_is(self, admin: httpx.Client, prefix: str):
        path = f"{RETENTION}/{prefix}"
        old = admin.put(path, json={"max_count": 1}).headers["ETag"]
        new = admin.put(path, json={"max_count": 2}).headers["ETag"]
        before = last_position(admin)
        calls: list[tuple[str, dict[str, Any]]] = [("PUT", {"json": {"max_count": 3}}), ("DELETE", {})]
        for method, arguments in calls:
            response = admin.request(method, path, headers={"If-Match": old}, **arguments)
            problem = refusal(response, 412, "precondition_failed")
            assert (problem["expected"], problem["actual"]) == (old, new)
        assert last_position(admin) == before
        assert admin.get(path).json()["max_count"] == 2

    def test_what_is_not_there_matches_nothing(self, admin: httpx.Client, prefix: str):
        response = admin.put(f"{RETENTION}/{prefix}", json={"max_count": 1}, headers={"If-Match": "*"})
        refusal(response, 412, "precondition_failed")
        refusal(admin.get(f"{RETENTION}/{prefix}"), 404, "not_found")


@pytest.mark.parametrize("role", ["developer", "readonly", "serviceaccount"])
def test_only_an_admin_may(admin: httpx.Client, prefix: str, role: str):
    path = f"{RETENTION}/{prefix}"
    admin.put(path, json={"max_count": 1}).raise_for_status()
    before = last_position(admin)
    for method in ("GET", "PUT", "DELETE"):
        for target in (path, RETENTION, f"{RETENTION}?prefix={prefix}"):
            refusal(admin.request(method, target, headers={**bearer(role), **JSON}), 403, "forbidden")
    assert last_position(admin) == before
    assert admin.get(path).json()["max_count"] == 1


def test_another_tenants_policy_is_not_there(admin: httpx.Client, prefix: str, other: dict[str, str]):
    path = f"{RETENTION}/{prefix}"
    admin.put(path, json={"max_count": 1}).raise_for_status()
    refusal(admin.get(path, headers=other), 404, "not_found")
    refusal(admin.delete(path, headers=other), 404, "not_found")
    assert admin.get(RETENTION, headers=other).json()["count"] == 0
    admin.put(path, json={"max_count": 2}, headers=other).raise_for_status()
    assert admin.get(path).json()["max_count"] == 1


def test_policies_outlive_a_restart(start: Callable[..., Core]):
    first = start().ready()
    with first.client() as client:
        put = client.put(f"{RETENTION}/order-", json={"max_age_seconds": 60})
        client.put(f"{RETENTION}/gone-", json={"max_count": 1}).raise_for_status()
        client.delete(f"{RETENTION}/gone-").raise_for_status()
    assert first.stop() == 0
    second = start().ready()
    with second.client() as client:
        assert client.get(RETENTION).json() == {"policies": [put.json()], "count": 1}
        assert client.get(f"{RETENTION}/order-").headers["ETag"] == put.headers["ETag"]


def test_the_first_page_of_an_entity_says_from_which_version_on_it_can_be_read(admin: httpx.Client, prefix: str):
    shortened, whole = f"{prefix}-shortened", f"{prefix}-whole"
    for entity in (shortened, whole):
        events = [{"event_type": "t", "entity_id": entity, "payload": {}}] * 4
        admin.post(BATCH, json={"events": events}).raise_for_status()
    admin.put(f"{RETENTION}/{shortened}", json={"max_count": 2}).raise_for_status()

    def page(entity: str, **parameters: object) -> dict[str, Any]:
        return admin.get(QUERY, params={"entity_id": entity, **parameters}).raise_for_status().json()

    until(lambda: page(shortened)["first_version"] == 3)
    assert [event["version"] for event in page(shortened)["events"]] == [3, 4]
    first = page(whole, limit=3)
    assert (first["first_version"], first["count"]) == (1, 3)
    assert "first_version" not in page(whole, limit=3, cursor=first["next_cursor"])
    assert "first_version" not in admin.get(QUERY, params={"limit": 1}).json()
    assert page(f"{prefix}-none")["first_version"] == 1
