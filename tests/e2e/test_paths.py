"""Whatever way a path is written, gateway and core read the same resource, or both refuse it.

Two forms are the gateway's alone, as its server takes off what is around the path: ``http://host`` in front of it and a
fragment behind it. The core, asked itself, refuses both.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tools.stack import Stack

from .callers import Headers, People, bearer
from .conftest import GATEWAY_KEY
from .wire import Answer, exchange

PIECES = ["api", "v1", "events", "query", "batch", "health", "..", ".", "", "internal", "a b", "é", "%", "x"]
PIECES += ["entities", "retention", "operations", "erase", "tenants", "auth", "users", "stats", "metrics"]

PREFIXES: Final = ["a", "A", "a/b", "a%2Fb", "a%252Fb", "%61", "a b", "a+b", "a;b", "a?b", "a#b", "...", "é", "e\u0301"]
PREFIXES += ["a.", "a/../b", "/", "//", "a/", "%", "%zz", "a&b=c", "internal/v1/changes"]
"""Names that some reader of paths or other takes for one another."""


def encode(text: str, escape: list[bool], *, lower: bool = False) -> bytes:
    """Percent-encode the bytes where `escape` says so, and those that no request line can carry."""
    raw = text.encode()
    flags = [
        escape[index % len(escape)] or byte <= 0x20 or byte >= 0x7F or byte in b'%/?#"<>\\^`{|}'
        for index, byte in enumerate(raw)
    ]
    form = b"%%%02x" if lower else b"%%%02X"
    return b"".join(form % byte if flag else bytes([byte]) for byte, flag in zip(raw, flags, strict=True))


ESCAPES = st.lists(st.booleans(), min_size=1, max_size=5)
SEGMENT = st.builds(encode, st.sampled_from(PIECES), ESCAPES)
ODDITIES = st.sampled_from(
    rb"%2F %2f %5C %5c %25 %2e %2E%2e %252e %zz % ; ;x=1 + a ? & = \ %u002e %00 %0d%0a %ff"
    rb" %C3%A9 %c0%ae %C0%AF %e0%80%af %ed%a0%80".split()
)
"""Among them overlong UTF-8, a surrogate and line ends."""
ODD = st.lists(ODDITIES, max_size=3).map(b"".join)
PATHS = st.builds(
    lambda prefix, segments, end: b"/" + b"/".join([*prefix, *segments]) + end,
    st.sampled_from([[], [b"api", b"v1"], [b"api", b"v1", b"events"], [b"%61pi", b"v1"], [b"", b"api", b"v1"]]),
    st.lists(SEGMENT | ODD, min_size=1, max_size=3),
    st.sampled_from([b"", b"", b"", b"/", b"//", b"/.", b"%2F", b"?", b"?a=/../b", b";"]),
)
BEFORE = st.sampled_from([b"http://core", b"http://core:8080", b"HTTP://x", b"https://127.0.0.1", b"http://u:p@h"])
"""What turns a path into an absolute-form target (RFC 9112, section 3.2.2)."""


class Resources(NamedTuple):
    """What there is to be found.

    Attributes:
        urls: of core and gateway.
        headers: of an administrator.
        found: the path of every resource, as it is written plainly, and its answer's body, `timeless`.
    """

    urls: tuple[str, str]
    headers: Headers
    found: dict[tuple[str, ...], bytes]


@pytest.fixture(scope="module")
def resources(stack: Stack, token: str) -> Iterator[Resources]:
    people = People(stack.core_url, token)
    mark = uuid.uuid4().hex[:8]
    paths: list[tuple[str, ...]] = []
    with people.client as client:
        client.headers.update(people.admin)
        for count, prefix in enumerate(PREFIXES, start=1000):
            client.put(f"/retention/{quote(prefix, safe='')}", json={"max_count": count}).raise_for_status()
            paths.append(("retention", prefix))
        for name in (f"p-{mark}", f"P-{mark}", f"p-{mark}.x", f"p-{mark}..", f"p_{mark}"):
            paths += [("tenants", people.tenant(name)), ("tenants", name, "stats")]
        paths += [("auth", "users", people.user(f"path-{number}-{mark}", "readonly")) for number in range(2)]
        events = [{"event_type": "t", "entity_id": f"{number}-{mark}", "payload": number} for number in range(3)]
        appended = client.post("/events/batch", json={"events": events}).json()["events"]
        paths += [("events", event["event_id"]) for event in appended]
        found = {
            path: timeless(client.get("/" + "/".join(quote(part, safe="") for part in path)).content) for path in paths
        }
        assert len(set(found.values())) == len(paths)
        yield Resources((stack.core_url, stack.gateway_url), bearer(token), found)
        for prefix in PREFIXES:
            client.delete(f"/retention/{quote(prefix, safe='')}").raise_for_status()


def timeless(body: bytes) -> bytes:
    """A body without what another hour or day makes other."""
    return re.sub(rb'"resets_at":"[^"]+"', b"", body)


def ask_both(resources: Resources, target: bytes, method: str = "GET") -> tuple[Answer, Answer]:
    """What core and gateway answer."""
    headers = {**resources.headers, "X-Request-ID": "same"}
    core, gateway = (exchange(url, method, target, headers=headers) for url in resources.urls)
    return core, gateway


def assert_alike(core: Answer, gateway: Answer) -> None:
    assert gateway.status == core.status
    if core.status >= 400:
        assert gateway.body == core.body


quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(path=PATHS, method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]))
def test_gateway_and_core_agree_on_every_path(resources: Resources, path: bytes, method: str) -> None:
    # What the core ends is not there for the gateway, nor for the other tests.
    assume(method != "DELETE" or "retention/" not in unquote(path.decode("latin-1")))
    assert_alike(*ask_both(resources, path, method))


@quick
@given(data=st.data(), escape=ESCAPES, lower=st.booleans())
def test_every_encoding_of_a_path_is_that_path(
    resources: Resources, data: st.DataObject, escape: list[bool], lower: bool
) -> None:
    path = data.draw(st.sampled_from(sorted(resources.found)))
    target = b"".join(b"/" + encode(part, escape, lower=lower) for part in ("api", "v1", *path))
    for answer in ask_both(resources, target):
        assert (answer.status, timeless(answer.body)) == (200, resources.found[path])


@quick
@given(data=st.data(), escape=ESCAPES, odd=ODD, place=st.integers(0, 40), twice=st.booleans())
def test_what_is_nearly_the_path_of_a_resource_is_that_of_the_same_one_or_of_none(
    resources: Resources, data: st.DataObject, escape: list[bool], odd: bytes, place: int, twice: bool
) -> None:
    path = data.draw(st.sampled_from(sorted(resources.found)))
    parts = [quote(part, safe="") if twice else part for part in path]
    target = b"/api/v1" + b"".join(b"/" + encode(part, escape) for part in parts)
    at = len(b"/api/v1/") + place % (len(target) - len(b"/api/v1/") + 1)
    target = target[:at] + odd + target[at:]
    core, gateway = ask_both(resources, target)
    assert_alike(core, gateway)
    if core.status == 200:
        body = timeless(core.body)
        assert body == timeless(gateway.body)
        # Read once: whatever was found is what one decoding names.
        meant = tuple(unquote(part) for part in target.partition(b"?")[0].decode("latin-1").split("/")[3:])
        assert body == resources.found.get(meant, body)
        assert meant in resources.found or meant in LISTS


LISTS: Final = {("retention",), ("tenants",), ("auth", "users"), ("events", "query")}


@quick
@given(before=BEFORE, path=PATHS, fragment=st.sampled_from([b"", b"#", b"#/../x", b"#?a"]))
def test_what_stands_around_a_path_changes_nothing_at_the_gateway_and_is_refused_by_the_core(
    resources: Resources, before: bytes, path: bytes, fragment: bytes
) -> None:
    plain = exchange(resources.urls[1], "GET", path, headers={**resources.headers, "X-Request-ID": "same"})
    core, gateway = ask_both(resources, before + path + fragment)
    assert core.status == 400
    assert gateway.status in (plain.status, 400)
    if plain.status >= 400 and gateway.status == plain.status:
        assert (gateway.body == plain.body) or gateway.status == 400


INTERNAL: Final = ("/internal/v1/changes", "/internal/v1/introspect", "/internal", "/internal/v1")
TRICKS: Final = st.just(b"") | st.sampled_from(
    rb"/ // /. /./ /.. /x/.. /api/.. /api/v1/../.. /%2e%2e /%2E ; /; %2F %2f.. /api/v1/..%2f.. \ %5c %00 %20 . ?"
    rb" /events/%2e%2e /%252e%252e /health/../ /api/v1/events/../../.. /%c0%ae%c0%ae"
    rb" http://core http://core:8080 http://x/..".split()
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=TRICKS,
    path=st.sampled_from(INTERNAL),
    escape=ESCAPES,
    lower=st.booleans(),
    slashes=st.sampled_from([b"/", b"/", b"/", b"%2F", b"//", b"/./", b"\\", b";/", b"/x/../"]),
    upper=st.booleans(),
    after=TRICKS,
    method=st.sampled_from(["GET", "POST"]),
)
def test_the_internal_routes_are_not_reached_through_the_gateway_in_any_disguise(
    resources: Resources,
    before: bytes,
    path: str,
    escape: list[bool],
    lower: bool,
    slashes: bytes,
    upper: bool,
    after: bytes,
    method: str,
) -> None:
    parts = [encode(part.upper() if upper else part, escape, lower=lower) for part in path.split("/")[1:]]
    target = before + b"/" + slashes.join(parts) + after
    headers = {**resources.headers, "X-Gateway-Key": GATEWAY_KEY, "Content-Type": "application/json"}
    body = b'{"credential":"x"}' if method == "POST" else b""
    answer = exchange(resources.urls[1], method, target, headers=headers, body=body)
    assert answer.status in (400, 404), answer.body
    assert b'"revision"' not in answer.body


def test_the_internal_routes_are_there_in_the_core_by_any_encoding_of_theirs(resources: Resources) -> None:
    for target in (b"/internal/v1/changes", b"/%69nternal/v1/%63hanges"):
        answer = exchange(resources.urls[0], "GET", target, headers={"X-Gateway-Key": GATEWAY_KEY})
        assert (answer.status, b'"revision"' in answer.body) == (200, True)
