"""Roles, permissions and the one matrix that relates them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["ROLE_PERMISSIONS", "Permission", "Role", "parse_role"]


class Permission(StrEnum):
    """What a route can ask of its caller. The values are on the wire and never change."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    METRICS = "metrics"
    MANAGE_SCHEMAS = "manage_schemas"
    MANAGE_PIPELINES = "manage_pipelines"
    MANAGE_TENANTS = "manage_tenants"

    # That of enumerations is a function in Python: every request looks for its permission among those of its caller.
    __hash__ = str.__hash__


class Role(StrEnum):
    """What a user or key is. The values are on the wire and in stored events and never change."""

    ADMIN = "admin"
    DEVELOPER = "developer"
    READONLY = "readonly"
    SERVICEACCOUNT = "serviceaccount"


ROLE_PERMISSIONS: Final[dict[Role, frozenset[Permission]]] = {
    Role.ADMIN: frozenset(Permission),
    Role.DEVELOPER: frozenset(
        {
            Permission.READ,
            Permission.WRITE,
            Permission.METRICS,
            Permission.MANAGE_SCHEMAS,
            Permission.MANAGE_PIPELINES,
        }
    ),
    Role.READONLY: frozenset({Permission.READ, Permission.METRICS}),
    Role.SERVICEACCOUNT: frozenset({Permission.READ, Permission.WRITE}),
}


def parse_role(text: str) -> Role:
    """Read a role as any AllSource client ever wrote it: ``Admin``, ``read_only``, ``ServiceAccount`` …

    Raises:
        ValueError: naming the roles there are.
    """
    try:
        return Role(text.lower().replace("_", "").replace("-", ""))
    except ValueError:
        raise ValueError(f"unknown role {text!r}; one of {', '.join(Role)}") from None
