"""What several of the engine's test files ask for by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from allsource_core.engine import EventStore, view

from .stores import Made, TurnableClock, open_store


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls makes no condition too broad; tests of that set a bound of their own."""
    monkeypatch.setattr(view, "_CONDITION_SECONDS_MAX", 600)


@pytest.fixture
def clock() -> TurnableClock:
    """The clock of `made`."""
    return TurnableClock()


@pytest.fixture(params=["in memory", "on disk", "sealed"])
def made(request: pytest.FixtureRequest, tmp_path: Path, clock: TurnableClock) -> Iterator[Made]:
    """A store of each kind, and what is to be done to it between an append and a look at what it did."""
    with ExitStack() as stack:
        if request.param == "in memory":
            store = stack.enter_context(EventStore.in_memory(clock=clock))
        else:
            store = stack.enter_context(open_store(tmp_path / "s", clock=clock))
        yield store, EventStore.seal if request.param == "sealed" else lambda _store: None
