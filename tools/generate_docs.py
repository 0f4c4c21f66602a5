"""The generated pages of docs/: configuration, errors, permissions.

``make docs`` writes them, ``make check`` (``--check``) fails if one no longer says what the code says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Final

from allsource_control_plane.routes import GATEWAY_ROUTES
from allsource_control_plane.settings import ControlPlaneSettings
from allsource_core.settings import CoreSettings
from allsource_shared.core_routes import CORE_ROUTES
from allsource_shared.permissions import ROLE_PERMISSIONS, Permission
from allsource_shared.problems import PROBLEM_MEDIA_TYPE, PROBLEMS, ProblemKind
from allsource_shared.routes import Access, Route
from tools.configuration_page import configuration_page

__all__ = ["PAGES", "errors_page", "main", "permissions_page"]

_NOTICE: Final = "<!-- Written by `make docs` from the code; change it there. -->\n\n"

_ERRORS_INTRODUCTION: Final = f"""\
# Errors

Every answer that reports an error is `{PROBLEM_MEDIA_TYPE}` (RFC 9457): `type`, `title`, `status`, `detail` and
`instance`, plus `error`, the code below, which never changes its meaning, and `request_id`, which finds the request in
the logs. `errors` lists the places that are wrong, `expected` and `actual` say what a condition asked for and found.
Decide by `error`; `title` and `detail` are for people.

`type` is `urn:allsource:error:<error>`, `instance` is `urn:allsource:request:<request_id>`.

| error | status | title | when, and what to do |
| --- | --- | --- | --- |
"""

_PERMISSIONS_INTRODUCTION: Final = """\
# Roles and permissions

Every user has one role in one tenant; a role is a set of permissions, and every route asks for at most one of them.
A caller without a credential gets 401, one without the permission 403. *Tokens* are what a call takes of the rate limit
of the caller's tenant; a batch takes one more for each 100 events, a stream of events nine more.

"""

_FORWARDED: Final = "The gateway has them all under the same paths, those below `/internal` aside."

_UNCHARGED: Final = (Access.PUBLIC, Access.CONFIGURED, Access.GATEWAY)

_ACCESS: Final = {
    Access.PUBLIC: "nothing",
    Access.CONFIGURED: "nothing, or `metrics` if `metrics.public` is false",
    Access.ANY: "any credential",
    Access.USER: "a signed-in user; no API key",
    Access.OWN_TENANT: "any credential for the own tenant, `manage_tenants` for others",
    Access.GATEWAY: "the key of a gateway",
}


def errors_page() -> str:
    """The table of machine codes."""
    rows = sorted(PROBLEMS.items(), key=lambda row: row[1].status)
    return _ERRORS_INTRODUCTION + "".join(
        f"| `{code}` | {_statuses(kind)} | {kind.title} | {_cell(kind.meaning)} |\n" for code, kind in rows
    )


def _statuses(kind: ProblemKind) -> str:
    statuses = [kind.status, *([] if kind.other_status is None else [kind.other_status])]
    return ", ".join(f"{status} {HTTPStatus(status).phrase}" for status in statuses)


def permissions_page() -> str:
    """Which role may what, and which route asks for what."""
    lines = [
        "| role | " + " | ".join(f"`{permission}`" for permission in Permission) + " |",
        "| --- |" + " --- |" * len(Permission),
    ]
    for role, permissions in ROLE_PERMISSIONS.items():
        marks = ["✓" if permission in permissions else " " for permission in Permission]
        lines.append(f"| `{role}` | " + " | ".join(marks) + " |")
    lines += [
        "",
        "## Routes of the core",
        "",
        _FORWARDED,
        "",
    ]
    lines += _route_table(CORE_ROUTES)
    lines += ["", "## Routes of the gateway's own", "", "Where both services have a route, the gateway's wins.", ""]
    lines += _route_table(GATEWAY_ROUTES)
    return _PERMISSIONS_INTRODUCTION + "\n".join(lines) + "\n"


def _route_table(routes: Iterable[Route]) -> list[str]:
    lines = ["| route | needs | tokens | what it does |", "| --- | --- | ---: | --- |"]
    for route in routes:
        needs = _ACCESS[route.access] if isinstance(route.access, Access) else f"`{route.access}`"
        cost = "" if route.access in _UNCHARGED else route.cost
        lines.append(f"| `{route.method} {route.path}` | {needs} | {cost} | {_cell(route.summary)} |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _configuration() -> str:
    return configuration_page({"core": CoreSettings, "control-plane": ControlPlaneSettings})


PAGES: Final[dict[str, Callable[[], str]]] = {
    "configuration.md": _configuration,
    "errors.md": errors_page,
    "permissions.md": permissions_page,
}
"""Every generated page of docs/, and what writes it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with ``--check`` only compare them; 1 if one is stale."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate_docs", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is not up to date")
    parser.add_argument(
        "--directory", type=Path, default=Path(__file__).resolve().parent.parent / "docs", help="where the pages are"
    )
    options = parser.parse_args(arguments)
    stale = []
    for name, write in PAGES.items():
        path: Path = options.directory / name
        text = _NOTICE + write()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            path.write_text(text, encoding="utf-8")
            print(f"wrote docs/{name}")
    if options.check:
        for name in stale:
            print(f"docs/{name} is not up to date; run `make docs`", file=sys.stderr)
        return 1 if stale else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
