"""The configuration of both services: defaults, then one TOML file, then the environment, then flags.

A service describes its settings as a struct of sections, each a struct of keys with a default, a range and a
description (`msgspec.Meta`). Every section of either service may stand in the file and the environment; a service
reads its own and knows the other's by name, so one file and one environment serve both. What a service needs of a
section of the other one it declares as a `SectionPart`. A name that nobody knows is refused, and all mistakes are
reported at once.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import msgspec
from msgspec import Meta
from msgspec.inspect import ListType, Metadata, VarTupleType, type_info

__all__ = [
    "PREFIX",
    "SECTIONS",
    "ConfigurationError",
    "SectionPart",
    "argument_parser",
    "describe_keys",
    "is_secret",
    "load_settings",
    "read_dev_mode",
    "read_secret",
    "section_types",
    "variable_name",
]

PREFIX: Final = "ALLSOURCE_"

SECTIONS: Final[dict[str, str]] = {
    "server": "core",
    "storage": "core",
    "auth": "core",
    "gateway": "control-plane",
    "logging": "both",
    "metrics": "both",
}
"""Every section there is, and whose it is."""

_PLAIN_NAMES: Final = frozenset(
    {
        "ALLSOURCE_DEV",
        "ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME",
        "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD",
        "ALLSOURCE_BOOTSTRAP_ADMIN_PASSWORD_FILE",
        "ALLSOURCE_BOOTSTRAP_ADMIN_EMAIL",
    }
)

SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)
Sections = dict[str, dict[str, Any]]


class SectionPart(msgspec.Struct, frozen=True):
    """The keys that a service reads of a section that is the other service's; it passes over the others of it."""


