"""TCP ports on the loopback interface: which are free, and which are ours to take."""

from __future__ import annotations

import errno
import os
import random
import socket
from collections.abc import Mapping
from typing import Final

__all__ = ["free_ports", "is_free", "share"]

# Below every system's range for outgoing connections, so that nobody is given the port between our look and the
# service's bind, or while a service is being restarted.
_LOWEST: Final = 20_000
_HIGHEST: Final = 31_999
_ATTEMPTS: Final = 500


def is_free(host: str, port: int) -> bool:
    """Whether a service could listen on `port` of `host` right now.

    Raises:
        OSError: where binding fails for another reason: no such address, or no right to use the port.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # As the services do: connections of an earlier run that are not quite over don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """As many different free ports, chosen at random so that stacks started side by side rarely meet.

    Tests that run in several processes never do: each process has ports of its own.

    Raises:
        OSError: if too few are free.
    """
    lowest, highest = share(os.environ)
    found: list[int] = []
    for _ in range(_ATTEMPTS):
        port = random.randint(lowest, highest)  # noqa: S311 - which port it is keeps nothing secret
        if port not in found and is_free(host, port):
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"found only {len(found)} free ports of {count} between {lowest} and {highest} on {host}")


def share(environ: Mapping[str, str]) -> tuple[int, int]:
    """The lowest and the highest port that a process with these variables may take.

    A port that is found free is bound later, and one that a test lets go for a moment is bound again: other processes
    of the same run of tests, which pytest-xdist numbers from ``gw0`` on, must not take it in between.
    """
    processes = int(environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % processes
    width = (_HIGHEST + 1 - _LOWEST) // processes
    return _LOWEST + number * width, _LOWEST + (number + 1) * width - 1
