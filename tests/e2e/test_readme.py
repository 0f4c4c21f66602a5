"""What the READMEs tell people to type works as it is written there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.stack import Stack

from .conftest import PASSWORD

ROOT = Path(__file__).parents[2]


def blocks(readme: Path, language: str, section: str) -> list[str]:
    """The code blocks of one section."""
    text = readme.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_first_five_minutes_work(stack: Stack, tmp_path: Path) -> None:
    start, *commands = blocks(ROOT / "README.md", "sh", "Five minutes")
    assert start.strip() == "make run"
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "admin-password").write_text(PASSWORD + "\n")
    script = "".join(commands).replace("http://127.0.0.1:8081", stack.gateway_url)
    ran = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    appended, found = json.JSONDecoder().raw_decode(ran.stdout)[0], ran.stdout[ran.stdout.index('{"events"') :]
    assert appended["version"] >= 1
    (event,) = json.loads(found)["events"]
    assert (event["id"], event["payload"], event["tags"]) == (appended["event_id"], {"total": 42}, ["eu"])


def test_conditions_and_removal_work_as_they_are_written(stack: Stack, tmp_path: Path) -> None:
    _, sign_in, *_ = blocks(ROOT / "README.md", "sh", "Five minutes")
    (commands,) = blocks(ROOT / "README.md", "sh", "Conditions, and removal")
    (tmp_path / ".dev").mkdir()
    (tmp_path / ".dev" / "admin-password").write_text(PASSWORD + "\n")
    script = (sign_in + commands).replace("http://127.0.0.1:8081", stack.gateway_url)
    ran = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    appended, end = json.JSONDecoder().raw_decode(ran.stdout)
    operation = json.loads(ran.stdout[end:])
    assert appended["count"] == 1
    assert operation["kind"] == "remove_entity"


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
