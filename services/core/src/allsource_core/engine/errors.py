"""What the engine raises.

EngineError                     never raised itself
├── InvalidEventError           an event breaks a rule; nothing was stored
├── VersionConflictError        an entity is not at the expected version; nothing was stored
├── ConditionFailedError        an event exists that an append's condition excludes; nothing was stored
├── ConditionTooBroadError      a condition would have to look at too much; nothing was stored
├── EventIdConflictError        event ids are known with other content; nothing was stored
├── OverloadedError             there was no room in time; nothing was stored
├── StoreReadOnlyError          no appends are taken; nothing was stored
├── KeysDamagedError            what is looked up in is being made anew; nothing was stored
├── AppendUncertainError        the disk failed meanwhile: stored or not, unknown
├── NotFoundError               what is to be removed is not there
├── StateNotKeptError           retention removed the events of which a past state was made
├── StoreClosedError            the store was closed
├── StoreLockedError            another process has the data directory open
├── ForeignDirectoryError       the directory holds something else, or a format that is not ours
└── CorruptionError             damage that is not a torn tail: file, offset, reason
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

__all__ = [
    "AppendUncertainError",
    "ConditionFailedError",
    "ConditionTooBroadError",
    "CorruptionError",
    "EngineError",
    "EventIdConflictError",
    "ForeignDirectoryError",
    "InvalidEventError",
    "KeysDamagedError",
    "NotFoundError",
    "OverloadedError",
    "StateNotKeptError",
    "StoreClosedError",
    "StoreLockedError",
    "StoreReadOnlyError",
    "VersionConflictError",
    "without_frames",
]

_ErrorT = TypeVar("_ErrorT", bound=BaseException)


class EngineError(Exception):
    """The root of everything that the engine raises on purpose."""


class InvalidEventError(EngineError, ValueError):
    """An argument of an append breaks a rule.

    Attributes:
        index: of the event in the append, from 0; None where the append as a whole is meant.
        field: of the event, or of the append.
        message: what is wrong and what is allowed.
    """

    def __init__(self, index: int | None, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if index is None else f"events[{index}].{field}: {message}")
        self.index = index
        self.field = field
        self.message = message


class VersionConflictError(EngineError):
    """An entity is not at the expected version.

    Attributes:
        entity_id: the entity.
        expected: what the append asked for: a number, ``none``, ``exists``.
        actual: the last version that was assigned, 0 for none.
    """

    def __init__(self, entity_id: str, expected: int | str, actual: int) -> None:
        super().__init__(f"entity {entity_id!r} is at version {actual}, expected was {expected}")
        self.entity_id = entity_id
        self.expected = expected
        self.actual = actual


class ConditionFailedError(EngineError):
    """An event exists that the condition of an append excludes.

    Attributes:
        position, event_id: of one such event.
        after: behind which position the condition looked.
    """

    def __init__(self, position: int, event_id: UUID, after: int) -> None:
        super().__init__(
            f"event {event_id} at position {position} matches the condition, which allows none after {after}"
        )
        self.position = position
        self.event_id = event_id
        self.after = after


class ConditionTooBroadError(EngineError):
    """Checking a condition would have to read more than is allowed; name a later `after`, or narrower items."""


class EventIdConflictError(EngineError):
    """Event ids of an append are known, but it is not a repetition.

    Attributes:
        conflicts: (index of the event in the append, its id) of each known id.
        changed: whether some known event has other content; if not, only a part of the append is known.
    """

    def __init__(self, conflicts: Sequence[tuple[int, UUID]], *, changed: bool) -> None:
        reason = "with other content" if changed else "but other events of the append are new"
        super().__init__(f"event ids that are known, {reason}: {len(conflicts)}")
        self.conflicts = list(conflicts)
        self.changed = changed


class NotFoundError(EngineError):
    """What is to be removed is not there, or can't be read by this tenant."""


class StateNotKeptError(EngineError):
    """Retention removed events of an entity, and left only the state that all of them made together.

    Attributes:
        entity_id: the entity.
        first_version, first_position, first_timestamp: the first ones as of which the state is known; the last in
            microseconds since the epoch.
    """

    def __init__(self, entity_id: str, first_version: int, first_position: int, first_timestamp: int) -> None:
        super().__init__(
            f"retention removed events of entity {entity_id!r}: its state is known as of version {first_version}, "
            f"position {first_position}, or timestamp {first_timestamp} in microseconds since the epoch, and later"
        )
        self.entity_id = entity_id
        self.first_version = first_version
        self.first_position = first_position
        self.first_timestamp = first_timestamp


class OverloadedError(EngineError):
    """There was no room for an append or a wait in time. Nothing was stored; try again soon."""


class StoreReadOnlyError(EngineError):
    """The store takes no appends. Reads go on.

    Attributes:
        reason: why, in words that may name files of the machine.
        code: why, for programs: a `ReadOnlyCode`, or None.
    """

    def __init__(self, reason: str, code: str | None = None) -> None:
        super().__init__(f"the store is read-only: {reason}")
        self.reason = reason
        self.code = code


class KeysDamagedError(EngineError):
    """The key directory, in which entities and event ids are looked up, is damaged. It is being made anew from the
    segments: try again soon. Nothing was stored; reads of ranges go on.
    """


class AppendUncertainError(EngineError):
    """Writing or syncing failed: after a restart the events may be there or not. Safe to repeat with event ids."""


class StoreClosedError(EngineError):
    """The store was closed."""


class StoreLockedError(EngineError):
    """Another process has the data directory open."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"another process has the data directory {path} open")
        self.path = path


class ForeignDirectoryError(EngineError):
    """The data directory is not a store of ours, or of a format version that this release can't read."""


class CorruptionError(EngineError):
    """Stored bytes are damaged where they were acknowledged.

    Attributes:
        path: of the damaged file.
        offset: in bytes, where the damage was found.
        reason: what is wrong there.
    """

    def __init__(self, path: Path, offset: int, reason: str) -> None:
        super().__init__(f"{path} is damaged at byte {offset}: {reason}")
        self.path = path
        self.offset = offset
        self.reason = reason


def without_frames(error: _ErrorT) -> _ErrorT:
    """The same error, for somebody who keeps it: without the frames that it and what it came from went through.

    A frame holds its variables and, by the frame that called it, those of all its callers: so, of a read, the view.
    """
    links: list[BaseException] = [error]
    for link in links:
        link.__traceback__ = None
        links += [other for other in (link.__cause__, link.__context__) if other is not None and other not in links]
    return error
