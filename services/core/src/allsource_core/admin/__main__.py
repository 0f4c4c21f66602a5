"""``allsource-admin`` and ``python -m allsource_core.admin``: parse the command line and do one command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from allsource_core.admin.output import Output
from allsource_core.admin.store_commands import add_store_commands
from allsource_core.admin.user_commands import add_session_commands, add_user_commands
from allsource_core.engine import EngineError
from allsource_core.identity.errors import IdentityError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: without the name of the program; those of the process by default.

    Returns:
        0: done, or sound. 1: something is wrong, or it failed. A usage error ends the process with 2.
    """
    parser = argparse.ArgumentParser(prog="allsource-admin", description="Look after an AllSource event store.")
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    add_store_commands(groups.add_parser("store", help="verify, inspect, repair or upgrade a stopped store"))
    add_user_commands(groups.add_parser("users", help="list the users of a stopped store, or reset a password"))
    add_session_commands(groups.add_parser("sessions", help="end the sessions of a stopped store"))
    parsed = parser.parse_args(arguments)
    # Whatever is made, is made for this user alone.
    os.umask(0o077)
    output = Output(sys.stdout, sys.stderr, json=parsed.json)
    try:
        status: int = parsed.run(parsed, output)
    except (EngineError, IdentityError, OSError, ValueError) as error:
        output.failure(str(error))
        return 1
    except KeyboardInterrupt:
        output.failure("interrupted")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
