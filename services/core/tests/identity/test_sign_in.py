"""Signing in: the same work and the same answer for everybody who may not, and a session for who may."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import argon2
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from allsource_core.changes import Changes
from allsource_core.engine import EventStore, StoreReadOnlyError
from allsource_core.facts import Facts
from allsource_core.identity.api_keys import ApiKeyDirectory
from allsource_core.identity.credentials import Credentials
from allsource_core.identity.errors import (
    InvalidCredentialsError,
    RefreshRefusedError,
    SignInQueueFullError,
    SlowedDownError,
    TenantInactiveError,
)
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.refresh_tokens import RefreshTokens
from allsource_core.identity.sessions import SessionDirectory
from allsource_core.identity.sign_in import SignInService
from allsource_core.identity.throttle import SignInThrottle
from allsource_core.identity.users import User, UserDirectory
from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError
from allsource_shared.tokens import SigningKey, TokenSigner, TokenVerifier
from allsource_shared.wire.sessions import SignedIn

PASSWORD = "correct horse battery"
KEY = SigningKey.from_secret("k" * 32)
VERIFIER = TokenVerifier([KEY], issuer="i", audience="a")
FROM = {"address": "192.0.2.7", "user_agent": "a browser"}

pytestmark = pytest.mark.asyncio


class CountingPasswords(Passwords):
    """Counts the hashes that are computed, and remembers what was compared with."""

    def __init__(self) -> None:
        super().__init__(queue_max=16)
        self.verified: list[str | None] = []
        self.before_answer = lambda: None

    async def verify(self, encoded: str | None, password: str) -> bool:
        matches = await super().verify(encoded, password)
        self.verified.append(encoded)
        self.before_answer()
        return matches


class Service:
    """Everything that signing in needs, over a store of its own."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.store = EventStore.open(directory)
        self.facts = Facts(self.store)
        changes = self.changes = Changes()
        self.users = UserDirectory(self.facts, changes)
        self.passwords = CountingPasswords()
        self.inactive_tenants: set[str] = set()
        self.sessions = SessionDirectory(
            directory / "derived" / "sessions.sqlite",
            RefreshTokens(b"k" * 32),
            changes,
            lifetime_seconds=24 * 3600,
            clock=lambda: self.now,
        )
        self.service = SignInService(
            self.users,
            self.sessions,
            self.passwords,
            SignInThrottle(lambda: self.now),
            TokenSigner(KEY, issuer="i", audience="a", lifetime_seconds=3600),
            self.facts,
            tenant_is_active=lambda tenant_id: tenant_id not in self.inactive_tenants,
        )
        self.facts.fold()

    async def create(self, username: str, encoded: str | None = None) -> User:
        if encoded is None:
            encoded = self.passwords.hash(PASSWORD)
        async with self.facts.changing:
            return await self.users.create_async(
                username=username, email="", password_hash=encoded, role=Role.DEVELOPER, tenant_id="acme"
            )

    async def change(self, user: User, **changes: object) -> None:
        async with self.facts.changing:
            await self.users.change(user.id, **changes)  # type: ignore[arg-type]

    async def sign_in(self, username: str = "ann", password: str = PASSWORD, address: str = "192.0.2.7") -> SignedIn:
        return await self.service.sign_in(username, password, address=address, user_agent="a browser")

    async def refresh(self, token: str) -> SignedIn:
        return await self.service.refresh(token, **FROM)

    def close(self) -> None:
        self.passwords.close()
        self.sessions.close()
        self.store.close()


@pytest_asyncio.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path / "data")
    yield service
    service.close()


@pytest_asyncio.fixture
async def ann(service: Service) -> User:
    return await service.create("ann")


async def test_a_sign_in_begins_a_session_that_the_token_belongs_to(service: Service, ann: User):
    signed_in = await service.sign_in()
    claims = VERIFIER.verify(signed_in.token)
    [session] = service.sessions.of_user(ann.id)
    assert (claims.sub, claims.session_id) == (ann.id, session.id)
    assert (session.address, session.user_agent) == ("192.0.2.7", "a browser")
    refreshed = await service.refresh(signed_in.refresh_token)
    assert VERIFIER.verify(refreshed.token).session_id == session.id
    assert refreshed.refresh_token != signed_in.refresh_token
    assert signed_in.token not in repr(signed_in)
    assert signed_in.refresh_token not in repr(signed_in)


async def test_the_claims_of_a_refreshed_token_are_those_of_the_user_now(service: Service, ann: User):
    signed_in = await service.sign_in()
    await service.change(ann, role=Role.READONLY)
    refreshed = await service.refresh(signed_in.refresh_token)
    assert VERIFIER.verify(refreshed.token).role is Role.READONLY
    assert refreshed.user.role is Role.READONLY


