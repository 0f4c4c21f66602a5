"""The memtables of a store, oldest first: what the sequencer may look at, since none of it is in a file."""

from __future__ import annotations

from collections.abc import Iterator

from allsource_core.engine.event_columns import StoredEvents
from allsource_core.engine.events import Event
from allsource_core.engine.memtable import Memtable

__all__ = ["Memory"]


class Memory:
    """Everything behind the sealed events.

    Args:
        next_position: of the next record.
        recorded_at: of the last record, so that times never go back.

    Attributes:
        active: the memtable that grows.
        frozen: complete ones before it, oldest first.
        sealed_through: the last position that is not in memory.
        unnumbered_through: the last position of a record of format 1, which names no number of its tenant.
        rollbacks: how often something was forgotten. Whoever looked at memory before knows too much: an entity that was
            there, so that nobody looked for it in key files, may be there no more.
    """

    def __init__(self, next_position: int, recorded_at: int) -> None:
        self.active = Memtable(next_position)
        self.frozen: tuple[Memtable, ...] = ()
        self.recorded_at = recorded_at
        self.sealed_through = next_position - 1
        self.unnumbered_through = 0
        self.rollbacks = 0

    @property
    def tables(self) -> tuple[Memtable, ...]:
        """Oldest first, the growing one last."""
        return (*self.frozen, self.active)

    @property
    def next_position(self) -> int:
        return self.active.next_position

    def would_pass(self, count: int, rows_max: int) -> bool:
        """Whether so many more events would make the growing memtable larger than a segment may be."""
        return len(self.active) + count > rows_max

    def freeze(self) -> None:
        """The growing memtable is complete; a new one begins behind it. Nothing where it is empty."""
        if not len(self.active):
            return
        self.frozen = (*self.frozen, self.active)
        self.active = Memtable(self.active.next_position)

    def drop_sealed(self, through: int) -> None:
        """Let go of the memtables whose last position is at most this one."""
        self.frozen = tuple(table for table in self.frozen if table.next_position - 1 > through)
        self.sealed_through = through

    def roll_back(self, next_position: int, broken_off: StoredEvents | Event | None = None) -> None:
        """Forget every record from a position on, and begin a new memtable there: its records get a new log file."""
        for table in self.tables:
            table.roll_back(next_position, broken_off)
        tables = [table for table in self.tables if len(table)]
        self.frozen = tuple(tables)
        self.active = Memtable(next_position)
        # At the end: who reads the new number reads what is left.
        self.rollbacks += 1

    def last_version(self, tenant: int, entity_id: str) -> tuple[int, int] | None:
        """(last version, last position) of an entity that has events in memory; else None."""
        found = self.active.last_version(tenant, entity_id)
        if found is None and self.frozen:
            for table in reversed(self.frozen):
                found = table.last_version(tenant, entity_id)
                if found is not None:
                    return found
        return found

    def position_of(self, tenant: int, client_id: bytes) -> int | None:
        """Where the tenant's event of this client id is, if it is in memory."""
        for table in reversed(self.tables):
            index = table.find_tenant(tenant)
            position = index.by_client_id.get(client_id) if index is not None else None
            if position is not None:
                return position
        return None

    def at(self, position: int) -> Event | None:
        """The event at a position, if it is in memory and an event's."""
        for table in reversed(self.tables):
            if table.first_position <= position:
                return table.at(position) if position < table.next_position else None
        return None

    def event_of(self, tenant: int, position: int) -> Event | None:
        """The event at a position, if it is in memory and this tenant's."""
        for table in self.tables:
            if table.first_position <= position < table.next_position:
                return table.at(position) if table.has_event(tenant, position) else None
        return None

    def since(self, position: int) -> Iterator[Memtable]:
        """The memtables that have anything behind a position, oldest first."""
        return (table for table in self.tables if table.next_position - 1 > position)
