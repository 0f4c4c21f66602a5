"""Who is calling: the credential of a request, its principal, and the tenant that it works in."""

from __future__ import annotations

from typing import Final

from aiohttp.web import BaseRequest

from allsource_core.api.addresses import is_of_gateway
from allsource_core.api.tenants import check_tenant
from allsource_core.identity.principals import Principal
from allsource_shared.access import check_access
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access, Route
from allsource_shared.tokens import TokenVerifier

__all__ = ["Authenticator"]

_TENANT_HEADER: Final = "X-Tenant-ID"


class Authenticator:
    """Authenticates and authorises requests.

    Args:
        verifier: of access tokens.
        metrics_public: whether `Access.CONFIGURED` routes are open to everybody.
        gateway_key: that gateways send; empty where there are none.
    """

    def __init__(self, verifier: TokenVerifier, *, metrics_public: bool, gateway_key: str) -> None:
        self._gateway_key = gateway_key
        self._verifier = verifier
        self._metrics_public = metrics_public

    def admit(self, request: BaseRequest, route: Route) -> Principal | None:
        """The principal of a request if it may call the route; None on a public one, and for a gateway.

        Raises:
            ApiError: ``unauthorized``, ``forbidden``, ``reserved_tenant``, ``bad_header``, ``not_found``.
        """
        needed = route.access
        if needed is Access.PUBLIC or (needed is Access.CONFIGURED and self._metrics_public):
            return None
        if needed is Access.GATEWAY and is_of_gateway(request, self._gateway_key):
            return None
        principal = self.identify(request)
        check_access(needed, principal)
        return principal

    def identify(self, request: BaseRequest) -> Principal:
        """The principal of a request.

        Raises:
            ApiError: ``unauthorized``, ``reserved_tenant``; for ``X-Tenant-ID`` also ``bad_header``, ``forbidden``,
                ``not_found``.
        """
        named = request.headers.getall(_TENANT_HEADER, [])
        principal, _ = self.introspect(_credential(request), named[0] if named else None)
        if len(named) > 1:
            raise ApiError("bad_header", f"there is more than one {_TENANT_HEADER} header")
        return principal

    def introspect(self, credential: str, tenant_id: str | None) -> tuple[Principal, float]:
        """The principal of a credential, in the tenant that is named with it; and when it expires.

        Raises:
            ApiError: as `identify`.
        """
        claims = self._verifier.verify(credential)
        if claims.tenant_id.startswith("_"):
            raise ApiError("reserved_tenant", "the access token names a reserved tenant")
        principal = Principal(
            kind="user",
            user_id=claims.sub,
            username=claims.username,
            role=claims.role,
            permissions=ROLE_PERMISSIONS[claims.role],
            tenant_id=claims.tenant_id,
            session_id=claims.session_id,
        )
        if tenant_id is not None:
            check_tenant(tenant_id, principal, where=_TENANT_HEADER)
        return principal, claims.exp

    def may_see_figures(self, request: BaseRequest) -> bool:
        """Whether a request to a public route bears a credential with the permission `metrics`."""
        if "Authorization" not in request.headers and "X-API-Key" not in request.headers:
            return False
        try:
            return Permission.METRICS in self.identify(request).permissions
        except ApiError:
            return False


def _credential(request: BaseRequest) -> str:
    values = request.headers.getall("Authorization", [])
    if len(values) > 1:
        raise ApiError("unauthorized", "there is more than one Authorization header")
    if not values:
        key = request.headers.get("X-API-Key")
        if key is None:
            raise ApiError("unauthorized", "sign in and send the access token as Authorization: Bearer <token>")
        return key
    scheme, separator, token = values[0].strip().partition(" ")
    if not separator:
        return scheme
    if scheme.lower() != "bearer":
        raise ApiError("unauthorized", "the scheme of the Authorization header must be Bearer")
    return token.strip()
