"""Tenants as facts of the store: what was stored is what is folded again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allsource_core.changes import Changes
from allsource_core.engine import EventStore, StoreReadOnlyError
from allsource_core.facts import DEFAULT_TENANT, SYSTEM_TENANT, Fact, Facts
from allsource_core.tenancy.errors import (
    DefaultTenantError,
    InvalidTenantError,
    ReservedTenantError,
    TenancyError,
    TenantExistsError,
    UnknownTenantError,
)
from allsource_core.tenancy.quotas import PRESETS
from allsource_core.tenancy.rate_limits import RateLimit
from allsource_core.tenancy.tenants import Tenant, TenantDirectory
from allsource_shared.wire.tenants import Quotas


class Tenants:
    """A directory over a store, without the event loop around it."""

    def __init__(self, store: EventStore) -> None:
        self.facts = Facts(store)
        self.changes = Changes()
        self.directory = TenantDirectory(self.facts, self.changes)
        self.facts.fold()
        self.directory.store_default()

    def __call__(self, method: str, tenant_id: str, *args: Any, **kwargs: Any) -> Any:
        async def call() -> Any:
            async with self.facts.changing:
                return await getattr(self.directory, method)(tenant_id, *args, **kwargs)

        return asyncio.run(call())

    def create(self, tenant_id: str, preset: str = "free", name: str = "A name", description: str = "") -> Tenant:
        quotas, limits = PRESETS[preset].quotas, PRESETS[preset].limit
        return self("create", tenant_id, name=name, description=description, quotas=quotas, limits=limits)

    def end(self, tenant_id: str, position: int | None = None, removed: int = 0) -> None:
        async def end() -> None:
            await self.facts.append_async([self.directory.end_of_deletion(tenant_id, position, removed)])

        asyncio.run(end())

    def all(self) -> list[Tenant]:
        return self.directory.page("", 10_000)


@pytest.fixture
def store() -> Iterator[EventStore]:
    with EventStore.in_memory() as store:
        yield store


def test_the_default_tenant_is_always_there_and_becomes_a_fact_once(store: EventStore):
    tenants = Tenants(store)
    default = tenants.directory.get(DEFAULT_TENANT)
    assert default is not None
    assert (default.active, default.tier, default.limits, default.quotas) == (True, "unlimited", None, Quotas())
    assert default.created_at > 0
    position = store.last_position
    assert Tenants(store).directory.get(DEFAULT_TENANT) == default
    assert store.last_position == position


def test_a_store_that_takes_no_writes_does_not_keep_the_default_tenant_away(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
):
    def refuse(self: Facts, facts: list[Fact]) -> None:
        raise StoreReadOnlyError("no", "old_format")

    with monkeypatch.context() as patch:
        patch.setattr(Facts, "append", refuse)
        default = Tenants(store).directory.find(DEFAULT_TENANT)
        assert (default.active, default.created_at, default.name) == (True, 0, "Default")
    assert Tenants(store).directory.find(DEFAULT_TENANT).created_at > 0


def test_what_was_made_is_found_and_everybody_is_told(store: EventStore):
    tenants = Tenants(store)
    revision = tenants.changes.revision
    made = tenants.create("acme", "free", "Acme", "makes things")
    assert tenants.directory.get("acme") == made
    assert (made.id, made.name, made.description, made.tier) == ("acme", "Acme", "makes things", "free")
    assert (made.quotas, made.limits, made.active) == (PRESETS["free"].quotas, RateLimit(60, 100), True)
    changes = tenants.changes.since(revision)
    assert changes
    assert {(change.kind, change.id) for change in changes} == {("tenant", "acme")}


def test_tenants_are_there_after_a_restart(tmp_path: Path):
    with EventStore.open(tmp_path / "data") as store:
        made = Tenants(store).create("acme")
    with EventStore.open(tmp_path / "data") as store:
        assert Tenants(store).directory.get("acme") == made


@pytest.mark.parametrize(
    ("tenant_id", "error"),
    [
        ("_system", ReservedTenantError),
        ("_audit", ReservedTenantError),
        ("_", ReservedTenantError),
        ("", InvalidTenantError),
        (".a", InvalidTenantError),
        ("-a", InvalidTenantError),
        ("a b", InvalidTenantError),
        ("a/b", InvalidTenantError),
        ("a\n", InvalidTenantError),
        ("é", InvalidTenantError),
        ("x" * 129, InvalidTenantError),
        ("default", TenantExistsError),
        ("acme", TenantExistsError),
    ],
)
def test_an_id_that_no_new_tenant_can_have_is_refused(store: EventStore, tenant_id: str, error: type[Exception]):
    tenants = Tenants(store)
    tenants.create("acme")
    before, position = tenants.all(), store.last_position
    with pytest.raises(error):
        tenants.create(tenant_id)
    assert (tenants.all(), store.last_position) == (before, position)


@pytest.mark.parametrize("name", ["", ".", "a\nb", "x" * 257, "é" * 129])
def test_a_name_that_can_not_be_shown_is_refused(store: EventStore, name: str):
    tenants = Tenants(store)
    acme = tenants.create("acme")
    with pytest.raises(InvalidTenantError, match="name: "):
        tenants.create("other", name=name)
    with pytest.raises(InvalidTenantError, match="name: "):
        tenants("describe", "acme", name=name, description="")
    assert tenants.directory.get("other") is None
    assert tenants.directory.get("acme") == acme


def test_the_longest_id_and_names_in_any_script_are_taken(store: EventStore):
    tenants = Tenants(store)
    assert tenants.create("x" * 128, name="é" * 128).name == "é" * 128


def test_every_change_has_a_revision_of_its_own_and_the_same_again_is_none(store: EventStore):
    tenants = Tenants(store)
    revisions = [tenants.create("acme").revision]
    steps: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("describe", (), {"name": "Other", "description": "d"}),
        ("set_quotas", (Quotas(max_api_keys=7),), {}),
        ("set_limits", (RateLimit(1, 1),), {}),
        ("set_limits", (None,), {}),
        ("set_active", (False,), {}),
        ("set_active", (True,), {}),
    ]
    for method, args, kwargs in steps:
        revisions.append(tenants(method, "acme", *args, **kwargs).revision)
        position, told = store.last_position, tenants.changes.revision
        assert tenants(method, "acme", *args, **kwargs).revision == revisions[-1]
        assert (store.last_position, tenants.changes.revision) == (position, told)
    assert revisions == sorted(set(revisions))
    acme = tenants.directory.find("acme")
    assert (acme.name, acme.quotas, acme.tier, acme.limits) == ("Other", Quotas(max_api_keys=7), "custom", None)


def test_the_default_tenant_is_neither_deleted_nor_deactivated(store: EventStore):
    tenants = Tenants(store)
    before, position = tenants.all(), store.last_position
    with pytest.raises(DefaultTenantError, match="can't be deleted"):
        tenants("begin_deletion", DEFAULT_TENANT)
    with pytest.raises(DefaultTenantError, match="can't be deactivated"):
        tenants("set_active", DEFAULT_TENANT, False)
    assert (tenants.all(), store.last_position) == (before, position)
    assert tenants("set_active", DEFAULT_TENANT, True).active


def test_a_tenant_that_is_being_deleted_is_never_active_again(store: EventStore):
    tenants = Tenants(store)
    revision = tenants.create("acme").revision
    tenants("begin_deletion", "acme")
    assert (tenants.directory.find("acme").active, tenants.directory.deleting()) == (False, ["acme"])
    for method, args in (("set_active", (True,)), ("set_quotas", (Quotas(),)), ("set_limits", (None,))):
        with pytest.raises(UnknownTenantError, match="is being deleted"):
            tenants(method, "acme", *args)
    with pytest.raises(TenantExistsError, match="is being deleted"):
        tenants.create("acme")
    again = Tenants(store)
    assert again.directory.deleting() == ["acme"]
    again.end("acme", 17, 3)
    assert again.directory.get("acme") is None
    assert (again.directory.deleting(), again.directory.removed_by(17)) == ([], "acme")
    assert again.create("acme", name="Another").revision > revision


def test_names_are_facts_of_their_own_that_may_be_erased(store: EventStore):
    tenants = Tenants(store)
    tenants.create("acme", name="Ann Lee")
    tenants("describe", "acme", name="Bob Roe", description="of Ann Lee")
    events = tenants.directory.description_events("acme")
    assert len(events) == 2
    asyncio.run(tenants.facts.erase(events))
    assert not [event for event in store.read(SYSTEM_TENANT) if b"Ann" in event.payload or b"Bob" in event.payload]
    folded = Tenants(store).directory.find("acme")
    assert (folded.name, folded.description, folded.quotas) == ("", "", PRESETS["free"].quotas)


def test_pages_are_by_id_and_follow_each_other(store: EventStore):
    tenants = Tenants(store)
    for tenant_id in ("b", "a", "c", "A"):
        tenants.create(tenant_id)
    assert [tenant.id for tenant in tenants.all()] == ["A", "a", "b", "c", "default"]
    assert [tenant.id for tenant in tenants.directory.page("a", 2)] == ["b", "c"]
    assert tenants.directory.page("default", 2) == []


IDS = st.sampled_from(["default", "a", "b"])
QUOTAS = st.sampled_from([Quotas(), Quotas(max_api_keys=2), PRESETS["free"].quotas])
LIMITS = st.sampled_from([None, RateLimit(60, 100), RateLimit(1, 1)])
NAMES = st.sampled_from(["Acme", "Ärger", "x" * 256])
STEPS = st.one_of(
    st.tuples(
        st.just("create"),
        IDS,
        st.fixed_dictionaries({"name": NAMES, "description": NAMES, "quotas": QUOTAS, "limits": LIMITS}),
    ),
    st.tuples(st.just("describe"), IDS, st.fixed_dictionaries({"name": NAMES, "description": NAMES})),
    st.tuples(st.just("set_quotas"), IDS, st.fixed_dictionaries({"quotas": QUOTAS})),
    st.tuples(st.just("set_limits"), IDS, st.fixed_dictionaries({"limits": LIMITS})),
    st.tuples(st.just("set_active"), IDS, st.fixed_dictionaries({"active": st.booleans()})),
    st.tuples(st.just("begin_deletion"), IDS, st.just({})),
    st.tuples(st.just("begin_removal"), IDS, st.fixed_dictionaries({"number": st.integers(1, 9)})),
    st.tuples(st.just("end"), IDS, st.fixed_dictionaries({"position": st.none() | st.integers(1, 9)})),
)


@given(steps=st.lists(STEPS, max_size=25))
def test_folded_again_all_of_them_are_the_same(steps: list[tuple[str, str, dict[str, Any]]]):
    with EventStore.in_memory() as store:
        tenants = Tenants(store)
        for method, tenant_id, arguments in steps:
            before = tenants.all()
            try:
                if method == "end":
                    if tenant_id in tenants.directory.deleting():
                        tenants.end(tenant_id, arguments["position"])
                elif method != "begin_removal" or tenant_id in tenants.directory.deleting():
                    tenants(method, tenant_id, **arguments)
            except TenancyError:
                assert tenants.all() == before
        again = Tenants(store)
        assert again.all() == tenants.all()
        assert again.directory.deleting() == tenants.directory.deleting()
        assert [again.directory.removed_by(at) for at in range(10)] == [
            tenants.directory.removed_by(at) for at in range(10)
        ]
        assert tenants.directory.find(DEFAULT_TENANT).active