async def test_whoever_may_not_costs_one_hash_and_gets_one_answer(service: Service, ann: User):
    gone, idle = await service.create("gone"), await service.create("idle")
    await service.change(idle, active=False)
    async with service.facts.changing:
        await service.users.delete(gone.id)
    service.inactive_tenants.add("acme")
    attempts = [("ann", "wrong"), ("idle", PASSWORD), ("idle", "wrong"), ("gone", PASSWORD), ("nobody", PASSWORD)]
    for count, (username, password) in enumerate(attempts, 1):
        with pytest.raises(InvalidCredentialsError) as refused:
            await service.sign_in(username, password)
        assert str(refused.value) == ""
        assert len(service.passwords.verified) == count
    # An inactive user is compared with the own hash, so the parameters of it don't show either.
    assert service.passwords.verified == [ann.password_hash, idle.password_hash, idle.password_hash, None, None]
    assert len(service.sessions) == 0


async def test_the_right_password_of_an_inactive_tenant_is_told_why(service: Service, ann: User):
    signed_in = await service.sign_in()
    service.inactive_tenants.add("acme")
    for _ in range(20):
        with pytest.raises(TenantInactiveError):
            await service.sign_in()
    with pytest.raises(TenantInactiveError):
        await service.refresh(signed_in.refresh_token)
    service.inactive_tenants.clear()
    service.now += 3600
    await service.refresh(signed_in.refresh_token)


@pytest.mark.parametrize("deleted", [True, False])
async def test_sessions_of_a_user_who_is_gone_end_at_the_next_refresh(service: Service, ann: User, deleted: bool):
    signed_in, other = await service.sign_in(), await service.sign_in()
    if deleted:
        async with service.facts.changing:
            await service.users.delete(ann.id)
    else:
        await service.change(ann, active=False)
    for token in (signed_in.refresh_token, other.refresh_token):
        with pytest.raises(RefreshRefusedError):
            await service.refresh(token)
    assert len(service.sessions) == 0


@pytest.mark.parametrize("change", [{"active": False}, {"password_hash": "$another"}])
async def test_what_changes_while_the_password_is_looked_at_counts(
    service: Service, ann: User, change: dict[str, object]
):
    def before_answer() -> None:
        # As the fold of a fact does it, at the worst moment.
        for name, value in change.items():
            setattr(ann, name, value)

    service.passwords.before_answer = before_answer
    with pytest.raises(InvalidCredentialsError):
        await service.sign_in()
    assert len(service.sessions) == 0


# --- slowing down ---


async def test_a_guess_that_has_to_wait_costs_no_hash_whether_the_account_exists_or_not(service: Service, ann: User):
    for username in ("ann", "nobody"):
        for _ in range(10):
            with pytest.raises(InvalidCredentialsError):
                await service.sign_in(username, "wrong")
        hashes = len(service.passwords.verified)
        for password in ("wrong", PASSWORD):
            with pytest.raises(SlowedDownError) as refused:
                await service.sign_in(username, password)
            assert refused.value.retry_after_seconds == pytest.approx(1.0)
        assert len(service.passwords.verified) == hashes
    await service.sign_in(address="192.0.2.8")
    service.now += 1
    await service.sign_in()
    with pytest.raises(InvalidCredentialsError):
        await service.sign_in(password="wrong")


