"""Rate limits over HTTP: how fast a tenant may call, what each call costs, and what every answer says of it."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx
import pytest

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.routes import Access

from .service import ADMIN, BATCH, EVENTS, LOGIN, NDJSON, PASSWORD, QUERY, Core, bearer, new_tenant, refusal, until

LIMIT: Final = "X-RateLimit-Limit"
REMAINING: Final = "X-RateLimit-Remaining"
RESET: Final = "X-RateLimit-Reset"
UNLIMITED: Final = str(2**31 - 1)
TENANTS: Final = "/api/v1/tenants"
KEYS: Final = "/api/v1/auth/api-keys"
REGISTER: Final = "/api/v1/auth/register"
CLIENTS: Final = 16
SLOWLY: Final = 1
"""Tokens a minute: so few that a test never sees one flow in."""

AUTHENTICATED: Final = [
    pytest.param(row, id=row.operation)
    for row in CORE_ROUTES
    if row.access not in (Access.PUBLIC, Access.CONFIGURED, Access.GATEWAY)
]


def event() -> dict[str, Any]:
    return {"event_type": "a", "entity_id": f"entity-{uuid.uuid4()}", "payload": {}}


def batch(count: int) -> dict[str, Any]:
    return {"events": [event() for _ in range(count)]}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    service = Core(tmp_path_factory.mktemp("core")).ready()
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def root(core: Core) -> Iterator[httpx.Client]:
    """An administrator with a session."""
    with core.client({}) as client:
        signed_in = client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD}).json()
        client.headers["Authorization"] = f"Bearer {signed_in['token']}"
        yield client


class Limited:
    """A tenant with a rate limit, and somebody of it: an API key with the role ``developer``."""

    def __init__(self, core: Core, root: httpx.Client) -> None:
        self._root = root
        self.id = new_tenant(root)
        body = {"name": "k", "role": "developer", "tenant_id": self.id}
        made = root.post(KEYS, json=body).json()
        self.client = core.client({"X-API-Key": made["key"]})

    def limit(self, requests_per_minute: int, burst: int) -> Limited:
        body = {"requests_per_minute": requests_per_minute, "burst": burst}
        self._root.put(f"{TENANTS}/{self.id}/limits", json=body).raise_for_status()
        return self

    def get(self) -> httpx.Response:
        return self.client.get(QUERY)

    def left(self) -> int:
        """Tokens that are left when this question is paid for."""
        response = self.get()
        return int(response.headers[REMAINING]) if response.status_code == 200 else -1


@pytest.fixture
def limited(core: Core, root: httpx.Client) -> Iterator[Callable[[int, int], Limited]]:
    made: list[Limited] = []

    def make(requests_per_minute: int, burst: int) -> Limited:
        made.append(Limited(core, root).limit(requests_per_minute, burst))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


def refused(response: httpx.Response) -> int:
    """Assert that a call was too fast; how many seconds its caller is to wait."""
    refusal(response, 429, "rate_limited")
    assert response.headers[REMAINING] == "0"
    seconds = int(response.headers["Retry-After"])
    assert seconds >= 1
    return seconds


def test_a_tenant_made_anew_has_a_full_bucket(core: Core, root: httpx.Client, limited: Callable[[int, int], Limited]):
    one = limited(SLOWLY, 5)
    assert [one.left() for _ in range(6)] == [4, 3, 2, 1, 0, -1]
    root.delete(f"{TENANTS}/{one.id}").raise_for_status()
    root.post(TENANTS, json={"id": one.id, "name": "Next", "tier": "unlimited"}).raise_for_status()
    one.limit(SLOWLY, 5)
    made = root.post(KEYS, json={"name": "k", "role": "developer", "tenant_id": one.id}).json()
    with core.client({"X-API-Key": made["key"]}) as client:
        assert client.get(QUERY).headers[REMAINING] == "4"


@pytest.mark.parametrize("row", AUTHENTICATED)
def test_every_authenticated_answer_says_what_is_left(limited: Callable[[int, int], Limited], row: Any):
    """Whatever it answers, at what the route costs. The key may do less than half of it, and sends nonsense."""
    one = limited(SLOWLY, 50)
    path = re.sub(r"\{\w+\}", lambda _: str(uuid.uuid4()), row.path)
    for missing in (row.cost, 2 * row.cost):
        response = one.client.request(row.method, path, params={"no_such": "1"}, json=[] if row.request else None)
        assert response.status_code in (200, 400, 403, 404), response.text
        assert (response.headers[LIMIT], response.headers[REMAINING]) == ("50", str(50 - missing)), response.text
        # One flows in a minute.
        assert (missing - 1) * 60 < int(response.headers[RESET]) <= missing * 60


def test_successes_and_refusals_of_every_kind_say_what_is_left(limited: Callable[[int, int], Limited]):
    one = limited(SLOWLY, 50)
    client = one.client
    answers = [
        (client.post(EVENTS, json=event()), 201),
        (client.get(QUERY), 200),
        (client.get(QUERY, headers={"Accept": NDJSON["Content-Type"]}), 200),
        (client.head(QUERY, headers={"Accept": NDJSON["Content-Type"]}), 200),
        (client.get(QUERY, params={"min_position": 2**52}), 409),
        (client.get(QUERY, headers={"Accept": "image/png"}), 406),
        (client.post(EVENTS, content=b"x", headers={"Content-Type": "text/plain"}), 415),
        (client.post(EVENTS, json={**event(), "payload": "x" * 5_000_000}), 413),
        (client.get(f"{TENANTS}/{one.id}"), 200),
        (client.get(f"{TENANTS}/default"), 404),
        (client.get(QUERY, headers={"X-Tenant-ID": one.id}), 200),
        (client.get(QUERY, headers={"X-Tenant-ID": "default"}), 403),
        (client.get(QUERY, headers={"X-Tenant-ID": "_system"}), 400),
        (client.get(QUERY, headers=[("X-Tenant-ID", one.id), ("X-Tenant-ID", "default")]), 400),
        (client.post(REGISTER, json={"username": "x", "password": "a password of nobody"}), 403),
    ]
    taken = 0
    for response, status in answers:
        assert response.status_code == status, response.text
        # A stream of lines takes nine more than a page.
        taken += 10 if response.headers["Content-Type"].startswith(NDJSON["Content-Type"]) else 1
        assert (response.headers[LIMIT], response.headers[REMAINING]) == ("50", str(50 - taken)), response.url


def test_answers_of_a_tenant_without_limit_say_so(root: httpx.Client):
    lines = {"Accept": NDJSON["Content-Type"]}
    answers = [root.get(QUERY), root.get(QUERY, headers=lines), root.get(QUERY, params={"limit": "0"})]
    answers += [root.get(QUERY, headers={"X-Tenant-ID": "nobody"}), root.post(REGISTER, json={})]
    for response in answers:
        headers = response.headers
        assert (headers[LIMIT], headers[REMAINING], headers[RESET]) == (UNLIMITED, UNLIMITED, "0"), response.text


def test_what_nobody_is_known_for_says_nothing(core: Core):
    with core.client({}) as client:
        for response in (client.get(QUERY), client.get("/health"), client.get("/api/v1/nothing")):
            assert LIMIT not in response.headers


def test_beyond_the_burst_calls_are_refused_until_a_token_has_flown_in(limited: Callable[[int, int], Limited]):
    one = limited(60, 3)
    assert [one.get().status_code for _ in range(3)] == [200] * 3
    # At most one has flown in meanwhile, unless the machine stood still for a second.
    answers = [one.get() for _ in range(3)]
    while all(answer.status_code == 200 for answer in answers):
        answers = [one.get() for _ in range(3)]
    seconds = next(refused(answer) for answer in answers if answer.status_code == 429)
    assert seconds == 1
    time.sleep(seconds)
    assert one.get().status_code == 200


def test_what_is_refused_is_not_done(limited: Callable[[int, int], Limited], root: httpx.Client):
    one = limited(SLOWLY, 2)
    assert [one.client.post(EVENTS, json=event()).status_code for _ in range(2)] == [201, 201]
    for response in (one.client.post(EVENTS, json=event()), one.client.post(BATCH, json=batch(2))):
        assert 1 < refused(response) <= 60
    events = root.get(QUERY, headers={"X-Tenant-ID": one.id}).json()
    assert events["count"] == 2


def test_a_batch_costs_as_many_requests_as_it_has_hundreds_of_events(limited: Callable[[int, int], Limited]):
    one = limited(SLOWLY, 100)
    lines = b"\n".join(json.dumps(event()).encode() for _ in range(500))
    for response, left in (
        (one.client.post(BATCH, json=batch(1_000)), 89),
        (one.client.post(BATCH, content=lines, headers=NDJSON), 83),
        (one.client.post(BATCH, json=batch(50)), 81),
        (one.client.post(BATCH, json=batch(50)), 80),
        (one.client.post(BATCH, json=batch(1_000), params={"dry_run": "true"}), 69),
    ):
        assert response.is_success, response.text
        assert int(response.headers[REMAINING]) == left


def test_a_batch_that_there_are_not_enough_tokens_for_is_not_stored(
    limited: Callable[[int, int], Limited], root: httpx.Client
):
    one = limited(SLOWLY, 20)
    assert one.client.post(BATCH, json=batch(1_000)).status_code == 201
    response = one.client.post(BATCH, json=batch(1_000))
    refusal(response, 429, "rate_limited")
    # 9 are left, and it needs 11: it took none.
    assert response.headers[REMAINING] == "9"
    assert 60 <= int(response.headers["Retry-After"]) <= 120
    page = root.get(QUERY, headers={"X-Tenant-ID": one.id}, params={"limit": 10_000}).json()
    assert page["count"] == 1_000


def test_no_call_costs_more_than_the_burst(limited: Callable[[int, int], Limited]):
    for burst in (1, 3):
        one = limited(SLOWLY, burst)
        response = one.client.post(BATCH, json=batch(2_000))
        assert (response.status_code, response.headers[REMAINING]) == (201, "0")
        refused(one.get())
    dear = max((row.values[0] for row in AUTHENTICATED), key=lambda row: row.cost)
    one = limited(SLOWLY, dear.cost - 1)
    response = one.client.request(dear.method, dear.path)
    assert (response.status_code, response.headers[REMAINING]) == (403, "0")


def test_another_limit_holds_from_the_next_request(limited: Callable[[int, int], Limited]):
    one = limited(SLOWLY, 2)
    assert [one.get().status_code for _ in range(3)] == [200, 200, 429]
    one.limit(600_000_000, 10)
    response = one.get()
    assert response.headers[LIMIT] == "10"
    # The bucket was empty, but it fills in a microsecond.
    until(lambda: one.get().status_code == 200)
    one.limit(0, 0)
    response = one.get()
    assert (response.status_code, response.headers[LIMIT]) == (200, UNLIMITED)
    one.limit(SLOWLY, 1)
    answers = [one.get() for _ in range(2)]
    assert [answer.headers[LIMIT] for answer in answers] == ["1", "1"]
    refused(answers[1])


def test_a_limit_is_that_of_one_tenant(limited: Callable[[int, int], Limited]):
    one, other = limited(SLOWLY, 3), limited(SLOWLY, 3)
    assert [one.get().status_code for _ in range(5)] == [200, 200, 200, 429, 429]
    assert [other.left() for _ in range(4)] == [2, 1, 0, -1]


def test_everybody_of_a_tenant_takes_from_one_bucket(
    core: Core, root: httpx.Client, limited: Callable[[int, int], Limited]
):
    one = limited(SLOWLY, 4)
    another = root.post(KEYS, json={"name": "k", "tenant_id": one.id}).json()["key"]
    with core.client({"X-API-Key": another}) as client:
        assert [client.get(QUERY).headers[REMAINING] for _ in range(2)] == ["3", "2"]
        assert one.left() == 1
        assert client.get(QUERY).headers[REMAINING] == "0"
        refused(one.get())
        refused(client.get(QUERY))


def test_working_in_another_tenant_is_paid_for_by_ones_own(start: Callable[..., Core]):
    core = start().ready()
    with core.client() as admin:
        tenant = new_tenant(admin)
        admin.put(f"{TENANTS}/{tenant}/limits", json={"requests_per_minute": SLOWLY, "burst": 2}).raise_for_status()
        named = bearer(tenant=tenant)
        for _ in range(5):
            response = admin.get(QUERY, headers=named)
            assert (response.status_code, response.headers[LIMIT]) == (200, UNLIMITED)
        body = {"requests_per_minute": SLOWLY, "burst": 3}
        admin.put(f"{TENANTS}/default/limits", json=body).raise_for_status()
        with core.client(bearer("developer")) as developer:
            assert admin.get(QUERY, headers=named).headers[REMAINING] == "2"
            assert developer.get(QUERY).headers[REMAINING] == "1"
            assert admin.post(EVENTS, json=event(), headers=named).headers[REMAINING] == "0"
            refused(admin.get(QUERY, headers=named))
            refused(developer.get(QUERY))


def test_sixteen_at_once_get_no_more_than_burst_and_refill(core: Core, limited: Callable[[int, int], Limited]):
    """Requests and batches, whose tokens are counted against the time that all of them took together."""
    burst, a_second = 60, 1
    one = limited(a_second * 60, burst)
    large = json.dumps(batch(400)).encode()

    def run(number: int) -> tuple[int, int]:
        """Tokens of what was admitted, and how many refusals."""
        tokens = refusals = 0
        with core.client({"X-API-Key": one.client.headers["X-API-Key"]}) as client:
            for turn in range(30):
                if (turn + number) % 5:
                    response, cost = client.get(QUERY, params={"limit": 1}), 1
                else:
                    response, cost = client.post(BATCH, content=large, headers={"Content-Type": "application/json"}), 5
                assert response.status_code in (200, 201, 429), response.text
                admitted = response.status_code != 429
                tokens += cost if admitted else 0
                refusals += not admitted
        return tokens, refusals

    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        counts = list(pool.map(run, range(CLIENTS)))
    seconds = time.monotonic() - begun
    tokens, refusals = (sum(numbers) for numbers in zip(*counts, strict=True))
    assert tokens <= burst + seconds * a_second
    assert tokens >= burst - 5
    # They asked for more than they were given: the bound was tried.
    assert refusals > 0
