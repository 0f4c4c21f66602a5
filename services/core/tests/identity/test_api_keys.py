"""API keys as facts of the store: what is good for a credential, who may make one, and what is known of it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from allsource_core.engine import EventQuery, EventStore
from allsource_core.facts import SYSTEM_TENANT
from allsource_core.identity.api_keys import permissions_of
from allsource_core.identity.errors import IdentityRuleError, UnknownKeyError
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role
from allsource_shared.problems import ApiError
from allsource_shared.wire.api_keys import IssuedApiKey

from ..engine.data_directory import contents_of
from .key_directories import DAY, QUOTA, Directories

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def here(tmp_path: Path) -> AsyncIterator[Directories]:
    with EventStore.open(tmp_path / "data") as store:
        directories = Directories(store, tmp_path / "data")
        yield directories
        await directories.uses.close()


async def refusal(attempt: Any) -> str:
    with pytest.raises(IdentityRuleError) as caught:
        await attempt
    return caught.value.code


# --- credentials ---


async def test_a_key_is_identified_by_its_credential(here: Directories):
    ann = here.user("ann")
    key, credential = await here.make(ann, name="Ärger ✓")
    assert here.keys.identify(credential) is key
    assert (key.name, key.user_id, key.tenant_id, key.role) == ("Ärger ✓", ann.id, "default", Role.SERVICEACCOUNT)
    assert (key.expires_at, key.secret_sha256.hex() in credential) == (None, False)
    assert credential == f"ask_{key.id}_{credential[-64:]}"


async def test_what_is_not_exactly_the_credential_is_none(here: Directories):
    key, credential = await here.make(here.user("ann"))
    other = "0" if credential[-1] != "0" else "1"
    for text in (
        "",
        "ask_",
        f"ask_{key.id}",
        f"ask_{key.id}_",
        credential[:-1],
        credential[:-1] + other,
        credential + "0",
        credential + "\n",
        " " + credential,
        credential.upper(),
        credential.replace("ask_", "ASK_"),
        credential.replace(key.id, "0" * 20),
        credential.replace(key.id, ""),
        credential[:-1] + "é",
        credential[:-1] + "\0",
        credential[:-1] + "\udcff",
        f"ask_{key.id}_{key.secret_sha256.hex()}",
        f"ask_{key.id}_{'x' * 64}",
    ):
        assert here.keys.identify(text) is None, text


async def test_secrets_are_compared_in_constant_time_for_unknown_ids_too(
    here: Directories, monkeypatch: pytest.MonkeyPatch
):
    _, credential = await here.make(here.user("ann"))
    compared: list[tuple[int, int]] = []

    def compare_digest(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare_digest)
    assert here.keys.identify(credential) is not None
    assert here.keys.identify(f"{credential[:25]}{'0' * 64}") is None
    assert here.keys.identify(f"ask_{'0' * 20}_{credential[-64:]}") is None
    assert compared == [(32, 32)] * 3


async def test_a_key_ends_with_its_time(here: Directories):
    key, credential = await here.make(here.user("ann"), expires_in_days=2)
    assert key.expires_at == int((here.time + 2 * DAY) * 1_000_000)
    here.time += 2 * DAY - 0.001
    assert here.keys.identify(credential) is key
    here.time += 0.001
    assert here.keys.identify(credential) is None
    with pytest.raises(UnknownKeyError, match="has expired; make a new one"):
        await here.issuer.rotate(key.user_id, key.id)
    assert here.keys.get(key.id) is key


async def test_a_rotated_key_is_the_same_with_another_secret(here: Directories):
    ann = here.user("ann")
    key, before = await here.make(ann, expires_in_days=1)
    revision = here.changes.revision
    rotated, after = await here.issuer.rotate(ann.id, key.id)
    assert here.keys.identify(before) is None
    assert here.keys.identify(after) is rotated
    assert (rotated.id, rotated.name, rotated.expires_at, rotated.position) == (
        key.id,
        key.name,
        key.expires_at,
        key.position,
    )
    assert [(change.kind, change.id) for change in here.changes.since(revision) or []] == [("api_key", key.id)]


async def test_a_revoked_key_is_gone(here: Directories):
    ann = here.user("ann")
    key, credential = await here.make(ann)
    here.uses.note_use(key.id)
    revision = here.changes.revision
    await here.issuer.revoke(key.id, by=ann.id, any_owner=lambda: False)
    assert here.keys.identify(credential) is None
    assert here.keys.get(key.id) is None
    assert here.uses.last_used_at(key.id) is None
    assert [(change.kind, change.id) for change in here.changes.since(revision) or []] == [("api_key", key.id)]
    for attempt in (
        here.issuer.revoke(key.id, by=ann.id, any_owner=lambda: True),
        here.issuer.rotate(ann.id, key.id),
    ):
        with pytest.raises(UnknownKeyError):
            await attempt


@pytest.mark.parametrize("how", ["revoked", "with its user", "with its tenant"])
async def test_the_name_of_a_key_that_has_ended_is_erased(here: Directories, how: str):
    ann = here.user("ann", tenant="acme")
    ended, _ = await here.make(ann, name="Ada's laptop")
    kept, _ = await here.make(here.user("bob"), name="of another")
    if how == "revoked":
        await here.issuer.revoke(ended.id, by=ann.id, any_owner=lambda: False)
    else:
        async with here.facts.changing:
            facts = here.keys.revoke_all_of(ann.id) if how == "with its user" else here.keys.revoke_all_in("acme")
            await here.facts.append_async(facts)
        await here.facts.erase_owed()

    def named(key_id: str) -> list[bytes]:
        events = here.store.read(SYSTEM_TENANT, EventQuery(entity_id=f"api-key:{key_id}", event_type="api-key.named"))
        return [event.payload for event in events]

    assert named(ended.id) == [b"null"]
    assert not any(b"laptop" in event.payload for event in here.store.read(SYSTEM_TENANT, EventQuery()))
    assert named(kept.id) == [b'{"name":"of another"}']
    again = Directories(here.store, here.path / "again")
    assert again.keys.find(kept.id).name == "of another"
    assert again.keys.get(ended.id) is None


async def test_the_name_of_a_key_is_erased_after_a_restart_if_it_could_not_be_before(
    here: Directories, monkeypatch: pytest.MonkeyPatch
):
    async def fail(_events: object) -> None:
        raise OSError("the disk fails")

    ann = here.user("ann")
    key, _ = await here.make(ann, name="Ada's laptop")
    monkeypatch.setattr(here.facts, "erase", fail)
    await here.issuer.revoke(key.id, by=ann.id, any_owner=lambda: False)
    again = Directories(here.store, here.path / "again")
    await again.facts.erase_owed()
    assert not any(b"laptop" in event.payload for event in here.store.read(SYSTEM_TENANT, EventQuery()))
    # And whoever folds all of it then owes nothing more.
    last = Directories(here.store, here.path / "last")
    monkeypatch.setattr(last.facts, "erase", fail)
    await last.facts.erase_owed()


async def test_the_keys_of_a_user_or_a_tenant_end_together(here: Directories):
    ann, bob, root = here.user("ann"), here.user("bob", tenant="acme"), here.user("root", Role.ADMIN)
    made = [await here.make(owner, tenant_id=tenant) for owner, tenant in ((ann, "default"), (bob, "acme"))]
    made += [await here.make(root, tenant_id="acme"), await here.make(root)]

    def alive() -> list[bool]:
        return [here.keys.identify(credential) is not None for _, credential in made]

    assert alive() == [True] * 4
    revision = here.changes.revision
    async with here.facts.changing:
        await here.facts.append_async(here.keys.revoke_all_in("acme"))
    ended = {(change.kind, change.id) for change in here.changes.since(revision) or []}
    assert ended == {("api_key", key.id) for key, _ in made[1:3]}
    assert alive() == [True, False, False, True]
    async with here.facts.changing:
        await here.facts.append_async(here.keys.revoke_all_of(ann.id))
    assert alive() == [False, False, False, True]
    assert here.keys.revoke_all_of(ann.id) == here.keys.revoke_all_in("acme") == []
    # What has ended with the tenant says nothing of what is made in another of its name.
    _, credential = await here.make(root, tenant_id="acme")
    assert Directories(here.store, here.path / "again").keys.identify(credential) is not None


async def test_what_is_stored_and_not_folded_yet_counts(here: Directories):
    """An append whose outcome was uncertain may be decided on whenever."""
    ann = here.user("ann")
    kept, rotated, revoked = [(await here.make(ann))[0].id for _ in range(3)]
    other = Directories(here.store, here.path / "again")
    for key_id in (rotated, revoked):
        await other.issuer.revoke(key_id, by=ann.id, any_owner=lambda: False)
    with pytest.raises(UnknownKeyError):
        await here.issuer.rotate(ann.id, rotated)
    await other.issuer.revoke(kept, by=ann.id, any_owner=lambda: False)
    with pytest.raises(UnknownKeyError):
        await here.issuer.revoke(kept, by=ann.id, any_owner=lambda: False)
    assert len(here.keys) == 0


async def test_a_key_that_turns_out_to_be_revoked_is_unknown_to_who_rotates_it(here: Directories):
    ann = here.user("ann")
    key, _ = await here.make(ann)
    other = Directories(here.store, here.path / "again")
    async with here.facts.changing:
        await other.keys.revoke(key.id)
        with pytest.raises(UnknownKeyError):
            await here.keys.rotate(key.id)


# --- who may do it ---


@pytest.mark.parametrize("owner_role", list(Role))
@pytest.mark.parametrize("role", [None, *Role])
async def test_nobody_grants_what_they_do_not_hold(here: Directories, owner_role: Role, role: Role | None):
    owner = here.user("ann", owner_role)
    held = ROLE_PERMISSIONS[owner_role]
    if role is not None and not ROLE_PERMISSIONS[role] <= held:
        assert await refusal(here.make(owner, role=role)) == "forbidden"
        assert len(here.keys) == 0
        return
    key, _ = await here.make(owner, role=role)
    assert key.role is (role or (Role.READONLY if owner_role is Role.READONLY else Role.SERVICEACCOUNT))
    assert permissions_of(key, owner) == ROLE_PERMISSIONS[key.role]


async def test_tenants_are_named_by_those_who_may(here: Directories):
    ann, root = here.user("ann", tenant="acme"), here.user("root", Role.ADMIN)
    assert await refusal(here.make(ann, tenant_id="default")) == "forbidden"
    assert await refusal(here.make(ann, tenant_id="nowhere")) == "forbidden"
    assert await refusal(here.make(root, tenant_id="nowhere")) == "not_found"
    assert await refusal(here.make(root, tenant_id="acme", role=Role.ADMIN)) == "admin_outside_default"
    for owner in (ann, root):
        for reserved in ("_system", "_audit", "_"):
            assert await refusal(here.make(owner, tenant_id=reserved)) == "reserved_tenant"
    assert len(here.keys) == 0
    key, _ = await here.make(root, tenant_id="acme", role=Role.DEVELOPER)
    assert (key.tenant_id, key.role) == ("acme", Role.DEVELOPER)


async def test_rights_are_those_that_the_owner_has_now(here: Directories):
    ann = here.user("ann", Role.ADMIN)
    here.user("root", Role.ADMIN)
    key, _ = await here.make(ann, role=Role.DEVELOPER)
    elsewhere, _ = await here.make(ann, role=Role.DEVELOPER, tenant_id="acme")
    assert permissions_of(elsewhere, ann) == permissions_of(key, ann) == ROLE_PERMISSIONS[Role.DEVELOPER]
    async with here.facts.changing:
        await here.users.change(ann.id, role=Role.READONLY)
    assert permissions_of(key, ann) == {Permission.READ, Permission.METRICS}
    # Who may no longer choose a tenant reaches no other by a key of earlier days.
    assert permissions_of(elsewhere, ann) == frozenset()
    async with here.facts.changing:
        await here.users.change(ann.id, role=Role.SERVICEACCOUNT)
    assert permissions_of(key, ann) == {Permission.READ, Permission.WRITE}
    async with here.facts.changing:
        await here.users.change(ann.id, active=False)
    assert permissions_of(key, ann) == frozenset()


async def test_who_was_deactivated_or_deleted_meanwhile_makes_no_key(here: Directories):
    ann = here.user("ann")
    key, _ = await here.make(ann)
    async with here.facts.changing:
        await here.users.change(ann.id, active=False)
    assert await refusal(here.make(ann)) == "unauthorized"
    assert await refusal(here.issuer.rotate(ann.id, key.id)) == "unauthorized"
    async with here.facts.changing:
        await here.users.delete(ann.id)
    assert await refusal(here.make(ann)) == "unauthorized"
    assert len(here.keys) == 1


async def test_a_key_of_somebody_else_is_unknown(here: Directories):
    ann, bob, root = here.user("ann"), here.user("bob"), here.user("root", Role.ADMIN)
    key, credential = await here.make(ann)
    for attempt in (
        here.issuer.revoke(key.id, by=bob.id, any_owner=lambda: False),
        here.issuer.rotate(bob.id, key.id),
        here.issuer.rotate(root.id, key.id),
    ):
        with pytest.raises(UnknownKeyError, match="there is no such API key"):
            await attempt
    assert here.keys.identify(credential) is key
    await here.issuer.revoke(key.id, by=root.id, any_owner=lambda: True)
    assert here.keys.identify(credential) is None


# --- quota ---


async def test_keys_made_at_once_never_pass_the_quota(here: Directories):
    owners = [here.user(f"user {number}", tenant="small") for number in range(4)]
    results = await asyncio.gather(*(here.make(owner) for owner in owners * 4), return_exceptions=True)
    refused = [result for result in results if isinstance(result, ApiError)]
    assert len(refused) == len(results) - QUOTA
    assert {(error.status, error.code, error.actual) for error in refused} == {(403, "quota_exceeded", QUOTA)}
    assert len(here.keys) == here.keys.active_in("small") == QUOTA


async def test_expired_and_revoked_keys_are_not_counted(here: Directories):
    ann = here.user("ann", tenant="small")
    await here.make(ann, expires_in_days=1)
    kept, _ = await here.make(ann)
    revoked, _ = await here.make(ann)
    with pytest.raises(ApiError):
        await here.make(ann)
    here.time += DAY
    await here.make(ann)
    await here.issuer.revoke(revoked.id, by=ann.id, any_owner=lambda: False)
    await here.issuer.rotate(ann.id, kept.id)
    await here.make(ann)
    assert here.keys.active_in("small") == QUOTA
    with pytest.raises(ApiError):
        await here.make(ann)


# --- secrets ---


async def test_nothing_that_is_kept_or_shown_has_a_secret(here: Directories, capsys: pytest.CaptureFixture[str]):
    ann = here.user("ann")
    key, first = await here.make(ann)
    key, second = await here.issuer.rotate(ann.id, key.id)
    here.uses.note_use(key.id)
    here.uses.start()
    await here.uses.close()
    issued = IssuedApiKey(id=key.id, name="", key=second, role=key.role, tenant_id="", expires_at=None)
    shown = repr(key) + str(key) + repr(issued) + str(issued) + str(here.keys.revoke_all_of(ann.id))
    shown += "".join(capsys.readouterr())
    assert key.secret_sha256.hex() not in shown
    assert repr(key.secret_sha256) not in shown
    kept = b"".join(content for _, content in contents_of(here.path))
    assert key.id.encode() in kept
    for credential in (first, second):
        secret = credential[-64:]
        for form in (secret.encode(), secret.upper().encode(), bytes.fromhex(secret)):
            assert form not in kept
        assert secret not in shown
