"""Telling the removal of a tenant from those of others, also of others that had its id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allsource_core.engine import EventStore, NotFoundError, StoreClosedError, StoreOptions

from .stores import TENANT, new_event

OPTIONS = StoreOptions(removal_seconds=0, reserve_bytes=0, maintenance="thread")


@contextmanager
def opened(path: Path) -> Iterator[EventStore]:
    with EventStore.open(path, options=OPTIONS) as store:
        yield store


@pytest.mark.parametrize("events", [0, 1])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_tenant_keeps_its_number_and_no_other_gets_it(tmp_path: Path, events: int, sealed: bool) -> None:
    numbers: set[int] = set()
    for _ in range(3):
        with opened(tmp_path) as store:
            store.append("other", [new_event("e")])
            for _ in range(events):
                store.append(TENANT, [new_event("e")])
            number = store.removals.number(TENANT)
            if sealed:
                store.seal()
            assert store.removals.number(TENANT) == number
            assert store.removals.policies(TENANT) == []
        with opened(tmp_path) as store:
            assert store.removals.number(TENANT) == number
            assert store.removals.of_tenant(number) is None
            removal = store.removals.tenant(TENANT)
            assert (removal.events_removed, store.removals.of_tenant(number)) == (events, removal)
            if sealed:
                store.compact()
        with opened(tmp_path) as store:
            found = store.removals.of_tenant(number)
            assert found is not None
            assert (found.position, found.events_removed) == (removal.position, events)
        assert number not in numbers
        numbers.add(number)


def test_removals_of_tenants_are_told_to_who_asks_for_them(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for tenant_id in ("a", "b", "c"):
            store.append(tenant_id, [new_event("e"), new_event("f")])
        of_a = store.removals.entity("a", "e")
        of_b = store.removals.entity("b", "e")
        gone = store.removals.tenant("a")
        for tenant_id in ("a", "b", "c", "nobody"):
            assert store.removals.find(tenant_id, gone.position) is None
            assert store.removals.find(tenant_id, gone.position, tenants=True) == gone
            # What a tenant removed before it was removed itself is nobody's business.
            assert store.removals.find(tenant_id, of_a.position, tenants=True) is None
        assert [one.position for one in store.removals.latest("b", limit=9)] == [of_b.position]
        assert [one.position for one in store.removals.latest("b", limit=9, tenants=True)] == [
            gone.position,
            of_b.position,
        ]
        assert [one.position for one in store.removals.latest("c", limit=9, tenants=True)] == [gone.position]
        assert store.removals.latest("c", limit=9, tenants=True, before=gone.position) == []


def test_only_a_tenant_with_a_number_is_removed_and_only_an_open_store_gives_one(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        with pytest.raises(NotFoundError):
            store.removals.tenant(TENANT)
        number = store.removals.number(TENANT)
        assert store.removals.tenant(TENANT).tenant == number
    with pytest.raises(StoreClosedError):
        store.removals.number(TENANT)
    with pytest.raises(StoreClosedError):
        store.removals.of_tenant(number)
