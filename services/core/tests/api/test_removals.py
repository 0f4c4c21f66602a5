"""Removing entities and erasing events; the operations that tell when their bytes are gone."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from ..engine.data_directory import files_with
from .service import BATCH, EVENTS, QUERY, Core, bearer, last_position, new_tenant, places, refusal

ENTITIES = "/api/v1/entities"
OPERATIONS = "/api/v1/operations"
MEMBERS = ["operation_id", "kind", "status", "progress", "rate", "seconds_left", "result", "error", "position"]
MEMBERS += ["created_at", "finished_at"]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    """One whose files are rewritten at once: the tests wait for it."""
    service = Core(tmp_path_factory.mktemp("removing"), flags=["--set", "storage.removal_seconds=0"])
    yield service.ready()
    assert service.stop() == 0


@pytest.fixture(scope="module")
def admin(core: Core) -> Iterator[httpx.Client]:
    with core.client() as client:
        yield client


def fill(client: httpx.Client, entity: str, count: int = 3, **changes: Any) -> list[str]:
    """Append events; returns their ids."""
    events = [
        {"event_type": "a", "entity_id": entity, "payload": {"n": number, "secret": f"secret of {entity}"}, **changes}
        for number in range(count)
    ]
    response = client.post(BATCH, json={"events": events})
    assert response.status_code == 201
    return [one["event_id"] for one in response.json()["events"]]


def numbers(client: httpx.Client, entity: str, **headers: str) -> list[Any]:
    page = client.get(QUERY, params={"entity_id": entity}, headers=headers).json()
    return [one["payload"] and one["payload"]["n"] for one in page["events"]]


def accepted(response: httpx.Response, kind: str) -> dict[str, Any]:
    assert response.status_code == 202, response.text
    operation: dict[str, Any] = response.json()
    assert list(operation) == MEMBERS
    assert (operation["kind"], operation["error"]) == (kind, None)
    return operation


def finished(client: httpx.Client, operation: dict[str, Any]) -> dict[str, Any]:
    """The operation when it is done."""
    deadline = time.monotonic() + 60
    while (now := client.get(f"{OPERATIONS}/{operation['operation_id']}").json())["status"] != "done":
        assert now["status"] == "running"
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    assert now == {**operation, "status": "done", "progress": 1.0, "finished_at": now["finished_at"]}
    assert now["finished_at"] >= now["created_at"]
    return dict(now)


class TestEntities:
    def test_a_removed_entity_can_not_be_read_and_its_bytes_go(self, core: Core, admin: httpx.Client, entity: str):
        fill(admin, entity)
        other = fill(admin, f"{entity}-other")
        assert files_with(core.data, f"secret of {entity}".encode())
        before = last_position(admin)
        operation = accepted(admin.delete(f"{ENTITIES}/{entity}"), "remove_entity")
        assert operation["position"] == before + 1
        assert operation["result"] == {"entity_id": entity, "version": 3, "events_removed": 3}
        assert numbers(admin, entity) == []
        finished(admin, operation)
        assert files_with(core.data, f'secret of {entity}"'.encode()) == []
        assert numbers(admin, f"{entity}-other") == [0, 1, 2]
        assert admin.get(f"{EVENTS}/{other[0]}").status_code == 200

    def test_its_versions_are_never_assigned_again(self, admin: httpx.Client, entity: str):
        ids = fill(admin, entity)
        accepted(admin.delete(f"{ENTITIES}/{entity}"), "remove_entity")
        refusal(admin.get(f"{EVENTS}/{ids[0]}"), 404, "not_found")
        event = {"event_type": "a", "entity_id": entity, "payload": {"n": 9}, "expected_version": "none"}
        assert admin.post(EVENTS, json=event).json()["version"] == 4
        assert numbers(admin, entity) == [9]

    @pytest.mark.parametrize("name", ["a/b {}", "%2F {}", "é {}", "?x=1 {}", "order#1 {}", "{}/../x", "{} ."])
    def test_any_id_is_one_encoded_segment_or_a_parameter(self, admin: httpx.Client, entity: str, name: str):
        name = name.replace("{}", entity)
        fill(admin, name)
        accepted(admin.delete(f"{ENTITIES}/{quote(name, safe='')}"), "remove_entity")
        assert numbers(admin, name) == []
        fill(admin, name)
        accepted(admin.delete(ENTITIES, params={"entity_id": name}), "remove_entity")
        assert numbers(admin, name) == []

    @pytest.mark.parametrize("path", ["a/b", "a//b", "%2E%2E", "..", "a%00b", "%zz", "%ff", ""])
    def test_paths_that_name_no_entity_remove_none(self, core: Core, admin: httpx.Client, entity: str, path: str):
        fill(admin, entity)
        before = last_position(admin)
        target = f"DELETE {ENTITIES}/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer()['Authorization']}\r\n\r\n"
        assert core.send(target.encode()).status_code in (400, 404)
        assert last_position(admin) == before
        assert len(numbers(admin, entity)) == 3

    def test_what_is_not_there_is_not_found(self, admin: httpx.Client, entity: str):
        refusal(admin.delete(f"{ENTITIES}/{entity}"), 404, "not_found")
        refusal(admin.delete(ENTITIES, params={"entity_id": entity}), 404, "not_found")
        fill(admin, entity)
        accepted(admin.delete(f"{ENTITIES}/{entity}"), "remove_entity")
        refusal(admin.delete(f"{ENTITIES}/{entity}"), 404, "not_found")

    @pytest.mark.parametrize(
        ("query", "place"),
        [
            ("", "entity_id"),
            ("?entity_id=a&entity_id=b", "entity_id"),
            ("?entity_id=a&x=1", "x"),
            ("?prefix=a", "prefix"),
        ],
    )
    def test_parameters_are_taken_strictly(self, admin: httpx.Client, query: str, place: str):
        assert places(refusal(admin.delete(f"{ENTITIES}{query}"), 400, "bad_query")) == [f"query.{place}"]

    def test_the_form_with_a_path_takes_no_parameter(self, admin: httpx.Client, entity: str):
        fill(admin, entity)
        problem = refusal(admin.delete(f"{ENTITIES}/{entity}?dry_run=true"), 400, "bad_query")
        assert places(problem) == ["query.dry_run"]
        assert len(numbers(admin, entity)) == 3


class TestErasing:
    def test_the_body_goes_and_the_event_stays(self, core: Core, admin: httpx.Client, entity: str):
        tag = f"tag-{entity}"
        ids = fill(admin, entity, metadata={"by": "ann"}, tags=[tag])
        before = admin.get(f"{EVENTS}/{ids[1]}").json()
        operation = accepted(admin.post(f"{EVENTS}/{ids[1]}/erase"), "erase_event")
        assert operation["result"] == {"entity_id": entity, "version": 2, "event_position": before["position"]}
        gone = {"payload": None, "metadata": None, "tags": None, "erased": True}
        assert admin.get(f"{EVENTS}/{ids[1]}").json() == {**before, **gone}
        assert numbers(admin, entity) == [0, None, 2]
        finished(admin, operation)
        assert admin.get(f"{EVENTS}/{ids[1]}").json() == {**before, **gone}
        assert numbers(admin, entity) == [0, None, 2]
        assert admin.get(QUERY, params={"tag": tag}).json()["count"] == 2

    def test_it_is_done_once(self, admin: httpx.Client, entity: str):
        (event_id,) = fill(admin, entity, 1)
        accepted(admin.post(f"{EVENTS}/{event_id}/erase"), "erase_event")
        before = last_position(admin)
        refusal(admin.post(f"{EVENTS}/{event_id}/erase"), 404, "not_found")
        assert last_position(admin) == before

    def test_an_own_id_is_found_as_well(self, admin: httpx.Client, entity: str):
        own = str(uuid.uuid4())
        fill(admin, entity, 1, event_id=own)
        accepted(admin.post(f"{EVENTS}/{own.upper()}/erase"), "erase_event")
        assert numbers(admin, entity) == [None]

    @pytest.mark.parametrize(
        "event_id", ["x", "7d4f1c1e-0f3b-4b7e-9c55-0d1f2a3b4c5d", "00000000-0000-0000-0000-000000000000"]
    )
    def test_what_is_no_event_is_not_found(self, admin: httpx.Client, event_id: str):
        before = last_position(admin)
        refusal(admin.post(f"{EVENTS}/{event_id}/erase"), 404, "not_found")
        assert last_position(admin) == before

    def test_only_post_erases(self, admin: httpx.Client, entity: str):
        (event_id,) = fill(admin, entity, 1)
        for method in ("GET", "PUT", "DELETE"):
            refusal(admin.request(method, f"{EVENTS}/{event_id}/erase"), 405, "method_not_allowed")
        assert numbers(admin, entity) == [0]


class TestOperations:
    def test_they_are_listed_the_newest_first_in_pages(self, admin: httpx.Client, entity: str):
        made = []
        for number in range(6):
            fill(admin, f"{entity}-{number}", 1)
            made.append(accepted(admin.delete(f"{ENTITIES}/{entity}-{number}"), "remove_entity")["operation_id"])
        listed: list[str] = []
        cursor: dict[str, str] = {}
        while len(listed) < 6:
            page = admin.get(OPERATIONS, params={"limit": 2, **cursor}).json()
            assert list(page) == ["operations", "count", "next_cursor"]
            assert page["count"] == len(page["operations"]) == 2
            listed += [one["operation_id"] for one in page["operations"]]
            cursor = {"cursor": page["next_cursor"]}
        assert listed == made[::-1]
        everything = admin.get(OPERATIONS, params={"limit": 10_000}).json()
        assert everything["next_cursor"] is None

    def test_they_can_be_asked_for_by_status(self, admin: httpx.Client, entity: str):
        fill(admin, entity, 1)
        operation = accepted(admin.delete(f"{ENTITIES}/{entity}"), "remove_entity")
        finished(admin, operation)
        done = admin.get(OPERATIONS, params={"status": "done", "limit": 10_000}).json()["operations"]
        assert operation["operation_id"] in {one["operation_id"] for one in done}
        running = admin.get(OPERATIONS, params={"status": "running", "limit": 10_000}).json()["operations"]
        assert operation["operation_id"] not in {one["operation_id"] for one in running}

    @pytest.mark.parametrize(
        "operation_id", ["x", "removal-0", "removal-", "removal-01", "removal-999999", "1", "replay-1"]
    )
    def test_what_is_none_is_not_found(self, admin: httpx.Client, operation_id: str):
        refusal(admin.get(f"{OPERATIONS}/{operation_id}"), 404, "not_found")

    def test_parameters_are_taken_strictly(self, admin: httpx.Client):
        refusal(admin.get(OPERATIONS, params={"cursor": "x"}), 400, "invalid_cursor")
        for query in ("limit=0", "limit=10001", "status=x", "x=1"):
            refusal(admin.get(f"{OPERATIONS}?{query}"), 400, "bad_query")
        refusal(admin.get(f"{OPERATIONS}/removal-1?x=1"), 400, "bad_query")

    def test_an_append_is_none(self, admin: httpx.Client, entity: str):
        fill(admin, entity, 1)
        refusal(admin.get(f"{OPERATIONS}/removal-{last_position(admin)}"), 404, "not_found")


class TestWhoMay:
    @pytest.mark.parametrize("role", ["developer", "readonly", "serviceaccount"])
    def test_only_an_admin_may(self, admin: httpx.Client, entity: str, role: str):
        (event_id,) = fill(admin, entity, 1)
        before = last_position(admin)
        for method, path in (
            ("DELETE", f"{ENTITIES}/{entity}"),
            ("DELETE", f"{ENTITIES}?entity_id={entity}"),
            ("POST", f"{EVENTS}/{event_id}/erase"),
            ("GET", OPERATIONS),
            ("GET", f"{OPERATIONS}/removal-1"),
        ):
            problem = refusal(admin.request(method, path, headers=bearer(role)), 403, "forbidden")
            assert "permission admin" in problem["detail"]
        assert last_position(admin) == before
        assert numbers(admin, entity) == [0]

    def test_another_tenant_finds_nothing(self, admin: httpx.Client, entity: str):
        (event_id,) = fill(admin, entity, 1)
        operation = accepted(admin.post(f"{EVENTS}/{event_id}/erase"), "erase_event")
        other = bearer(tenant=new_tenant(admin))
        before = last_position(admin)
        for method, path in (
            ("DELETE", f"{ENTITIES}/{entity}"),
            ("DELETE", f"{ENTITIES}?entity_id={entity}"),
            ("POST", f"{EVENTS}/{event_id}/erase"),
            ("GET", f"{OPERATIONS}/{operation['operation_id']}"),
        ):
            refusal(admin.request(method, path, headers=other), 404, "not_found")
        assert admin.get(OPERATIONS, headers=other).json() == {"operations": [], "count": 0, "next_cursor": None}
        assert last_position(admin) == before

    def test_entities_of_one_name_are_removed_in_ones_own_tenant_alone(self, admin: httpx.Client, entity: str):
        other = bearer(tenant=new_tenant(admin))
        fill(admin, entity, 2)
        event = {"event_type": "a", "entity_id": entity, "payload": {"n": 7}}
        admin.post(EVENTS, json=event, headers=other).raise_for_status()
        mine = accepted(admin.delete(f"{ENTITIES}/{entity}", headers=other), "remove_entity")
        assert mine["result"]["events_removed"] == 1
        assert (numbers(admin, entity), numbers(admin, entity, **other)) == ([0, 1], [])
        refusal(admin.get(f"{OPERATIONS}/{mine['operation_id']}"), 404, "not_found")
        (listed,) = admin.get(OPERATIONS, headers=other).json()["operations"]
        assert listed["operation_id"] == mine["operation_id"]

    def test_reserved_tenants_are_out_of_reach(self, admin: httpx.Client):
        for headers in ({"X-Tenant-ID": "_system"}, bearer(tenant="_system")):
            refusal(admin.delete(f"{ENTITIES}/user:1", headers=headers), 400, "reserved_tenant")


def test_removals_and_their_operations_outlive_a_restart(start: Callable[..., Core], entity: str):
    first = start().ready()
    with first.client() as client:
        ids = fill(client, entity)
        fill(client, f"{entity}-kept")
        erased = accepted(client.post(f"{EVENTS}/{ids[0]}/erase"), "erase_event")
        removed = accepted(client.delete(f"{ENTITIES}/{entity}-kept"), "remove_entity")
    assert first.stop() == 0
    second = start(flags=["--set", "storage.removal_seconds=0"]).ready()
    with second.client() as client:
        assert numbers(client, entity) == [None, 1, 2]
        assert numbers(client, f"{entity}-kept") == []
        for operation in (erased, removed):
            finished(client, operation)
        listed = client.get(OPERATIONS).json()["operations"]
        assert [one["operation_id"] for one in listed] == [removed["operation_id"], erased["operation_id"]]
    assert second.stop() == 0


def test_everybody_else_is_served_while_removals_wait_for_the_disk(core: Core, admin: httpx.Client, entity: str):
    for number in range(20):
        fill(admin, f"{entity}-{number}", 1)
    with core.client() as client:
        for number in range(20):
            accepted(client.delete(f"{ENTITIES}/{entity}-{number}"), "remove_entity")
            assert admin.get(QUERY, params={"limit": 1}).status_code == 200
