"""Tenants over HTTP: made, read, replaced only where they are as the caller thinks, switched off and on."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest

from .service import EVENTS, JSON, Core, bearer, last_position, places, refusal, until

TENANTS = "/api/v1/tenants"
NAMES = [
    "max_events_per_day",
    "max_storage_bytes",
    "max_queries_per_hour",
    "max_api_keys",
    "max_projections",
    "max_pipelines",
]
FREE = dict(zip(NAMES, (10_000, 2**30, 1_000, 2, 5, 2), strict=True))
PROFESSIONAL = dict(zip(NAMES, (1_000_000, 100 * 2**30, 100_000, 25, 100, 50), strict=True))
UNLIMITED = dict.fromkeys(NAMES, 0)
PRESETS = {
    "free": (FREE, {"requests_per_minute": 60, "burst": 100}),
    "professional": (PROFESSIONAL, {"requests_per_minute": 600, "burst": 1_000}),
    "unlimited": (UNLIMITED, {"requests_per_minute": 0, "burst": 0}),
}
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")


@pytest.fixture
def tenant() -> str:
    """A tenant id that no other test has."""
    return f"t-{uuid.uuid4().hex}"


def create(admin: httpx.Client, tenant: str, **fields: Any) -> httpx.Response:
    response = admin.post(TENANTS, json={"id": tenant, "name": "Acme", **fields})
    assert response.status_code == 201, response.text
    return response


def test_a_tenant_is_made_and_read(admin: httpx.Client, tenant: str):
    made = create(admin, tenant, description="makes things")
    body = made.json()
    assert _INSTANT.match(body["created_at"])
    assert body == {
        "id": tenant,
        "name": "Acme",
        "description": "makes things",
        "tier": "professional",
        "quotas": PROFESSIONAL,
        "limits": {"requests_per_minute": 600, "burst": 1_000},
        "active": True,
        "deleting": False,
        "created_at": body["created_at"],
        "updated_at": body["updated_at"],
    }
    read = admin.get(f"{TENANTS}/{tenant}")
    assert (read.status_code, read.content, read.headers["ETag"]) == (200, made.content, made.headers["ETag"])
    refusal(admin.post(TENANTS, json={"id": tenant, "name": "Another"}), 409, "already_exists")
    assert admin.get(f"{TENANTS}/{tenant}").content == made.content


@pytest.mark.parametrize("field", ["tier", "quota_preset"])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_preset_gives_quotas_and_limits(admin: httpx.Client, tenant: str, field: str, preset: str):
    body = create(admin, tenant, **{field: preset}).json()
    assert (body["tier"], (body["quotas"], body["limits"])) == (preset, PRESETS[preset])


def test_quotas_stand_over_those_of_the_preset(admin: httpx.Client, tenant: str):
    body = create(admin, tenant, tier="free", quota_preset="free", quotas={"max_api_keys": 9}).json()
    assert (body["tier"], body["quotas"], body["limits"]) == ("custom", {**FREE, "max_api_keys": 9}, PRESETS["free"][1])


def test_quotas_alone_leave_the_others_unlimited(admin: httpx.Client, tenant: str):
    body = create(admin, tenant, quotas={"max_api_keys": 9}).json()
    assert (body["quotas"], body["limits"]) == ({**UNLIMITED, "max_api_keys": 9}, PRESETS["professional"][1])


def test_unknown_fields_are_named_in_a_warning(admin: httpx.Client, tenant: str):
    assert "is_demo" in create(admin, tenant, is_demo=True).headers["Warning"]


@pytest.mark.parametrize(
    ("fields", "code", "place"),
    [
        ({"id": "_system"}, "reserved_tenant", None),
        ({"id": "_x"}, "reserved_tenant", None),
        ({"id": ""}, "invalid_body", "id"),
        ({"id": ".."}, "invalid_body", "id"),
        ({"id": "a/b"}, "invalid_body", "id"),
        ({"id": "é"}, "invalid_body", "id"),
        ({"id": "x" * 129}, "invalid_body", "id"),
        ({"id": 7}, "invalid_body", "id"),
        ({"id": None}, "invalid_body", "id"),
        ({"name": ""}, "invalid_body", "name"),
        ({"name": "a\nb"}, "invalid_body", "name"),
        ({"name": "x" * 257}, "invalid_body", "name"),
        ({"name": None}, "invalid_body", "name"),
        ({"description": "x" * 4097}, "invalid_body", "description"),
        ({"description": None}, "invalid_body", "description"),
        ({"tier": "gold"}, "invalid_body", "tier"),
        ({"tier": "Free"}, "invalid_body", "tier"),
        ({"tier": 1}, "invalid_body", "tier"),
        ({"quota_preset": "gold"}, "invalid_body", "quota_preset"),
        ({"tier": "free", "quota_preset": "unlimited"}, "invalid_body", "quota_preset"),
        ({"quotas": []}, "invalid_body", "quotas"),
        ({"quotas": {"max_event_per_day": 1}}, "invalid_body", "quotas"),
        *(({"quotas": {name: -1}}, "invalid_body", f"quotas.{name}") for name in NAMES),
        ({"quotas": {"max_api_keys": 2**53}}, "invalid_body", "quotas.max_api_keys"),
        ({"quotas": {"max_api_keys": 1.5}}, "invalid_body", "quotas.max_api_keys"),
        ({"quotas": {"max_api_keys": None}}, "invalid_body", "quotas.max_api_keys"),
    ],
)
def test_a_tenant_that_can_not_be_is_refused(
    admin: httpx.Client, tenant: str, fields: dict[str, Any], code: str, place: str | None
):
    before = last_position(admin)
    problem = refusal(admin.post(TENANTS, json={"id": tenant, "name": "Acme", **fields}), 400, code)
    assert places(problem) == ([place] if place else [])
    if fields.get("tier") == "gold":
        assert "free, professional, unlimited" in problem["detail"]
    assert last_position(admin) == before
    refusal(admin.get(f"{TENANTS}/{tenant}"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("POST", ""), ("PUT", "/default"), ("PUT", "/default/quotas"), ("PUT", "/default/limits")]
)
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"[]", "invalid_body"),
        (b"{}", "invalid_body"),
        (b'{"a":' * 2_000, "invalid_body"),
    ],
)
def test_a_body_that_is_none_is_refused(admin: httpx.Client, method: str, path: str, content: bytes, code: str):
    before = last_position(admin)
    refusal(admin.request(method, TENANTS + path, content=content, headers=JSON), 400, code)
    refused = admin.request(method, TENANTS + path, content=b"x", headers={"Content-Type": "text/plain"})
    refusal(refused, 415, "unsupported_media_type")
    assert last_position(admin) == before


def test_name_and_description_are_replaced_only_where_they_are_as_expected(admin: httpx.Client, tenant: str):
    path = f"{TENANTS}/{tenant}"
    made = create(admin, tenant, description="old")
    put = admin.put(path, json={"name": "Other"}, headers={"If-Match": made.headers["ETag"]})
    assert (put.status_code, put.json()["name"], put.json()["description"]) == (200, "Other", "")
    assert put.json()["quotas"] == made.json()["quotas"]
    for part, body in (
        ("", {"name": "Third"}),
        ("/quotas", FREE),
        ("/limits", {"requests_per_minute": 1, "burst": 1}),
    ):
        stale = admin.put(path + part, json=body, headers={"If-Match": made.headers["ETag"]})
        problem = refusal(stale, 412, "precondition_failed")
        assert (problem["expected"], problem["actual"]) == (made.headers["ETag"], put.headers["ETag"])
    assert admin.get(path).content == put.content
    assert admin.put(path, json={"name": "Third"}, headers={"If-Match": "*"}).json()["name"] == "Third"
    refusal(admin.put(path, json={"name": "a\x00b"}), 400, "invalid_body")


def test_quotas_are_replaced_all_at_once(admin: httpx.Client, tenant: str):
    path = f"{TENANTS}/{tenant}/quotas"
    create(admin, tenant)
    put = admin.put(path, json={**FREE, "note": "x"})
    assert (put.status_code, put.json()["quotas"], put.json()["tier"]) == (200, FREE, "free")
    assert "note" in put.headers["Warning"]
    for name in NAMES:
        without = {other: value for other, value in FREE.items() if other != name}
        assert name in refusal(admin.put(path, json=without), 400, "invalid_body")["detail"]
        for value in (-1, 2**53, "1", 1.5, None, True):
            assert places(refusal(admin.put(path, json={**FREE, name: value}), 400, "invalid_body")) == [name]
    assert admin.get(f"{TENANTS}/{tenant}").content == put.content


def test_limits_are_both_set_or_both_lifted(admin: httpx.Client, tenant: str):
    path = f"{TENANTS}/{tenant}/limits"
    create(admin, tenant)
    put = admin.put(path, json={"requests_per_minute": 7, "burst": 3})
    assert (put.status_code, put.json()["limits"]) == (200, {"requests_per_minute": 7, "burst": 3})
    for body, place in (
        ({"requests_per_minute": 0, "burst": 3}, "requests_per_minute"),
        ({"requests_per_minute": 3, "burst": 0}, "burst"),
        ({"requests_per_minute": -1, "burst": 3}, "requests_per_minute"),
        ({"requests_per_minute": 3, "burst": 1.5}, "burst"),
        ({"requests_per_minute": 3}, "$"),
        ({"requests_per_minute": 3, "burst": 3, "brust": 3}, "$"),
    ):
        assert places(refusal(admin.put(path, json=body), 400, "invalid_body")) == [place]
    assert admin.get(f"{TENANTS}/{tenant}").content == put.content
    refusal(admin.put(path, json={"requests_per_minute": 1, "burst": 1}, params={"a": "b"}), 400, "bad_query")
    lifted = admin.put(path, json={"requests_per_minute": 0, "burst": 0})
    assert lifted.json()["limits"] == {"requests_per_minute": 0, "burst": 0}


def test_a_tenant_is_switched_off_and_on(admin: httpx.Client, tenant: str):
    path = f"{TENANTS}/{tenant}"
    create(admin, tenant)
    for _ in range(2):
        off = admin.post(f"{path}/deactivate")
        assert (off.status_code, off.content) == (204, b"")
        assert admin.get(path).json()["active"] is False
    for _ in range(2):
        assert admin.post(f"{path}/activate").status_code == 204
        assert admin.get(path).json()["active"] is True


def test_the_default_tenant_is_neither_deleted_nor_deactivated(admin: httpx.Client):
    before = admin.get(f"{TENANTS}/default")
    assert (before.json()["tier"], before.json()["active"]) == ("unlimited", True)
    refusal(admin.delete(f"{TENANTS}/default"), 409, "default_tenant")
    refusal(admin.post(f"{TENANTS}/default/deactivate"), 409, "default_tenant")
    assert admin.post(f"{TENANTS}/default/activate").status_code == 204
    assert admin.get(f"{TENANTS}/default").content == before.content


REQUESTS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("GET", "", None),
    ("PUT", "", {"name": "x"}),
    ("DELETE", "", None),
    ("GET", "/stats", None),
    ("PUT", "/quotas", FREE),
    ("PUT", "/limits", {"requests_per_minute": 1, "burst": 1}),
    ("POST", "/activate", None),
    ("POST", "/deactivate", None),
]


@pytest.mark.parametrize(("method", "part", "body"), REQUESTS)
def test_a_tenant_that_is_not_there_is_not_found_and_a_reserved_one_refused(
    admin: httpx.Client, tenant: str, method: str, part: str, body: dict[str, Any] | None
):
    before = last_position(admin)
    refusal(admin.request(method, f"{TENANTS}/{tenant}{part}", json=body), 404, "not_found")
    for reserved in ("_system", "_audit", "%5Fsystem"):
        refusal(admin.request(method, f"{TENANTS}/{reserved}{part}", json=body), 400, "reserved_tenant")
    assert last_position(admin) == before


@pytest.mark.parametrize("role", ["developer", "readonly", "serviceaccount"])
def test_others_see_their_own_tenant_and_change_none(core: Core, admin: httpx.Client, tenant: str, role: str):
    create(admin, tenant)
    with core.client(bearer(role)) as client:
        assert client.get(f"{TENANTS}/default").content == admin.get(f"{TENANTS}/default").content
        assert client.get(f"{TENANTS}/default/stats").status_code == 200
        for part in ("", "/stats"):
            refusal(client.get(f"{TENANTS}/{tenant}{part}"), 404, "not_found")
            refusal(client.get(f"{TENANTS}/{tenant}x{part}"), 404, "not_found")
        refusal(client.get(TENANTS), 403, "forbidden")
        refusal(client.post(TENANTS, json={"id": f"{tenant}x", "name": "x"}), 403, "forbidden")
        for method, part, body in REQUESTS:
            if method != "GET":
                for named in (tenant, "default"):
                    refusal(client.request(method, f"{TENANTS}/{named}{part}", json=body), 403, "forbidden")


def test_tenants_are_listed_in_pages(admin: httpx.Client, tenant: str):
    made = sorted(f"{tenant}-{number}" for number in range(5))
    for tenant_id in made:
        create(admin, tenant_id)
    found: list[str] = []
    cursor = None
    while True:
        page = admin.get(TENANTS, params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        assert page["count"] == len(page["tenants"]) <= 2
        found += [one["id"] for one in page["tenants"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == sorted(found)
    assert [one for one in found if one.startswith(f"{tenant}-")] == made
    assert "default" in found
    assert not [one for one in found if one.startswith("_")]
    refusal(admin.get(TENANTS, params={"cursor": "a/b"}), 400, "invalid_cursor")
    for parameters in ({"limit": "0"}, {"limit": "10001"}, {"limit": "x"}, {"page": "1"}):
        refusal(admin.get(TENANTS, params=parameters), 400, "bad_query")


def test_stats_show_each_quota(admin: httpx.Client, tenant: str):
    create(admin, tenant, tier="free", quotas={"max_pipelines": 0})
    body = admin.get(f"{TENANTS}/{tenant}/stats").json()
    usage = body.pop("usage")
    assert body == {
        "tenant_id": tenant,
        "name": "Acme",
        "tier": "custom",
        "active": True,
        "limits": {"requests_per_minute": 60, "burst": 100},
    }
    for name in ("events_today", "queries_this_hour"):
        assert _INSTANT.match(usage[name].pop("resets_at"))
    resets = {"resets_at": None}
    assert usage == {
        "events_today": {"limit": 10_000, "used": 0, "percent": 0.0},
        "storage_bytes": {"limit": 2**30, "used": 0, "percent": 0.0, **resets},
        "queries_this_hour": {"limit": 1_000, "used": 0, "percent": 0.0},
        "api_keys": {"limit": 2, "used": 0, "percent": 0.0, **resets},
        "projections": {"limit": 5, "used": 0, "percent": 0.0, **resets},
        "pipelines": {"limit": 0, "used": 0, "percent": None, **resets},
    }


def test_stats_count_what_was_appended(admin: httpx.Client, tenant: str):
    create(admin, tenant, tier="free")
    event = {"event_type": "a", "entity_id": "b", "payload": {"x": 1}}
    for _ in range(3):
        admin.post(EVENTS, json=event, headers=bearer(tenant=tenant)).raise_for_status()

    def counted() -> bool:
        usage = admin.get(f"{TENANTS}/{tenant}/stats").json()["usage"]
        return bool(usage["storage_bytes"]["used"] > 0)

    until(counted)
