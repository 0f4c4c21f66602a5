"""The house rules that no other tool checks, each finding as ``file:line: what is wrong``.

``make check`` runs it over every file of the checkout that git does not ignore. The patterns below are spelled so
that they do not find themselves.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

__all__ = ["Finding", "check_python", "check_text", "check_versions", "main"]

FUNCTION_LINES_MAX: Final = 70
FILE_LINES_MAX: Final = 400
TEST_FILE_LINES_MAX: Final = 600

MEMBERS: Final = ("shared", "services/core", "services/control-plane")
_VERSION_MODULE: Final = "shared/src/allsource_shared/__init__.py"
_CHANGELOG: Final = "CHANGELOG.md"

# Names that say nothing about what is inside.
_EMPTY_NAMES: Final = frozenset({"util", "utils", "helper", "helpers", "misc", "common", "manager", "managers"})

_TEXT_RULES: Final = (
    (re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X|HA[C]K)\b"), "leftover marker; finish it or open an issue"),
    (re.compile(r"^(?:<{7}|>{7}|={7})(?:\s|$)"), "leftover of a merge"),
    (
        re.compile(r"(?<![\w.-])/(?:ho[m]e|ro[o]t|wo[r]k|fa[r]m|Us[e]rs)/"),
        "absolute path of one machine",
    ),
    (
        re.compile(
            r"py[p]i\.(?:org|io|python)|python[h]osted\.org|np[m]js\.(?:org|com)|(?<!no-emit-)inde[x]-url"
            r"|https?[:]//(?:files|registry|deb|index)\.",
            re.IGNORECASE,
        ),
        "host or setting of a package index",
    ),
)
_PYTHON_RULES: Final = (
    (re.compile(r"#\s*type:\s*ignor[e](?!\[[\w, -]+\])"), "type: ignore needs the code that it ignores"),
    (re.compile(r"#\s*(?:ruff:\s*)?noq[a](?!:\s?[A-Z]+[0-9]+)", re.IGNORECASE), "noqa needs the code that it ignores"),
    (re.compile(r"\bbreakpoin[t]\(\)|\bimport p[d]b\b"), "leftover of debugging"),
)
_HEADING: Final = re.compile(r"^## \[?v?(?P<version>\d+\.\d+\.\d+[^\]\s]*)\]?", re.MULTILINE)
_VERSION: Final = re.compile(r'^__version__(?:: \S+)? = "(?P<version>[^"]+)"', re.MULTILINE)


class Finding(NamedTuple):
    """One place that breaks a rule; `line` counts from 1."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def check_text(path: str, text: str) -> Iterator[Finding]:
    """The rules for every text file."""
    yield from _check_lines(path, text, _TEXT_RULES)


def check_python(path: str, text: str) -> Iterator[Finding]:
    """The rules for a Python file: sizes, names, and what silences other tools."""
    place = PurePosixPath(path)
    lines = text.count("\n")
    limit = TEST_FILE_LINES_MAX if "tests" in place.parts else FILE_LINES_MAX
    if lines > limit:
        yield Finding(path, limit + 1, f"{lines} lines; at most {limit}: split it by subject")
    for part in (*place.parts[:-1], place.stem):
        for word in part.split("_"):
            if word in _EMPTY_NAMES:
                yield Finding(path, 1, f"{word!r} does not say what is inside; name the subject")
    yield from _check_lines(path, text, _PYTHON_RULES)
    for node in ast.walk(ast.parse(text, path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                message = f"{node.name} has {length} lines; at most {FUNCTION_LINES_MAX}"
                yield Finding(path, node.lineno, message)


def check_versions(top: Path) -> Iterator[Finding]:
    """The packages, what they require of each other, ``__version__`` and the newest change belong to one release."""
    version, line = _search(top / _VERSION_MODULE, _VERSION)
    if version is None:
        yield Finding(_VERSION_MODULE, 1, "no __version__")
        return
    newest, line = _search(top / _CHANGELOG, _HEADING)
    if newest is None:
        yield Finding(_CHANGELOG, 1, "no heading of a release: ## [1.2.3] - date")
    elif newest != version:
        yield Finding(_CHANGELOG, line, f"the newest release is {newest}, but __version__ is {version}")
    for member in MEMBERS:
        path = f"{member}/pyproject.toml"
        project = tomllib.loads((top / path).read_text(encoding="utf-8"))["project"]
        if project["version"] != version:
            yield Finding(path, 1, f"version is {project['version']}, but __version__ is {version}")
        for requirement in project.get("dependencies", ()):
            if requirement.startswith("allsource-") and not requirement.endswith(f"=={version}"):
                yield Finding(path, 1, f"requires {requirement}, but __version__ is {version}")


def _check_lines(path: str, text: str, rules: Sequence[tuple[re.Pattern[str], str]]) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), start=1):
        for pattern, message in rules:
            if pattern.search(line):
                yield Finding(path, number, message)


def _search(path: Path, pattern: re.Pattern[str]) -> tuple[str | None, int]:
    """What `pattern` finds first in a file, and in which line; None in line 1 if it or the file is not there."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None, 1
    match = pattern.search(text)
    if match is None:
        return None, 1
    return match["version"], text.count("\n", 0, match.start()) + 1


def _files(top: Path) -> list[str]:
    """Every file that git tracks or would track, relative to `top`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=top, capture_output=True, check=True).stdout.decode().split("\0")
    return sorted(name for name in set(names) if name and (top / name).is_file())


def _check_file(top: Path, name: str) -> Iterator[Finding]:
    content = (top / name).read_bytes()
    if b"\0" in content:
        return
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield Finding(name, content.count(b"\n", 0, error.start) + 1, "neither UTF-8 nor binary")
        return
    yield from check_text(name, text)
    if name.endswith(".py"):
        try:
            yield from check_python(name, text)
        except SyntaxError as error:
            yield Finding(name, error.lineno or 1, f"not Python: {error.msg}")


def main() -> int:
    """Check the checkout that this file is in; 1 if anything was found."""
    top = Path(__file__).resolve().parent.parent
    names = _files(top)
    findings = [finding for name in names for finding in _check_file(top, name)]
    findings += check_versions(top)
    for finding in findings:
        print(finding)
    print(f"tidy: {len(names)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
