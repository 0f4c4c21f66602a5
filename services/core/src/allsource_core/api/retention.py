"""Retention policies over HTTP: what is kept of the entities whose ids begin with a prefix."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from typing import Final

import msgspec
from aiohttp import hdrs
from aiohttp.web import Response, StreamResponse

from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.preconditions import check_if_match
from allsource_core.api.requests import parse_query, refuse_query
from allsource_core.engine import ENTITY_ID_BYTES_MAX, EventStore, Policy, name_fault
from allsource_core.tenancy.metering import Metering
from allsource_shared.problems import ApiError, ProblemItem
from allsource_shared.wire.removal import PrefixSelection, RetentionBounds, RetentionList, RetentionPolicy

__all__ = ["RetentionRoutes"]

_SECOND_US: Final = 1_000_000

_bounds_decoder: Final = msgspec.json.Decoder(RetentionBounds)


class RetentionRoutes:
    """Handlers of ``retention/…``. A prefix stands in the path, or in the query string, where it may be empty.

    Args:
        store, bodies, metering: of the service.
    """

    def __init__(self, store: EventStore, bodies: Bodies, metering: Metering) -> None:
        self._removals = store.removals
        self._bodies = bodies
        self._metering = metering
        # Between comparing with `If-Match` and replacing nobody else may replace.
        self._changing = asyncio.Lock()

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "list_retention": self.list_policies,
            "get_retention": self.get_policy,
            "put_retention": self.put_policy,
            "put_retention_by_query": self.put_policy_by_query,
            "delete_retention": self.delete_policy,
            "delete_retention_by_query": self.delete_policy_by_query,
        }

    async def list_policies(self, call: Call) -> StreamResponse:
        """``GET retention``."""
        refuse_query(call)
        policies = [_view(policy) for policy in self._removals.policies(call.principal.tenant_id)]
        return json_response(RetentionList(policies, len(policies)))

    async def get_policy(self, call: Call) -> StreamResponse:
        """``GET retention/{prefix}``."""
        refuse_query(call)
        prefix = call.match.parameters["prefix"]
        policy = self._find(call, prefix)
        if policy is None:
            raise _no_policy(prefix)
        return _with_tag(policy)

    async def put_policy(self, call: Call) -> StreamResponse:
        """``PUT retention/{prefix}``."""
        refuse_query(call)
        return await self._put(call, _checked(call.match.parameters["prefix"], "bad_path", "prefix"))

    async def put_policy_by_query(self, call: Call) -> StreamResponse:
        """``PUT retention?prefix=``."""
        return await self._put(call, _checked(parse_query(call, PrefixSelection).prefix, "bad_query", "query.prefix"))

    async def delete_policy(self, call: Call) -> StreamResponse:
        """``DELETE retention/{prefix}``."""
        refuse_query(call)
        return await self._delete(call, call.match.parameters["prefix"])

    async def delete_policy_by_query(self, call: Call) -> StreamResponse:
        """``DELETE retention?prefix=``."""
        return await self._delete(call, parse_query(call, PrefixSelection).prefix)

    async def _put(self, call: Call, prefix: str) -> StreamResponse:
        bounds = await self._bodies.decode(call, _bounds_decoder)
        age, count = bounds.max_age_seconds, bounds.max_count
        if age is None and count is None:
            detail = "give max_age_seconds, max_count or both; DELETE ends a policy"
            raise ApiError("invalid_body", detail, errors=[ProblemItem("$", detail)])
        async with self._changing:
            # Others may have taken long.
            call.recheck(call)
            _check_if_match(call, self._find(call, prefix))
            await self._set(call, prefix, max_age_us=None if age is None else age * _SECOND_US, max_count=count)
        return _with_tag(RetentionPolicy(prefix, age, count))

    async def _delete(self, call: Call, prefix: str) -> StreamResponse:
        async with self._changing:
            call.recheck(call)
            policy = self._find(call, prefix)
            if policy is None:
                raise _no_policy(prefix)
            _check_if_match(call, policy)
            await self._set(call, prefix, max_age_us=None, max_count=None)
        return Response(status=204)

    async def _set(self, call: Call, prefix: str, *, max_age_us: int | None, max_count: int | None) -> None:
        tenant_id = call.principal.tenant_id
        set_policy = self._removals.set_policy
        await self._metering.work(
            tenant_id, partial(set_policy, tenant_id, prefix, max_age_us=max_age_us, max_count=max_count)
        )

    def _find(self, call: Call, prefix: str) -> RetentionPolicy | None:
        policies = self._removals.policies(call.principal.tenant_id)
        return next((_view(policy) for policy in policies if policy.prefix == prefix), None)


def _view(policy: Policy) -> RetentionPolicy:
    age_us = policy.max_age_us
    return RetentionPolicy(policy.prefix, None if age_us is None else age_us // _SECOND_US, policy.max_count)


def _checked(prefix: str, code: str, place: str) -> str:
    """A prefix that some entity id can have.

    Raises:
        ApiError: with the code and the place, for one that none can have.
    """
    # These are no ids, but ids begin with them.
    fault = None if prefix in ("", ".", "..") else name_fault(prefix, ENTITY_ID_BYTES_MAX)
    if fault is not None:
        raise ApiError(code, f"prefix: {fault}", errors=[ProblemItem(place, fault)])
    return prefix


def _no_policy(prefix: str) -> ApiError:
    return ApiError("not_found", f"there is no retention policy for the prefix {prefix!r}")


def _tag(policy: RetentionPolicy) -> str:
    return f'"{hashlib.blake2b(msgspec.json.encode(policy), digest_size=12).hexdigest()}"'


def _with_tag(policy: RetentionPolicy) -> StreamResponse:
    response = json_response(policy)
    response.headers[hdrs.ETAG] = _tag(policy)
    return response


def _check_if_match(call: Call, policy: RetentionPolicy | None) -> None:
    check_if_match(call, None if policy is None else _tag(policy), what="policy")
