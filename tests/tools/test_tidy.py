"""The house rules find what they are for, and nothing else. What breaks a rule is put together from pieces here, so
that the rules don't find this file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.tidy import MEMBERS, Finding, check_python, check_text, check_versions

HOME = "/ho" + "me/"
ROOT = "/ro" + "ot/"
IGNORE = "# type: ig" + "nore"
NOQA = "# no" + "qa"


@pytest.mark.parametrize(
    "line",
    [
        "# TO" + "DO: later",
        "FIX" + "ME",
        "X" + "XX",
        "<" * 7 + " ours",
        f"see {HOME}anna/notes",
        f"file://{ROOT}x",
        f"cache = '{ROOT}.cache'",
        "https://py" + "pi.org/simple",
        "https:" + "//files.py" + "thonhosted.org/x.whl",
        "--inde" + "x-url x",
        "http" + "://registry.example.com/",
    ],
)
def test_a_bad_line_is_named_with_its_place(line: str) -> None:
    [finding] = check_text("docs/a.md", f"first\n{line}\nlast\n")
    assert str(finding).startswith("docs/a.md:2: ")


@pytest.mark.parametrize(
    "line",
    [
        "a table of contents",
        "GET /api/v1/events",
        f"docs{HOME}index.md",
        f"https://example.com{HOME}x",
        "uv pip compile --no-emit-inde" + "x-url",
        "========",
        "https://registries.example.com/",
    ],
)
def test_a_good_line_is_left_alone(line: str) -> None:
    assert list(check_text("docs/a.md", line)) == []


@pytest.mark.parametrize("line", [IGNORE, f"{NOQA}", f"x = 1  {NOQA}: because", "break" + "point()"])
def test_what_silences_a_tool_has_to_say_which_rule(line: str) -> None:
    assert [finding.line for finding in check_python("a.py", f"y = 1\n{line}\n")] == [2]


def test_silencing_one_rule_is_allowed() -> None:
    text = f"x = y  {IGNORE}[name-defined]\nz = 1  {NOQA}: S104\n"
    assert list(check_python("a.py", text)) == []


def test_a_long_function_is_found_at_its_first_line() -> None:
    body = "    x = 1\n"
    assert list(check_python("a.py", "\ndef long():\n" + body * 69)) == []
    assert list(check_python("a.py", "\nasync def long():\n" + body * 70)) == [
        Finding("a.py", 2, "long has 71 lines; at most 70")
    ]


def test_tests_may_be_longer_than_sources() -> None:
    text = "x = 1\n" * 401
    assert [finding.line for finding in check_python("services/core/src/a.py", text)] == [401]
    assert list(check_python("services/core/tests/test_a.py", text)) == []
    assert [finding.line for finding in check_python("tests/e2e/test_a.py", "x = 1\n" * 601)] == [601]


@pytest.mark.parametrize(
    "path", ["a/ut" + "ils.py", "a/help" + "ers/b.py", "a/log_man" + "ager.py", "com" + "mon/x.py"]
)
def test_a_name_that_says_nothing_is_found(path: str) -> None:
    assert len(list(check_python(path, ""))) == 1


def release(top: Path, *, packages: str = "1.2.3", module: str = "1.2.3", pin: str = "1.2.3", change: str) -> None:
    for member in MEMBERS:
        (top / member).mkdir(parents=True)
        (top / member / "pyproject.toml").write_text(
            f'[project]\nname = "x"\nversion = "{packages}"\ndependencies = ["allsource-shared=={pin}", "b>=1"]\n'
        )
    (top / "shared/src/allsource_shared").mkdir(parents=True)
    (top / "shared/src/allsource_shared/__init__.py").write_text(f'"""Doc."""\n\n__version__ = "{module}"\n')
    (top / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n{change}\n\n## [1.0.0] - 2020-01-01\n")


def test_one_release_everywhere_is_in_sync(tmp_path: Path) -> None:
    release(tmp_path, change="## [1.2.3] - 2025-01-01")
    assert list(check_versions(tmp_path)) == []


def test_a_forgotten_changelog_heading_is_found(tmp_path: Path) -> None:
    release(tmp_path, change="")
    assert [str(finding) for finding in check_versions(tmp_path)] == [
        "CHANGELOG.md:7: the newest release is 1.0.0, but __version__ is 1.2.3"
    ]


def test_every_package_and_pin_of_another_version_is_found(tmp_path: Path) -> None:
    release(tmp_path, packages="1.2.2", pin="1.2.1", change="## 1.2.3")
    found = [finding.path for finding in check_versions(tmp_path)]
    assert found == [f"{member}/pyproject.toml" for member in MEMBERS for _ in range(2)]


def test_a_missing_changelog_is_a_finding_not_a_crash(tmp_path: Path) -> None:
    release(tmp_path, change="")
    (tmp_path / "CHANGELOG.md").unlink()
    assert [finding.path for finding in check_versions(tmp_path)] == ["CHANGELOG.md"]
