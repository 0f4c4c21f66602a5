"""Users as facts of the store: what was stored is what is folded again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from allsource_core.changes import Changes
from allsource_core.engine import EventStore
from allsource_core.facts import SYSTEM_TENANT, Facts
from allsource_core.identity.bootstrap import create_first_admin
from allsource_core.identity.errors import UsernameTakenError
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.users import UserDirectory
from allsource_shared.permissions import Role


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "data") as store:
        yield store


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(queue_max=4)
    yield passwords
    passwords.close()


def directory(store: EventStore) -> UserDirectory:
    facts = Facts(store)
    users = UserDirectory(facts, Changes())
    facts.fold()
    return users


def create(users: UserDirectory, username: str = "ann", role: Role = Role.DEVELOPER, tenant: str = "default"):
    return users.create(
        username=username, email=f"{username}@example.org", password_hash="$hash", role=role, tenant_id=tenant
    )


def test_a_user_is_found_by_name(store: EventStore):
    users = directory(store)
    ann = create(users)
    assert users.named("ann") == ann
    assert (ann.username, ann.email, ann.role, ann.tenant_id) == ("ann", "ann@example.org", Role.DEVELOPER, "default")


@pytest.mark.parametrize("name", ["", "Ann", "ann ", "a", "nobody", "user:ann"])
def test_names_are_compared_as_they_are_written(store: EventStore, name: str):
    users = directory(store)
    create(users)
    assert users.named(name) is None


def test_users_are_the_same_when_folded_again(store: EventStore):
    users = directory(store)
    made = [
        create(users, name, role)
        for name, role in (("ann", Role.ADMIN), ("bob", Role.READONLY), ("Ärger", Role.SERVICEACCOUNT))
    ]
    again = directory(store)
    assert [again.named(user.username) for user in made] == made
    assert len(again) == 3


def test_users_are_there_after_a_restart(tmp_path: Path):
    with EventStore.open(tmp_path / "data") as store:
        made = create(directory(store))
    with EventStore.open(tmp_path / "data") as store:
        assert directory(store).named("ann") == made


def test_users_are_found_page_by_page_whoever_is_deleted_meanwhile(store: EventStore):
    users = directory(store)
    tenants = ("default", "acme", "default", "globex", "acme", "default", "acme")
    made = [create(users, f"user-{number}", tenant=tenant) for number, tenant in enumerate(tenants)]
    for gone in (None, made[3], made[0], made[4], made[6]):
        if gone is not None:
            made.remove(gone)
            asyncio.run(users.delete(gone.id))
        again = directory(store)
        for tenant in (None, "default", "acme", "globex", "nobodys"):
            selected = [user for user in made if tenant in (None, user.tenant_id)]
            for position in {0, *(user.position + step for user in made for step in (-1, 0))}:
                rest = [user for user in selected if user.position > position]
                for count in (1, 2, 100):
                    assert users.behind(position, count, tenant) == rest[:count]
                    assert again.behind(position, count, tenant) == rest[:count]


def test_a_name_is_given_once(store: EventStore):
    users = directory(store)
    create(users)
    with pytest.raises(UsernameTakenError, match="'ann' is taken"):
        create(users)
    assert len(users) == 1


def test_users_are_facts_of_the_system_tenant_alone(store: EventStore):
    create(directory(store), tenant="default")
    assert {event.tenant_id for event in store.read(SYSTEM_TENANT)} == {SYSTEM_TENANT}
    assert list(store.read("default")) == []


def test_others_see_no_hash(store: EventStore):
    view = create(directory(store), role=Role.READONLY).view()
    assert "$hash" not in repr(view)
    assert view.permissions == ["metrics", "read"]


def test_the_first_administrator_is_made_only_where_there_is_no_user(store: EventStore, passwords: Passwords):
    users = directory(store)
    arguments = {"username": "root", "password": "correct horse battery", "email": ""}
    assert create_first_admin(users, passwords, **arguments)
    assert not create_first_admin(users, passwords, **{**arguments, "username": "other"})
    root = users.named("root")
    assert root is not None
    assert (root.role, root.tenant_id) == (Role.ADMIN, "default")
    assert root.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert users.named("other") is None
