"""Facts: what the service itself knows, as events of the reserved tenant ``_system``, folded in memory.

A fact is about a subject ``<kind>:<id>``. One domain package owns a kind: it alone appends facts of it, and is told of
every one, at start and afterwards, in the order of the log. Nobody else writes to the tenant, so what is folded is what
is stored.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec
import structlog
from msgspec import Raw

from allsource_core.engine import AppendUncertainError, EngineError, Event, EventQuery, EventStore
from allsource_shared.wire.events import NewEvent

__all__ = ["DEFAULT_TENANT", "SYSTEM_TENANT", "Fact", "Facts"]

SYSTEM_TENANT: Final = "_system"
DEFAULT_TENANT: Final = "default"
"""Where administrators live. It is always there."""

_FOLLOW_SECONDS: Final = 0.25
_ERASE_SECONDS: Final = 10.0
"""Between attempts: what failed was the disk, or there was no room."""

Apply = Callable[[str, Event], None]


class Fact(NamedTuple):
    """Something that is to be known.

    Attributes:
        subject: ``<kind>:<id>``, the entity that it is about.
        type: of the event.
        body: its payload.
    """

    subject: str
    type: str
    body: msgspec.Struct


class _Changing(asyncio.Lock):
    """A lock whose holder sees everything that is stored when it gets it."""

    def __init__(self, fold: Callable[[], None]) -> None:
        super().__init__()
        self._fold = fold

    async def __aenter__(self) -> None:
        await self.acquire()
        try:
            self._fold()
        except BaseException:
            self.release()
            raise


class Facts:
    """Appends and folds facts. For the thread of the event loop, once the service has started.

    Args:
        store: of events.

    Attributes:
        changing: held, by ``async with``, by whoever decides on a change and appends it: what is stored is folded, and
            what was looked at still holds.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._apply: dict[str, Apply] = {}
        self._position = 0
        self._unerased: deque[Event] = deque()
        self._erasing = asyncio.Lock()
        self.changing = _Changing(self.fold)

    def own(self, kind: str, apply: Apply) -> None:
        """Have `apply` told of every fact of a kind, as (id, event), in order.

        Raises:
            ValueError: the kind has an owner.
        """
        if kind in self._apply:
            raise ValueError(f"facts of the kind {kind!r} have an owner")
        self._apply[kind] = apply

    def fold(self) -> None:
        """Fold what is stored and not folded yet: at start everything. Facts of kinds without an owner are passed over.

        An append whose outcome was uncertain may be among it.

        It goes on behind the last position of any tenant at the time before. So, called often enough, it finds
        everything in memory, and decodes no segment on the event loop.
        """
        up_to = self._store.last_position
        if up_to <= self._position:
            return
        query = EventQuery(after_position=self._position)
        for events in self._store.read_chunks(SYSTEM_TENANT, query, up_to=up_to):
            for event in events:
                kind, _, id_ = event.entity_id.partition(":")
                apply = self._apply.get(kind)
                if apply is not None:
                    apply(id_, event)
                self._position = event.position
        self._position = up_to

    def append(self, facts: Sequence[Fact]) -> None:
        """Store facts together, all or none, durably, and fold them. Blocks: for the start of the service.

        Raises:
            EngineError: as `EventStore.append`. An uncertain append is folded if it is stored after all.
        """
        self.fold()
        try:
            self._store.append(SYSTEM_TENANT, _events(facts))
        except AppendUncertainError:
            self.fold()
            raise
        self.fold()

    async def append_async(self, facts: Sequence[Fact]) -> None:
        """The same on an event loop, with `changing` held."""
        try:
            await self._store.append_async(SYSTEM_TENANT, _events(facts))
        except AppendUncertainError:
            self.fold()
            raise
        self.fold()

    async def follow(self) -> None:
        """Fold for ever, a few times a second: what nobody folded who appended it, as they were cancelled; and so that
        `fold` has never far to go.
        """
        while True:
            await asyncio.sleep(_FOLLOW_SECONDS)
            try:
                self.fold()
            except Exception as error:
                structlog.get_logger().warning("facts_not_folded", error=str(error))

    async def erase(self, events: Sequence[Event]) -> None:
        """Erase the payloads of facts. Those that are erased already are passed over."""
        for event in events:
            stored = await self._store.get_async(SYSTEM_TENANT, event.id)
            if stored is not None and not stored.erased:
                await asyncio.to_thread(self._store.removals.event, SYSTEM_TENANT, event.id)

    def erase_later(self, events: Iterable[Event]) -> None:
        """Owe the erasure of facts that name somebody who is gone: for those who fold that, at start too."""
        self._unerased.extend(event for event in events if not event.erased)

    async def erase_owed(self) -> None:
        """Erase what is owed; where that is being done already, it is when this returns. Needs no `changing`.

        Raises:
            EngineError, OSError: what is left stays owed, also after a restart.
        """
        async with self._erasing:
            while self._unerased:
                try:
                    await self.erase([self._unerased[0]])
                except BaseException:
                    # It may be this one alone that can't be: the next attempt begins with another.
                    self._unerased.rotate(-1)
                    raise
                self._unerased.popleft()

    async def try_to_erase(self) -> None:
        """The same; what can't be erased now is left to `keep_erasing`."""
        try:
            await self.erase_owed()
        except (EngineError, OSError) as error:
            structlog.get_logger().warning("erasing_postponed", reason=str(error))

    async def keep_erasing(self) -> None:
        """Erase for ever what whoever owed it could not erase, or never knew of: as an append was uncertain, or they
        were cancelled.
        """
        while True:
            await asyncio.sleep(_ERASE_SECONDS)
            try:
                await self.try_to_erase()
            except Exception as error:
                structlog.get_logger().warning("erasing_postponed", reason=repr(error))


def _events(facts: Sequence[Fact]) -> list[NewEvent]:
    return [NewEvent(fact.type, fact.subject, Raw(msgspec.json.encode(fact.body))) for fact in facts]
