"""``python -m examples.flights``: the demonstration against a gateway that runs already."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from examples.flights.dataset import DatasetError
from examples.flights.demo import run_demo
from examples.flights.gateway import GatewayError

ENVIRONMENT_VARIABLE = "ALLSOURCE_PASSWORD"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration and print its report; the exit code, 1 after an error that it explains."""
    options = _parser().parse_args(arguments)
    try:
        report = run_demo(
            options.url,
            options.username,
            _password(options.password_file),
            flights_limit=options.limit,
            skip_load=options.skip_load,
        )
    except (DatasetError, GatewayError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run it again to go on, nothing is stored twice", file=sys.stderr)
        return 130
    print(report.text())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights",
        allow_abbrev=False,  # or --password, which must not work, would mean --password-file
        description="Load the flights that left New York in 2013 through the gateway, and ask three questions.",
        epilog=f"The password comes from the environment variable {ENVIRONMENT_VARIABLE} or from --password-file.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8081", help="the gateway (default: %(default)s)")
    parser.add_argument("--username", default="admin", help="who signs in (default: %(default)s)")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="a file with the password in it")
    parser.add_argument("--limit", type=_count, metavar="N", help="load only the year's first N flights")
    parser.add_argument("--skip-load", action="store_true", help="only ask the questions")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _password(file: Path | None) -> str:
    """Never an argument: every user of the machine can read those.

    Raises:
        GatewayError: there is none.
        OSError: the file can't be read.
    """
    if file is not None:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    password = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not password:
        raise GatewayError(f"no password: set {ENVIRONMENT_VARIABLE} or give --password-file")
    return password


if __name__ == "__main__":
    sys.exit(main())
