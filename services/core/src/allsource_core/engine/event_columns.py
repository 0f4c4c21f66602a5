"""The events of one append as columns: how they stand in the log, and in memory until somebody asks for one.

An append of a thousand events touches each of them a few times on its way to the disk. As columns that costs a third
of what a thousand structs cost; `Event` objects are made when they are read, and kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, repeat

import msgspec

from allsource_core.engine.events import Event

__all__ = ["EventColumns", "StoredEvents"]


class EventColumns(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """What authors give of the events of one append; every list has one item an event.

    Attributes:
        event_types: one str where all events have the same.
        metadatas, tags, timestamps, client_ids: None where no event has any.
    """

    event_types: str | list[str]
    entity_ids: list[str]
    payloads: list[bytes]
    metadatas: list[bytes | None] | None = None
    tags: list[tuple[str, ...]] | None = None
    timestamps: list[int | None] | None = None
    client_ids: list[bytes | None] | None = None

    def __len__(self) -> int:
        return len(self.entity_ids)

    def event_type(self, index: int) -> str:
        return self.event_types if isinstance(self.event_types, str) else self.event_types[index]

    def text_bytes(self, start: int, end: int) -> int:
        """Of entity ids, event types and tags of the events from one index up to another, as UTF-8."""
        texts = self.entity_ids[start:end]
        size = 0
        if isinstance(self.event_types, str):
            size = (end - start) * len(self.event_types.encode())
        else:
            texts += self.event_types[start:end]
        if self.tags is not None:
            texts += chain.from_iterable(self.tags[start:end])
        # All at once: 6 µs for a thousand short ones.
        return size + len("".join(texts).encode())

    def body_bytes(self, start: int, end: int) -> int:
        """Of payloads and metadata of the events from one index up to another. 15 µs for a thousand."""
        size = sum(map(len, self.payloads[start:end]))
        if self.metadatas is not None:
            size += sum([len(metadata) for metadata in self.metadatas[start:end] if metadata is not None])
        return size


class StoredEvents(msgspec.Struct, gc=False):
    """The events of one append with what the engine assigned.

    Attributes:
        tenant: internal number of the tenant.
        first_position: of the first event; the others follow without a gap.
        recorded_at: of all of them, microseconds since the epoch.
        versions: of each event's entity.
        body_bytes: of all payloads and metadata, where whoever took the append counted them; -1 where nobody has.
    """

    tenant: int
    tenant_id: str
    first_position: int
    recorded_at: int
    versions: list[int]
    columns: EventColumns
    body_bytes: int = -1

    def content_bytes(self, start: int, end: int) -> int:
        """Of the events from one index up to another: what `Event.content_bytes` says of each."""
        columns = self.columns
        is_known = self.body_bytes >= 0 and end - start == len(self.versions)
        return columns.text_bytes(start, end) + (self.body_bytes if is_known else columns.body_bytes(start, end))

    def __len__(self) -> int:
        return len(self.versions)

    def event(self, index: int) -> Event:
        """The event at an index. 0.6 µs: where many are wanted, `events` makes them at a fifth of that."""
        columns = self.columns
        timestamp = columns.timestamps[index] if columns.timestamps is not None else None
        return Event(
            columns.event_type(index),
            columns.entity_ids[index],
            self.tenant_id,
            columns.payloads[index],
            columns.metadatas[index] if columns.metadatas is not None else None,
            columns.tags[index] if columns.tags is not None else (),
            self.recorded_at if timestamp is None else timestamp,
            self.recorded_at,
            self.versions[index],
            self.first_position + index,
            columns.client_ids[index] if columns.client_ids is not None else None,
        )

    def events(self) -> list[Event]:
        """All of them, in order."""
        columns, recorded_at = self.columns, self.recorded_at
        types: Iterable[str] = columns.event_types
        if isinstance(columns.event_types, str):
            types = repeat(columns.event_types)
        timestamps: Iterable[int] = repeat(recorded_at)
        if columns.timestamps is not None:
            timestamps = [recorded_at if given is None else given for given in columns.timestamps]
        return list(
            map(
                Event,
                types,
                columns.entity_ids,
                repeat(self.tenant_id),
                columns.payloads,
                columns.metadatas if columns.metadatas is not None else repeat(None),
                columns.tags if columns.tags is not None else repeat(()),
                timestamps,
                repeat(recorded_at),
                self.versions,
                range(self.first_position, self.first_position + len(self.versions)),
                columns.client_ids if columns.client_ids is not None else repeat(None),
            )
        )
