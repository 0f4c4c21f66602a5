"""What the core consists of beside its store: identity and tenancy, put together over it. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from allsource_core.changes import Changes
from allsource_core.engine import EventStore, system_clock
from allsource_core.facts import Facts
from allsource_core.identity.accounts import Accounts
from allsource_core.identity.api_keys import ApiKeyDirectory
from allsource_core.identity.bootstrap import create_first_admin, prepare_first_registration
from allsource_core.identity.credentials import Credentials
from allsource_core.identity.errors import SessionsUnavailableError
from allsource_core.identity.key_issuing import KeyIssuer
from allsource_core.identity.key_uses import KeyUses
from allsource_core.identity.passwords import Passwords
from allsource_core.identity.refresh_tokens import RefreshTokens
from allsource_core.identity.registration import FirstUser, Registrar, RegistrationRules
from allsource_core.identity.rules import PasswordRules
from allsource_core.identity.session_file import SESSIONS_FILE, Session
from allsource_core.identity.sessions import SessionDirectory
from allsource_core.identity.setup_token import SETUP_TOKEN_FILE, SetupToken
from allsource_core.identity.sign_in import SignInService
from allsource_core.identity.signing_keys import SigningKeyRing
from allsource_core.identity.throttle import SignInThrottle
from allsource_core.identity.users import UserDirectory
from allsource_core.sealing import MasterKey
from allsource_core.settings import BootstrapAdmin, CoreSettings
from allsource_core.tenancy.deletion import TenantDeletions
from allsource_core.tenancy.metering import Metering
from allsource_core.tenancy.quotas import check_count
from allsource_core.tenancy.rate_limits import RateLimiter
from allsource_core.tenancy.tenants import TenantDirectory
from allsource_core.tenancy.usage import UsageLedger
from allsource_core.tenant_contents import tenant_contents
from allsource_shared.tokens import TokenSigner, TokenVerifier

__all__ = ["Services"]

_DAY_SECONDS: Final = 24 * 3600


class Services:
    """Everything that needs the open store.

    Made and prepared in a thread, as both wait for the disk; started and closed on the event loop.

    Args:
        settings, store: of the service.
        verifier: of access tokens; it gets its keys here.
        changes: of who may do what.
        first_user: who may register as the first one.

    Raises:
        SealBrokenError: the master key is not that of the data.
        SessionsUnavailableError, EngineError: files can't be read or written.
    """

    def __init__(
        self,
        settings: CoreSettings,
        store: EventStore,
        verifier: TokenVerifier,
        changes: Changes,
        *,
        first_user: FirstUser,
    ) -> None:
        self.settings = settings
        self.store = store
        self.changes = changes
        self.facts = Facts(store)
        self._tasks: list[asyncio.Task[None]] = []
        self._make_directories(Path(settings.storage.data_dir))
        self._make_tokens(verifier)
        self._make_user_services(Path(settings.storage.data_dir), first_user)
        contents = tenant_contents(self.facts, self.users, self.keys, self.sessions, self.usage, self.rates)
        self.deletions = TenantDeletions(store, self.facts, self.tenants, changes, contents)
        # When every kind of fact has its owner.
        self.facts.fold()
        self.ring.open(settings.auth.jwt_secret)
        self.tenants.store_default()

    def _make_directories(self, data_dir: Path) -> None:
        """Who and what there is."""
        derived = data_dir / "derived"
        self.users = UserDirectory(self.facts, self.changes)
        self.key_uses = KeyUses(derived / "api_keys.sqlite", time.time)
        self.keys = ApiKeyDirectory(self.facts, self.changes, self.key_uses, time.time)
        self.tenants = TenantDirectory(self.facts, self.changes)
        self.usage = UsageLedger(self.store, derived / "usage.sqlite", system_clock)
        self.metering = Metering(self.usage, self.tenants, self.changes)
        self.rates = RateLimiter()
        self.issuer = KeyIssuer(
            self.facts,
            self.keys,
            self.users,
            tenant_exists=self.tenants.is_open,
            check_quota=self._check_key_quota,
        )

    def _make_tokens(self, verifier: TokenVerifier) -> None:
        """What access tokens are signed with, and what they are good for."""
        auth = self.settings.auth
        self._master_key = MasterKey(auth.master_key)
        lifetime_seconds = auth.token_lifetime_minutes * 60
        self.ring = SigningKeyRing(
            self.facts,
            self.changes,
            self._master_key,
            verifier,
            algorithm=auth.jwt_algorithm,
            lifetime_seconds=lifetime_seconds,
        )
        self._signer = TokenSigner(
            self.ring.present, issuer=auth.jwt_issuer, audience=auth.jwt_audience, lifetime_seconds=lifetime_seconds
        )
        self.sessions = SessionDirectory(
            Path(self.settings.storage.data_dir) / SESSIONS_FILE,
            RefreshTokens(self._master_key.derive("refresh tokens")),
            self.changes,
            lifetime_seconds=auth.refresh_lifetime_days * _DAY_SECONDS,
        )
        self.credentials = Credentials(
            verifier=verifier,
            users=self.users,
            sessions=self.sessions,
            keys=self.keys,
            tenant_is_active=self.tenants.is_active,
            changes=self.changes,
            now=time.time,
        )

    def _make_user_services(self, data_dir: Path, first_user: FirstUser) -> None:
        """What signs users in, makes and changes them."""
        auth = self.settings.auth
        self.passwords = Passwords(auth.sign_in_queue_max)
        self.sign_in = SignInService(
            self.users,
            self.sessions,
            self.passwords,
            SignInThrottle(time.monotonic),
            self._signer,
            self.facts,
            tenant_is_active=self.tenants.is_active,
        )
        password_rules = PasswordRules(auth.password_min_length)
        self._setup = SetupToken(data_dir / SETUP_TOKEN_FILE)
        self._registration = RegistrationRules(auth.registration, auth.open_registration_tenant, first_user)
        self.registrar = Registrar(
            self.users,
            self.passwords,
            self.facts,
            rules=self._registration,
            password_rules=password_rules,
            setup=self._setup,
            tenant_exists=self.tenants.is_active,
        )
        self.accounts = Accounts(
            self.users,
            self.passwords,
            self.facts,
            password_rules=password_rules,
            check_password=self.sign_in.proves,
            revoke_keys=self.keys.revoke_all_of,
            end_sessions=self._end_sessions,
            tenant_is_open=self.tenants.is_open,
        )

    def prepare(self, admin: BootstrapAdmin | None) -> None:
        """See that somebody can sign in; `admin` is the first administrator, if one is configured."""
        if admin is not None:
            create_first_admin(
                self.users, self.passwords, username=admin.username, password=admin.password, email=admin.email
            )
        prepare_first_registration(self.users, self._registration, self._setup)

    async def start(self) -> None:
        """Begin what goes on beside requests, and finish what an earlier process could not."""
        self._tasks.append(asyncio.create_task(self.facts.follow()))
        await self.sessions.end_where(self._has_ended)
        # The process before may have ended between the end of sessions and this. It is no reason not to start.
        with suppress(SessionsUnavailableError):
            await self.sessions.erase()
        self.key_uses.start()
        await self.usage.start()
        await self.facts.try_to_erase()
        self._tasks.append(asyncio.create_task(self.facts.keep_erasing()))
        self.deletions.start()

    async def close(self) -> None:
        """Let go of threads and files, when no request is under way any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.passwords.close)
        await asyncio.to_thread(self.sessions.close)
        await self.key_uses.close()
        await self.usage.close()

    async def _end_sessions(self, user_id: str, keeps: str) -> None:
        """End the sessions of a user but for one; of a user who was deleted nothing is left of them."""
        await self.sessions.end_all(user_id, keeps)
        if self.users.get(user_id) is None:
            await self.sessions.erase()

    def _has_ended(self, session: Session) -> bool:
        user = self.users.get(session.user_id)
        return user is None or user.has_ended(session.id, session.created_at)

    def _check_key_quota(self, tenant_id: str, active: int) -> None:
        """Refuse one more API key where there are as many as the tenant may have. Raises QuotaExceededError."""
        check_count(self.tenants.find(tenant_id).quotas, "max_api_keys", active)
