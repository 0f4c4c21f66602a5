"""The core's configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from allsource_shared.configuration import ConfigurationError, read_secret
from allsource_shared.settings import Host, LoggingSettings, MetricsSettings, Port
from allsource_shared.tokens import SECRET_BYTES_MIN

__all__ = ["AuthSettings", "BootstrapAdmin", "CoreSettings", "ServerSettings", "StorageSettings"]


_DISTINCT_CHARACTERS_MIN = 10
"""48 random characters of base64 have 25 to 40 distinct ones, 64 random hex digits hardly ever fewer than 12."""
_PLACEHOLDER = re.compile("change.?me|secret|password|default|example|allsource|12345678|abcdefgh", re.IGNORECASE)


class ServerSettings(msgspec.Struct, frozen=True):
    """Where the core listens and what it bears."""

    host: Annotated[Host, Meta(description="Address to listen on. The core belongs on a private network.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="TCP port; 0 takes a free one.")] = 8080
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=16 * 1024 * 1024, description="Largest request body, as sent and unpacked.")
    ] = 16 * 1024 * 1024
    body_timeout_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="How long a request body may take to arrive.")
    ] = 60.0
    keepalive_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="How long an idle connection is kept open.")
    ] = 75.0
    shutdown_timeout_seconds: Annotated[
        float, Meta(ge=0, le=600, description="How long requests under way may take at shutdown.")
    ] = 10.0


class StorageSettings(msgspec.Struct, frozen=True):
    """Where events are kept."""

    data_dir: Annotated[
        str, Meta(min_length=1, description="Directory of the store; made if it is missing. One process at a time.")
    ] = "data"
    log_file_mb: Annotated[
        int, Meta(ge=1, le=2048, description="Size in MiB at which a log file is followed by a new one.")
    ] = 64
    pending_mb: Annotated[
        int, Meta(ge=1, le=4096, description="MiB that may wait for the disk before appends are refused.")
    ] = 128
    durability: Annotated[
        Literal["fsync", "os"],
        Meta(
            description="`fsync` answers an append when it is on the disk. `os` answers when the operating system has "
            "it: a power failure may take the newest events, and each answer says `durable: false`."
        ),
    ] = "fsync"
    reserve_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=1024 * 1024,
            description="With less free MiB on the disk appends are refused as `read_only`; reads, signing in, "
            "removals and compaction go on, down to an eighth of it. 0: never.",
        ),
    ] = 256
    memory_budget_mb: Annotated[
        int,
        Meta(
            ge=1,
            le=64 * 1024,
            description="MiB of events in memory: names, bodies and tags, beside about 300 bytes an event. A third of "
            "it, 64 MiB, or 262,144 events, become a segment together; the more of it, the more may wait for that.",
        ),
    ] = 128
    cache_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=64 * 1024,
            description="MiB of what is decoded of segments and kept: row groups, for reads of one entity, and whole "
            "ones, for reads in the order of positions.",
        ),
    ] = 128
    removal_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=24 * 3600,
            description="How long the files of a removal are left as they are, so that they are rewritten once for "
            "several of them. Nobody reads what was removed meanwhile.",
        ),
    ] = 5.0
    retention_seconds: Annotated[
        float, Meta(ge=1, le=7 * 24 * 3600, description="Time between two looks for events that retention removes.")
    ] = 600.0
    maintenance: Annotated[
        Literal["process", "thread"],
        Meta(
            description="Where segments are made and merged: in a child process, or in a thread, which slows serving "
            "down, where no other process may be started."
        ),
    ] = "process"


class AuthSettings(msgspec.Struct, frozen=True):
    """How callers prove who they are."""

    jwt_secret: Annotated[
        str,
        Meta(
            extra={"secret": True},
            description=f"Key that signs access tokens: at least {SECRET_BYTES_MIN} bytes, random. Required.",
        ),
    ] = ""
    jwt_issuer: Annotated[str, Meta(min_length=1, max_length=256, description="`iss` of every token.")] = "allsource"
    jwt_audience: Annotated[str, Meta(min_length=1, max_length=256, description="`aud` of every token.")] = "allsource"
    token_lifetime_minutes: Annotated[
        int, Meta(ge=15, le=24 * 60, description="How long an access token is good for.")
    ] = 60
    password_min_length: Annotated[
        int, Meta(ge=8, le=256, description="Shortest password that is accepted, in characters.")
    ] = 12
    sign_in_queue_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Sign-ins that may wait for the password check; beyond it 429.")
    ] = 64


class CoreSettings(msgspec.Struct, frozen=True):
    """Every section that the core reads."""

    server: ServerSettings
    storage: StorageSettings
    auth: AuthSettings
    logging: LoggingSettings
    metrics: MetricsSettings

    def check(self, *, dev_mode: bool) -> None:
        """Refuse what is not safe to serve with.

        Args:
            dev_mode: allow a short or guessable signing secret.

        Raises:
            ConfigurationError: naming the setting and how to make a good value.
        """
        secret = self.auth.jwt_secret
        hint = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
        if not secret:
            raise ConfigurationError([f"ALLSOURCE_AUTH__JWT_SECRET (or …_FILE) is not set; {hint}"])
        if dev_mode:
            return
        if len(secret.encode()) < SECRET_BYTES_MIN:
            raise ConfigurationError([f"ALLSOURCE_AUTH__JWT_SECRET is shorter than {SECRET_BYTES_MIN} bytes; {hint}"])
        if len(set(secret)) < _DISTINCT_CHARACTERS_MIN or _PLACEHOLDER.search(secret) is not None:
            raise ConfigurationError([f"ALLSOURCE_AUTH__JWT_SECRET looks like a placeholder, not like chance; {hint}"])


class BootstrapAdmin(msgspec.Struct, frozen=True):
    """The first administrator, from ``ALLSOURCE_BOOTSTRAP_ADMIN_*``."""

    username: str
    password: str
    email: str

    def __repr__(self) -> str:
        return f"BootstrapAdmin(username={self.username!r})"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], *, password_min_length: int) -> BootstrapAdmin | None:
        """Read the three variables; None where neither name nor password is given.

        Raises:
            ConfigurationError: for one without the other, or a short password.
        """
        prefix = "ALLSOURCE_BOOTSTRAP_ADMIN_"
        problems: list[str] = []
        username = environ.get(f"{prefix}USERNAME", "")
        password = read_secret(environ, f"{prefix}PASSWORD", problems) or ""
        email = environ.get(f"{prefix}EMAIL", "")
        if not problems and bool(username) != bool(password):
            problems.append(f"{prefix}USERNAME and {prefix}PASSWORD (or …_FILE) go together; one is missing")
        if password and len(password) < password_min_length:
            problems.append(f"{prefix}PASSWORD is shorter than auth.password_min_length, {password_min_length}")
        for name, value in (("USERNAME", username), ("EMAIL", email)):
            if len(value) > 256 or not value.isprintable():
                problems.append(f"{prefix}{name} must be at most 256 printable characters")
        if problems:
            raise ConfigurationError(problems)
        return cls(username, password, email) if username else None
