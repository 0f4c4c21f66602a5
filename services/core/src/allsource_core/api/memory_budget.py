"""What the bodies of requests and large answers may take of memory, all of them together."""

from __future__ import annotations

from collections import Counter
from typing import Final

from allsource_shared.problems import ApiError

__all__ = ["UNCOUNTED_BYTES_MAX", "Hold", "MemoryBudget"]

UNCOUNTED_BYTES_MAX: Final = 64 * 1024
"""What a body or answer up to this takes, connections bound well enough; counting it would cost every request."""

_TENANT_SHARE: Final = 2
"""One tenant gets one in so many bytes: what stalls or swamps one leaves room for the others."""

_RETRY_AFTER_SECONDS: Final = "1"


class MemoryBudget:
    """Counts bytes as they are on the wire, unpacked: not what is made of them. For one event loop.

    Args:
        bytes_max: for all.

    Attributes:
        held: bytes that are counted now.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self.held = 0
        self._held_by: Counter[str] = Counter()

    def add(self, tenant_id: str, nbytes: int) -> None:
        """Count more bytes of a tenant, or less. Without regard to the bounds; see `check`."""
        self.held += nbytes
        self._held_by[tenant_id] += nbytes
        if not self._held_by[tenant_id]:
            del self._held_by[tenant_id]

    def check(self, tenant_id: str, nbytes: int) -> None:
        """Refuse what there is no room for.

        Raises:
            ApiError: ``overloaded``, naming whose bound it is.
        """
        if self._held_by.get(tenant_id, 0) + nbytes > self._bytes_max // _TENANT_SHARE:
            whose = "of this tenant"
        elif self.held + nbytes > self._bytes_max:
            whose = "of all tenants"
        else:
            return
        detail = f"the bodies and answers {whose} under way take too much memory; nothing was stored"
        raise ApiError("overloaded", detail, headers={"Retry-After": _RETRY_AFTER_SECONDS})


class Hold:
    """What one call has of a budget. To be released when the call has ended, however it ended.

    Args:
        budget: counts it.
        tenant_id: whose share it is part of.
    """

    __slots__ = ("_budget", "_nbytes", "_tenant_id")

    def __init__(self, budget: MemoryBudget, tenant_id: str) -> None:
        self._budget = budget
        self._tenant_id = tenant_id
        self._nbytes = 0

    def resize(self, nbytes: int, *, refusable: bool = True) -> None:
        """Hold so many bytes instead of what was held before.

        Args:
            nbytes: altogether.
            refusable: nothing was done yet that a refusal would deny.

        Raises:
            ApiError: ``overloaded`` if that is more than before, and too much; what was held before still is.
        """
        more = nbytes - self._nbytes
        if more > 0 and refusable:
            self._budget.check(self._tenant_id, more)
        self._budget.add(self._tenant_id, more)
        self._nbytes = nbytes

    def release(self) -> None:
        """Hold nothing."""
        self.resize(0)
