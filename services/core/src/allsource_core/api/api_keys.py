"""API keys over HTTP."""

from __future__ import annotations

import re
import time
from itertools import islice
from typing import Final

import msgspec
from aiohttp import hdrs
from aiohttp.web import Response, StreamResponse

from allsource_core.api.admission import rate_limited
from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.cursors import cut_page
from allsource_core.api.requests import parse_query, refuse_query
from allsource_core.api.tenants import check_selected
from allsource_core.identity.api_keys import ApiKey, ApiKeyDirectory
from allsource_core.identity.key_issuing import KeyIssuer
from allsource_core.identity.key_uses import KeyUses
from allsource_core.tenancy.rate_limits import Rate, RateLimit, RateLimiter
from allsource_shared.permissions import Permission, Role, parse_role
from allsource_shared.problems import ApiError, ProblemItem
from allsource_shared.wire.api_keys import ApiKeyPage, ApiKeyParameters, ApiKeyView, IssuedApiKey, NewApiKey
from allsource_shared.wire.times import format_instant

__all__ = ["ApiKeyRoutes"]

_CURSOR: Final = re.compile("[1-9][0-9]{0,15}\\Z")

_new_key_decoder: Final = msgspec.json.Decoder(NewApiKey)


_KEYS_OF_A_USER: Final = Rate(RateLimit(requests_per_minute=60, burst=100))
"""Made and rotated, by one user."""


class ApiKeyRoutes:
    """Handlers of ``auth/api-keys/…``."""

    def __init__(self, keys: ApiKeyDirectory, issuer: KeyIssuer, uses: KeyUses, bodies: Bodies) -> None:
        self._keys = keys
        self._issuer = issuer
        self._uses = uses
        self._bodies = bodies
        self._limiter = RateLimiter()

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "create_api_key": self.create,
            "list_api_keys": self.list_keys,
            "revoke_api_key": self.revoke,
            "rotate_api_key": self.rotate,
        }

    def describe(self, key_id: str) -> ApiKeyView | None:
        """What is told of a key; None if there is none of this id."""
        key = self._keys.get(key_id)
        return None if key is None else self._view(key)

    async def create(self, call: Call) -> StreamResponse:
        """``POST auth/api-keys``."""
        refuse_query(call)
        new = await self._bodies.decode(call, _new_key_decoder)
        self._slow_down(call)
        if not new.name.isprintable():
            raise _invalid("name", "must be 1 to 128 printable characters")
        key, credential = await self._issuer.create(
            call.principal.user_id,
            name=new.name,
            tenant_id=call.principal.tenant_id if new.tenant_id is None else new.tenant_id,
            role=None if new.role is None else _role(new.role),
            expires_in_days=new.expires_in_days,
            recheck=lambda: call.recheck(call),
        )
        return _issued(key, credential, 201)

    def _slow_down(self, call: Call) -> None:
        """Let a user make only so many: each is a fact, which is kept for ever, whatever the limits of the tenant.

        Raises:
            ApiError: ``rate_limited``.
        """
        left = self._limiter.take(call.principal.user_id, _KEYS_OF_A_USER, time.monotonic())
        if left < 0:
            raise rate_limited(-left, "you make API keys too fast")

    async def rotate(self, call: Call) -> StreamResponse:
        """``POST auth/api-keys/{key_id}/rotate``."""
        refuse_query(call)
        self._slow_down(call)
        key, credential = await self._issuer.rotate(
            call.principal.user_id, call.match.parameters["key_id"], recheck=lambda: call.recheck(call)
        )
        return _issued(key, credential, 200)

    async def revoke(self, call: Call) -> StreamResponse:
        """``DELETE auth/api-keys/{key_id}``."""
        refuse_query(call)
        await self._issuer.revoke(
            call.match.parameters["key_id"],
            by=call.principal.user_id,
            any_owner=lambda: _sees_all(call),
            recheck=lambda: call.recheck(call),
        )
        return Response(status=204)

    async def list_keys(self, call: Call) -> StreamResponse:
        """``GET auth/api-keys``."""
        parameters = parse_query(call, ApiKeyParameters)
        check_selected(parameters.tenant_id)
        behind = 0
        if parameters.cursor is not None:
            if _CURSOR.match(parameters.cursor) is None:
                raise ApiError("invalid_cursor", "cursor: not one that this service gave out")
            behind = int(parameters.cursor)
        user_id = parameters.user_id
        if not _sees_all(call):
            own = call.principal.user_id
            keys = self._keys.of_user(own) if user_id in (None, own) else ()
        else:
            keys = self._keys.all() if user_id is None else self._keys.of_user(user_id)
        found = (key for key in keys if key.position > behind and parameters.tenant_id in (None, key.tenant_id))
        page, more = cut_page(list(islice(found, parameters.limit + 1)), parameters.limit)
        next_cursor = str(page[-1].position) if more else None
        return json_response(ApiKeyPage([self._view(key) for key in page], len(page), next_cursor))

    def _view(self, key: ApiKey) -> ApiKeyView:
        return ApiKeyView(
            id=key.id,
            name=key.name,
            user_id=key.user_id,
            role=key.role,
            tenant_id=key.tenant_id,
            created_at=format_instant(key.created_at),
            expires_at=_instant(key.expires_at),
            last_used_at=_instant(self._uses.last_used_at(key.id)),
        )


def _sees_all(call: Call) -> bool:
    return Permission.ADMIN in call.principal.permissions


def _role(text: str) -> Role:
    try:
        return parse_role(text)
    except ValueError:
        raise _invalid("role", f"must be one of {', '.join(Role)}") from None


def _invalid(place: str, message: str) -> ApiError:
    return ApiError("invalid_body", f"{place}: {message}", errors=[ProblemItem(place, message)])


def _issued(key: ApiKey, credential: str, status: int) -> StreamResponse:
    issued = IssuedApiKey(
        id=key.id,
        name=key.name,
        key=credential,
        role=key.role,
        tenant_id=key.tenant_id,
        expires_at=_instant(key.expires_at),
    )
    response = json_response(issued, status)
    response.headers[hdrs.CACHE_CONTROL] = "no-store"
    return response


def _instant(microseconds: int | None) -> str | None:
    return None if microseconds is None else format_instant(microseconds)
