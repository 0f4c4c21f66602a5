"""What all tests of the shared package have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from allsource_shared import context


@pytest.fixture(autouse=True)
def no_request() -> Iterator[None]:
    """Each test begins outside of any request, whatever the one before it left behind."""
    before = context._current.set(None)
    yield
    context._current.reset(before)
