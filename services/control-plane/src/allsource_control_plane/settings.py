"""The settings of the gateway: the section `gateway`, and the sections that both services have."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from allsource_shared.configuration import ConfigurationError, variable_name
from allsource_shared.secret_strength import SECRET_HINT, weaknesses
from allsource_shared.settings import GatewayKey, Host, LoggingSettings, MetricsSettings, Port

__all__ = ["ControlPlaneSettings", "GatewaySettings"]

_KEY: Final = variable_name("gateway", "key")
_OF_TENANT: Final = variable_name("gateway", "max_requests_per_tenant")
_CONNECTIONS: Final = variable_name("gateway", "max_connections")
_CORE_URL = r"^https?://[^/?#@\s]+$"


class GatewaySettings(msgspec.Struct, frozen=True):
    """Where the gateway listens, where the core is, and the bounds of what passes between them."""

    host: Annotated[Host, Meta(description="Address that the gateway listens on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port that the gateway listens on; 0 takes a free one and logs it.")] = 8081
    core_url: Annotated[
        str,
        Meta(pattern=_CORE_URL, description="Where the core is: scheme, host and port, nothing after them."),
    ] = "http://127.0.0.1:8080"
    key: GatewayKey = ""
    connect_timeout_ms: Annotated[
        int,
        Meta(ge=10, le=60_000, description="How long a connection to the core may take to open, in milliseconds."),
    ] = 500
    introspect_timeout_ms: Annotated[
        int,
        Meta(
            ge=10,
            le=60_000,
            description=(
                "How long the core may take to say whose a credential is, in milliseconds; then the request is a 503. "
                "What the core said before is believed for a second, whatever this is."
            ),
        ),
    ] = 900
    response_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description=(
                "How long the core may be silent, in seconds: before the first byte of an answer and between two. "
                "Must be longer than the longest `wait_ms` of a read."
            ),
        ),
    ] = 60
    body_idle_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description="How long a client may pause inside a request body, in seconds, before it gets a 408.",
        ),
    ] = 30
    body_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description=(
                "How long a client may take to send a request body, in seconds, before it gets a 408. "
                "Time that the core takes over it does not count."
            ),
        ),
    ] = 60
    idle_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description=(
                "How long a connection may be idle, and the head of a request take, in seconds. "
                "A proxy in front must keep its idle connections for less than this."
            ),
        ),
    ] = 30
    write_timeout_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=3600,
            description=(
                "How long a client may leave a piece of an answer, at most 64 KiB, unread, in seconds, "
                "before its connection is cut off."
            ),
        ),
    ] = 30
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=2**40,
            description="Longest request body that is forwarded, in bytes as sent. The core has a limit of its own.",
        ),
    ] = 16 * 1024 * 1024
    max_connections: Annotated[
        int,
        Meta(
            ge=2,
            le=65_536,
            description=(
                "Connections to the core at once; each carries one request. "
                "A request waits for one no longer than `connect_timeout_ms`."
            ),
        ),
    ] = 1024
    max_requests_per_tenant: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description=(
                "Requests of one tenant that may be under way at once; beyond it 429. Fewer than `max_connections`, "
                "so that no tenant takes all of them. Callers without a credential share a quarter of those."
            ),
        ),
    ] = 256
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description=(
                "Addresses and networks (CIDR) of proxies in front of the gateway. A request from one of them comes "
                "from the last address in its `X-Forwarded-For` that is none of theirs; without a readable one, from "
                "nowhere."
            ),
        ),
    ] = ()
    shutdown_timeout_seconds: Annotated[
        int,
        Meta(ge=0, le=3600, description="How long requests under way may take to finish at shutdown, in seconds."),
    ] = 10

    def __post_init__(self) -> None:
        for text in self.trusted_proxies:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise ValueError(f"trusted_proxies: {error}") from None

    def __repr__(self) -> str:
        return f"GatewaySettings(host={self.host!r}, port={self.port}, core_url={self.core_url!r})"


class ControlPlaneSettings(msgspec.Struct, frozen=True):
    """Every section that this service reads."""

    gateway: GatewaySettings = GatewaySettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()

    def check(self, *, dev_mode: bool) -> None:
        """Refuse what can't be served with.

        Args:
            dev_mode: allow a short or guessable key.

        Raises:
            ConfigurationError: naming each setting and how to make a good value.
        """
        problems: list[str] = []
        key = self.gateway.key
        if not key:
            problem = "is not set: without it the gateway can't ask the core whose a credential is"
            problems.append(f"{_KEY} (or …_FILE) {problem}; give both services the same; {SECRET_HINT}")
        elif not dev_mode:
            problems.extend(weaknesses(_KEY, key))
        of_tenant, connections = self.gateway.max_requests_per_tenant, self.gateway.max_connections
        if of_tenant >= connections:
            problem = f"is {of_tenant}, and must be less than {_CONNECTIONS}, which is {connections}"
            problems.append(f"{_OF_TENANT} {problem}: else one tenant takes all of them")
        if problems:
            raise ConfigurationError(problems)
