"""``make demo``: start both services on a store of their own, load the flights of 2013, ask, report, stop.

The store is kept in ``.dev/demo``: a second run finds every event there already and stores nothing twice.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from pathlib import Path
from typing import Final

from allsource_shared.configuration import ConfigurationError
from examples.flights.demo import run_demo
from examples.flights.gateway import GatewayError
from tools.development import DEV_DIR, prepare
from tools.stack import Stack, StackError

__all__ = ["main"]

_READY_TIMEOUT_SECONDS: Final = 600.0
_MEMORY_LINE: Final = re.compile(r"^(VmRSS|RssAnon):\s+(\d+) kB$", re.MULTILINE)


def main() -> int:
    """Run the demonstration.

    Returns:
        0 if everything was loaded and answered, 1 otherwise, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N flights of the year")
    parser.add_argument("--dev-dir", type=Path, default=DEV_DIR / "demo", help="where the store is kept")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _demonstrate(options.dev_dir, options.limit)
    except (ConfigurationError, StackError, GatewayError, OSError) as error:
        print(f"make demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmake demo: stopped; what was loaded is kept, run it again to go on", file=sys.stderr)
        return 130
    return 0


def _demonstrate(dev_dir: Path, flights_limit: int | None) -> None:
    # The user's own settings are left out: the demonstration is the same everywhere and touches no other store.
    development = prepare(dev_dir, config=None, environ={}, flags=())
    assert development.username is not None
    assert development.password_file is not None
    password = development.password_file.read_text(encoding="ascii").strip()
    stack = Stack(
        dev_dir / "data",
        environ=development.environ,
        log_dir=dev_dir,
        ready_timeout_seconds=_READY_TIMEOUT_SECONDS,
    )
    print(f"starting both services on {dev_dir} (their logs are there too) ...", file=sys.stderr)
    with stack:
        report = run_demo(stack.gateway_url, development.username, password, flights_limit=flights_limit)
        print(report.text())
        print(f"\nmemory of the core     {_memory(stack.core_pid)}")
        print(f"memory of the gateway  {_memory(stack.gateway_pid)}")
        started = time.monotonic()
        stack.restart_core()
        print(f"restart of the core    {time.monotonic() - started:.1f} s until it is ready again")
        print(f"memory of the core     {_memory(stack.core_pid)}, after the restart")


def _memory(pid: int) -> str:
    """Resident memory of a process, where the system tells it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return "not known on this system"
    kibibytes = dict(_MEMORY_LINE.findall(status))
    return ", ".join(f"{name} {int(size) // 1024} MiB" for name, size in kibibytes.items())


if __name__ == "__main__":
    sys.exit(main())
