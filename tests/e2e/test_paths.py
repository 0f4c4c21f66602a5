"""Whatever way a path is written, gateway and core read the same resource, or both refuse it."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tools.stack import Stack

from .wire import exchange

PIECES = ["api", "v1", "events", "query", "batch", "health", "..", ".", "", "internal", "a b", "é", "%", "x"]
PIECES += ["entities", "retention", "operations", "erase"]


def encode(text: str, escape: list[bool]) -> bytes:
    """Percent-encode the bytes where `escape` says so, and those that no request line can carry."""
    raw = text.encode()
    flags = [escape[index % len(escape)] or byte <= 0x20 or byte >= 0x7F for index, byte in enumerate(raw)]
    return b"".join(b"%%%02X" % byte if flag else bytes([byte]) for byte, flag in zip(raw, flags, strict=True))


SEGMENT = st.builds(encode, st.sampled_from(PIECES), st.lists(st.booleans(), min_size=1, max_size=5))
ODDITIES = st.sampled_from([b"%2F", b"%2f", b"%5C", b"%25", b"%2e", b"%zz", b";", b"+", b"a", b"%C3%A9"])
ODD = st.lists(ODDITIES, max_size=3).map(b"".join)
PATHS = st.builds(
    lambda prefix, segments: b"/" + b"/".join([*prefix, *segments]),
    st.sampled_from([[], [b"api", b"v1"], [b"api", b"v1", b"events"], [b"%61pi", b"v1"]]),
    st.lists(SEGMENT | ODD, min_size=1, max_size=3),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=PATHS, method=st.sampled_from(["GET", "POST", "DELETE"]))
def test_gateway_and_core_agree_on_every_path(stack: Stack, token: str, path: bytes, method: str) -> None:
    headers = {"Authorization": f"Bearer {token}", "X-Request-ID": "same"}
    gateway, core = (exchange(url, method, path, headers=headers) for url in (stack.gateway_url, stack.core_url))
    assert gateway.status == core.status
    if core.status >= 400:
        assert gateway.body == core.body
