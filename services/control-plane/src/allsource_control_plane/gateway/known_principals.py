"""What the gateway knows of credentials: bounded, at most a second old, and without the credentials themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Final

from allsource_shared.wire.internal import Change, ChangeKind, ChangePage, IntrospectedPrincipal, Introspection

__all__ = ["FRESH_SECONDS", "KNOWN_MAX", "KnownPrincipals"]

FRESH_SECONDS: Final = 1.0
"""How long what an answer about changes tells can be relied on, from when the question was sent."""

KNOWN_MAX: Final = 10_000
"""Principals that are remembered, about 2 KB each."""

Subject = tuple[ChangeKind, str]


class KnownPrincipals:
    """Principals by the digest of what their request was sent with.

    An entry holds until a change names it, until its credential expires, and as long as the core was heard of in the
    last second: a change that was published before that has been applied. The core tells of changes in order and leaves
    none out, so what was remembered before it fell silent is good again when it goes on from the same revision.

    Args:
        now: monotonic seconds.
        wall_clock: seconds since the epoch.

    Attributes:
        instance, revision: of the newest change that was applied; empty and 0 before the first answer.
        heard_at: when the question was sent that was answered last, in monotonic seconds.
    """

    def __init__(self, now: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._now = now
        self._wall_clock = wall_clock
        self.instance = ""
        self.revision = 0
        self.heard_at = -math.inf
        self._principals: dict[bytes, IntrospectedPrincipal] = {}
        self._keys: dict[Subject, set[bytes]] = {}

    def __len__(self) -> int:
        return len(self._principals)

    def get(self, key: bytes) -> IntrospectedPrincipal | None:
        """The principal that is remembered under a digest, if that can be relied on now."""
        principal = self._principals.get(key)
        if principal is None or self._now() >= self.heard_at + FRESH_SECONDS:
            return None
        if principal.expires_at is not None and principal.expires_at <= self._wall_clock():
            self._forget(key)
            return None
        return principal

    def remember(self, key: bytes, introspection: Introspection) -> None:
        """Remember what the core said of a credential, unless it was overtaken by a change that is applied already."""
        principal = introspection.principal
        if principal is None or introspection.instance != self.instance or introspection.revision < self.revision:
            return
        self._forget(key)
        if len(self._principals) >= KNOWN_MAX:
            self._forget(next(iter(self._principals)))
        self._principals[key] = principal
        for subject in _subjects(principal):
            self._keys.setdefault(subject, set()).add(key)

    def apply(self, page: ChangePage, sent_at: float) -> None:
        """Forget what has changed.

        Args:
            page: the core's answer to a question for what is behind `revision` of `instance`.
            sent_at: when that question was sent, in monotonic seconds.
        """
        if page.reset or page.instance != self.instance:
            self._forget_all()
        else:
            for change in page.changes:
                self._apply(change)
        self.instance = page.instance
        self.revision = page.revision
        self.heard_at = sent_at

    def _apply(self, change: Change) -> None:
        if change.kind == "signing_keys":
            self._forget_all()
            return
        for key in tuple(self._keys.get((change.kind, change.id), ())):
            self._forget(key)

    def _forget_all(self) -> None:
        self._principals.clear()
        self._keys.clear()

    def _forget(self, key: bytes) -> None:
        principal = self._principals.pop(key, None)
        if principal is None:
            return
        for subject in _subjects(principal):
            keys = self._keys[subject]
            keys.discard(key)
            if not keys:
                del self._keys[subject]


def _subjects(principal: IntrospectedPrincipal) -> Iterator[Subject]:
    """What a change may name that concerns a principal."""
    yield "user", principal.user_id
    yield "tenant", principal.tenant_id
    if principal.key_id:
        yield "api_key", principal.key_id
    if principal.session_id:
        yield "session", principal.session_id
