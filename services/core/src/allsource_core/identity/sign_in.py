"""Signing in: username and password against an access token."""

from __future__ import annotations

import secrets

import structlog

from allsource_core.identity.errors import InvalidCredentialsError
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.users import UserDirectory
from allsource_shared.tokens import TokenSigner
from allsource_shared.wire.identity import SignedIn
from allsource_shared.wire.times import format_instant

__all__ = ["SignInService"]


class SignInService:
    """Exchanges username and password for an access token."""

    def __init__(self, users: UserDirectory, passwords: Passwords, signer: TokenSigner) -> None:
        self._users = users
        self._passwords = passwords
        self._signer = signer

    async def sign_in(self, username: str, password: str) -> SignedIn:
        """Check a password and make a token.

        Raises:
            InvalidCredentialsError: for an unknown user and a wrong password alike, after the same time.
            SignInQueueFullError: too many are waiting.
        """
        user = self._users.named(username)
        matches = await self._passwords.verify(user.password_hash if user is not None else None, password)
        log = structlog.get_logger()
        if user is None or not matches:
            log.info("sign_in_refused", user_id=user.id if user is not None else None)
            raise InvalidCredentialsError
        token, claims = self._signer.sign(
            user_id=user.id,
            username=user.username,
            tenant_id=user.tenant_id,
            role=user.role,
            session_id=secrets.token_hex(10),
        )
        log.info("signed_in", user_id=user.id)
        return SignedIn(token=token, expires_at=format_instant(claims.exp * 1_000_000), user=user.view())
