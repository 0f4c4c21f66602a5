"""Who is calling: the credential of a request, its principal, and the tenant that it works in."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from aiohttp.web import BaseRequest

from allsource_core.api.addresses import is_of_gateway
from allsource_core.api.standings import API_KEY_HEADER, AUTHORIZATION, TENANT_HEADER
from allsource_core.identity.credentials import Credentials
from allsource_core.identity.principals import Principal
from allsource_shared.access import check_access
from allsource_shared.permissions import Permission
from allsource_shared.problems import ApiError
from allsource_shared.routes import Access, Route

__all__ = ["Authenticator", "has_credential"]


class Authenticator:
    """Finds out who calls, and whether they may call a route.

    Args:
        metrics_public: whether `Access.CONFIGURED` routes are open to everybody.
        gateway_key: that gateways send; empty where there are none.
    """

    def __init__(self, *, metrics_public: bool, gateway_key: str) -> None:
        self._metrics_public = metrics_public
        self._gateway_key = gateway_key
        self._credentials: Credentials | None = None
        self._tenant_exists: Callable[[str], bool] = lambda _tenant_id: False
        self.note_use: Callable[[str], None] = lambda _key_id: None

    def begin(
        self, credentials: Credentials, tenant_exists: Callable[[str], bool], note_use: Callable[[str], None]
    ) -> None:
        """Know users, keys and tenants from now on. Until then whatever asks for a credential is ``starting``.

        Args:
            credentials: of users and keys.
            tenant_exists: whether an administrator may work in a tenant.
            note_use: told of every use of an API key.
        """
        self._credentials = credentials
        self._tenant_exists = tenant_exists
        self.note_use = note_use

    def is_open(self, route: Route) -> bool:
        """Whether a route asks for no credential."""
        access = route.access
        return access is Access.PUBLIC or (access is Access.CONFIGURED and self._metrics_public)

    def identify(self, request: BaseRequest) -> Principal:
        """The principal of a request, in the tenant that it works in.

        Raises:
            ApiError: as `caller` and `enter`.
        """
        return self.enter(request, self.caller(request))

    def caller(self, request: BaseRequest) -> Principal:
        """The principal of a request, in the tenant that its credential belongs to.

        Raises:
            ApiError: ``unauthorized``, ``tenant_inactive``, ``reserved_tenant``, ``starting``.
        """
        if self._credentials is None:
            raise _starting()
        sent = request.headers.getall(AUTHORIZATION, None)
        if sent is None:
            principal = self._credentials.identify(_api_key(request)).principal
        elif len(sent) == 1:
            principal = self._credentials.identify(_bearer(sent[0])).principal
        else:
            raise ApiError("unauthorized", "there is more than one Authorization header")
        if principal.key_id:
            self.note_use(principal.key_id)
        return principal

    def enter(self, request: BaseRequest, principal: Principal) -> Principal:
        """The same principal in the tenant that the request names, if it names one.

        Raises:
            ApiError: ``bad_header``, ``reserved_tenant``, ``forbidden``, ``not_found``.
        """
        named = request.headers.getall(TENANT_HEADER, None)
        if named is None:
            return principal
        if len(named) > 1:
            raise ApiError("bad_header", f"there is more than one {TENANT_HEADER} header")
        return self._in_tenant(principal, named[0])

    def introspect(self, credential: str, tenant_id: str | None) -> tuple[Principal, float]:
        """The principal of a credential that somebody else was shown, in the tenant that it names; and when it expires.

        Raises:
            ApiError: as `identify`.
        """
        if self._credentials is None:
            raise _starting()
        found = self._credentials.identify(credential)
        if tenant_id is None:
            return found.principal, found.expires_at
        return self._in_tenant(found.principal, tenant_id), found.expires_at

    def check(self, principal: Principal, route: Route) -> None:
        """Refuse a call that its caller may not make.

        Raises:
            ApiError: ``forbidden``, ``password_change_required``.
        """
        if principal.must_change_password and not route.serves_expired_passwords:
            raise ApiError("password_change_required", "change your password first: POST /api/v1/auth/password")
        check_access(route.access, principal)

    def refuse_reserved_tenants(self, request: BaseRequest) -> None:
        """Refuse a request that names one of the store's own tenants, where it makes no difference, too.

        Raises:
            ApiError: ``reserved_tenant``.
        """
        for named in request.headers.getall(TENANT_HEADER, ()):
            _refuse_reserved(named)

    def is_gateway(self, request: BaseRequest) -> bool:
        """Whether a gateway sends this request, for itself or for somebody else."""
        return is_of_gateway(request, self._gateway_key)

    def may_see_figures(self, request: BaseRequest) -> bool:
        """Whether a request to a public route bears a credential with the permission `metrics`."""
        if not has_credential(request):
            return False
        try:
            principal = self.identify(request)
        except ApiError:
            return False
        return Permission.METRICS in principal.permissions and not principal.must_change_password

    def _in_tenant(self, principal: Principal, tenant_id: str) -> Principal:
        """The principal as it works in a tenant that it names."""
        _refuse_reserved(tenant_id)
        if tenant_id == principal.tenant_id:
            return principal
        if Permission.MANAGE_TENANTS not in principal.permissions:
            raise ApiError("forbidden", f"{TENANT_HEADER} names another tenant than yours")
        if not self._tenant_exists(tenant_id):
            raise ApiError("not_found", f"there is no tenant {tenant_id[:128]!r}")
        return msgspec.structs.replace(principal, tenant_id=tenant_id)


def has_credential(request: BaseRequest) -> bool:
    """Whether a request bears anything that is meant as a credential."""
    return AUTHORIZATION in request.headers or API_KEY_HEADER in request.headers


def _refuse_reserved(tenant_id: str) -> None:
    if tenant_id.startswith("_"):
        raise ApiError("reserved_tenant", f"{TENANT_HEADER} names a reserved tenant")


def _starting() -> ApiError:
    return ApiError("starting", "the store is recovering; see /health/ready", headers={"Retry-After": "1"})


def _api_key(request: BaseRequest) -> str:
    keys = request.headers.getall(API_KEY_HEADER, [])
    if len(keys) > 1:
        raise ApiError("unauthorized", "there is more than one X-API-Key header")
    if not keys:
        raise ApiError("unauthorized", "sign in and send the access token as Authorization: Bearer <token>")
    return keys[0]


def _bearer(header: str) -> str:
    """The credential in an ``Authorization`` header: behind ``Bearer``, or by itself."""
    scheme, separator, token = header.strip().partition(" ")
    if not separator:
        return scheme
    if scheme.lower() != "bearer":
        raise ApiError("unauthorized", "the scheme of the Authorization header must be Bearer")
    return token.strip()
