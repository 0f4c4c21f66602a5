"""What the services say to each other. None of it is for callers, and the OpenAPI document has none of it."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from allsource_shared.permissions import Permission, Role

__all__ = [
    "CHANGES_WAIT_MS_MAX",
    "GATEWAY_KEY_HEADER",
    "Change",
    "ChangeKind",
    "ChangePage",
    "ChangeParameters",
    "Introspect",
    "IntrospectedPrincipal",
    "Introspection",
    "Refusal",
]

GATEWAY_KEY_HEADER: Final = "X-Gateway-Key"
"""Bears ``gateway.key``: the credential of a gateway, on the requests that it forwards as well."""

CHANGES_WAIT_MS_MAX: Final = 30_000

ChangeKind = Literal["user", "api_key", "session", "tenant", "signing_keys"]


class Change(msgspec.Struct, frozen=True):
    """Something that is no longer as it was.

    Attributes:
        revision: counts changes of one process, from 1.
        kind: what it is.
        id: which one; empty for the signing keys, which change together.
    """

    revision: int
    kind: ChangeKind
    id: str


class ChangeParameters(msgspec.Struct, frozen=True):
    """What a gateway knows already.

    Attributes:
        instance: of the core that told it; empty before the first answer.
        after: the newest revision that it has seen of it.
        wait_ms: how long the core may wait for a change before it answers that there is none.
    """

    instance: str = ""
    after: Annotated[int, Meta(ge=0)] = 0
    wait_ms: Annotated[int, Meta(ge=0, le=CHANGES_WAIT_MS_MAX)] = 0


class ChangePage(msgspec.Struct, frozen=True):
    """The changes behind what a gateway knows.

    Attributes:
        instance: of the core; another one has revisions of its own.
        revision: of the newest change there is.
        changes: in order.
        reset: they can't be listed: the gateway knows another instance, or is too far behind. All that it remembers
            may have changed.
    """

    instance: str
    revision: int
    changes: list[Change]
    reset: bool


class Introspect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A credential that a gateway was shown.

    Attributes:
        credential: an access token or an API key.
        tenant: the value of ``X-Tenant-ID``; null where there was none.
    """

    credential: Annotated[str, Meta(min_length=1, max_length=8192)]
    tenant: str | None = None

    def __repr__(self) -> str:
        return f"Introspect(tenant={self.tenant!r})"


class IntrospectedPrincipal(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a credential is.

    Attributes:
        kind: a signed-in user, or an API key of one.
        user_id, username: the user, or the owner of the key.
        role: of the user, or of the key.
        permissions: what it may do; of a key no more than its owner may.
        tenant_id: the tenant that the request works in.
        key_id: of the API key, else empty.
        session_id: of the user's session, else empty.
        must_change_password: it may do nothing but change its password, and leave.
        expires_at: when the credential is no longer accepted, seconds since the epoch; null: never by itself.
    """

    kind: Literal["user", "api_key"]
    user_id: str
    username: str
    role: Role
    permissions: frozenset[Permission]
    tenant_id: str
    key_id: str
    session_id: str
    must_change_password: bool
    expires_at: float | None


class Refusal(msgspec.Struct, frozen=True):
    """Why a credential is not accepted, as its bearer may be told.

    Attributes:
        error: a code of `problems.PROBLEMS`.
        detail: in words.
    """

    error: str
    detail: str


class Introspection(msgspec.Struct, frozen=True):
    """What the core says of a credential.

    Attributes:
        instance, revision: of the newest change that is part of the answer.
        principal: whose it is; null if it is not accepted.
        problem: why it is not; null if it is.
    """

    instance: str
    revision: int
    principal: IntrospectedPrincipal | None
    problem: Refusal | None
