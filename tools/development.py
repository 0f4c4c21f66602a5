"""What a development checkout adds to the configuration that its user gave: secrets, a first admin, a data directory.

Secrets are made once and kept in files that only their owner can read; nothing that the user configured is replaced.
"""

from __future__ import annotations

import os
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from allsource_shared.configuration import ConfigurationError, variable_name

__all__ = ["DEV_DIR", "Development", "is_configured", "prepare", "secret_file"]

DEV_DIR: Final = Path(__file__).resolve().parent.parent / ".dev"
_SECRET_BYTES: Final = 48
_ADMIN: Final = "ALLSOURCE_BOOTSTRAP_ADMIN"
_PRIVATE_DIRECTORY: Final = 0o700
_PRIVATE_FILE: Final = 0o600


class Development(NamedTuple):
    """How the services are to be started.

    Attributes:
        environ: the user's environment with what was missing.
        username: of the first admin; None if the user configured their own in another way.
        password_file: holds the admin's password; None if it is the user's own.
    """

    environ: dict[str, str]
    username: str | None
    password_file: Path | None


def prepare(dev_dir: Path, *, config: Path | None, environ: Mapping[str, str], flags: Sequence[str]) -> Development:
    """Add what the user did not configure, in the form in which the services read it.

    Args:
        dev_dir: where secrets and data are kept; made if need be, for its owner alone.
        config: the TOML file, or None. One that can't be read counts as empty: the services say what is wrong.
        environ: the user's.
        flags: ``section.key=value`` of the command line.

    Raises:
        ConfigurationError: the master key of the data in `dev_dir` is gone; another one would open nothing.
        OSError: if `dev_dir` can't be made or written.
    """
    dev_dir.mkdir(parents=True, exist_ok=True)
    dev_dir.chmod(_PRIVATE_DIRECTORY)
    result = dict(environ)

    def missing(section: str, key: str) -> bool:
        return not is_configured(section, key, config=config, environ=environ, flags=flags)

    if missing("auth", "master_key"):
        if missing("storage", "data_dir"):
            _check_master_key(dev_dir)
        result[f"{variable_name('auth', 'master_key')}_FILE"] = str(secret_file(dev_dir, "master-key"))
    if missing("gateway", "key"):
        result[f"{variable_name('gateway', 'key')}_FILE"] = str(secret_file(dev_dir, "gateway-key"))
    if missing("storage", "data_dir"):
        result[variable_name("storage", "data_dir")] = str(dev_dir / "data")
    password_file = None
    if f"{_ADMIN}_PASSWORD" not in environ and f"{_ADMIN}_PASSWORD_FILE" not in environ:
        password_file = secret_file(dev_dir, "admin-password")
        result[f"{_ADMIN}_PASSWORD_FILE"] = str(password_file)
        result.setdefault(f"{_ADMIN}_USERNAME", "admin")
        result.setdefault(f"{_ADMIN}_EMAIL", "admin@example.com")
    elif f"{_ADMIN}_PASSWORD_FILE" in environ:
        password_file = Path(environ[f"{_ADMIN}_PASSWORD_FILE"])
    return Development(result, result.get(f"{_ADMIN}_USERNAME"), password_file)


def is_configured(
    section: str, key: str, *, config: Path | None, environ: Mapping[str, str], flags: Sequence[str]
) -> bool:
    """Whether any source says something about a key, its default aside; arguments as of `prepare`."""
    name = variable_name(section, key)
    return (
        name in environ
        or f"{name}_FILE" in environ
        or key in _read_document(config).get(section, {})
        or any(flag.startswith(f"{section}.{key}=") for flag in flags)
    )


def secret_file(directory: Path, name: str) -> Path:
    """The file of a secret in `directory`; made with a fresh one, mode 0600, if there is none.

    A secret that is there is never replaced: what was sealed with it could not be opened any more.
    """
    path = directory / name
    if not path.exists():
        # Written under another name first: a crash in between leaves no empty secret.
        draft = directory / f"{name}.{secrets.token_hex(4)}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(_SECRET_BYTES) + "\n")
        draft.rename(path)
    path.chmod(_PRIVATE_FILE)
    return path


def _check_master_key(dev_dir: Path) -> None:
    """Refuse to make a second master key for data that a first one sealed."""
    key, data = dev_dir / "master-key", dev_dir / "data"
    # Data of a release that had no master key has no `derived` either.
    if (data / "derived").exists() and not key.exists():
        raise ConfigurationError(
            [f"{key} is gone, and {data} opens with that key alone: put it back, or remove {data} to begin anew"]
        )


def _read_document(config: Path | None) -> dict[str, dict[str, Any]]:
    """The sections of the file."""
    if config is None:
        return {}
    try:
        document = tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return {}
    return {section: keys for section, keys in document.items() if isinstance(keys, dict)}
