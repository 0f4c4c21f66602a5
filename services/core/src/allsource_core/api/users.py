"""Users over HTTP: administrating them, one's own password, and who one is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec
from aiohttp.web import BaseRequest, Response, StreamResponse
from msgspec import UNSET

from allsource_core.api.bodies import Bodies
from allsource_core.api.call import Call, Handler, json_response
from allsource_core.api.cursors import cut_page
from allsource_core.api.requests import parse_query, refuse_query
from allsource_core.api.tenants import check_selected
from allsource_core.identity.accounts import Accounts
from allsource_core.identity.users import UserDirectory
from allsource_shared.permissions import Role, parse_role
from allsource_shared.problems import ApiError, ProblemItem
from allsource_shared.wire.api_keys import ApiKeyView
from allsource_shared.wire.users import (
    Me,
    PasswordChange,
    UserChange,
    UserPage,
    UserParameters,
)

__all__ = ["UserRoutes"]

_CURSOR: Final = re.compile("user-([1-9][0-9]{0,15})\\Z")

_change_decoder: Final = msgspec.json.Decoder(UserChange)
_password_decoder: Final = msgspec.json.Decoder(PasswordChange)


class UserRoutes:
    """Handlers of ``auth/users/…``, ``auth/password`` and ``auth/me``.

    Args:
        users, accounts, bodies: of the service.
        describe_key: what is told of the API key of an id; None where there is none.
        address: where a request comes from.
    """

    def __init__(
        self,
        users: UserDirectory,
        accounts: Accounts,
        bodies: Bodies,
        *,
        describe_key: Callable[[str], ApiKeyView | None],
        address: Callable[[BaseRequest], str],
    ) -> None:
        self._users = users
        self._accounts = accounts
        self._bodies = bodies
        self._describe_key = describe_key
        self._address = address

    @property
    def handlers(self) -> dict[str, Handler]:
        """Operation of the route table to the method that serves it."""
        return {
            "list_users": self.list_users,
            "get_user": self.get_user,
            "change_user": self.change_user,
            "delete_user": self.delete_user,
            "change_password": self.change_password,
            "me": self.me,
        }

    async def list_users(self, call: Call) -> StreamResponse:
        """``GET auth/users``."""
        parameters = parse_query(call, UserParameters)
        check_selected(parameters.tenant_id)
        after = 0
        if parameters.cursor is not None:
            match = _CURSOR.match(parameters.cursor)
            if match is None:
                raise ApiError("invalid_cursor", "cursor: not one that this service gave out")
            after = int(match[1])
        found = self._users.behind(after, parameters.limit + 1, parameters.tenant_id)
        page, more = cut_page(found, parameters.limit)
        cursor = f"user-{page[-1].position}" if more else None
        return json_response(UserPage([user.view() for user in page], len(page), cursor))

    async def get_user(self, call: Call) -> StreamResponse:
        """``GET auth/users/{user_id}``."""
        refuse_query(call)
        return json_response(self._users.find(call.match.parameters["user_id"]).view())

    async def change_user(self, call: Call) -> StreamResponse:
        """``PATCH auth/users/{user_id}``."""
        user_id = call.match.parameters["user_id"]
        refuse_query(call)
        change = await self._bodies.decode(call, _change_decoder)
        if all(getattr(change, name) is UNSET for name in change.__struct_fields__):
            detail = "give at least one of role, active, password and email"
            raise ApiError("invalid_body", detail, errors=[ProblemItem("$", detail)])
        user = await self._accounts.change(
            user_id,
            by=call.principal,
            role=None if change.role is UNSET else _role(change.role),
            active=None if change.active is UNSET else change.active,
            email=None if change.email is UNSET else change.email,
            password=None if change.password is UNSET else change.password,
            recheck=lambda: call.recheck(call),
        )
        return json_response(user.view())

    async def delete_user(self, call: Call) -> StreamResponse:
        """``DELETE auth/users/{user_id}``."""
        refuse_query(call)
        await self._accounts.delete(
            call.match.parameters["user_id"], by=call.principal, recheck=lambda: call.recheck(call)
        )
        return Response(status=204)

    async def change_password(self, call: Call) -> StreamResponse:
        """``POST auth/password``."""
        refuse_query(call)
        change = await self._bodies.decode(call, _password_decoder)
        await self._accounts.change_password(
            call.principal,
            current=change.current,
            new=change.new,
            address=self._address(call.request),
            recheck=lambda: call.recheck(call),
        )
        return Response(status=204)

    async def me(self, call: Call) -> StreamResponse:
        """``GET auth/me``."""
        refuse_query(call)
        principal = call.principal
        user = self._users.get(principal.user_id)
        me = Me(
            kind=principal.kind,
            id=principal.key_id or principal.user_id,
            user_id=principal.user_id,
            username=principal.username,
            email=user.email if user is not None else "",
            role=principal.role,
            tenant_id=principal.tenant_id,
            permissions=sorted(principal.permissions),
            must_change_password=principal.must_change_password,
            key=self._describe_key(principal.key_id) if principal.key_id else None,
        )
        return json_response(me)


def _role(text: str) -> Role:
    try:
        return parse_role(text)
    except ValueError as error:
        raise ApiError("invalid_body", f"role: {error}", errors=[ProblemItem("role", str(error))]) from None