async def test_a_full_queue_counts_as_no_guess(service: Service, ann: User):
    for _ in range(10):
        answers = await asyncio.gather(*(service.sign_in() for _ in range(8)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [SignedIn] * 4 + [SignInQueueFullError] * 4
        service.now += 1


# --- hashing anew ---

OUTDATED = argon2.PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)


async def test_a_hash_with_other_parameters_is_made_anew_at_a_sign_in(service: Service):
    ann = await service.create("ann", OUTDATED)
    await service.change(ann, password_hash=OUTDATED, must_change=True)
    with pytest.raises(InvalidCredentialsError):
        await service.sign_in(password="wrong")
    assert ann.password_hash == OUTDATED
    await service.sign_in()
    assert ann.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert ann.must_change
    position = service.store.last_position
    await service.sign_in()
    assert service.store.last_position == position
    again = UserDirectory(facts := Facts(service.store), Changes())
    facts.fold()
    assert again.find(ann.id).password_hash == ann.password_hash


async def test_a_hash_that_can_not_be_stored_is_no_reason_to_refuse(service: Service, monkeypatch: pytest.MonkeyPatch):
    ann = await service.create("ann", OUTDATED)

    async def read_only(*_: object) -> None:
        raise StoreReadOnlyError("disk full", "disk_full")

    monkeypatch.setattr(service.facts, "append_async", read_only)
    with capture_logs() as logs:
        await service.sign_in()
    assert [line["event"] for line in logs] == ["password_not_hashed_anew", "signed_in"]
    assert ann.password_hash == OUTDATED


# --- what is logged ---


async def test_a_copied_refresh_token_is_told_to_the_operator_without_the_token(service: Service, ann: User):
    signed_in = await service.sign_in()
    refreshed = await service.refresh(signed_in.refresh_token)
    service.now += 11
    with capture_logs() as logs, pytest.raises(RefreshRefusedError):
        await service.refresh(signed_in.refresh_token)
    session_id = VERIFIER.verify(refreshed.token).session_id
    assert logs == [
        {"event": "refresh_token_reused", "log_level": "warning", "session_id": session_id, "user_id": ann.id}
    ]


async def test_an_account_is_slowed_down_however_its_name_is_written(service: Service):
    await service.create("Zo\u00eb")
    for number in range(10):
        with pytest.raises(InvalidCredentialsError):
            await service.sign_in("Zo\u00eb" if number % 2 else "Zoe\u0308", "wrong")
    for name in ("Zo\u00eb", "Zoe\u0308"):
        with pytest.raises(SlowedDownError):
            await service.sign_in(name, "wrong")


async def test_one_account_and_one_tenant_have_a_part_of_the_queue_only(service: Service, ann: User):
    """Right passwords, of many users, through one door: others get their turn all the same."""
    others = [await service.create(f"user-{number}") for number in range(20)]
    for user in (ann, *others):
        await service.sign_in(user.username)
    asked = [service.sign_in(user.username) for user in others for _ in range(3)]
    answers = await asyncio.gather(*asked, *(service.sign_in() for _ in range(8)), return_exceptions=True)
    let_in = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert {type(answer) for answer in answers} - {SignedIn} == {SignInQueueFullError}
    assert 0 < len(let_in) <= service.passwords.queue_max // 4
    # A refusal is not held against anybody.
    assert (await service.sign_in()).token


async def test_a_full_part_of_the_queue_tells_nobody_which_names_there_are(service: Service, ann: User):
    """Who has accounts in a tenant can fill its part; what is answered to guesses meanwhile must not tell its users."""
    own = [await service.create(f"own-{number}") for number in range(2)]
    await service.create("away")
    for user in (ann, *own):
        await service.sign_in(user.username)
    await service.sign_in("away", address="192.0.2.8")
    guesses = [("ann", "198.51.100.9"), ("away", "192.0.2.7"), ("nobody", "192.0.2.7"), ("nobody", "198.51.100.9")]
    answers = await asyncio.gather(
        *(service.sign_in(user.username) for user in own for _ in range(3)),
        *(service.sign_in(username, "wrong", address) for username, address in guesses),
        service.sign_in("ann"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers[:6]] == [SignedIn] * 4 + [SignInQueueFullError] * 2
    assert [type(answer) for answer in answers[6:-1]] == [InvalidCredentialsError] * len(guesses)
    assert type(answers[-1]) is SignInQueueFullError


async def test_what_a_fact_has_ended_goes_on_nowhere(service: Service, ann: User):
    """Also where whoever appended it could not end the session, as the append was uncertain."""
    changes = Changes()
    credentials = Credentials(
        verifier=VERIFIER,
        users=service.users,
        sessions=service.sessions,
        keys=ApiKeyDirectory(Facts(service.store), changes, SimpleNamespace(), lambda: 0.0),  # type: ignore[arg-type]
        tenant_is_active=lambda _tenant: True,
        changes=service.changes,
        now=time.time,
    )
    kept, ended = await service.sign_in(), await service.sign_in()
    keeps = credentials.identify(kept.token).principal.session_id
    assert credentials.identify(ended.token).principal.user_id == ann.id
    await service.change(ann, password_hash=service.passwords.hash(PASSWORD), keeps=keeps)

    with pytest.raises(ApiError, match="session of the access token has ended"):
        credentials.identify(ended.token)
    with pytest.raises(RefreshRefusedError):
        await service.refresh(ended.refresh_token)
    assert credentials.identify(kept.token).principal.session_id == keeps
    assert (await service.refresh(kept.refresh_token)).user.id == ann.id
    assert [session.id for session in service.sessions.of_user(ann.id)] == [keeps]
    assert credentials.identify((await service.sign_in()).token).principal.user_id == ann.id


async def test_a_clock_that_was_set_back_keeps_nobody_out(service: Service, ann: User):
    ann.end_sessions(2**60)
    session = (await service.sign_in()).refresh_token
    assert (await service.refresh(session)).user.id == ann.id
