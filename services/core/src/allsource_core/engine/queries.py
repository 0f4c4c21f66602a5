"""What a read selects."""

from __future__ import annotations

import msgspec

from allsource_core.engine.events import Event

__all__ = ["EventQuery"]


class EventQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which events to read, and in which direction. All conditions that are given must hold.

    Attributes:
        entity_id, event_type: equal to.
        tags: an event must bear all of them.
        since, until: inclusive bounds of `timestamp`, in microseconds since the epoch.
        after_position, before_position: exclusive bounds of `position`.
        from_version, to_version: inclusive bounds of `version`; most useful with `entity_id`, of which alone they
            spare reading.
        descending: newest position first.
        limit: at most so many events, 1 or more; None for all.

    Raises:
        ValueError: when it is made, for a position, version or limit below the lowest that there is.
    """

    entity_id: str | None = None
    event_type: str | None = None
    tags: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None
    after_position: int = 0
    before_position: int | None = None
    from_version: int = 1
    to_version: int | None = None
    descending: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        if (
            self.after_position < 0
            or self.from_version < 1
            or (self.limit is not None and self.limit < 1)
            or (self.before_position is not None and self.before_position < 1)
            or (self.to_version is not None and self.to_version < 0)
        ):
            raise ValueError(
                "after_position and to_version are 0 or more, before_position, from_version and limit 1 or more"
            )

    @property
    def is_plain(self) -> bool:
        """Whether entity, type, tags and bounds of position say all: nothing has to be looked at event by event."""
        return self.since is None and self.until is None and self.from_version <= 1 and self.to_version is None

    def selects(self, event: Event) -> bool:
        """Whether an event matches, position bounds, direction and limit aside."""
        return (
            (self.entity_id is None or event.entity_id == self.entity_id)
            and (self.event_type is None or event.event_type == self.event_type)
            and (self.since is None or event.timestamp >= self.since)
            and (self.until is None or event.timestamp <= self.until)
            and event.version >= self.from_version
            and (self.to_version is None or event.version <= self.to_version)
            and all(tag in event.tags for tag in self.tags)
        )
