"""The OpenAPI document says of every route what the table says, and is valid."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.openapi import COMMON_PROBLEMS, openapi_document
from allsource_shared.permissions import Permission
from allsource_shared.problems import PROBLEM_MEDIA_TYPE, PROBLEMS
from allsource_shared.routes import Access, Route

DOCUMENT: dict[str, Any] = json.loads(
    msgspec.json.encode(openapi_document(title="AllSource core", version="1.2.3", routes=CORE_ROUTES))
)
DESCRIBED = [row for row in CORE_ROUTES if row.access is not Access.GATEWAY]
ROWS = [pytest.param(row, id=row.operation) for row in DESCRIBED]


def operation(row: Route) -> dict[str, Any]:
    return DOCUMENT["paths"][row.path][row.method.lower()]


def test_the_document_is_valid_openapi():
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_has_every_route_and_no_other():
    described = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == {(row.path, row.method) for row in DESCRIBED}


@pytest.mark.parametrize("row", ROWS)
def test_security_of_a_route_is_that_of_the_table(row: Route):
    described = operation(row)
    if isinstance(row.access, Permission):
        assert described["security"] == [{"bearer": []}, {"header": []}]
        assert f"`{row.access}`" in described["description"]
        assert {"401", "403"} <= set(described["responses"])
    elif row.access not in (Access.PUBLIC, Access.CONFIGURED):
        assert described["security"] == [{"bearer": []}, {"header": []}]
        assert "Needs " in described["description"]
        assert "401" in described["responses"]
    else:
        assert described["security"] == []


@pytest.mark.parametrize("row", ROWS)
def test_every_problem_of_a_route_is_under_its_status(row: Route):
    responses = operation(row)["responses"]
    for code in (*COMMON_PROBLEMS, *row.problems):
        answer = responses[str(PROBLEMS[code].status)]
        assert f"`{code}`" in answer["description"]
        assert list(answer["content"]) == [PROBLEM_MEDIA_TYPE]
    assert list(responses[str(row.status)]["content"]) == list(row.response_types)


@pytest.mark.parametrize("row", ROWS)
def test_parameters_and_bodies_are_described(row: Route):
    described = operation(row)
    names = {parameter["name"] for parameter in described["parameters"]}
    if row.query is not None:
        assert {field.encode_name for field in msgspec.structs.fields(row.query)} <= names
    for part in row.path.split("/"):
        if part.startswith("{"):
            (parameter,) = [item for item in described["parameters"] if item["name"] == part[1:-1]]
            assert (parameter["in"], parameter["required"]) == ("path", True)
    assert ("requestBody" in described) == (row.request is not None)
    if row.request is not None:
        assert list(described["requestBody"]["content"]) == list(row.request_types)


def test_nothing_is_said_of_what_the_services_tell_each_other():
    assert not any(path.startswith("/internal") for path in DOCUMENT["paths"])
    assert not {"Introspect", "Introspection", "ChangePage"} & set(DOCUMENT["components"]["schemas"])


def test_every_reference_leads_somewhere():
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    schemas = DOCUMENT["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(DOCUMENT)} <= set(schemas)


def test_operation_ids_are_unique():
    names = [method["operationId"] for methods in DOCUMENT["paths"].values() for method in methods.values()]
    assert len(set(names)) == len(names)
