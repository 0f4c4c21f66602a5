"""The core without what it does once a second, however many requests come by.

Only a benchmark starts it, to count instructions of requests: a second that passes a hundred times as slowly has few.
"""

from __future__ import annotations

import sys
from typing import Any

from allsource_core.__main__ import main
from allsource_core.tenancy.usage import UsageLedger


async def _nothing_later(_ledger: Any) -> None: ...


if __name__ == "__main__":
    ledger: Any = UsageLedger
    ledger.save = _nothing_later
    sys.exit(main())
