"""Changing and deleting users, and one's own password."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from allsource_core import facts as facts_module
from allsource_core.engine import AppendUncertainError, EngineError, EventQuery
from allsource_core.facts import SYSTEM_TENANT
from allsource_core.identity.errors import (
    IdentityRuleError,
    InvalidCredentialsError,
    InvalidUserError,
    SessionsUnavailableError,
    UnknownUserError,
)
from allsource_core.identity.users import User
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role

from .people import PASSWORD, People, principal, run

NEW = "another horse, another battery"


@pytest.fixture
def root(people: People) -> User:
    return people.add("root", password=PASSWORD)


@pytest.fixture
def ann(people: People, root: User) -> User:
    return people.add("ann", Role.DEVELOPER, password=PASSWORD)


def profiles(people: People, user_id: str) -> list[bool]:
    """Of each fact that names a user, whether it is erased."""
    return erased(people, user_id, "user.profile_set")


def erased(people: People, user_id: str, event_type: str) -> list[bool]:
    query = EventQuery(entity_id=f"user:{user_id}", event_type=event_type)
    return [event.erased for event in people.store.read(SYSTEM_TENANT, query)]


class TestChanging:
    def test_all_at_once(self, people: People, root: User, ann: User):
        before = people.changes.revision
        changed = run(
            people.accounts.change(
                ann.id, by=principal(user=root), role=Role.READONLY, active=False, email="a@b", password=NEW
            )
        )
        assert (changed.role, changed.active, changed.email, changed.must_change) == (Role.READONLY, False, "a@b", True)
        assert run(people.passwords.verify(changed.password_hash, NEW))
        assert set(people.published(before)) == {("user", ann.id)}
        assert people.ended == [(ann.id, "")]

    def test_it_is_the_same_after_a_restart(self, gather: Callable[..., People], people: People, root: User, ann: User):
        run(people.accounts.change(ann.id, by=principal(user=root), role=Role.READONLY, password=NEW))
        assert gather().users.all() == people.users.all()

    @pytest.mark.parametrize(
        ("change", "ends", "publishes"),
        [
            ({"role": Role.READONLY}, False, True),
            ({"active": False}, True, True),
            ({"active": True}, False, False),
            ({"email": "other@example.org"}, False, False),
            ({"password": NEW}, True, True),
            ({"role": Role.DEVELOPER}, False, False),
        ],
    )
    def test_sessions_end_and_caches_hear_where_they_must(
        self, people: People, root: User, ann: User, change: dict[str, object], ends: bool, publishes: bool
    ):
        before = people.changes.revision
        run(people.accounts.change(ann.id, by=principal(user=root), **change))
        assert people.ended == ([(ann.id, "")] if ends else [])
        assert (("user", ann.id) in people.published(before)) is publishes

    def test_nothing_is_changed_where_something_is_wrong(self, people: People, root: User, ann: User):
        before = people.store.last_position
        by = principal(user=root)
        for change, error in (
            ({"email": "nowhere", "active": False}, InvalidUserError),
            ({"password": "short", "role": Role.READONLY}, InvalidUserError),
            ({"password": "ann", "active": False}, InvalidUserError),
        ):
            with pytest.raises(error):
                run(people.accounts.change(ann.id, by=by, **change))
        with pytest.raises(UnknownUserError):
            run(people.accounts.change("nobody", by=by, password=NEW))
        assert people.store.last_position == before
        assert people.ended == []

    def test_nobody_grants_what_they_lack(self, people: People, root: User, ann: User):
        less = principal(user=root, role=Role.ADMIN)
        less = msgspec.structs.replace(less, permissions=ROLE_PERMISSIONS[Role.ADMIN] - {Permission.MANAGE_TENANTS})
        with pytest.raises(IdentityRuleError) as caught:
            run(people.accounts.change(ann.id, by=less, role=Role.ADMIN))
        assert caught.value.code == "forbidden"

    @pytest.mark.parametrize("change", [{"active": False}, {"password": "another password of root"}, {"email": "x@y"}])
    def test_an_api_key_changes_no_administrators_and_makes_none(
        self, people: People, root: User, ann: User, change: dict[str, Any]
    ):
        people.add("second", Role.ADMIN)
        key = msgspec.structs.replace(principal(user=root), kind="api_key", key_id="k")
        for call in (
            people.accounts.change(root.id, by=key, **change),
            people.accounts.change(ann.id, by=key, role=Role.ADMIN),
            people.accounts.delete(people.users.named("second").id, by=key),
        ):
            with pytest.raises(IdentityRuleError) as caught:
                run(call)
            assert caught.value.code == "forbidden"
        run(people.accounts.change(ann.id, by=key, **change))
        run(people.accounts.delete(ann.id, by=key))

    def test_there_is_no_administrator_outside_default(self, people: People, root: User):
        bob = people.add("bob", Role.DEVELOPER, tenant="acme")
        with pytest.raises(IdentityRuleError) as caught:
            run(people.accounts.change(bob.id, by=principal(user=root), role=Role.ADMIN))
        assert caught.value.code == "admin_outside_default"

    @pytest.mark.parametrize("change", [{"role": Role.DEVELOPER}, {"active": False}])
    def test_the_last_active_administrator_stays(self, people: People, root: User, change: dict[str, object]):
        other = people.add("other")
        run(people.accounts.change(other.id, by=principal(user=root), active=False))
        with pytest.raises(IdentityRuleError) as caught:
            run(people.accounts.change(root.id, by=principal(user=root), **change))
        assert caught.value.code == "last_admin"
        run(people.accounts.change(other.id, by=principal(user=root), active=True))
        run(people.accounts.change(root.id, by=principal(user=root), **change))

    def test_of_two_who_demote_each_other_one_stays(self, people: People, root: User):
        other = people.add("other")

        async def both() -> list[object]:
            return await asyncio.gather(
                people.accounts.change(root.id, by=principal(user=other), role=Role.READONLY),
                people.accounts.change(other.id, by=principal(user=root), role=Role.READONLY),
                return_exceptions=True,
            )

        answers = run(both())
        assert sum(isinstance(answer, IdentityRuleError) for answer in answers) == 1
        assert [user.role for user in people.users.all()].count(Role.ADMIN) == 1

    def test_who_is_refused_while_the_password_is_hashed_changes_nothing(self, people: People, root: User, ann: User):
        def refuse() -> None:
            raise IdentityRuleError("forbidden", "not any more")

        before = people.store.last_position
        with pytest.raises(IdentityRuleError, match="not any more"):
            run(people.accounts.change(ann.id, by=principal(user=root), password=NEW, recheck=refuse))
        assert people.store.last_position == before

    @pytest.mark.parametrize("change", ["deactivate", "password", "delete", "role"])
    def test_sessions_end_also_where_it_is_uncertain(
        self, people: People, root: User, ann: User, monkeypatch: pytest.MonkeyPatch, change: str
    ):
        async def fail(*_arguments: object) -> None:
            raise AppendUncertainError("the disk failed")

        monkeypatch.setattr(people.store, "append_async", fail)
        by = principal(user=root)
        accounts = people.accounts
        changes = {
            "deactivate": lambda: accounts.change(ann.id, by=by, active=False),
            "password": lambda: accounts.change(ann.id, by=by, password=NEW),
            "delete": lambda: accounts.delete(ann.id, by=by),
            "role": lambda: accounts.change(ann.id, by=by, role=Role.READONLY),
        }
        with pytest.raises(AppendUncertainError):
            run(changes[change]())
        assert people.ended == ([] if change == "role" else [(ann.id, "")])

    @pytest.mark.parametrize("uncertain", [False, True])
    def test_what_is_stored_holds_though_the_end_of_sessions_can_not_be_written(
        self, people: People, root: User, ann: User, monkeypatch: pytest.MonkeyPatch, uncertain: bool
    ):
        async def fail(user_id: str, except_session: str) -> None:
            people.ended.append((user_id, except_session))
            raise SessionsUnavailableError("the file of sessions can't be written")

        async def be_uncertain(*_arguments: object) -> None:
            raise AppendUncertainError("the disk failed")

        monkeypatch.setattr(people.accounts, "_end_sessions", fail)
        if uncertain:
            monkeypatch.setattr(people.store, "append_async", be_uncertain)
        accounts, by = people.accounts, principal(user=root)
        own = principal(ann.role, ann, session_id="s1")
        calls: list[Callable[[], Any]] = [
            lambda: accounts.change(ann.id, by=by, active=False),
            lambda: accounts.change(ann.id, by=by, active=True, password=PASSWORD),
            lambda: accounts.change_password(own, current=PASSWORD, new=NEW, address=""),
            lambda: accounts.delete(ann.id, by=by),
        ]
        for call in calls:
            with pytest.raises(AppendUncertainError) if uncertain else nullcontext():
                run(call())
        assert people.ended == [(ann.id, ""), (ann.id, ""), (ann.id, "s1"), (ann.id, "")]
        assert (people.users.get(ann.id) is None) is not uncertain
        assert all(profiles(people, ann.id)) is not uncertain

    def test_nobody_of_a_tenant_that_is_being_deleted_is_changed(self, people: People, root: User):
        bob = people.add("bob", Role.DEVELOPER, "acme", password=PASSWORD)
        people.tenants.discard("acme")
        position = people.store.last_position
        for change in ({"email": "a@b"}, {"role": Role.READONLY}, {"active": False}):
            with pytest.raises(IdentityRuleError) as caught:
                run(people.accounts.change(bob.id, by=principal(user=root), **change))
            assert caught.value.code == "not_found"
        by = principal(Role.DEVELOPER, bob, "acme")
        with pytest.raises(IdentityRuleError) as caught:
            run(people.accounts.change_password(by, current=PASSWORD, new=NEW, address=""))
        assert caught.value.code == "not_found"
        assert people.store.last_position == position
        assert people.ended == []
        # Being forgotten is what is to become of it anyway.
        run(people.accounts.delete(bob.id, by=principal(user=root)))
        assert profiles(people, bob.id) == [True]


class TestDeleting:
    def test_the_name_is_erased_and_free(self, people: People, root: User, ann: User):
        run(people.accounts.change(ann.id, by=principal(user=root), email="second@example.org"))
        before = people.changes.revision
        run(people.accounts.delete(ann.id, by=principal(user=root)))
        assert people.users.get(ann.id) is None
        assert people.users.named("ann") is None
        assert profiles(people, ann.id) == [True, True]
        assert profiles(people, root.id) == [False]
        assert erased(people, ann.id, "user.password_set") == [True]
        assert people.published(before) == [("user", ann.id)]
        assert people.ended == [(ann.id, "")]
        assert len(list(people.store.read(SYSTEM_TENANT, EventQuery(entity_id=f"api-keys-of-user:{ann.id}")))) == 1
        assert people.add("ann").id != ann.id

    def test_it_stays_deleted_after_a_restart(
        self, gather: Callable[..., People], people: People, root: User, ann: User
    ):
        run(people.accounts.delete(ann.id, by=principal(user=root)))
        again = gather()
        assert again.users.all() == [root]
        run(again.facts.erase_owed())

    def test_what_could_not_be_erased_is_after_a_restart(
        self, gather: Callable[..., People], people: People, root: User, ann: User, monkeypatch: pytest.MonkeyPatch
    ):
        async def fail(_events: object) -> None:
            raise EngineError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(people.facts, "erase", fail)
            run(people.accounts.delete(ann.id, by=principal(user=root)))
        assert people.users.get(ann.id) is None
        assert profiles(people, ann.id) == [False]
        again = gather()
        run(again.facts.erase_owed())
        assert profiles(people, ann.id) == [True]
        # The one that failed knows it still, and finds that it is done.
        run(people.facts.erase_owed())

    def test_the_name_is_erased_also_where_the_deletion_was_uncertain(
        self, people: People, root: User, ann: User, monkeypatch: pytest.MonkeyPatch
    ):
        append = people.store.append_async

        async def store_and_fail(*arguments: Any) -> None:
            await append(*arguments)
            raise AppendUncertainError("the disk failed")

        monkeypatch.setattr(facts_module, "_ERASE_SECONDS", 0.001)
        monkeypatch.setattr(people.store, "append_async", store_and_fail)

        async def delete() -> None:
            with pytest.raises(AppendUncertainError):
                await people.accounts.delete(ann.id, by=principal(user=root))
            assert profiles(people, ann.id) == [False]
            erasing = asyncio.create_task(people.facts.keep_erasing())
            async with asyncio.timeout(60):
                while profiles(people, ann.id) == [False]:
                    await asyncio.sleep(0.001)
            erasing.cancel()

        run(delete())

    def test_nobody_deletes_themselves(self, people: People, root: User):
        people.add("other")
        with pytest.raises(IdentityRuleError) as caught:
            run(people.accounts.delete(root.id, by=principal(user=root)))
        assert caught.value.code == "forbidden"
        assert people.users.get(root.id) is root

    def test_the_last_active_administrator_stays(self, people: People, root: User):
        with pytest.raises(IdentityRuleError) as caught:
            run(people.accounts.delete(root.id, by=principal()))
        assert caught.value.code == "last_admin"

    def test_who_is_not_there_is_not_deleted(self, people: People, root: User, ann: User):
        by = principal(user=root)
        run(people.accounts.delete(ann.id, by=by))
        for user_id in (ann.id, "", "nobody", f"user:{root.id}"):
            with pytest.raises(UnknownUserError):
                run(people.accounts.delete(user_id, by=by))


class TestOnesOwnPassword:
    def change(self, people: People, user: User, current: str, new: str, session: str = "s1") -> None:
        by = principal(user.role, user, session_id=session)
        run(people.accounts.change_password(by, current=current, new=new, address="127.0.0.1"))

    def test_the_other_sessions_end_and_nothing_must_be_changed_any_more(self, people: People, root: User, ann: User):
        run(people.accounts.change(ann.id, by=principal(user=root), password=NEW))
        people.ended.clear()
        before = people.changes.revision
        self.change(people, ann, NEW, PASSWORD)
        assert not ann.must_change
        assert people.ended == [(ann.id, "s1")]
        assert people.published(before) == [("user", ann.id)]
        assert run(people.passwords.verify(ann.password_hash, PASSWORD))

    @pytest.mark.parametrize("current", ["wrong", PASSWORD.upper(), " " + PASSWORD, "x" * 1024])
    def test_it_takes_the_current_one(self, people: People, ann: User, current: str):
        with pytest.raises(InvalidCredentialsError):
            self.change(people, ann, current, NEW)
        assert people.ended == []

    @pytest.mark.parametrize("new", ["short", PASSWORD, "x" * 1025, ""])
    def test_the_new_one_is_strong_and_another(self, people: People, ann: User, new: str):
        with pytest.raises(InvalidUserError) as caught:
            self.change(people, ann, PASSWORD, new)
        assert (caught.value.field, caught.value.code) == ("new", "weak_password")

    def test_who_is_gone_has_none(self, people: People, root: User, ann: User):
        run(people.accounts.delete(ann.id, by=principal(user=root)))
        with pytest.raises(InvalidCredentialsError):
            self.change(people, ann, PASSWORD, NEW)

    def test_one_that_an_administrator_sets_meanwhile_holds(
        self, people: People, root: User, ann: User, monkeypatch: pytest.MonkeyPatch
    ):
        async def check(_user: User, _password: str, _address: str) -> bool:
            await people.accounts.change(ann.id, by=principal(user=root), password="set by somebody else")
            return True

        monkeypatch.setattr(people.accounts, "_check_password", check)
        with pytest.raises(InvalidCredentialsError):
            self.change(people, ann, PASSWORD, NEW)
        assert ann.must_change
        assert run(people.passwords.verify(ann.password_hash, "set by somebody else"))


def test_the_representation_of_a_user_shows_neither_hash_nor_address(ann: User):
    assert "argon2" not in repr(ann)
    assert "example.org" not in repr(ann)
