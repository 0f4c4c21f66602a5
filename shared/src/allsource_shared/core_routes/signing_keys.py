"""The routes of the keys that sign access tokens."""

from __future__ import annotations

from typing import Final

from allsource_shared.core_routes.problem_sets import API_PREFIX, CHANGE_PROBLEMS
from allsource_shared.permissions import Permission
from allsource_shared.routes import Access, Route
from allsource_shared.wire import signing_keys

__all__ = ["SIGNING_KEY_ROUTES"]

SIGNING_KEY_ROUTES: Final = (
    Route(
        operation="rotate_signing_key",
        method="POST",
        path=f"{API_PREFIX}/auth/keys/rotate",
        access=Permission.ADMIN,
        summary="Sign access tokens with a new key; those of the one before are good until they expire",
        cost=10,
        response=signing_keys.SigningKeyView,
        status=201,
        problems=(*CHANGE_PROBLEMS, "overloaded"),
    ),
    Route(
        operation="list_signing_keys",
        method="GET",
        path=f"{API_PREFIX}/auth/keys",
        access=Permission.ADMIN,
        summary="The keys that sign and verify access tokens, without their secrets",
        response=signing_keys.SigningKeyList,
    ),
    Route(
        operation="jwks",
        method="GET",
        path="/.well-known/jwks.json",
        access=Access.PUBLIC,
        summary="The public keys to verify access tokens with, if they are signed with EdDSA",
        response=signing_keys.PublicKeys,
    ),
)