class ConfigurationError(Exception):
    """The configuration can't be used; `problems` has one line for each mistake. Never shows a secret's value."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


def load_settings(
    settings_type: type[SettingsT],
    *,
    config_path: Path | None,
    environ: Mapping[str, str],
    flags: Sequence[str] = (),
) -> SettingsT:
    """Read a service's settings from every source.

    Args:
        settings_type: a struct whose fields are sections, each named in `SECTIONS`.
        config_path: the TOML file, or None for none. A file that is named must exist.
        environ: ``ALLSOURCE_<SECTION>__<KEY>``; a secret also as ``…_FILE``, a file that holds it.
        flags: ``section.key=value`` as given on the command line.

    Raises:
        ConfigurationError: with every mistake in every source.
    """
    types = section_types(settings_type)
    problems: list[str] = []
    values: Sections = {section: {} for section in types}
    _merge_file(values, config_path, types, problems)
    _merge_environment(values, environ, types, problems)
    _merge_flags(values, flags, types, problems)
    sections: dict[str, Any] = {}
    for section, struct in types.items():
        try:
            sections[section] = struct(**values[section])
        except ValueError as error:
            problems.append(f"{section}: {error}")
    if problems:
        raise ConfigurationError(problems)
    return settings_type(**sections)


def section_types(settings_type: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct]]:
    """The sections of a settings struct, by name."""
    return {field.name: field.type for field in msgspec.structs.fields(settings_type)}


def is_secret(key_type: Any) -> bool:
    """Whether a key is marked as a secret: ``Meta(extra={"secret": True})``."""
    return any(
        isinstance(item, Meta) and bool(item.extra and item.extra.get("secret"))
        for item in (get_args(key_type) if get_origin(key_type) is Annotated else ())
    )


def variable_name(section: str, key: str) -> str:
    """The environment variable of a key: ``ALLSOURCE_SERVER__PORT``."""
    return f"{PREFIX}{section.upper()}__{key.upper()}"


def _keys(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def _is_list(key_type: Any) -> bool:
    info = type_info(key_type)
    while isinstance(info, Metadata):
        info = info.type
    return isinstance(info, ListType | VarTupleType)


def _put(
    values: Sections,
    types: Mapping[str, type[msgspec.Struct]],
    place: tuple[str, str],
    value: Any,
    source: str,
    problems: list[str],
    *,
    strict: bool,
) -> None:
    """Convert one value and store it, or note what is wrong with it; `place` is its section and key."""
    section, key = place
    if section not in SECTIONS:
        problems.append(f"{source}: unknown section {section!r}; there are {', '.join(sorted(SECTIONS))}")
        return
    struct = types.get(section)
    if struct is None:
        return
    keys = _keys(struct)
    if key not in keys:
        if issubclass(struct, SectionPart):
            return
        problems.append(f"{source}: {section} has no key {key!r}; it has {', '.join(sorted(keys))}")
        return
    if not strict and isinstance(value, str) and _is_list(keys[key]):
        value = [item.strip() for item in value.split(",")] if value.strip() else []
    try:
        values[section][key] = msgspec.convert(value, keys[key], strict=strict)
    except msgspec.ValidationError as error:
        problems.append(f"{source}: {error}")


def _merge_file(
    values: Sections,
    path: Path | None,
    types: Mapping[str, type[msgspec.Struct]],
    problems: list[str],
) -> None:
    if path is None:
        return
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"configuration file {path}: {error}")
        return
    for section, keys in document.items():
        if not isinstance(keys, dict):
            problems.append(f"{path}: {section} must be a section, [{section}]")
            continue
        if section not in SECTIONS:
            problems.append(f"{path}: unknown section {section!r}; there are {', '.join(sorted(SECTIONS))}")
            continue
        for key, value in keys.items():
            _put(values, types, (section, key), value, f"{path}: {section}.{key}", problems, strict=True)


def _merge_environment(
    values: Sections,
    environ: Mapping[str, str],
    types: Mapping[str, type[msgspec.Struct]],
    problems: list[str],
) -> None:
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in _PLAIN_NAMES:
            continue
        section, separator, key = name.removeprefix(PREFIX).lower().partition("__")
        if not separator:
            problems.append(f"{name}: unknown variable; settings are {PREFIX}<SECTION>__<KEY>")
            continue
        value = _text(environ, name, problems)
        base = key.removesuffix("_file")
        struct = types.get(section)
        if struct is not None and base != key and is_secret(_keys(struct).get(base)):
            key = base
            value = read_secret(environ, variable_name(section, base), problems)
        if value is not None:
            _put(values, types, (section, key), value, name, problems, strict=False)


def _merge_flags(
    values: Sections,
    flags: Sequence[str],
    types: Mapping[str, type[msgspec.Struct]],
    problems: list[str],
) -> None:
    for flag in flags:
        name, separator, value = flag.partition("=")
        section, dot, key = name.partition(".")
        if not separator or not dot:
            problems.append(f"--set {name}: give it as section.key=value")
            continue
        _put(values, types, (section, key), value, f"--set {name}", problems, strict=False)


def read_secret(environ: Mapping[str, str], name: str, problems: list[str]) -> str | None:
    """A secret from the variable `name`, or from the file that ``<name>_FILE`` names; None where neither is set.

    The line end at the end of a file is not part of the secret. Mistakes are added to `problems`.
    """
    file_name = environ.get(f"{name}_FILE")
    if file_name is None:
        return _text(environ, name, problems)
    if name in environ:
        problems.append(f"{name} and {name}_FILE are both set; set one")
        return None
    try:
        return Path(file_name).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name}_FILE: {error}")
        return None


def _text(environ: Mapping[str, str], name: str, problems: list[str]) -> str | None:
    """A variable, or None and a note for one whose bytes are no text: nothing later could encode it."""
    value = environ.get(name)
    if value is not None and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            problems.append(f"{name}: is not valid UTF-8")
            return None
    return value


def read_dev_mode(environ: Mapping[str, str]) -> bool:
    """Whether ``ALLSOURCE_DEV=1`` allows what is only fit for development.

    Raises:
        ConfigurationError: for a value that is neither ``0`` nor ``1`` nor empty.
    """
    value = environ.get("ALLSOURCE_DEV", "")
    if value not in ("", "0", "1"):
        raise ConfigurationError(["ALLSOURCE_DEV: must be 0 or 1"])
    return value == "1"


def argument_parser(program: str, description: str) -> argparse.ArgumentParser:
    """The flags that every service has: ``--config``, ``--set`` and ``--version``."""
    from allsource_shared import __version__

    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the settings of either service")
    parser.add_argument(
        "--set",
        dest="flags",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting, over the file and the environment; may be repeated; for secrets use the environment",
    )
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    return parser


def describe_keys(settings_type: type[msgspec.Struct]) -> Iterator[tuple[str, str, msgspec.structs.FieldInfo]]:
    """Every key of a settings struct with its section's and its own name, for the documentation."""
    for section, struct in section_types(settings_type).items():
        for field in msgspec.structs.fields(struct):
            yield section, field.name, field
