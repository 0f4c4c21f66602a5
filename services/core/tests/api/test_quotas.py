"""Quotas over HTTP: what a tenant may use, to the last event and byte, and what refusals say."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from .service import (
    ADMIN,
    BATCH,
    EVENTS,
    LOGIN,
    NDJSON,
    PASSWORD,
    QUERY,
    Core,
    bearer,
    new_tenant,
    refusal,
    until,
    within_an_hour,
)

TENANTS: Final = "/api/v1/tenants"
KEYS: Final = "/api/v1/auth/api-keys"
NAMES: Final = (
    "max_events_per_day",
    "max_storage_bytes",
    "max_queries_per_hour",
    "max_api_keys",
    "max_projections",
    "max_pipelines",
)
CLIENTS: Final = 16
PAYLOAD: Final = {"text": "x" * 50}
EVENT_BYTES: Final = len("cart") + len("added") + len(json.dumps(PAYLOAD, separators=(",", ":")))


def event(**more: Any) -> dict[str, Any]:
    return {"event_type": "added", "entity_id": "cart", "payload": PAYLOAD, **more}


def batch(count: int, **more: Any) -> dict[str, Any]:
    return {"events": [event(**more) for _ in range(count)]}


class Account:
    """A tenant with quotas, as an administrator who works in it."""

    def __init__(self, admin: httpx.Client, **quotas: int) -> None:
        self.admin = admin
        self.id = new_tenant(admin, quotas=quotas)
        self.headers = bearer(tenant=self.id)

    def append(self, **more: Any) -> httpx.Response:
        return self.admin.post(EVENTS, json=event(**more), headers=self.headers)

    def append_batch(self, body: dict[str, Any], **parameters: str) -> httpx.Response:
        return self.admin.post(BATCH, json=body, headers=self.headers, params=parameters)

    def query(self) -> httpx.Response:
        return self.admin.get(QUERY, headers=self.headers)

    def allow(self, **quotas: int) -> None:
        body = {**dict.fromkeys(NAMES, 0), **quotas}
        self.admin.put(f"{TENANTS}/{self.id}/quotas", json=body).raise_for_status()

    def used(self, name: str) -> int:
        used: int = self.admin.get(f"{TENANTS}/{self.id}/stats").json()["usage"][name]["used"]
        return used

    def stored(self) -> list[dict[str, Any]]:
        """Every event of the tenant. Costs a query."""
        response = self.admin.get(QUERY, headers={**self.headers, "Accept": NDJSON["Content-Type"]})
        assert response.status_code == 200, response.text
        return [json.loads(line) for line in response.text.splitlines()]


Open = Callable[..., Account]


@pytest.fixture
def opened(admin: httpx.Client) -> Open:
    return lambda **quotas: Account(admin, **quotas)


@pytest.fixture(autouse=True)
def one_hour() -> None:
    """Of every test here."""
    within_an_hour()


def seconds_of(response: httpx.Response, expected: int, actual: int, window: int) -> None:
    """Assert that a quota which begins anew by itself was refused, and says when that is."""
    problem = refusal(response, 429, "quota_exceeded")
    assert (problem["expected"], problem["actual"]) == (expected, actual)
    left = window - time.time() % window
    assert 0 < int(response.headers["Retry-After"]) <= window
    # Both clocks are the same; a minute passes between the two looks at it only if the machine stands still.
    assert abs(int(response.headers["Retry-After"]) - left) < 60


class TestEventsADay:
    def test_the_last_one_is_stored_and_the_next_refused(self, opened: Open):
        account = opened(max_events_per_day=3)
        assert [account.append().status_code for _ in range(3)] == [201, 201, 201]
        for _ in range(2):
            seconds_of(account.append(), 3, 3, 86_400)
        assert len(account.stored()) == account.used("events_today") == 3

    def test_a_batch_is_stored_whole_or_not_at_all(self, opened: Open):
        account = opened(max_events_per_day=10)
        assert account.append_batch(batch(4)).status_code == 201
        seconds_of(account.append_batch(batch(7)), 10, 4, 86_400)
        lines = "\n".join(json.dumps(event()) for _ in range(7))
        seconds_of(account.admin.post(BATCH, content=lines, headers={**account.headers, **NDJSON}), 10, 4, 86_400)
        assert len(account.stored()) == 4
        assert account.append_batch(batch(6)).status_code == 201
        seconds_of(account.append(), 10, 10, 86_400)
        assert len(account.stored()) == account.used("events_today") == 10

    def test_what_stores_nothing_costs_nothing(self, opened: Open):
        account = opened(max_events_per_day=10)
        event_id = str(uuid.uuid4())
        assert account.append(event_id=event_id).status_code == 201
        for _ in range(12):
            assert account.append(event_id=event_id).json()["duplicate"] is True
            assert account.append_batch(batch(9), dry_run="true").json()["dry_run"] is True
            refusal(account.append(expected_version=7), 409, "version_conflict")
            failing = {"condition": {"fail_if_events_match": [{"event_types": ["added"]}]}}
            refusal(account.append_batch({**batch(9), **failing}), 409, "condition_failed")
            refusal(account.append_batch({"events": [event(), event(entity_id="..")]}), 400, "invalid_event")
            refusal(account.append(event_id=event_id, event_type="removed"), 409, "event_id_conflict")
        assert account.used("events_today") == 1
        assert account.append_batch(batch(9)).status_code == 201
        assert len(account.stored()) == account.used("events_today") == 10

    def test_a_dry_run_tells_what_would_be_refused(self, opened: Open):
        account = opened(max_events_per_day=2)
        seconds_of(account.append_batch(batch(3), dry_run="true"), 2, 0, 86_400)
        assert account.append_batch(batch(2), dry_run="true").status_code == 200
        assert account.stored() == []

    def test_a_repetition_is_answered_though_the_quota_is_used_up(self, opened: Open):
        account = opened(max_events_per_day=3)
        ids = [str(uuid.uuid4()) for _ in range(2)]
        single = account.append(event_id=ids[0])
        several = {"events": [event(event_id=ids[1]), event(event_id=str(uuid.uuid4()))]}
        first = account.append_batch(several)
        assert (single.status_code, first.status_code) == (201, 201)
        again = account.append(event_id=ids[0])
        assert (again.status_code, again.json()) == (200, {**single.json(), "duplicate": True})
        again = account.append_batch(several)
        assert (again.status_code, again.json()["duplicate"]) == (200, True)
        assert again.json()["events"] == first.json()["events"]
        seconds_of(account.append(event_id=str(uuid.uuid4())), 3, 3, 86_400)
        seconds_of(account.append(event_id=ids[0], event_type="removed"), 3, 3, 86_400)
        assert account.used("events_today") == 3

    def test_a_change_holds_at_once(self, opened: Open):
        account = opened(max_events_per_day=1)
        assert account.append().status_code == 201
        refusal(account.append(), 429, "quota_exceeded")
        account.allow(max_events_per_day=2)
        assert account.append().status_code == 201
        refusal(account.append(), 429, "quota_exceeded")
        account.allow(max_events_per_day=1)
        seconds_of(account.append(), 1, 2, 86_400)
        account.allow()
        assert account.append().status_code == 201

    def test_it_is_that_of_the_tenant_worked_in(self, core: Core, opened: Open):
        account, other = opened(max_events_per_day=1), opened(max_events_per_day=1)
        own = core.client(bearer("developer"))
        with own:
            before = own.get(f"{TENANTS}/default/stats").json()["usage"]["events_today"]["used"]
            assert account.append().status_code == 201
            refusal(account.append(), 429, "quota_exceeded")
            assert own.get(f"{TENANTS}/default/stats").json()["usage"]["events_today"]["used"] == before
        assert other.append().status_code == 201


class TestStorage:
    def test_bytes_are_counted_to_the_last(self, opened: Open):
        account = opened(max_storage_bytes=3 * EVENT_BYTES)
        assert [account.append().status_code for _ in range(3)] == [201, 201, 201]
        problem = refusal(account.append(), 403, "quota_exceeded")
        assert (problem["expected"], problem["actual"]) == (3 * EVENT_BYTES, 3 * EVENT_BYTES)
        assert "max_storage_bytes" in problem["detail"]
        assert len(account.stored()) == 3
        until(lambda: account.used("storage_bytes") == 3 * EVENT_BYTES)

    def test_a_byte_too_many_refuses_a_whole_batch(self, opened: Open):
        account = opened(max_storage_bytes=5 * EVENT_BYTES - 1)
        refusal(account.append_batch(batch(5)), 403, "quota_exceeded")
        assert account.stored() == []
        assert account.append_batch(batch(4)).status_code == 201
        refusal(account.append(), 403, "quota_exceeded")
        assert account.append(payload={"text": "x" * 49}).status_code == 201
        refusal(account.append(payload=None, event_type="a", entity_id="b"), 403, "quota_exceeded")
        assert len(account.stored()) == 5

    def test_what_stores_nothing_costs_nothing(self, opened: Open):
        account = opened(max_storage_bytes=10 * EVENT_BYTES)
        event_id = str(uuid.uuid4())
        assert account.append(event_id=event_id).status_code == 201
        for _ in range(12):
            assert account.append(event_id=event_id).json()["duplicate"] is True
            assert account.append_batch(batch(9), dry_run="true").json()["dry_run"] is True
            refusal(account.append(expected_version=7), 409, "version_conflict")
            refusal(account.append_batch({"events": [event(), event(entity_id="..")]}), 400, "invalid_event")
        assert account.append_batch(batch(9)).status_code == 201
        refusal(account.append(), 403, "quota_exceeded")

    def test_removing_gives_room_back(self, opened: Open):
        account = opened(max_storage_bytes=3 * EVENT_BYTES)
        assert account.append_batch(batch(2)).status_code == 201
        assert account.append(entity_id="sofa").status_code == 201
        refusal(account.append(), 403, "quota_exceeded")
        account.admin.delete("/api/v1/entities/cart", headers=account.headers).raise_for_status()
        until(lambda: account.used("storage_bytes") == EVENT_BYTES)
        assert account.append_batch(batch(2, entity_id="desk")).status_code == 201
        refusal(account.append(entity_id="desk"), 403, "quota_exceeded")

    def test_a_change_holds_at_once(self, opened: Open):
        account = opened(max_storage_bytes=EVENT_BYTES)
        assert account.append().status_code == 201
        refusal(account.append(), 403, "quota_exceeded")
        account.allow(max_storage_bytes=2 * EVENT_BYTES)
        assert account.append().status_code == 201
        refusal(account.append(), 403, "quota_exceeded")


class TestQueriesAnHour:
    def test_the_last_one_is_answered_and_the_next_refused(self, opened: Open):
        account = opened(max_queries_per_hour=5)
        event_id = account.append().json()["event_id"]
        assert account.query().status_code == 200
        assert len(account.stored()) == 1
        assert account.admin.get(f"{EVENTS}/{event_id}", headers=account.headers).status_code == 200
        refusal(account.admin.get(f"{EVENTS}/{uuid.uuid4()}", headers=account.headers), 404, "not_found")
        assert account.query().status_code == 200
        assert account.used("queries_this_hour") == 5
        for refused in (
            account.query(),
            account.admin.get(f"{EVENTS}/{event_id}", headers=account.headers),
            account.admin.get(QUERY, headers={**account.headers, "Accept": NDJSON["Content-Type"]}),
        ):
            seconds_of(refused, 5, 5, 3_600)
        assert account.append().status_code == 201
        assert account.used("queries_this_hour") == 5

    def test_a_query_that_can_not_be_costs_nothing(self, opened: Open):
        account = opened(max_queries_per_hour=1)
        refusal(account.admin.get(QUERY, params={"limit": "0"}, headers=account.headers), 400, "bad_query")
        refusal(account.admin.get(QUERY, params={"cursor": "x"}, headers=account.headers), 400, "invalid_cursor")
        assert account.used("queries_this_hour") == 0
        assert account.query().status_code == 200

    def test_a_change_holds_at_once(self, opened: Open):
        account = opened(max_queries_per_hour=1)
        assert account.query().status_code == 200
        refusal(account.query(), 429, "quota_exceeded")
        account.allow(max_queries_per_hour=2)
        assert account.query().status_code == 200
        refusal(account.query(), 429, "quota_exceeded")


@pytest.fixture(scope="module")
def signed_in(core: Core) -> Iterator[httpx.Client]:
    """An administrator with a session, who may make keys."""
    with core.client({}) as client:
        answer = client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD})
        client.headers["Authorization"] = f"Bearer {answer.json()['token']}"
        yield client


class TestApiKeys:
    def test_the_last_one_is_made_and_the_next_refused_until_one_is_revoked(
        self, signed_in: httpx.Client, opened: Open
    ):
        account = opened(max_api_keys=2)
        body = {"name": "k", "tenant_id": account.id}
        made = [signed_in.post(KEYS, json=body).json() for _ in range(2)]
        problem = refusal(signed_in.post(KEYS, json=body), 403, "quota_exceeded")
        assert (problem["expected"], problem["actual"]) == (2, 2)
        assert signed_in.get(KEYS, params={"tenant_id": account.id}).json()["count"] == 2
        assert signed_in.post(f"{KEYS}/{made[0]['id']}/rotate").status_code == 200
        assert signed_in.delete(f"{KEYS}/{made[0]['id']}").status_code == 204
        assert signed_in.post(KEYS, json=body).status_code == 201
        refusal(signed_in.post(KEYS, json=body), 403, "quota_exceeded")
        account.allow(max_api_keys=3)
        assert signed_in.post(KEYS, json=body).status_code == 201

    def test_sixteen_at_once_make_no_more_than_allowed(self, core: Core, signed_in: httpx.Client, opened: Open):
        account = opened(max_api_keys=5)
        answers = at_once(
            core, lambda client: client.post(KEYS, json={"name": "k", "tenant_id": account.id}).status_code, signed_in
        )
        assert Counter(answers) == {201: 5, 403: CLIENTS - 5}
        assert signed_in.get(KEYS, params={"tenant_id": account.id}).json()["count"] == 5


def at_once(core: Core, call: Callable[[httpx.Client], Any], caller: httpx.Client) -> list[Any]:
    """What sixteen clients get that call at the same time, as somebody."""

    def run(_: int) -> Any:
        with core.client({"Authorization": caller.headers["Authorization"]}) as client:
            return call(client)

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(run, range(CLIENTS)))


class TestAtOnce:
    """Sixteen clients, singles and batches, on one quota."""

    def storm(self, core: Core, account: Account, rounds: int) -> Counter[int]:
        """How many events were answered as stored (by 201), and how many requests as refused, by status."""

        def run(client: httpx.Client) -> Counter[int]:
            answers: Counter[int] = Counter()
            for number in range(rounds):
                size = (1, 3, 7)[number % 3]
                if size == 1:
                    response = client.post(EVENTS, json=event(), headers=account.headers)
                else:
                    response = client.post(BATCH, json=batch(size), headers=account.headers)
                answers[response.status_code] += size if response.status_code == 201 else 1
            return answers

        return sum(at_once(core, run, account.admin), Counter())

    def test_exactly_the_events_of_a_day_are_stored(self, core: Core, opened: Open):
        account = opened(max_events_per_day=500)
        answers = self.storm(core, account, 21)
        assert set(answers) == {201, 429}
        assert answers[201] <= 500
        # A batch that found no room may have held a reservation that a single would have fitted into.
        for _ in range(500 - answers[201]):
            assert account.append().status_code == 201
        seconds_of(account.append(), 500, 500, 86_400)
        assert len(account.stored()) == account.used("events_today") == 500

    def test_exactly_the_bytes_are_stored(self, core: Core, opened: Open):
        account = opened(max_storage_bytes=300 * EVENT_BYTES)
        answers = self.storm(core, account, 21)
        assert set(answers) == {201, 403}
        assert answers[201] <= 300
        until(lambda: account.used("storage_bytes") == answers[201] * EVENT_BYTES)
        for _ in range(300 - answers[201]):
            assert account.append().status_code == 201
        refusal(account.append(), 403, "quota_exceeded")
        assert len(account.stored()) == 300

    def test_exactly_the_queries_of_an_hour_are_answered(self, core: Core, opened: Open):
        account = opened(max_queries_per_hour=100)

        def run(client: httpx.Client) -> Counter[int]:
            return Counter(client.get(QUERY, headers=account.headers).status_code for _ in range(20))

        answers = sum(at_once(core, run, account.admin), Counter())
        assert answers == {200: 100, 429: CLIENTS * 20 - 100}


def test_after_a_crash_what_is_used_is_what_is_stored(start: Callable[..., Core]):
    core = start().ready()
    with core.client() as admin, ThreadPoolExecutor(4) as pool:
        account = Account(admin, max_events_per_day=100_000, max_storage_bytes=10**9, max_queries_per_hour=1_000)

        def hammer(number: int) -> int:
            acknowledged = 0
            with core.client() as client:
                try:
                    while True:
                        size = 1 + (acknowledged + number) % 7
                        response = client.post(BATCH, json=batch(size), headers=account.headers)
                        acknowledged += size if response.status_code == 201 else 0
                except httpx.HTTPError:
                    return acknowledged

        hammering = [pool.submit(hammer, number) for number in range(4)]
        # Those that were stored and not yet acknowledged are four batches at most.
        until(lambda: account.used("events_today") > 500 + 4 * 7)
        account.query()
        core.kill()
        acknowledged = sum(future.result() for future in hammering)
    core = start().ready()
    with core.client() as admin:
        account.admin = admin
        assert account.used("queries_this_hour") <= 1
        stored = account.stored()
        assert len(stored) >= acknowledged > 500
        assert account.used("events_today") == len(stored)
        assert account.used("storage_bytes") == len(stored) * EVENT_BYTES
        account.allow(max_events_per_day=len(stored) + 1, max_storage_bytes=(len(stored) + 2) * EVENT_BYTES)
        assert account.append().status_code == 201
        refusal(account.append(), 429, "quota_exceeded")


# A write of the log fails for as long as a file is there. The ledger asks the store for nothing that is uncertain: it
# does not where something of the tenant is always under way.
FAILING = """
import sys
from pathlib import Path
from allsource_core import __main__ as entry
from allsource_core.engine.log_writer import LogWriter
from allsource_core.tenancy.usage import UsageLedger

commit = LogWriter.commit

def commit_unless(writer, records):
    if Path(FAIL).exists():
        raise OSError(5, "the disk fails")
    commit(writer, records)

LogWriter.commit = commit_unless
UsageLedger._settle_uncertain = lambda ledger: None
sys.exit(entry.main())
"""


def test_what_the_disk_did_not_take_is_given_back_at_once(start: Callable[..., Core], tmp_path: Path):
    fail = tmp_path / "fail"
    core = start(program=("-c", FAILING.replace("FAIL", repr(str(fail)), 1))).ready()
    with core.client() as admin:
        account = Account(admin, max_events_per_day=2, max_storage_bytes=2 * EVENT_BYTES)
        assert account.append().status_code == 201
        for _ in range(3):
            fail.touch()
            refusal(account.append(), 503, "append_uncertain")
            fail.unlink()
        assert account.used("events_today") == 1
        assert account.append().status_code == 201
        refusal(account.append(), 429, "quota_exceeded")
        assert len(account.stored()) == 2
