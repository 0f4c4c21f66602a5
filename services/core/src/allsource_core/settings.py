"""The core's configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from allsource_shared.configuration import ConfigurationError, SectionPart, read_secret, variable_name
from allsource_shared.secret_strength import SECRET_HINT, weaknesses
from allsource_shared.settings import GatewayKey, Host, LoggingSettings, MetricsSettings, Port
from allsource_shared.tokens import SECRET_BYTES_MIN

__all__ = ["AuthSettings", "BootstrapAdmin", "CoreSettings", "GatewayAccess", "ServerSettings", "StorageSettings"]

_MASTER_KEY: Final = variable_name("auth", "master_key")
_JWT_SECRET: Final = variable_name("auth", "jwt_secret")
_GATEWAY_KEY: Final = variable_name("gateway", "key")


class ServerSettings(msgspec.Struct, frozen=True):
    """Where the core listens and what it bears."""

    host: Annotated[Host, Meta(description="Address to listen on. The core belongs on a private network.")] = (
        "127.0.0.1"
    )
    port: Annotated[Port, Meta(description="TCP port; 0 takes a free one.")] = 8080
    max_body_bytes: Annotated[
        int, Meta(ge=1024, le=16 * 1024 * 1024, description="Largest request body, as sent and unpacked.")
    ] = 16 * 1024 * 1024
    request_memory_mb: Annotated[
        int,
        Meta(
            ge=64,
            le=2**20,
            description="MiB that bodies and answers of more than 64 KiB, all those under way together, may take; "
            "a stream of events counts 3. Half of it those of one tenant. Beyond it 503.",
        ),
    ] = 512
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
    in_use_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=64 * 1024,
            description="MiB of decoded segments that streams and pages hold beside the cache while their readers take "
            "what was read. Whoever reads beyond it has segments decoded again and again.",
        ),
    ] = 1024
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

    master_key: Annotated[
        str,
        Meta(
            extra={"secret": True},
            description=f"Seals the secrets that the data directory holds: at least {SECRET_BYTES_MIN} bytes, random, "
            "kept apart from the data. Required. Without it nothing that was signed or sealed is of use any more.",
        ),
    ] = ""
    jwt_secret: Annotated[
        str,
        Meta(
            extra={"secret": True},
            description=f"First key that signs access tokens, with HS256: at least {SECRET_BYTES_MIN} bytes, random. "
            "Read where no signing key has been made yet, and never again. Not set: a random one is made.",
        ),
    ] = ""
    jwt_algorithm: Annotated[
        Literal["HS256", "EdDSA"],
        Meta(
            description="How access tokens are signed. `EdDSA` (Ed25519) lets others verify them by the public keys "
            "at `/.well-known/jwks.json`. Another value than before makes a new key at the next start."
        ),
    ] = "HS256"
    jwt_issuer: Annotated[str, Meta(min_length=1, max_length=256, description="`iss` of every token.")] = "allsource"
    jwt_audience: Annotated[str, Meta(min_length=1, max_length=256, description="`aud` of every token.")] = "allsource"
    token_lifetime_minutes: Annotated[
        int, Meta(ge=15, le=24 * 60, description="How long an access token is good for.")
    ] = 60
    refresh_lifetime_days: Annotated[
        int,
        Meta(
            ge=1,
            le=365,
            description="A session ends so many days after it was begun or last refreshed; until then its refresh "
            "token gives access tokens.",
        ),
    ] = 14
    password_min_length: Annotated[
        int, Meta(ge=8, le=256, description="Shortest password that is accepted, in characters.")
    ] = 12
    registration: Annotated[
        Literal["bootstrap", "closed", "open"],
        Meta(
            description="Who makes users. Administrators always may. `bootstrap`: while there is no user, the first "
            "one may be registered as an administrator, without credentials from the machine of a core that listens "
            "on loopback, from anywhere with `ALLSOURCE_DEV=1`, else with the setup token that the core logs and "
            "leaves in its data directory. `open`: after that, anybody may register as `readonly` or `developer`. "
            "`closed`: nobody else; the first administrator comes from `ALLSOURCE_BOOTSTRAP_ADMIN_*`."
        ),
    ] = "bootstrap"
    open_registration_tenant: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            pattern="^[^_]",
            description="The tenant of those who register themselves while `auth.registration` is `open`.",
        ),
    ] = "default"
    open_registrations_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="How many may register without a credential in a minute, all of them together, and a sixth of "
            "it from one address; beyond it 429.",
        ),
    ] = 60
    sign_in_queue_max: Annotated[
        int, Meta(ge=1, le=10_000, description="Sign-ins that may wait for the password check; beyond it 429.")
    ] = 64


class GatewayAccess(SectionPart, frozen=True):
    """How the core knows its gateways."""

    key: GatewayKey = ""


class CoreSettings(msgspec.Struct, frozen=True):
    """Every section that the core reads."""

    server: ServerSettings
    storage: StorageSettings
    auth: AuthSettings
    gateway: GatewayAccess
    logging: LoggingSettings
    metrics: MetricsSettings

    def check(self, *, dev_mode: bool, environ: Mapping[str, str], config_path: Path | None) -> None:
        """Refuse what is not safe to serve with.

        Args:
            dev_mode: allow short or guessable secrets.
            environ, config_path: where the settings came from.

        Raises:
            ConfigurationError: naming the settings and how to make good values.
        """
        problems = []
        if not self.auth.master_key:
            problems.append(f"{_MASTER_KEY} (or …_FILE) is not set; {SECRET_HINT}")
        if not dev_mode:
            problems += weaknesses(_MASTER_KEY, self.auth.master_key)
            problems += weaknesses(_JWT_SECRET, self.auth.jwt_secret)
            problems += weaknesses(_GATEWAY_KEY, self.gateway.key)
        problems += self._misplaced(environ, config_path)
        if problems:
            raise ConfigurationError(problems)

    def _misplaced(self, environ: Mapping[str, str], config_path: Path | None) -> Iterator[str]:
        """Secrets that lie in the data directory, where a copy of it has what opens its seals."""
        data_dir = Path(self.storage.data_dir).resolve()
        for name, secret in ((_MASTER_KEY, self.auth.master_key), (_JWT_SECRET, self.auth.jwt_secret)):
            file = environ.get(f"{name}_FILE")
            if file is not None and Path(file).resolve().is_relative_to(data_dir):
                yield f"{name}_FILE is inside storage.data_dir; keep it where no copy of the data takes it along"
            elif (
                secret
                and name not in environ
                and file is None
                and config_path is not None
                and config_path.resolve().is_relative_to(data_dir)
            ):
                yield f"{name} is set in {config_path}, which is inside storage.data_dir; keep it elsewhere"


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
