"""The names of a request: echoed where they are fit to be, made where not."""

from __future__ import annotations

import asyncio
import re

import pytest

from allsource_shared.context import add_request_ids, begin_request

PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


@pytest.mark.parametrize("request_id", ["a", "abc-123", "A.b_c:d@e=f+g/h-i", "9" * 128])
def test_a_fit_request_id_is_kept(request_id: str):
    assert begin_request(request_id, None).request_id == request_id


@pytest.mark.parametrize(
    "request_id",
    [
        None,
        "",
        " ",
        "a b",
        "a\n",
        "a\r\nX: y",
        "a\0",
        "ä",
        "\udcff",
        "a;b",
        'a"b',
        "<a>",
        "{a}",
        "9" * 129,
        "a" * 10_000,
    ],
)
def test_an_unfit_request_id_is_replaced(request_id: str | None):
    made = begin_request(request_id, None).request_id
    assert re.fullmatch("[0-9a-f]{32}", made)


def test_made_ids_differ():
    assert len({begin_request(None, None).request_id for _ in range(100)}) == 100


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_valid_traceparent_is_carried_on(flags: str):
    parent = PARENT[:-2] + flags
    ids = begin_request(None, parent)
    assert (ids.trace_id, ids.traceparent) == ("0123456789abcdef0123456789abcdef", parent)


@pytest.mark.parametrize("more", ["", "-", "-what is to come", "-" + "a" * 70_000, "-\xff"])
def test_of_a_later_version_what_is_known_is_carried_on(more: str):
    parent = PARENT.replace("00-", "01-", 1)
    ids = begin_request(None, parent + more)
    assert (ids.trace_id, ids.traceparent) == ("0123456789abcdef0123456789abcdef", parent)


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        "x",
        PARENT[:-3],
        PARENT + "-x",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        PARENT.replace("-", "_"),
        f"00-{'0' * 32}-0123456789abcdef-01",
        f"00-0123456789abcdef0123456789abcdef-{'0' * 16}-01",
        PARENT + "\r\nX: y",
        "00-" + "g" * 32 + "-0123456789abcdef-01",
        "x" * 10_000,
    ],
)
def test_an_invalid_traceparent_begins_a_new_trace(traceparent: str | None):
    ids = begin_request(None, traceparent)
    assert re.fullmatch("00-([0-9a-f]{32})-[0-9a-f]{16}-01", ids.traceparent)
    assert ids.traceparent.split("-")[1] == ids.trace_id
    assert ids.trace_id != "0123456789abcdef0123456789abcdef"


def test_concurrent_requests_do_not_see_each_other():
    async def serve(name: str) -> dict[str, str]:
        begin_request(name, None)
        await asyncio.sleep(0)
        return dict(add_request_ids(None, "info", {}))

    async def both() -> list[dict[str, str]]:
        return await asyncio.gather(serve("one"), serve("two"))

    assert [event["request_id"] for event in asyncio.run(both())] == ["one", "two"]


def test_ids_that_a_line_brings_along_are_kept():
    begin_request("mine", PARENT)
    assert add_request_ids(None, "info", {"request_id": "other"})["request_id"] == "other"
