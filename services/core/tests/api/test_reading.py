"""Reading over HTTP besides the filters: one event by its id, media types, waiting, query strings."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest

from allsource_core.engine.events import server_id
from allsource_shared.wire.times import to_microseconds

from .service import ADMIN, EVENTS, LOGIN, PASSWORD, QUERY, Core, bearer, last_position, places, refusal


def append(client: httpx.Client, entity: str, **changes: Any) -> dict[str, Any]:
    response = client.post(EVENTS, json={"event_type": "a", "entity_id": entity, "payload": 1, **changes})
    assert response.status_code == 201
    answer: dict[str, Any] = response.json()
    return answer


class TestById:
    @pytest.mark.parametrize(
        "own", [None, "7d4f1c1e-0f3b-4b7e-9c55-0d1f2a3b4c5d", "00000000-0000-0000-0000-000000000001", "f" * 32]
    )
    def test_an_event_is_found_by_the_id_it_was_answered_with(self, admin: httpx.Client, entity: str, own: str | None):
        event_id = append(admin, entity, **({} if own is None else {"event_id": own}))["event_id"]
        for spelled in (event_id, event_id.upper(), event_id.replace("-", "%2D")):
            response = admin.get(f"{EVENTS}/{spelled}")
            assert (response.status_code, response.json()["id"]) == (200, event_id)

    @pytest.mark.parametrize(
        "event_id",
        [
            "x",
            "0",
            "urn:uuid:{id}",
            "%7B{id}%7D",
            "{hex}",
            " {id}",
            "{id}%0A",
            "{id}%20",
            "00000000-0000-0000-0000-000000000000",
            "٣" * 8 + "-0000-0000-0000-000000000000",
            "{id}x",
        ],
    )
    def test_what_is_no_id_of_an_event_is_not_found(self, admin: httpx.Client, entity: str, event_id: str):
        known = append(admin, entity)["event_id"]
        path = event_id.replace("{id}", known).replace("{hex}", known.replace("-", ""))
        refusal(admin.get(f"{EVENTS}/{path}"), 404, "not_found")

    def test_the_time_in_a_server_id_must_be_right_too(self, admin: httpx.Client, entity: str):
        known = uuid.UUID(append(admin, entity)["event_id"])
        refusal(admin.get(f"{EVENTS}/{uuid.UUID(int=known.int + (1 << 80))}"), 404, "not_found")
        refusal(admin.get(f"{EVENTS}/{uuid.UUID(int=known.int + 1)}"), 404, "not_found")

    def test_unknown_parameters_are_refused_by_name(self, admin: httpx.Client, entity: str):
        event_id = append(admin, entity)["event_id"]
        problem = refusal(admin.get(f"{EVENTS}/{event_id}?tenant_id=_system"), 400, "bad_query")
        assert places(problem) == ["query.tenant_id"]


class TestAccept:
    @pytest.mark.parametrize(
        ("accept", "media"),
        [
            (None, "application/json"),
            ("*/*", "application/json"),
            ("application/json", "application/json"),
            ("application/*", "application/json"),
            ("text/html, */*;q=0.1", "application/json"),
            ("APPLICATION/X-NDJSON", "application/x-ndjson"),
            ("application/x-ndjson, application/json;q=0.9", "application/x-ndjson"),
            ("application/x-ndjson;q=0.5, application/json;q=0.9", "application/json"),
            ("application/json;q=0, */*", "application/x-ndjson"),
            ("application/json;q=0, application/*;q=0.1", "application/x-ndjson"),
            ("application/x-ndjson;charset=utf-8", "application/x-ndjson"),
        ],
    )
    def test_the_type_that_is_preferred_is_answered(self, core: Core, accept: str | None, media: str):
        with core.client() as client:
            client.headers.pop("Accept")
            response = client.get(QUERY, params={"limit": 1}, headers={} if accept is None else {"Accept": accept})
            assert response.headers["Content-Type"] == media

    @pytest.mark.parametrize("accept", ["text/html", "application/xml;q=1", "*/*;q=0", "application/json;q=0", "", "x"])
    def test_none_that_is_offered_is_refused(self, admin: httpx.Client, accept: str):
        problem = refusal(admin.get(QUERY, headers={"Accept": accept}), 406, "not_acceptable")
        assert "application/x-ndjson" in problem["detail"]


class TestWaiting:
    def test_an_append_can_be_read_at_once(self, admin: httpx.Client, entity: str):
        position = append(admin, entity)["position"]
        page = admin.get(QUERY, params={"entity_id": entity, "min_position": position}).json()
        assert page["count"] == 1

    def test_a_position_that_was_not_reached_is_a_conflict(self, admin: httpx.Client, entity: str):
        head = last_position(admin)
        for path in (QUERY, f"{EVENTS}/{uuid.uuid4()}"):
            for wait in (0, 30):
                response = admin.get(path, params={"min_position": head + 1, "wait_ms": wait})
                problem = refusal(response, 409, "not_yet")
                assert (problem["expected"], problem["actual"]) == (head + 1, head)

    def test_a_read_waits_for_its_position(self, core: Core, admin: httpx.Client, entity: str):
        head = last_position(admin)
        answers: list[httpx.Response] = []

        def read() -> None:
            with core.client() as client:
                parameters = {"entity_id": entity, "min_position": head + 1, "wait_ms": 30_000}
                answers.append(client.get(QUERY, params=parameters))

        reader = threading.Thread(target=read)
        reader.start()
        time.sleep(0.1)
        append(admin, entity)
        reader.join()
        assert answers[0].json()["count"] == 1


BAD_QUERIES = {
    "limit=0": "limit",
    "limit=10001": "limit",
    "limit=-1": "limit",
    "limit=x": "limit",
    "limit=": "limit",
    "limit=%201": "limit",
    "limit=1.5": "limit",
    "limit=" + "1" * 5000: "limit",
    "limit=1&limit=1": "limit",
    "limit=null": "limit",
    "limit=1.0": "limit",
    "limit=1e1": "limit",
    "limit=%D9%A3": "limit",
    "since=null": "since",
    "since=0": "since",
    "since=1700000000": "since",
    "since=253402300800": "since",
    "since=-62135596800": "since",
    "until=1e308": "until",
    "as_of=nan": "as_of",
    "after_position=null": "after_position",
    "order=ASC": "order",
    "order=": "order",
    "since=yesterday": "since",
    "since=2024-01-01": "since",
    "since=2024-01-01T00:00:00": "since",
    "since=2024-01-01T00:00:00+01:00": "since",
    "until=2024-02-30T00:00:00Z": "until",
    "as_of=": "as_of",
    "as_of=2024-01-01T00:00:00Z&as_of=2024-01-01T00:00:00Z": "as_of",
    "after_position=-1": "after_position",
    "after_position=9007199254740992": "after_position",
    "before_position=0": "before_position",
    "min_position=-1": "min_position",
    "min_position=1.5": "min_position",
    "wait_ms=30001": "wait_ms",
    "wait_ms=true": "wait_ms",
    "entity_id=": "entity_id",
    "entity_id=..": "entity_id",
    "entity_id=%2E": "entity_id",
    "entity_id=%00": "entity_id",
    "entity_id=a%0Ab": "entity_id",
    "entity_id=" + "x" * 513: "entity_id",
    "entity_id=a&entity_id=b": "entity_id",
    "event_type=": "event_type",
    "event_type=" + "x" * 257: "event_type",
    "tag=": "tag",
    "tag=ok&tag=%1F": "tag",
}


@pytest.mark.parametrize(("query", "name"), list(BAD_QUERIES.items()), ids=[query[:40] for query in BAD_QUERIES])
@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson"])
def test_a_bad_parameter_is_named(admin: httpx.Client, query: str, name: str, accept: str):
    problem = refusal(admin.get(f"{QUERY}?{query}", headers={"Accept": accept}), 400, "bad_query")
    assert places(problem) == [f"query.{name}"]


@pytest.mark.parametrize(
    "query", ["a=%ZZ", "limit=%", "%", "a=%4", "limit=1&x=%f", "entity_id=%ff", "x=%c0%ae", "%ff=1"]
)
def test_a_query_string_that_is_none_is_refused(admin: httpx.Client, query: str):
    for path in (QUERY, f"{EVENTS}/{uuid.uuid4()}"):
        refusal(admin.get(f"{path}?{query}"), 400, "bad_query")


def test_too_many_parameters_are_refused(admin: httpx.Client):
    refusal(admin.get(QUERY + "?" + "&".join(["tag=a"] * 101)), 400, "bad_query")
    assert admin.get(QUERY + "?" + "&".join(["tag=a"] * 100)).status_code == 200


def test_unknown_parameters_of_a_query_are_listed_in_a_warning(admin: httpx.Client):
    for accept in ("application/json", "application/x-ndjson"):
        response = admin.get(QUERY + "?limit=1&tenant_id=default&a%22%0d%0aX:=1", headers={"Accept": accept})
        assert response.status_code == 200
        assert response.headers["Warning"] == '299 allsource "ignored unknown: tenant_id, a???X:"'


@pytest.mark.parametrize("value", ["true", "True", "1"])
def test_spellings_of_a_dry_run(admin: httpx.Client, entity: str, value: str):
    response = admin.post(
        EVENTS, params={"dry_run": value}, json={"event_type": "a", "entity_id": entity, "payload": 1}
    )
    assert response.json()["dry_run"] is True


@pytest.mark.parametrize("name", ["null", "true", "1", "1e5", "-0"])
def test_names_that_look_like_other_values_are_names(admin: httpx.Client, name: str):
    append(admin, name, event_type=name, tags=[name])
    page = admin.get(QUERY, params={"entity_id": name, "event_type": name, "tag": name}).json()
    assert page["count"] >= 1
    assert {event["entity_id"] for event in page["events"]} == {name}


@pytest.mark.parametrize("name", ["dry_run", "force", "tenant_id", "Dry_Run"])
def test_parameters_of_an_append(admin: httpx.Client, entity: str, name: str):
    body = {"events": [{"event_type": "a", "entity_id": entity, "payload": 1}]}
    response = admin.post(f"{EVENTS}/batch", params={name: "maybe"}, json=body)
    assert places(refusal(response, 400, "bad_query")) == [f"query.{name}"]


def test_what_is_the_stores_own_is_not_to_be_read(admin: httpx.Client):
    """What the service knows of people comes before every other event; no way of asking leads there."""
    refusal(admin.get(QUERY, headers={"X-Tenant-ID": "_system"}), 400, "reserved_tenant")
    refusal(admin.get(QUERY, headers=bearer(tenant="_system")), 400, "reserved_tenant")
    assert admin.get(QUERY, params={"before_position": 4}).json()["events"] == []
    refusal(admin.get(QUERY, params={"tenant_id": "_system"}), 400, "reserved_tenant")
    assert admin.get(QUERY, params={"event_type": "user.password_set"}).json()["count"] == 0


def test_what_is_the_stores_own_is_not_to_be_guessed(start: Callable[..., Core]):
    """Ids are a function of time and position."""
    core = start(seeded=False).ready()
    started = next(line for line in core.log.splitlines() if "first_admin_created" in line)
    moment = started.partition('"timestamp":"')[2].partition('"')[0]
    around = to_microseconds(datetime.fromisoformat(moment)) // 1000
    with core.client({}) as anonymous:
        refusal(anonymous.post(LOGIN, json={"username": "nobody", "password": "no"}), 401, "invalid_credentials")
        answer = anonymous.post(LOGIN, json={"username": ADMIN, "password": PASSWORD}).json()
    assert "$argon2" not in str(answer)
    with core.client({"Authorization": f"Bearer {answer['token']}"}) as admin:
        for milliseconds in range(around - 100, around + 2):
            for position in range(1, 6):
                guessed = server_id(milliseconds * 1000, position)
                assert admin.get(f"{EVENTS}/{guessed}").status_code == 404
