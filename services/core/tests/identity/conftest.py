"""Directories of users, each over a store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from allsource_core.engine import EventStore

from .people import People


@pytest.fixture
def gather(tmp_path: Path) -> Iterator[Callable[..., People]]:
    """Make directories of users over one store."""
    made: list[People] = []
    with EventStore.open(tmp_path / "data") as store:

        def gather(**arguments: Any) -> People:
            made.append(People(store, tmp_path, **arguments))
            return made[-1]

        yield gather
        for people in made:
            people.passwords.close()


@pytest.fixture
def people(gather: Callable[..., People]) -> People:
    return gather()
