"""Removing what is stored: which entity, and what retention is told to remove."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

__all__ = [
    "EntitySelection",
    "PrefixSelection",
    "RetentionBounds",
    "RetentionList",
    "RetentionPolicy",
]

_AGE_SECONDS_MAX: Final = 10_000_000_000
"""317 years."""


class EntitySelection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameters that name an entity, for clients that would rather not write it into a path."""

    entity_id: str


class PrefixSelection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameters that name a prefix of entity ids; empty, it is that of every entity."""

    prefix: str


class RetentionBounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of each entity; at least one bound.

    Attributes:
        max_age_seconds: no event that was recorded longer ago.
        max_count: no more than the newest so many events.
    """

    max_age_seconds: Annotated[int, Meta(ge=1, le=_AGE_SECONDS_MAX)] | None = None
    max_count: Annotated[int, Meta(ge=1, lt=2**53)] | None = None


class RetentionPolicy(msgspec.Struct, frozen=True):
    """The retention of all entities whose ids begin with `prefix`."""

    prefix: str
    max_age_seconds: int | None
    max_count: int | None


class RetentionList(msgspec.Struct, frozen=True):
    """Every policy of the tenant, by prefix."""

    policies: list[RetentionPolicy]
    count: int
