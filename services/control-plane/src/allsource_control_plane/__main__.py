"""The process: settings, logs, then serving until a signal.

Exit codes: 0 after a signal, 1 if the address can't be listened on, 2 for a configuration that can't be used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import structlog
import uvloop

from allsource_control_plane.health import SERVICE
from allsource_control_plane.server import ListenError, serve
from allsource_control_plane.settings import ControlPlaneSettings
from allsource_shared.configuration import ConfigurationError, argument_parser, load_settings, read_dev_mode
from allsource_shared.logs import configure_logging

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gateway; returns the exit code.

    Args:
        arguments: of the command line, without the program's name; those of the process unless given.
    """
    options = argument_parser(SERVICE, "The AllSource gateway and operations service").parse_args(arguments)
    try:
        settings = load_settings(
            ControlPlaneSettings, config_path=options.config, environ=os.environ, flags=options.flags
        )
        settings.check(dev_mode=read_dev_mode(os.environ))
    except ConfigurationError as error:
        for problem in error.problems:
            sys.stderr.write(f"{SERVICE}: {problem}\n")
        return 2
    configure_logging(settings.logging, service=SERVICE)
    try:
        uvloop.run(serve(settings))
    except ListenError as error:
        structlog.stdlib.get_logger(__name__).error("listen_failed", detail=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
