"""Control records that are sequenced and not durable yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from allsource_core.engine.log_format import AnyControlRecord
from allsource_core.engine.sequencer import Sequencer

__all__ = ["UndurableRecords"]


class UndurableRecords:
    """What the sequencer judges by already, and readers don't know of yet.

    Args:
        sequencer: that has applied them.
        on_durable: called for each once it is durable, before anybody is told.
    """

    def __init__(self, sequencer: Sequencer, on_durable: Callable[[AnyControlRecord], None]) -> None:
        self._sequencer = sequencer
        self._on_durable = on_durable
        # The oldest first.
        self._records: deque[AnyControlRecord] = deque()

    def add(self, record: AnyControlRecord) -> None:
        """A record is sequenced."""
        self._records.append(record)

    def durable(self, position: int) -> None:
        """Everything up to a position is durable."""
        while self._records and self._records[0].position <= position:
            record = self._records.popleft()
            self._sequencer.forget_undo(record)
            self._on_durable(record)

    def undo(self) -> None:
        """They did not reach the disk: take back what they told the sequencer."""
        while self._records:
            self._sequencer.undo(self._records.pop())
