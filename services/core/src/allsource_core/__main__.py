"""``python -m allsource_core``: read the configuration and serve until told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import structlog
import uvloop

from allsource_core.app import serve
from allsource_core.descriptors import raise_descriptor_limit
from allsource_core.engine import EngineError
from allsource_core.identity.errors import SessionsUnavailableError
from allsource_core.sealing import SealBrokenError
from allsource_core.settings import BootstrapAdmin, CoreSettings
from allsource_shared.configuration import ConfigurationError, argument_parser, load_settings, read_dev_mode
from allsource_shared.logs import configure_logging

__all__ = ["main"]


def main() -> int:
    """Run the service.

    Returns:
        0 after a clean stop, 1 if it could not serve, 2 for a configuration that can't be used.
    """
    arguments = argument_parser("allsource-core", "The AllSource event store.").parse_args()
    try:
        settings = load_settings(CoreSettings, config_path=arguments.config, environ=os.environ, flags=arguments.flags)
        dev_mode = read_dev_mode(os.environ)
        settings.check(dev_mode=dev_mode, environ=os.environ, config_path=arguments.config)
        admin = BootstrapAdmin.from_environment(os.environ, password_min_length=settings.auth.password_min_length)
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"allsource-core: {problem}", file=sys.stderr)
        return 2
    # Whatever the service makes, it makes for its own user alone.
    os.umask(0o077)
    configure_logging(settings.logging, service="core")
    raise_descriptor_limit()
    try:
        uvloop.run(_run(settings, admin, dev_mode=dev_mode))
    except (EngineError, OSError, SealBrokenError, SessionsUnavailableError) as error:
        structlog.get_logger().error("cannot_serve", reason=str(error))
        return 1
    return 0


async def _run(settings: CoreSettings, admin: BootstrapAdmin | None, *, dev_mode: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, admin, stop, dev_mode=dev_mode)


if __name__ == "__main__":
    sys.exit(main())
