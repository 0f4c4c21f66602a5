"""How many files and connections the process may have open."""

from __future__ import annotations

import resource
from typing import Final

import structlog

__all__ = ["raise_descriptor_limit"]

_ENOUGH: Final = 4096
"""Below this a warning: each connection, log file and key file takes one."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors as far as the hard one allows, and warn if that is little.

    Returns:
        The soft limit from now on.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError) as error:
            # Some systems have a lower limit than the one that they tell.
            structlog.get_logger().warning("descriptor_limit_not_raised", limit=soft, reason=str(error))
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH:
        structlog.get_logger().warning("few_descriptors", limit=soft, recommended=_ENOUGH)
    return soft
