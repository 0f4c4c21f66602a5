"""Who may register whom, as what and where, in each mode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from allsource_core.identity.bootstrap import create_first_admin, prepare_first_registration
from allsource_core.identity.errors import (
    IdentityError,
    IdentityRuleError,
    InvalidUserError,
    SignInQueueFullError,
    UsernameTakenError,
)
from allsource_core.identity.principals import Principal
from allsource_core.identity.users import User
from allsource_shared.permissions import Role
from allsource_shared.wire.users import Registration

from .people import PASSWORD, People, principal, run

Gather = Callable[..., People]


def wanted(username: str = "ann", password: str = PASSWORD, **fields: Any) -> Registration:
    return Registration(username, password, **fields)


def register(people: People, by: Principal | None = None, *, is_local: bool = True, **fields: Any) -> User:
    user: User = run(people.registrar.register(wanted(**fields), by, is_local=is_local))
    assert people.users.named(user.username) is user
    return user


def refused(people: People, code: str, by: Principal | None = None, **fields: Any) -> str:
    """Assert that a registration is refused and stores nothing; returns why."""
    before = people.store.last_position
    with pytest.raises(IdentityError) as caught:
        register(people, by, **fields)
    assert getattr(caught.value, "code", None) == code
    assert people.store.last_position == before
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


class TestTheFirst:
    @pytest.mark.parametrize("mode", ["bootstrap", "open"])
    @pytest.mark.parametrize("fields", [{}, {"role": "Admin"}, {"role": "ADMIN", "tenant_id": "default"}])
    def test_is_an_administrator_of_default(self, gather: Gather, mode: str, fields: dict[str, str]):
        user = register(gather(mode=mode), email="ann@example.org", **fields)
        assert (user.role, user.tenant_id, user.email, user.must_change) == (
            Role.ADMIN,
            "default",
            "ann@example.org",
            False,
        )
        assert user.password_hash.startswith("$argon2id$")

    @pytest.mark.parametrize("role", ["developer", "readonly", "service_account", "root", ""])
    def test_is_nothing_else(self, people: People, role: str):
        assert "role" in refused(people, "invalid_body", role=role)

    def test_is_nowhere_else(self, people: People):
        refused(people, "admin_outside_default", tenant_id="acme")
        refused(people, "reserved_tenant", tenant_id="_system")

    @pytest.mark.parametrize("mode", ["bootstrap", "open"])
    def test_needs_the_setup_token_where_others_can_reach_the_core(self, gather: Gather, mode: str):
        people = gather(mode=mode, first_user="token")
        refused(people, "unauthorized")
        prepare_first_registration(people.users, people.rules, people.setup)
        token = people.setup.path.read_text().strip()
        for other in (None, "", token[:-1], token.upper() + "x"):
            refused(people, "unauthorized", setup_token=other)
        register(people, setup_token=token)
        assert not people.setup.path.exists()
        # In open registration the next is a guest like any other.
        if mode == "bootstrap":
            refused(people, "unauthorized", username="bob", setup_token=token)
        else:
            assert register(people, username="bob", setup_token=token).role is Role.DEVELOPER

    def test_is_somebody_of_this_machine_where_others_reach_it_through_a_gateway(self, gather: Gather):
        people = gather(first_user="local")
        refused(people, "unauthorized", is_local=False)
        assert register(people).role is Role.ADMIN

    def test_is_nobody_where_registration_is_closed(self, gather: Gather):
        people = gather(mode="closed", first_user="token")
        prepare_first_registration(people.users, people.rules, people.setup)
        assert not people.setup.path.exists()
        refused(people, "unauthorized")
        refused(people, "unauthorized", role="admin", setup_token="x")

    @pytest.mark.parametrize("mode", ["bootstrap", "open"])
    def test_is_one_of_those_who_come_at_once(self, gather: Gather, mode: str):
        people = gather(mode=mode)

        async def everybody() -> list[Any]:
            calls = [people.registrar.register(wanted(f"ann-{n}", role="admin"), None, is_local=True) for n in range(8)]
            return await asyncio.gather(*calls, return_exceptions=True)

        made = [answer for answer in run(everybody()) if isinstance(answer, User)]
        assert len(made) == 1
        assert people.users.all() == made

    def test_no_token_is_left_where_none_is_needed(self, gather: Gather):
        people = gather(first_user="token")
        people.setup.path.write_text("left by a crash")
        create_first_admin(people.users, people.passwords, username="root", password=PASSWORD, email="")
        prepare_first_registration(people.users, people.rules, people.setup)
        assert not people.setup.path.exists()
        refused(people, "unauthorized", setup_token="left by a crash")


class TestAdministrators:
    @pytest.mark.parametrize("mode", ["bootstrap", "closed", "open"])
    @pytest.mark.parametrize("role", list(Role))
    def test_register_every_role_in_every_mode(self, gather: Gather, mode: str, role: Role):
        people = gather(mode=mode)
        root = people.add()
        assert register(people, principal(user=root), role=role.value.upper()).role is role

    def test_name_the_tenant_or_take_their_own(self, people: People):
        people.add()
        assert register(people, principal()).tenant_id == "default"
        assert register(people, principal(), username="bob", tenant_id="acme").tenant_id == "acme"
        assert register(people, principal(tenant="acme"), username="eve").tenant_id == "acme"

    def test_make_developers_unless_they_say_otherwise(self, people: People):
        people.add()
        assert register(people, principal()).role is Role.DEVELOPER

    def test_make_no_administrators_elsewhere_and_nobody_nowhere(self, people: People):
        people.add()
        refused(people, "admin_outside_default", principal(), role="admin", tenant_id="acme")
        refused(people, "not_found", principal(), tenant_id="nowhere")
        refused(people, "not_found", principal(), tenant_id="")
        people.tenants.discard("acme")  # deactivated
        refused(people, "not_found", principal(), tenant_id="acme")
        for reserved in ("_system", "_audit", "_"):
            refused(people, "reserved_tenant", principal(), tenant_id=reserved)

    @pytest.mark.parametrize("mode", ["bootstrap", "closed", "open"])
    @pytest.mark.parametrize("role", [Role.DEVELOPER, Role.READONLY, Role.SERVICEACCOUNT])
    @pytest.mark.parametrize("asked", [None, "admin", "readonly", "developer"])
    def test_are_the_only_ones_who_register_others(self, gather: Gather, mode: str, role: Role, asked: str | None):
        people = gather(mode=mode)
        people.add()
        refused(people, "forbidden", principal(role), role=asked)

    def test_grant_nothing_that_they_lack(self, people: People):
        people.add()
        admin = principal()
        less = msgspec.structs.replace(
            admin, kind="api_key", key_id="k", permissions=admin.permissions - {"manage_tenants"}
        )
        refused(people, "forbidden", less, role="admin")
        assert register(people, less, role="developer").role is Role.DEVELOPER

    def test_make_no_administrators_with_an_api_key(self, people: People):
        people.add()
        key = msgspec.structs.replace(principal(), kind="api_key", key_id="k")
        refused(people, "forbidden", key, role="admin")
        assert register(people, key, role="developer").role is Role.DEVELOPER


class TestAnybody:
    @pytest.mark.parametrize("mode", ["bootstrap", "closed"])
    @pytest.mark.parametrize("role", [None, "admin", "readonly"])
    def test_registers_nobody(self, gather: Gather, mode: str, role: str | None):
        people = gather(mode=mode)
        people.add()
        refused(people, "unauthorized", role=role)
        with pytest.raises(IdentityRuleError):
            people.registrar.check_caller(None)

    @pytest.mark.parametrize(
        ("asked", "role"), [(None, "developer"), ("Developer", "developer"), ("read_only", "readonly")]
    )
    def test_registers_as_a_guest_where_that_is_open(self, gather: Gather, asked: str | None, role: str):
        people = gather(mode="open")
        people.add()
        user = register(people, role=asked)
        assert (user.role, user.tenant_id) == (role, "guests")
        assert register(people, username="bob", tenant_id="guests").tenant_id == "guests"

    @pytest.mark.parametrize(
        "fields",
        [
            {"role": "admin"},
            {"role": "ServiceAccount"},
            {"tenant_id": "default"},
            {"tenant_id": "acme"},
            {"tenant_id": "_system"},
            {"tenant_id": ""},
            {"role": "admin", "tenant_id": "default"},
        ],
    )
    def test_is_nothing_more_than_a_guest(self, gather: Gather, fields: dict[str, str]):
        people = gather(mode="open")
        people.add()
        refused(people, "forbidden", **fields)

    def test_is_not_registered_in_a_tenant_that_is_not_there(self, gather: Gather):
        people = gather(mode="open")
        people.add()
        people.tenants.discard("guests")
        refused(people, "not_found")

    def test_leaves_places_in_the_queue_for_signing_in(self, gather: Gather):
        people = gather(mode="open", queue_max=8)
        root = people.add(password=PASSWORD)

        async def crowd() -> tuple[list[Any], bool]:
            calls = [people.registrar.register(wanted(f"ann-{n}"), None, is_local=True) for n in range(30)]
            registering = asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(0)
            signed_in = await people.passwords.verify(root.password_hash, PASSWORD)
            return await registering, signed_in

        answers, signed_in = run(crowd())
        assert signed_in
        assert sum(isinstance(answer, User) for answer in answers) == 2
        assert sum(isinstance(answer, SignInQueueFullError) for answer in answers) == 28
        # The places come back.
        register(people, username="bob")


def test_a_taken_name_is_refused_in_either_form(people: People):
    people.add("émilie")
    for name in ("émilie", "e\u0301milie"):
        with pytest.raises(UsernameTakenError):
            register(people, principal(), username=name)
    assert people.users.named("e\u0301milie") is people.users.named("émilie")


def test_of_those_who_want_one_name_at_once_one_gets_it(people: People):
    people.add()

    async def everybody() -> list[Any]:
        calls = [people.registrar.register(wanted("ann"), principal(), is_local=True) for _ in range(6)]
        return await asyncio.gather(*calls, return_exceptions=True)

    answers = run(everybody())
    assert sum(isinstance(answer, User) for answer in answers) == 1
    assert sum(isinstance(answer, UsernameTakenError) for answer in answers) == 5
    assert len(people.users) == 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"username": " ann"}, "invalid_body"),
        ({"email": "nowhere"}, "invalid_body"),
        ({"role": "king"}, "invalid_body"),
        ({"password": "short"}, "weak_password"),
        ({"username": PASSWORD}, "weak_password"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_hashed(people: People, fields: dict[str, str], code: str):
    people.add()
    with pytest.raises(InvalidUserError) as caught:
        register(people, principal(), **fields)
    assert caught.value.code == code
    assert len(people.users) == 1


def test_who_registered_is_there_after_a_restart(gather: Gather):
    made = register(gather())
    assert gather().users.all() == [made]


def test_nothing_secret_is_in_a_repr():
    assert PASSWORD not in repr(wanted(setup_token="the-token"))
    assert "the-token" not in repr(wanted(setup_token="the-token"))
