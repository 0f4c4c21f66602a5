"""Whether appends are taken, and if not, why."""

from __future__ import annotations

import threading
from typing import Final, Literal

from allsource_core.engine.errors import StoreClosedError, StoreReadOnlyError

__all__ = ["ReadOnlyCode", "Writability"]

ReadOnlyCode = Literal["log_failed", "log_blocked", "storage_damaged", "old_format", "disk_full", "disk_space_low"]
"""``disk_space_low`` concerns appends of tenants alone; reserved tenants and removals go on."""

_FOR_TENANTS_ONLY: Final = "disk_space_low"


class Writability:
    """What stands against appending at present. Several threads may say so.

    Attributes:
        is_unlimited: nothing does: `check` need not be asked.
    """

    def __init__(self) -> None:
        self.is_unlimited = True
        self._closed = False
        self._changing = threading.Lock()
        self._reasons: dict[ReadOnlyCode, str] = {}

    def forbid(self, code: ReadOnlyCode, reason: str) -> None:
        """Take no appends from now on."""
        with self._changing:
            self._reasons[code] = reason
            self.is_unlimited = False

    def allow(self, code: ReadOnlyCode) -> None:
        """What stood against it does no more."""
        with self._changing:
            self._reasons.pop(code, None)
            self.is_unlimited = not self._reasons and not self._closed

    def close(self) -> None:
        """Take no appends ever again."""
        with self._changing:
            self._closed = True
            self.is_unlimited = False

    def check_open(self) -> None:
        """Raises StoreClosedError if it was closed."""
        if self._closed:
            raise StoreClosedError("the store was closed")

    @property
    def reason(self) -> tuple[ReadOnlyCode, str] | None:
        """What stands against appends of tenants: the gravest first."""
        return next(iter(sorted(self._reasons.items(), key=lambda item: item[0] == _FOR_TENANTS_ONLY)), None)

    def forbids(self, code: ReadOnlyCode) -> bool:
        """Whether this one stands against it."""
        return code in self._reasons

    def check(self, tenant_id: str) -> None:
        """Refuse an append of a tenant if anything stands against it.

        Raises:
            StoreClosedError, StoreReadOnlyError: with the reason.
        """
        self.check_open()
        for code, reason in list(self._reasons.items()):
            if code != _FOR_TENANTS_ONLY or not tenant_id.startswith("_"):
                raise StoreReadOnlyError(reason, code)
