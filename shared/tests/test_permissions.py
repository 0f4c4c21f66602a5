"""The matrix of roles and permissions, as docs and clients know it."""

from __future__ import annotations

import pytest

from allsource_shared.permissions import ROLE_PERMISSIONS, Permission, Role, parse_role

MATRIX = {
    "admin": {"read", "write", "admin", "metrics", "manage_schemas", "manage_pipelines", "manage_tenants"},
    "developer": {"read", "write", "metrics", "manage_schemas", "manage_pipelines"},
    "readonly": {"read", "metrics"},
    "serviceaccount": {"read", "write"},
}


def test_the_matrix_is_the_one_that_was_agreed():
    assert {str(role): set(map(str, permissions)) for role, permissions in ROLE_PERMISSIONS.items()} == MATRIX


def test_every_role_has_its_row_and_admin_holds_everything():
    assert set(ROLE_PERMISSIONS) == set(Role)
    assert ROLE_PERMISSIONS[Role.ADMIN] == set(Permission)


@pytest.mark.parametrize(
    ("text", "role"),
    [
        ("admin", Role.ADMIN),
        ("Admin", Role.ADMIN),
        ("ADMIN", Role.ADMIN),
        ("developer", Role.DEVELOPER),
        ("Developer", Role.DEVELOPER),
        ("readonly", Role.READONLY),
        ("ReadOnly", Role.READONLY),
        ("read_only", Role.READONLY),
        ("READ_ONLY", Role.READONLY),
        ("read-only", Role.READONLY),
        ("serviceaccount", Role.SERVICEACCOUNT),
        ("ServiceAccount", Role.SERVICEACCOUNT),
        ("service_account", Role.SERVICEACCOUNT),
        ("service-account", Role.SERVICEACCOUNT),
    ],
)
def test_roles_are_read_in_every_spelling_that_clients_use(text: str, role: Role):
    assert parse_role(text) is role


@pytest.mark.parametrize("text", ["", " ", "admin ", " admin", "root", "adm\u0131n", "admin\0", "admin,developer", "*"])
def test_what_is_no_role_is_refused_with_the_roles_there_are(text: str):
    with pytest.raises(ValueError, match="one of admin, developer, readonly, serviceaccount"):
        parse_role(text)
