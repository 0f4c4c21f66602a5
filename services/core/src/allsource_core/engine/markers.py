"""What is left of an entity's events that were removed: how far, and the state that they made."""

from __future__ import annotations

import msgspec

from allsource_core.engine.log_format import EntityRemoved, EntityShortened
from allsource_core.engine.segment_format import REMOVED, SHORTENED
from allsource_core.engine.states import EntityState, state_of_snapshot

__all__ = ["Marker", "marker_of"]


class Marker(msgspec.Struct, frozen=True, gc=False):
    """That all events of an entity up to `version` are removed.

    Attributes:
        version: the last one that is removed, and must not be assigned again.
        position: of the record that says so.
        kind: `SHORTENED` or `REMOVED`.
        payload: for `SHORTENED` the state that the removed events made, as JSON.
        recorded_at: microseconds since the epoch.
        summary: the rest of that state, as `EntityState.summary` gives it; None for `REMOVED`.
    """

    version: int
    position: int
    kind: int
    payload: bytes
    recorded_at: int
    summary: bytes | None = None

    def counts_more_than(self, other: Marker | None) -> bool:
        """Whether this one, and not another one of the same entity, says what is left.

        Who removes an entity removes what retention left of it, whichever was recorded later.
        """
        if other is None:
            return True
        return (self.version, self.kind, self.position) > (other.version, other.kind, other.position)

    def state(self) -> EntityState:
        """What the removed events amount to: nothing where the entity was removed."""
        if self.summary is not None:
            return state_of_snapshot(self.version, self.payload, self.summary)
        return EntityState(first_version=self.version + 1)


def marker_of(record: EntityRemoved | EntityShortened) -> Marker:
    """How a record of the log stands in a segment."""
    if isinstance(record, EntityRemoved):
        return Marker(record.version, record.position, REMOVED, b"null", record.recorded_at)
    return Marker(record.version, record.position, SHORTENED, record.snapshot, record.recorded_at, record.summary)
