"""The OpenAPI 3.1 document of a route table, generated from the structs that decode the requests."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from allsource_shared.context import REQUEST_ID_HEADER
from allsource_shared.permissions import Permission
from allsource_shared.problems import PROBLEM_MEDIA_TYPE, PROBLEMS, Problem
from allsource_shared.routes import NDJSON, Access, Route

__all__ = ["COMMON_PROBLEMS", "openapi_document"]

COMMON_PROBLEMS: Final = (
    "bad_path",
    "bad_query",
    "reserved_tenant",
    "internal_error",
    "overloaded",
    "starting",
    "stopping",
)
"""What any route can answer."""

_OPEN: Final = (Access.PUBLIC, Access.CONFIGURED)
_NEEDS: Final = {
    Access.ANY: "Needs any credential.",
    Access.USER: "Needs a signed-in user; an API key is not enough.",
    Access.OWN_TENANT: "Needs any credential for the own tenant, `manage_tenants` for others.",
}

_REFERENCE: Final = "#/components/schemas/{name}"


def openapi_document(*, title: str, version: str, routes: Iterable[Route], extra_problems: Iterable[str] = ()) -> Any:
    """Describe `routes`, as a structure ready for a JSON encoder.

    Args:
        title, version: of the service.
        routes: the rows to describe.
        extra_problems: codes that any route of this service can answer besides `COMMON_PROBLEMS`.
    """
    # What services say to each other is nobody else's business.
    routes = [route for route in routes if route.access is not Access.GATEWAY]
    common = (*COMMON_PROBLEMS, *extra_problems)
    types = {struct for route in routes for struct in (route.request, route.response, route.query) if struct}
    _, components = msgspec.json.schema_components([*sorted(types, key=repr), Problem], ref_template=_REFERENCE)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, components, common)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(route: Route, components: dict[str, Any], common: tuple[str, ...]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": [
            *_path_parameters(route),
            *_query_parameters(route, components),
            *_header_parameters(route),
        ],
        "responses": _responses(route, common),
    }
    notes = []
    if isinstance(route.access, Permission):
        notes.append(f"Needs the permission `{route.access}`.")
    elif route.access in _NEEDS:
        notes.append(_NEEDS[route.access])
    if route.lenient:
        notes.append("Unknown fields and parameters are ignored and listed in a `Warning` header.")
    if notes:
        operation["description"] = " ".join(notes)
    operation["security"] = [] if route.access in _OPEN else [{"bearer": []}, {"header": []}]
    if route.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {media: {"schema": _schema(route.request, media)} for media in route.request_types},
        }
    return operation


def _schema(struct: Any, media: str) -> dict[str, Any]:
    if struct is None:
        return {"type": "object"} if media.endswith("json") else {"type": "string"}
    if media == NDJSON:
        return {"type": "string", "description": "One JSON object a line."}
    return {"$ref": _REFERENCE.format(name=struct.__name__)}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    names = re.findall(r"\{(\w+)\}", route.path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _query_parameters(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = components[route.query.__name__]
    required = schema.get("required", ())
    return [
        {"name": name, "in": "query", "required": name in required, "schema": property_schema}
        for name, property_schema in schema["properties"].items()
    ]


def _header_parameters(route: Route) -> list[dict[str, Any]]:
    headers = [(REQUEST_ID_HEADER, "Names the request in logs; echoed, or made where it is absent."), *route.headers]
    if route.access not in _OPEN:
        headers.append(("X-Tenant-ID", "The tenant to work in; another than one's own only for who may choose."))
    if route.request is not None:
        headers.append(("Content-Encoding", "`gzip` or `deflate`, if the body is packed."))
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in headers
    ]


def _responses(route: Route, common: tuple[str, ...]) -> dict[str, Any]:
    content = {media: {"schema": _schema(route.response, media)} for media in route.response_types}
    responses: dict[str, Any] = {
        str(route.status): {"description": HTTPStatus(route.status).phrase, "content": content}
    }
    if route.other_status is not None:
        responses[str(route.other_status)] = {"description": HTTPStatus(route.other_status).phrase, "content": content}
    codes = [*common, *route.problems]
    if route.access not in _OPEN:
        codes += ["unauthorized", "forbidden", "not_found", "bad_header"]
    if route.request is not None:
        codes += ["malformed_json", "invalid_body", "body_too_large", "unsupported_media_type", "request_timeout"]
    by_status: dict[int, list[str]] = {}
    for code in sorted(set(codes)):
        kind = PROBLEMS[code]
        for status in (kind.status, kind.other_status):
            if status is not None:
                by_status.setdefault(status, []).append(code)
    for status, names in sorted(by_status.items()):
        responses[str(status)] = {
            "description": ", ".join(f"`{name}`" for name in names),
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
        }
    return responses
