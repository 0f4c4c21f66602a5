"""What an append answers."""

from __future__ import annotations

import msgspec

from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.events import Event

__all__ = ["Appended"]


class Appended(msgspec.Struct, gc=False):
    """What an append did. Its events are made when they are asked for.

    Attributes:
        stored: what was stored, or would be.
        repeated: nothing was stored: these are the events of the first time.
        dry_run: nothing was stored: these are the events as they would be, if nobody else appends meanwhile.
        durable: the events are on the disk, not only in the hands of the operating system.
    """

    stored: StoredEvents | Event | None = None
    repeated: list[Event] | None = None
    dry_run: bool = False
    durable: bool = True

    @property
    def duplicate(self) -> bool:
        """The append was made before, and nothing was stored now."""
        return self.stored is None

    @property
    def events(self) -> list[Event]:
        """The events, in the order of the append."""
        stored = self.stored
        if isinstance(stored, Event):
            return [stored]
        return self.repeated or [] if stored is None else stored.events()

    @property
    def first_position(self) -> int:
        """The lowest position of the events. A repetition may name them in another order than that of positions."""
        stored = self.stored
        if stored is None:
            return min([event.position for event in self.events])
        return stored.position if isinstance(stored, Event) else stored.first_position

    @property
    def last_position(self) -> int:
        """The highest position of the events."""
        if self.stored is None:
            return max([event.position for event in self.events])
        return self.first_position + len(self) - 1

    @property
    def content_bytes(self) -> int:
        """Of the events that were stored: 0 for a repetition and a dry run. See `Event.content_bytes`."""
        stored = self.stored
        if stored is None or self.dry_run:
            return 0
        return stored.content_bytes if isinstance(stored, Event) else stored.content_bytes(0, len(stored))

    @property
    def recorded_at(self) -> int:
        """Of its events; of a repetition, of the newest one."""
        return max(event.recorded_at for event in self.events) if self.stored is None else self.stored.recorded_at

    def __len__(self) -> int:
        stored = self.stored
        if isinstance(stored, Event):
            return 1
        return len(self.events if stored is None else stored)
