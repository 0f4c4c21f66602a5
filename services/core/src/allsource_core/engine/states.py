"""The state of an entity: its payload objects merged in the order of versions, and a cache of what was asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

__all__ = ["EntityState", "StateCache", "fold", "state_of_snapshot"]

_objects: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder: Final = msgspec.json.Encoder()


class Mergeable(Protocol):
    """What `fold` needs of an event."""

    @property
    def version(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def recorded_at(self) -> int: ...
    @property
    def timestamp(self) -> int: ...


class EntityState(msgspec.Struct, frozen=True, gc=False):
    """What the events of an entity amount to.

    Attributes:
        version: of the last event that counts; 0 if none does.
        event_count: how many events were merged, those that retention removed since among them.
        last_position, last_recorded_at, last_timestamp: of that event; 0 if none counts.
        newest_timestamp: the greatest `timestamp` among those events; 0 if none counts.
        first_version: from which on events of the entity can be read: 1, or the one behind what was removed.
    """

    version: int = 0
    event_count: int = 0
    last_position: int = 0
    last_recorded_at: int = 0
    last_timestamp: int = 0
    newest_timestamp: int = 0
    first_version: int = 1
    _members: dict[str, msgspec.Raw] = {}

    @property
    def members(self) -> Mapping[str, msgspec.Raw]:
        """Of the state, each the JSON that came last. To look at: others are given the same state."""
        return MappingProxyType(self._members)

    def to_json(self) -> bytes:
        """The state as one JSON object: numbers as precise, and keys in the order, as they came."""
        return _encoder.encode(self._members)

    def value(self) -> dict[str, Any]:
        """The state as Python values."""
        value: dict[str, Any] = msgspec.json.decode(self.to_json())
        return value

    def summary(self) -> bytes:
        """What a snapshot says of the state beside its members and version, as JSON."""
        return _encoder.encode(
            _Summary(
                self.event_count, self.last_position, self.last_recorded_at, self.last_timestamp, self.newest_timestamp
            )
        )


class _Summary(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `EntityState`. docs/storage-format.md, Segment."""

    event_count: int
    last_position: int
    last_recorded_at: int
    last_timestamp: int
    newest_timestamp: int


_summaries: Final = msgspec.json.Decoder(_Summary)


def state_of_snapshot(version: int, members: bytes, summary: bytes) -> EntityState:
    """The state that a snapshot stands for: of the events up to a version.

    Args:
        version: of the last of them.
        members: as one JSON object.
        summary: as `EntityState.summary` gave it.
    """
    known = _summaries.decode(summary)
    return EntityState(
        version,
        known.event_count,
        known.last_position,
        known.last_recorded_at,
        known.last_timestamp,
        known.newest_timestamp,
        version + 1,
        _objects.decode(members),
    )


def fold(state: EntityState, events: Iterable[Mergeable]) -> EntityState:
    """Merge events into a state, in the order given; a payload that is no object counts but adds nothing.

    0.4 µs an event of two members. The state given is not changed.
    """
    members = state._members.copy()
    update = members.update
    decode = _objects.decode
    last: Mergeable | None = None
    count, newest = 0, state.newest_timestamp
    for event in events:
        payload = event.payload
        # White space in front is an embedding program's.
        if payload[:1] == b"{" or payload.lstrip()[:1] == b"{":
            update(decode(payload))
        if event.timestamp > newest:
            newest = event.timestamp
        last = event
        count += 1
    if last is None:
        return state
    return EntityState(
        last.version,
        state.event_count + count,
        last.position,
        last.recorded_at,
        last.timestamp,
        newest,
        state.first_version,
        members,
    )


class StateCache:
    """The states that were asked for last, so that only newer events have to be merged. Thread-safe.

    Args:
        states_max: how many to keep.

    Attributes:
        generation: counts the calls of `clear`.
    """

    def __init__(self, states_max: int = 10_000) -> None:
        self._states_max = states_max
        self._lock = threading.Lock()
        self._states: OrderedDict[tuple[int, str], tuple[EntityState, int]] = OrderedDict()
        self.generation = 0

    def get(self, tenant: int, entity_id: str) -> tuple[EntityState, int] | None:
        """A state and the position up to which it was read."""
        key = tenant, entity_id
        with self._lock:
            found = self._states.get(key)
            if found is not None:
                self._states.move_to_end(key)
            return found

    def put(self, tenant: int, entity_id: str, state: EntityState, up_to: int, generation: int) -> None:
        """Keep a state that was read up to a position, unless `clear` was called since there was this generation."""
        with self._lock:
            if generation != self.generation:
                return
            self._states[tenant, entity_id] = state, up_to
            while len(self._states) > self._states_max:
                self._states.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: something was removed that a state may be made of."""
        with self._lock:
            self.generation += 1
            self._states.clear()
