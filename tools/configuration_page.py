"""docs/configuration.md: every key of both services, from the structs that read them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import inspect as types

from allsource_shared.configuration import SECTIONS, SectionPart, is_secret, section_types, variable_name

__all__ = ["EXAMPLE", "configuration_page"]

EXAMPLE: Final = """\
[server]
port = 8080

[storage]
data_dir = "/var/lib/allsource"

[gateway]
host = "0.0.0.0"
core_url = "http://127.0.0.1:8080"

[logging]
level = "info"
format = "json"
"""

_INTRODUCTION: Final = """\
# Configuration

Both services read, each over the one before: the defaults below, one TOML file (`--config FILE`), the environment, and
flags (`--set section.key=value`, may be repeated). One file and one environment can serve both: each service reads
its own sections and knows the other's by name. A name that neither knows is refused, and so is a value out of range;
a service that refuses to start lists every mistake at once.

In the environment a key is `ALLSOURCE_<SECTION>__<KEY>`, with two underscores between section and key. In it and in
flags a list is its items with commas between them, in the file one of TOML (`["a", "b"]`). A **secret**
can also be given as a file that holds it: add `_FILE` to the variable. Give secrets by file or environment, not by
flag: other users of the machine can see flags.

Sections of the core: {core}. Of the control plane: {control_plane}. Of both: {both}.

```toml
{example}```

A few things are no settings and stand in the environment only:

| variable | meaning |
| --- | --- |
| `ALLSOURCE_BOOTSTRAP_ADMIN_USERNAME`, `…_EMAIL`, `…_PASSWORD` or `…_PASSWORD_FILE` | the first admin, made at the \
first start of a core that has no user; without effect later |
| `ALLSOURCE_DEV` | `1` allows what is only fit for development |
"""
_OWNERS: Final = {"core": "core", "control-plane": "control plane", "both": "both services"}

Struct = type[msgspec.Struct]


def configuration_page(services: Mapping[str, Struct]) -> str:
    """The page.

    Args:
        services: the settings struct of each service, by its name in `SECTIONS`.
    """

    def names(owner: str) -> str:
        return ", ".join(f"`{section}`" for section, whose in SECTIONS.items() if whose == owner)

    parts = [
        _INTRODUCTION.format(
            core=names("core"), control_plane=names("control-plane"), both=names("both"), example=EXAMPLE
        )
    ]
    for section, owner in SECTIONS.items():
        structs: dict[Struct, list[str]] = {}
        parts_of: dict[str, Struct] = {}
        for service, settings in services.items():
            struct = section_types(settings).get(section)
            if struct is not None and issubclass(struct, SectionPart):
                parts_of[service] = struct
            elif struct is not None:
                structs.setdefault(struct, []).append(service)
        for struct, users in structs.items():
            # A section that only one of its services has a use for yet says so.
            whose = owner if len(structs) == 1 and len(users) > 1 else users[0]
            parts.append(_section(section, struct, whose, parts_of))
    return "\n".join(parts)


def _section(section: str, struct: Struct, owner: str, parts_of: Mapping[str, Struct]) -> str:
    readers = [_OWNERS[owner]]
    for service, part in parts_of.items():
        keys = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(part))
        readers.append(f"{keys} also by the {_OWNERS[service]}")
    lines = [f"## `{section}`", "", f"Read by: {'; '.join(readers)}. {inspect.getdoc(struct)}", ""]
    lines += ["| key | variable | value | default | meaning |", "| --- | --- | --- | --- | --- |"]
    for field in msgspec.structs.fields(struct):
        name = variable_name(section, field.name)
        secret = is_secret(field.type)
        variable = f"`{name}` or `{name}_FILE`" if secret else f"`{name}`"
        info = types.type_info(field.type)
        kind = (_choices(field.type) or _describe(info)) + (", secret" if secret else "")
        cells = [f"`{field.name}`", variable, kind, _default(field, secret=secret), _description(info)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _description(info: types.Type) -> str:
    """The description that a key's type carries.

    Raises:
        ValueError: if it carries none; every key has to.
    """
    if isinstance(info, types.Metadata) and info.extra_json_schema:
        text = info.extra_json_schema.get("description")
        if text:
            return " ".join(str(text).split())
    raise ValueError(f"a setting without a description: {info}")


def _default(field: msgspec.structs.FieldInfo, *, secret: bool) -> str:
    value: Any = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is msgspec.NODEFAULT:
        return "none, must be set"
    if value is None or (secret and not value):
        return "not set"
    return f"`{json.dumps(value, default=str)}`"


def _choices(key_type: Any) -> str:
    """The values of a `Literal` in the order in which they are declared; empty for any other type."""
    inner = get_args(key_type)[0] if get_origin(key_type) is Annotated else key_type
    return ", ".join(f"`{value}`" for value in get_args(inner)) if get_origin(inner) is Literal else ""


def _describe(info: types.Type) -> str:
    """A type and its range for people: ``integer, 0 to 65535``."""
    match info:
        case types.Metadata():
            return _describe(info.type)
        case types.BoolType():
            return "`true` or `false`"
        case types.IntType() | types.FloatType():
            kind = "integer" if isinstance(info, types.IntType) else "number"
            return ", ".join([kind, *_range(info)])
        case types.StrType():
            return ", ".join(["text", *_lengths(info), *([f"form `{info.pattern}`"] if info.pattern else [])])
        case types.UnionType():
            kinds = [_describe(item) for item in info.types if not isinstance(item, types.NoneType)]
            return " or ".join(kinds)
        case types.ListType() | types.VarTupleType() | types.SetType():
            return ", ".join([f"list of {_describe(info.item_type)}", *_lengths(info)])
        case types.DictType():
            return f"table of {_describe(info.value_type)}"
        case _:
            raise ValueError(f"no words for a setting of type {info}")


def _range(info: types.IntType | types.FloatType) -> Iterator[str]:
    """The bounds of a number."""
    low: list[str] = []
    high: list[str] = []
    if info.ge is not None:
        low = [f"{info.ge:,}"]
    elif info.gt is not None:
        low = [f"more than {info.gt:,}"]
    if info.le is not None:
        high = [f"{info.le:,}"]
    elif info.lt is not None:
        high = [f"less than {info.lt:,}"]
    if low and high:
        yield f"{low[0]} to {high[0]}"
    elif low:
        yield low[0] if info.gt is not None else f"at least {low[0]}"
    elif high:
        yield high[0] if info.lt is not None else f"at most {high[0]}"


def _lengths(info: types.StrType | types.ListType | types.VarTupleType | types.SetType) -> Iterator[str]:
    unit = "characters" if isinstance(info, types.StrType) else "items"
    least, most = info.min_length, info.max_length
    if least is not None and most is not None:
        yield f"{least:,} to {most:,} {unit}"
    elif least == 1:
        yield "not empty"
    elif least is not None:
        yield f"at least {least:,} {unit}"
    elif most is not None:
        yield f"at most {most:,} {unit}"
