"""The sections of the configuration that both services have."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from allsource_shared.tokens import SECRET_BYTES_MIN

__all__ = ["GatewayKey", "Host", "LoggingSettings", "MetricsSettings", "Port"]

Port = Annotated[int, Meta(ge=0, le=65535)]
Host = Annotated[str, Meta(min_length=1, max_length=255)]
GatewayKey = Annotated[
    str,
    Meta(
        extra={"secret": True},
        pattern="^[!-~]*$",  # it travels in a header
        description=(
            f"By which the core knows its gateways: at least {SECRET_BYTES_MIN} bytes, random, the same for both "
            "services. A gateway needs it; a core without it has no gateways."
        ),
    ),
]


class LoggingSettings(msgspec.Struct, frozen=True):
    """What is logged, and how."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least severe lines that are written.")
    ] = "info"
    format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="`auto` is `console` on a terminal and `json` elsewhere."),
    ] = "auto"
    requests: Annotated[
        Literal["all", "errors", "none"],
        Meta(description="Which requests get a line of their own: every one, those answered with 5xx, or none."),
    ] = "errors"


class MetricsSettings(msgspec.Struct, frozen=True):
    """Who may read the figures."""

    public: Annotated[
        bool, Meta(description="Whether `/metrics` of the core is answered without the permission `metrics`.")
    ] = True
