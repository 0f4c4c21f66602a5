"""The ring of signing keys: facts of the system tenant, their secrets sealed with the master key.

The newest key signs. The one before verifies until the last token that it signed has expired; then its tokens are
refused. A key is an entity ``signing-key:<kid>``.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from allsource_core.changes import Changes
from allsource_core.engine import Event
from allsource_core.facts import Fact, Facts
from allsource_core.sealing import MasterKey
from allsource_shared.tokens import CLOCK_SKEW_SECONDS, Algorithm, SigningKey, TokenVerifier
from allsource_shared.wire.signing_keys import PublicKey, SigningKeyView
from allsource_shared.wire.times import format_instant

__all__ = ["SigningKeyRing", "make_key"]

_KIND: Final = "signing-key"
_MADE: Final = "signing_key.made"
_LIFETIME_RAISED: Final = "signing_key.lifetime_raised"
_SUPERSEDED: Final = "signing_key.superseded"
_PURPOSE: Final = "signing keys"
_SECRET_BYTES: Final = 48


class _Made(msgspec.Struct):
    """A key that signs from now on.

    Attributes:
        sealed: its secret, with the subject of the fact.
        public: its public half; empty with HS256.
        lifetime_seconds: of the tokens that it signs.
    """

    algorithm: Algorithm
    sealed: str
    public: str
    lifetime_seconds: int


class _LifetimeRaised(msgspec.Struct):
    """The tokens that it signs live longer than those before. That they live shorter again is no fact."""

    lifetime_seconds: int


class _Superseded(msgspec.Struct):
    """Another key signs; `verifies_until` is in seconds since the epoch."""

    verifies_until: float


class _RingKey(msgspec.Struct):
    """A key as folded from events.

    Attributes:
        created_at: microseconds since the epoch.
        lifetime_seconds: the longest of any token that it signed.
        secret: unsealed; empty until it is needed.
    """

    kid: str
    algorithm: Algorithm
    sealed: str
    public: str
    lifetime_seconds: int
    created_at: int
    verifies_until: float | None = None
    secret: str = ""

    def __repr__(self) -> str:
        return f"_RingKey(kid={self.kid!r}, algorithm={self.algorithm!r})"

    def verifies(self, now: float) -> bool:
        return self.verifies_until is None or now < self.verifies_until

    def view(self, now: float) -> SigningKeyView:
        until = self.verifies_until
        return SigningKeyView(
            kid=self.kid,
            algorithm=self.algorithm,
            created_at=format_instant(self.created_at),
            status="signing" if until is None else "verifying" if now < until else "retired",
            verifies_until=None if until is None else format_instant(int(until * 1_000_000)),
        )


def make_key(algorithm: Algorithm) -> SigningKey:
    """A key of chance."""
    if algorithm == "HS256":
        return SigningKey.from_secret(secrets.token_urlsafe(_SECRET_BYTES))
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    return SigningKey(
        kid=hashlib.sha256(b"allsource kid\0" + public).hexdigest()[:16],
        algorithm=algorithm,
        secret=_base64url(private.private_bytes_raw()),
        public=_base64url(public),
    )


class SigningKeyRing:
    """The keys of this installation.

    Args:
        facts: of the service; this class owns those of signing keys.
        changes: told whenever the keys are not what they were.
        master_key: seals their secrets.
        verifier: is given the keys whose tokens are good, at `open` and after every change.
        algorithm: of keys that are made from now on.
        lifetime_seconds: of the tokens that the present key signs.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        facts: Facts,
        changes: Changes,
        master_key: MasterKey,
        verifier: TokenVerifier,
        *,
        algorithm: Algorithm,
        lifetime_seconds: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._facts = facts
        self._changes = changes
        self._master_key = master_key
        self._verifier = verifier
        self._algorithm: Algorithm = algorithm
        self._lifetime_seconds = lifetime_seconds
        self._now = now
        self._by_kid: dict[str, _RingKey] = {}  # the newest last
        self._open = False
        facts.own(_KIND, self._apply)

    def open(self, first_secret: str = "") -> None:
        """Unseal the keys that are good, and make what is missing, durably. Blocks: for the start of the service.

        A key is made where there is none, or where the newest is not of the algorithm that is configured.

        Args:
            first_secret: of the first key of all, an HS256 key. Not looked at where there is any, nor if empty.

        Raises:
            SealBrokenError: a key can't be unsealed: the master key is not that of the data.
            EngineError: as `EventStore.append`.
        """
        for key in self._live():
            self._unseal(key)
        self._open = True
        if not self._by_kid and first_secret:
            self._facts.append(self._addition(SigningKey.from_secret(first_secret)))
        if not self._by_kid or self._newest.algorithm != self._algorithm:
            self._facts.append(self._addition(make_key(self._algorithm)))
            structlog.get_logger().info("signing_key_made", kid=self._newest.kid, algorithm=self._algorithm)
        elif self._newest.lifetime_seconds < self._lifetime_seconds:
            self._facts.append(
                [Fact(_subject(self._newest.kid), _LIFETIME_RAISED, _LifetimeRaised(self._lifetime_seconds))]
            )
        self._verifier.replace_keys(self._keys())

    async def rotate(self) -> SigningKeyView:
        """Make a key that signs from now on, durably. `Facts.changing` is held.

        The key before signs until the new one is durable, so there is no token that nobody can verify.

        Raises:
            EngineError: as `EventStore.append`; the key before goes on signing.
        """
        await self._facts.append_async(self._addition(make_key(self._algorithm)))
        return self._newest.view(self._now())

    def present(self) -> SigningKey:
        """The key that signs."""
        return _signing_key(self._newest)

    def views(self) -> list[SigningKeyView]:
        """What may be seen of every key that there ever was, the newest first."""
        now = self._now()
        return [key.view(now) for key in reversed(self._by_kid.values())]

    def public_keys(self) -> list[PublicKey]:
        """The public halves of the keys whose tokens are good, the newest first; HS256 keys have none."""
        return [PublicKey(x=key.public, kid=key.kid) for key in reversed(self._live()) if key.algorithm == "EdDSA"]

    @property
    def _newest(self) -> _RingKey:
        return next(reversed(self._by_kid.values()))

    def _live(self) -> list[_RingKey]:
        now = self._now()
        return [key for key in self._by_kid.values() if key.verifies(now)]

    def _keys(self) -> list[SigningKey]:
        return [_signing_key(key) for key in self._live()]

    def _addition(self, key: SigningKey) -> list[Fact]:
        """The facts of a new key; the new one comes first, so that there is always one that signs."""
        subject = _subject(key.kid)
        sealed = self._master_key.seal(key.secret.encode(), purpose=_PURPOSE, subject=subject)
        facts = [Fact(subject, _MADE, _Made(key.algorithm, sealed, key.public, self._lifetime_seconds))]
        for other in self._by_kid.values():
            if other.verifies_until is None:
                # Tokens are good for as long as clocks may differ beyond their time, and so is their key.
                until = self._now() + other.lifetime_seconds + CLOCK_SKEW_SECONDS
                facts.append(Fact(_subject(other.kid), _SUPERSEDED, _Superseded(until)))
        return facts

    def _unseal(self, key: _RingKey) -> None:
        key.secret = self._master_key.open(key.sealed, purpose=_PURPOSE, subject=_subject(key.kid)).decode()

    # --- folding ---

    def _apply(self, kid: str, event: Event) -> None:
        if event.event_type == _MADE:
            made = msgspec.json.decode(event.payload, type=_Made)
            key = _RingKey(kid, made.algorithm, made.sealed, made.public, made.lifetime_seconds, event.recorded_at)
            if self._open:
                self._unseal(key)
            self._by_kid[kid] = key
        elif event.event_type == _LIFETIME_RAISED:
            raised = msgspec.json.decode(event.payload, type=_LifetimeRaised)
            self._by_kid[kid].lifetime_seconds = raised.lifetime_seconds
            return
        elif event.event_type == _SUPERSEDED:
            superseded = msgspec.json.decode(event.payload, type=_Superseded)
            self._by_kid[kid].verifies_until = superseded.verifies_until
        if self._open:
            self._verifier.replace_keys(self._keys())
        self._changes.publish("signing_keys")


def _signing_key(key: _RingKey) -> SigningKey:
    return SigningKey(key.kid, key.algorithm, key.secret, key.public, key.verifies_until)


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _subject(kid: str) -> str:
    return f"{_KIND}:{kid}"
