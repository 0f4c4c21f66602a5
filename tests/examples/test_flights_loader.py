"""Loading against a store in memory: retries, duplicates, refusals."""

from __future__ import annotations

import asyncio
from io import StringIO
from typing import Any

import httpx
import msgspec
import pytest

from examples.flights.events import all_events
from examples.flights.gateway import GatewayError, Patience, sign_in
from examples.flights.loader import LoadReport, load
from examples.flights.progress import ProgressLines

QUICK = Patience(total=60.0, first_wait=0.001, longest_wait=0.002)
OVER_AT_ONCE = Patience(total=0.01, first_wait=0.001, longest_wait=0.004)


@pytest.fixture
def events(january, reference):
    return list(all_events(january[:200], reference))


def run(store, events, **options: Any) -> LoadReport:
    options = {"token": "t", "batch_size": 100, "patience": QUICK, "progress": False} | options
    return asyncio.run(
        load("http://gateway.test", events=events, transport=httpx.MockTransport(store), **options),
    )


def test_every_event_is_stored_once_and_in_order_of_its_flight(store, events):
    report = run(store, events)
    assert (report.events, report.duplicates) == (len(events), 0)
    assert list(store.events) == [event.event_id for event in events]
    assert report.events_per_second > 0


def test_request_is_what_the_gateway_expects(store, events):
    run(store, events[:3])
    request = store.requests[0]
    assert (request.method, request.url) == ("POST", "http://gateway.test/api/v1/events/batch")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Prefer"] == "return=minimal"
    first = msgspec.json.decode(request.content)["events"][0]
    assert set(first) == {"event_type", "entity_id", "payload", "tags", "timestamp", "event_id"}


def test_second_run_finds_only_duplicates(store, events):
    run(store, events)
    report = run(store, events)
    assert (report.events, report.duplicates) == (len(events), len(events))
    assert len(store.events) == len(events)


@pytest.mark.parametrize("size", [3, 30, 70, 10_000])
def test_another_batch_size_stores_nothing_twice(store, events, size):
    run(store, events[: len(events) // 2 // 3 * 3])
    report = run(store, events, batch_size=size)
    assert report.events == len(events) == len(store.events)


def test_longer_run_after_a_short_one_stores_the_rest(store, january, reference, events):
    run(store, all_events(january[:70], reference))
    before = len(store.events)
    report = run(store, events)
    assert (report.events, report.duplicates) == (len(events), before)
    assert list(store.versions.values()).count(0) == 0
    assert len(store.events) == len(events)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_batch_is_sent_again_when_the_gateway_is_busy(store, events, refuse, status):
    store.failures = [refuse(status, "busy", "come back later")] * 3
    report = run(store, events, connections=1)
    assert (report.events, report.retries) == (len(events), 3)


def test_batch_is_sent_again_after_a_broken_connection(store, events):
    store.failures = [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")]
    assert run(store, events).retries == 2
    assert len(store.events) == len(events)


def test_batch_whose_answer_got_lost_is_not_stored_twice(store, events):
    store.lost_answers = 1
    report = run(store, events, connections=1)
    assert report.events == len(events) == len(store.events)
    assert report.duplicates == store.sizes[0]


def test_wait_that_the_gateway_asks_for_is_kept(store, events, refuse, monkeypatch):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("examples.flights.gateway.asyncio.sleep", sleep)
    store.failures = [refuse(429, "rate_limited", "slow down", **{"Retry-After": "7"})]
    run(store, events, patience=Patience(), connections=1)
    assert waits == [7.0]


def test_waits_double_up_to_the_longest(store, events, refuse, monkeypatch):
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("examples.flights.gateway.asyncio.sleep", sleep)
    monkeypatch.setattr("examples.flights.gateway.random.uniform", lambda least, most: most)
    store.failures = [refuse(503, "starting", "recovering")] * 7
    run(store, events, patience=Patience(), connections=1)
    assert waits == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]


def test_patience_ends_with_the_gateways_reason(store, events, refuse):
    store.failures = [refuse(503, "read_only", "the disk is full")] * 1000
    with pytest.raises(GatewayError, match=r"gave up .* 503 read_only: the disk is full"):
        run(store, events, patience=OVER_AT_ONCE)


@pytest.mark.parametrize("status, error", [(400, "invalid_event"), (403, "forbidden"), (500, "internal_error")])
def test_refusal_is_not_tried_again_and_says_why(store, events, refuse, status, error):
    store.failures = [refuse(status, error, "this is why")] * 4
    with pytest.raises(GatewayError, match=f"{status} {error}: this is why") as raised:
        run(store, events, connections=1)
    assert raised.value.status == status
    assert len(store.requests) == 1


def test_expired_token_is_named(store, events):
    with pytest.raises(GatewayError, match="401 unauthorized: the token has expired"):
        run(store, events, token="old")


def test_flight_that_the_store_has_in_part_is_an_error(store, events):
    store.events[events[0].event_id] = {"position": 1}
    with pytest.raises(GatewayError, match="409 event_id_conflict"):
        run(store, events)


def test_only_as_many_batches_as_connections_are_drawn_ahead(store, events):
    drawn = 0
    ahead = []

    def counted():
        nonlocal drawn
        for event in events:
            drawn += 1
            yield event

    def watching(request: httpx.Request) -> httpx.Response:
        answer = store(request)
        ahead.append(drawn - len(store.events))
        return answer

    run(watching, counted(), batch_size=30, connections=2)
    assert max(ahead) <= 2 * 30 + 3


def test_sign_in_gives_the_token_and_says_why_it_is_refused(store):
    transport = httpx.MockTransport(store)
    assert asyncio.run(sign_in("http://gateway.test", "ann", "right", transport=transport)) == "t"
    with pytest.raises(GatewayError, match="401 invalid_credentials: wrong"):
        asyncio.run(sign_in("http://gateway.test", "ann", "guess", transport=transport))


def test_absent_gateway_and_bad_address_are_explained():
    with pytest.raises(GatewayError, match="does the gateway run there"):
        asyncio.run(sign_in("http://127.0.0.1:9", "ann", "right"))
    with pytest.raises(GatewayError, match="is not a URL"):
        asyncio.run(sign_in("127.0.0.1:8081", "ann", "right"))


def test_progress_without_a_terminal_is_lines_with_rate_and_time_left():
    out = StringIO()
    lines = ProgressLines(2000, out, seconds=0.0)
    lines.update(500)
    lines.update(1500)
    first, last = out.getvalue().splitlines()
    assert first.startswith("500 of 2,000 events, ")
    assert first.endswith(" s left")
    assert last.startswith("2,000 of 2,000 events, ")
    assert last.endswith("/s, 0 s left")
