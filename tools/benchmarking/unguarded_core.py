"""The core without what guards it: no authentication, permissions, rate limits, quotas or figures of requests.

Only a benchmark starts it, to learn what the guards cost. Every request is one of `TENANT`, whatever it bears.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from allsource_core.__main__ import main
from allsource_core.api.admission import Admission
from allsource_core.api.call import Call
from allsource_core.api.metrics import CoreMetrics
from allsource_core.identity.principals import Principal
from allsource_core.tenancy.metering import Metering
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.permissions import ROLE_PERMISSIONS, Role

__all__ = ["TENANT"]

TENANT: Final = "benchmark"

_NOBODY: Final = Principal("user", "nobody", "nobody", Role.ADMIN, ROLE_PERMISSIONS[Role.ADMIN], TENANT, TENANT)


class _NoReservation:
    """Nothing was reserved."""

    is_exact = False

    def commit(self, *_arguments: Any) -> None: ...
    def release(self) -> None: ...
    def keep(self) -> None: ...


_no_reservation: Final = _NoReservation()


def _admit(_admission: Admission, call: Call) -> None:
    call.caller = _NOBODY


def _nothing(*_arguments: Any) -> None: ...


async def _nothing_later(*_arguments: Any) -> None: ...


if __name__ == "__main__":
    unguarded: Any
    for unguarded, name, instead in (
        (Admission, "admit", _admit),
        (Admission, "recheck", _nothing),
        (Admission, "charge_more", _nothing),
        (Metering, "append", lambda *_: _no_reservation),
        (Metering, "query", _nothing),
        (UsageLedger, "save", _nothing_later),
        (CoreMetrics, "answered", _nothing),
        (CoreMetrics, "appended", _nothing),
    ):
        setattr(unguarded, name, instead)
    sys.exit(main())
