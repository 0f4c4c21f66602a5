"""Signing in, staying signed in, and signing out."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog

from allsource_core.engine import EngineError
from allsource_core.facts import Facts
from allsource_core.identity.errors import (
    InvalidCredentialsError,
    RefreshRefusedError,
    SignInQueueFullError,
    SlowedDownError,
    TenantInactiveError,
)
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.session_file import Session
from allsource_core.identity.sessions import SessionDirectory
from allsource_core.identity.throttle import SignInThrottle
from allsource_core.identity.users import ALL_SESSIONS, User, UserDirectory
from allsource_shared.permissions import Role
from allsource_shared.tokens import TokenSigner
from allsource_shared.wire.sessions import SignedIn
from allsource_shared.wire.times import format_instant

__all__ = ["SignInService"]


_OF_AN_ACCOUNT_MAX: Final = 4
_TENANTS_MIN: Final = 4
"""A quarter of the queue at most is one tenant's: its users, whose passwords are right, keep nobody else out. Refused
for it are only those who signed in before from where they are: anybody else would learn what names its users have.
"""


class SignInService:
    """Exchanges username and password, or a refresh token, for an access token and the next refresh token.

    Args:
        users, sessions, facts: of the service.
        passwords: checks them.
        throttle: slows guessing down.
        signer: of access tokens.
        tenant_is_active: whether the users of a tenant may sign in.
    """

    def __init__(
        self,
        users: UserDirectory,
        sessions: SessionDirectory,
        passwords: Passwords,
        throttle: SignInThrottle,
        signer: TokenSigner,
        facts: Facts,
        *,
        tenant_is_active: Callable[[str], bool],
    ) -> None:
        self._users = users
        self._sessions = sessions
        self._passwords = passwords
        self._throttle = throttle
        self._signer = signer
        self._facts = facts
        self._tenant_is_active = tenant_is_active
        self._waiting: Counter[str] = Counter()

    async def sign_in(self, username: str, password: str, *, address: str, user_agent: str) -> SignedIn:
        """Check a password and begin a session.

        Args:
            username, password: as they were typed.
            address, user_agent: of who asks.

        Raises:
            InvalidCredentialsError: for an unknown user, an inactive one and a wrong password alike, after the same
                time.
            TenantInactiveError: the password is right.
            SlowedDownError: too many attempts failed; nothing was checked.
            SignInQueueFullError: too many are waiting; nothing was checked.
            SessionsUnavailableError: the session can't be stored.
        """
        user = await self._checked(username, password, address)
        log = structlog.get_logger()
        if user is None:
            raise InvalidCredentialsError
        if not self._tenant_is_active(user.tenant_id):
            log.info("sign_in_refused", user_id=user.id, reason="tenant_inactive")
            raise TenantInactiveError
        outdated = user.password_hash if self._passwords.is_outdated(user.password_hash) else None
        # With nothing awaited since the user was looked at: what ends its sessions from now on ends this one too.
        session, refresh_token = await self._sessions.create(
            user.id, address=address, user_agent=user_agent, not_before=user.sessions_since
        )
        if outdated is not None:
            await self._hash_anew(user, outdated, password)
        log.info("signed_in", user_id=user.id, session_id=session.id)
        return self._answer(user, session, refresh_token)

    async def refresh(self, token: str, *, address: str, user_agent: str) -> SignedIn:
        """Continue a session.

        Args:
            token: a refresh token.
            address, user_agent: of who asks.

        Raises:
            RefreshRefusedError: the token is not good, or not any more, or its user is not.
            TenantInactiveError: the user's tenant was deactivated; the token stays as it was.
            SessionsUnavailableError: the session can't be stored; the token stays good.
        """
        session = self._sessions.session_of(token)
        user = self._users.get(session.user_id)
        if user is None or not user.active:
            await self._sessions.end_all(session.user_id)
            raise RefreshRefusedError
        if user.has_ended(session.id, session.created_at):
            await self._sessions.end(session.id)
            raise RefreshRefusedError
        if not self._tenant_is_active(user.tenant_id):
            raise TenantInactiveError
        session, successor = await self._sessions.refresh(token, address=address, user_agent=user_agent)
        return self._answer(user, session, successor)

    async def proves(self, user: User, password: str, address: str) -> bool:
        """Whether a password is a user's own, for one who is signed in already; it counts as a sign-in does.

        Raises:
            SlowedDownError, SignInQueueFullError: nothing was checked.
        """
        return await self._checked(user.username, password, address) is not None

    async def _checked(self, username: str, password: str, address: str) -> User | None:
        """The user of this name and password who may sign in; None where there is none."""
        log = structlog.get_logger()
        # As names are compared: an account is one however its name is written.
        username = unicodedata.normalize("NFC", username)
        try:
            self._throttle.admit(username, address)
        except SlowedDownError:
            log.info("sign_in_slowed_down")
            raise
        user = self._users.named(username)
        encoded = user.password_hash if user is not None else None
        try:
            with self._turn(username, user, address):
                matches = await self._passwords.verify(encoded, password)
        except SignInQueueFullError:
            self._throttle.not_checked(username, address)
            raise
        # As the user is now: it may have been deactivated, or got another password, while this one was looked at.
        if user is None or not matches or not _may_sign_in(user, encoded):
            log.info("sign_in_refused", user_id=user.id if user is not None else None)
            return None
        self._throttle.succeeded(username, address)
        return user

    @contextmanager
    def _turn(self, username: str, user: User | None, address: str) -> Iterator[None]:
        """A place in the queue for passwords, of which no account and no tenant has more than a part.

        Raises:
            SignInQueueFullError: it has as many already.
        """
        groups = [f"account {username}"]
        is_full = self._waiting[groups[0]] >= _OF_AN_ACCOUNT_MAX
        if user is not None and user.role is not Role.ADMIN:
            groups.append(of_tenant := f"tenant {user.tenant_id}")
            if self._waiting[of_tenant] >= max(1, self._passwords.queue_max // _TENANTS_MIN):
                is_full |= self._throttle.has_succeeded(username, address)
        if is_full:
            raise SignInQueueFullError
        self._waiting.update(groups)
        try:
            yield
        finally:
            self._waiting.subtract(groups)
            for group in groups:
                if not self._waiting[group]:
                    del self._waiting[group]

    async def _hash_anew(self, user: User, outdated: str, password: str) -> None:
        """Store the hash of a password with the parameters of today. It is no reason to refuse that it can't be."""
        try:
            encoded = await self._passwords.hash_async(password)
            async with self._facts.changing:
                if _may_sign_in(user, outdated):
                    await self._users.change(
                        user.id, password_hash=encoded, must_change=user.must_change, keeps=ALL_SESSIONS
                    )
        except (EngineError, SignInQueueFullError) as error:
            structlog.get_logger().warning("password_not_hashed_anew", user_id=user.id, error=str(error))

    def _answer(self, user: User, session: Session, refresh_token: str) -> SignedIn:
        token, claims = self._signer.sign(
            user_id=user.id,
            username=user.username,
            tenant_id=user.tenant_id,
            role=user.role,
            session_id=session.id,
        )
        return SignedIn(
            token=token,
            refresh_token=refresh_token,
            expires_at=format_instant(claims.exp * 1_000_000),
            user=user.view(),
        )


def _may_sign_in(user: User, encoded: str | None) -> bool:
    return user.active and user.password_hash == encoded
