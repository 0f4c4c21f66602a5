"""What the READMEs tell people to type works as it is written there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from allsource_core.tenancy.quotas import PRESETS, Preset
from allsource_shared.wire.tenants import Quotas

from .conftest import PASSWORD, make_stack

ROOT = Path(__file__).parents[2]
SEPARATOR: Final = "=== the next block ==="


def blocks(readme: Path, language: str, section: str) -> list[str]:
    """The code blocks of one section."""
    text = readme.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What every block of the README and of docs/access.md printed, by section, typed into one shell in their order."""
    readme, access = ROOT / "README.md", ROOT / "docs" / "access.md"
    start, *typed = [("README", block) for block in blocks(readme, "sh", "Five minutes")]
    assert start[1].strip() == "make run"
    typed += [("Conditions", block) for block in blocks(readme, "sh", "Conditions, and removal")]
    for section in re.findall(r"^## (.+)$", access.read_text(encoding="utf-8"), re.MULTILINE):
        typed += [(section, block) for block in blocks(access, "sh", section)]
    directory = tmp_path_factory.mktemp("typed")
    (directory / ".dev").mkdir()
    (directory / ".dev" / "admin-password").write_text(PASSWORD + "\n")
    # What is refused fails, and the rest is not typed.
    refused = 'curl() { command curl --fail-with-body "$@"; }\n'
    script = refused + f"printf '{SEPARATOR}'\n".join(block for _, block in typed)
    # Of its own: signing keys are rotated.
    with make_stack(directory) as stack:
        script = script.replace("http://127.0.0.1:8081", stack.gateway_url)
        command = ["bash", "-euo", "pipefail", "-c", script]
        ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
    printed: dict[str, list[str]] = {}
    for (section, _), output in zip(typed, ran.stdout.split(SEPARATOR), strict=True):
        printed.setdefault(section, []).append(output)
    return printed


def objects(printed: str) -> list[Any]:
    """JSON values that stand one behind the other."""
    found = []
    while printed := printed.strip():
        value, end = json.JSONDecoder().raw_decode(printed)
        found.append(value)
        printed = printed[end:]
    return found


def test_the_first_five_minutes_work(answers: dict[str, list[str]]) -> None:
    sign_in, made, key, events, usage = answers["README"]
    assert (sign_in, key) == ("", "")
    tenant, user = objects(made)
    assert (tenant["id"], tenant["tier"], user["tenant_id"], user["role"]) == ("shop", "free", "shop", "developer")
    appended, page = objects(events)
    assert appended["version"] == 1
    (event,) = page["events"]
    assert (event["id"], event["payload"], event["tags"]) == (appended["event_id"], {"total": 42}, ["eu"])
    assert event["tenant_id"] == "shop"
    (stats,) = objects(usage)
    today = stats["usage"]["events_today"]
    day_began = datetime.fromisoformat(today["resets_at"]) - timedelta(days=1)
    # The day may have ended since.
    assert today["used"] == (datetime.fromisoformat(event["timestamp"]) >= day_began)
    assert stats["usage"]["api_keys"]["used"] == 1


def test_conditions_and_removal_work_as_they_are_written(answers: dict[str, list[str]]) -> None:
    (appended,), (operation,) = map(objects, answers["Conditions"])
    assert appended["count"] == 1
    assert (operation["kind"], operation["result"]["events_removed"]) == ("remove_entity", 1)


def test_what_operators_type_of_the_page_about_access_works(answers: dict[str, list[str]]) -> None:
    (users,) = answers["Users"]
    page, changed = objects(users)
    assert [user["username"] for user in page["users"]] == ["ada"]
    assert (changed["email"], changed["must_change_password"]) == ("ada@example.com", True)
    (rotated,) = answers["Signing keys"]
    new, ring = objects(rotated)
    assert [key["status"] for key in ring["keys"][:2]] == ["signing", "verifying"]
    assert ring["keys"][0]["kid"] == new["kid"]
    (tenants,) = answers["Tenants"]
    with_quotas, with_limits = objects(tenants)
    assert (with_quotas["tier"], with_quotas["quotas"]["max_events_per_day"]) == ("custom", 50_000)
    assert with_limits["limits"] == {"requests_per_minute": 300, "burst": 500}


def test_the_presets_are_those_that_the_page_about_access_lists() -> None:
    page = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        assert preset_row(name, preset) in page


def preset_row(name: str, preset: Preset) -> str:
    """The row of a preset in the table of presets."""
    quotas, limit = preset.quotas, preset.limit
    if limit is None:
        assert quotas == Quotas()
        return f"| `{name}` |" + " – |" * 7 + "\n"
    cells = [
        f"{quotas.max_events_per_day:,}",
        f"{quotas.max_storage_bytes / 1024**3:g} GiB",
        *(f"{count:,}" for count in (quotas.max_queries_per_hour, quotas.max_api_keys)),
        *(f"{count:,}" for count in (quotas.max_projections, quotas.max_pipelines)),
        f"{limit.requests_per_minute:,} ({limit.burst:,})",
    ]
    return f"| `{name}` | {' | '.join(cells)} |\n"


@pytest.mark.parametrize(
    ("readme", "section", "printed"),
    [
        (ROOT / "README.md", "Inside your own program", "1 b'{\"total\": 12}'\n"),
        (ROOT / "services" / "core" / "README.md", "Reading the code", "1 b'{\"total\": 42}'\n"),
    ],
)
def test_the_embedded_engine_of_the_readmes_works(tmp_path: Path, readme: Path, section: str, printed: str) -> None:
    (program,) = blocks(readme, "python", section)
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.returncode, ran.stdout) == (0, printed), ran.stderr


def test_every_page_that_the_readme_links_to_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("services/*/README.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_every_command_that_the_readme_names_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
