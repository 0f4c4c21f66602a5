"""Deleting tenants, in steps that survive a crash.

First a fact that the tenant is being deleted: from then on its credentials are dead, and nothing brings it back. Then,
in this order, each of which may happen again: wait for its appends; end its sessions; erase names; forget its users and
keys; remove its events; forget what was counted. Last the fact that it is deleted. Until that one is stored, whoever
starts on the same data directory goes on with it, and no other tenant gets the id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from allsource_core.changes import Changes
from allsource_core.engine import Event as StoredEvent
from allsource_core.engine import EventStore, NotFoundError, Removal, StoreClosedError, without_frames
from allsource_core.facts import Fact, Facts
from allsource_core.tenancy.errors import DeletionPendingError, UnknownTenantError
from allsource_core.tenancy.tenants import Tenant, TenantDirectory

__all__ = ["TenantContents", "TenantDeletions"]

_FACTS_MAX: Final = 1_000
"""Facts that are appended together: others that want to change something wait meanwhile."""

_PAUSE_SECONDS: Final = 0.2
_PAUSE_SECONDS_MAX: Final = 30.0
"""Between attempts, which double: what failed was the disk, or there was no room."""


class TenantContents(msgspec.Struct, frozen=True):
    """What there is of a tenant beside its events and its own facts. All of these may be called again after a crash.

    Attributes:
        drained: waits until no append of a tenant is under way.
        ended: end what is alive: sessions.
        personal_events: facts that are to be erased, as they name people.
        facts_of_removal: facts after which there is none of it any more: users, keys.
        erased: erase what is left of people: what was stored too late to be among `personal_events`, and of sessions.
        forgotten: forget what was counted.
    """

    drained: tuple[Callable[[str], Awaitable[None]], ...] = ()
    ended: tuple[Callable[[str], Awaitable[None]], ...] = ()
    personal_events: tuple[Callable[[str], list[StoredEvent]], ...] = ()
    facts_of_removal: tuple[Callable[[str], list[Fact]], ...] = ()
    erased: tuple[Callable[[], Awaitable[None]], ...] = ()
    forgotten: tuple[Callable[[str], Awaitable[None]], ...] = ()


class _EndedError(Exception):
    """The tenant is gone: the fact that it is deleted was stored by an append of which that was not known."""


class _Deletion:
    """A deletion that goes on.

    Attributes:
        tenant_id, began: which tenant: another one may get the id before it is known that this one is gone.
        removal: of its events, once that is known.
        attempt: what comes of the attempt under way: the removal, None if it was done too long ago to be known, or the
            error that ended it.
    """

    def __init__(self, tenant: Tenant) -> None:
        self.tenant_id = tenant.id
        self.began = tenant.began
        self.removal: Removal | None = None
        self.task: asyncio.Task[None]
        self.attempt: asyncio.Future[Removal | None]
        self.begin()

    def begin(self) -> None:
        self.attempt = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.attempt.done():
            # Without its frames, and all that these read from: it stays here until the next attempt.
            self.attempt.set_exception(without_frames(error))
            # Perhaps nobody waits for it.
            self.attempt.exception()


class TenantDeletions:
    """Deletes tenants. For one event loop.

    Args:
        store: that has the events.
        facts: of the service.
        tenants: all of them.
        changes: tells when a tenant is to be deleted, whoever found out.
        contents: what else there is of a tenant.
        answer_seconds: a caller waits no longer; the deletion goes on.
    """

    def __init__(
        self,
        store: EventStore,
        facts: Facts,
        tenants: TenantDirectory,
        changes: Changes,
        contents: TenantContents,
        *,
        answer_seconds: float = 20.0,
    ) -> None:
        self._store = store
        self._facts = facts
        self._tenants = tenants
        self._contents = contents
        self._answer_seconds = answer_seconds
        # By where the tenant began.
        self._under_way: dict[int, _Deletion] = {}
        self._running = False
        changes.listen(self._take_on)

    def start(self) -> None:
        """Go on with every deletion that a process before this one began."""
        self._running = True
        self._take_on()

    async def close(self) -> None:
        """Leave what is under way to the next process."""
        self._running = False
        tasks = [deletion.task for deletion in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def delete(self, tenant_id: str, *, recheck: Callable[[], None] = lambda: None) -> Removal:
        """Delete a tenant and everything of it. A caller that comes while it is being deleted gets the same removal.
        `recheck` is called before anything is stored: the caller may not be who it was.

        Returns:
            The removal of its events: readers find none any more; `EventStore.removals` tells when the bytes are gone.

        Raises:
            UnknownTenantError, DefaultTenantError, EngineError: nothing has changed.
            DeletionPendingError: it has begun, and goes on.
        """
        async with self._facts.changing:
            recheck()
            tenant = await self._tenants.begin_deletion(tenant_id)
        self._take_on()
        deletion = self._under_way.get(tenant.began)
        if deletion is None:
            raise DeletionPendingError(f"the tenant {tenant_id!r} is being deleted; the service is about to stop")
        try:
            async with asyncio.timeout(self._answer_seconds):
                removal = await asyncio.shield(deletion.attempt)
        except Exception as error:
            raise DeletionPendingError(
                f"the tenant {tenant_id!r} is being deleted and its credentials are dead; its events could not be "
                "removed yet, which goes on by itself: repeat the request for the operation"
            ) from error
        if removal is None:
            raise UnknownTenantError(f"there is no tenant {tenant_id!r} any more")
        return removal

    def _take_on(self) -> None:
        if not self._running:
            return
        for tenant in map(self._tenants.find, self._tenants.deleting()):
            if tenant.began not in self._under_way:
                deletion = self._under_way[tenant.began] = _Deletion(tenant)
                deletion.task = asyncio.create_task(self._complete(deletion))

    async def _complete(self, deletion: _Deletion) -> None:
        """Try until it is done."""
        log = structlog.get_logger().bind(tenant_id=deletion.tenant_id)
        pause = _PAUSE_SECONDS
        try:
            while True:
                try:
                    with suppress(_EndedError):
                        await self._attempt(deletion)
                except StoreClosedError as error:
                    deletion.fail(error)
                    return
                except Exception as error:
                    log.warning("tenant_deletion_delayed", error=str(error), retry_seconds=pause)
                    deletion.fail(error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _PAUSE_SECONDS_MAX)
                    deletion.begin()
                else:
                    removal = deletion.removal
                    log.info("tenant_deleted", position=removal.position if removal is not None else None)
                    deletion.attempt.set_result(removal)
                    return
        finally:
            del self._under_way[deletion.began]
            deletion.fail(DeletionPendingError("the service is about to stop"))

    async def _attempt(self, deletion: _Deletion) -> None:
        """Take every step. Before each it is looked whether the id is still this tenant's. Raises _EndedError."""
        contents, tenant_id = self._contents, deletion.tenant_id
        for each in (*contents.drained, *contents.ended):
            self._check(deletion)
            await each(tenant_id)
        self._check(deletion)
        await self._facts.erase([event for find in contents.personal_events for event in find(tenant_id)])
        self._check(deletion)
        await self._facts.erase(self._tenants.description_events(tenant_id))
        async with self._facts.changing:
            self._check(deletion)
            await self._remove_facts(tenant_id)
        for erase in contents.erased:
            await erase()
        removal = deletion.removal = await self._remove_events(deletion)
        for forget in contents.forgotten:
            self._check(deletion)
            await forget(tenant_id)
        async with self._facts.changing:
            self._check(deletion)
            # Nobody makes a user or a key in an inactive tenant; if somebody did, it would be somebody's in the next.
            await self._remove_facts(tenant_id)
            position, count = (None, 0) if removal is None else (removal.position, removal.events_removed)
            await self._facts.append_async([self._tenants.end_of_deletion(tenant_id, position, count)])

    def _check(self, deletion: _Deletion) -> None:
        if not self._tenants.in_deletion(deletion.tenant_id, deletion.began):
            raise _EndedError

    async def _remove_facts(self, tenant_id: str) -> None:
        facts = [fact for find in self._contents.facts_of_removal for fact in find(tenant_id)]
        for begin in range(0, len(facts), _FACTS_MAX):
            await self._facts.append_async(facts[begin : begin + _FACTS_MAX])

    async def _remove_events(self, deletion: _Deletion) -> Removal | None:
        """Remove the events, once: an attempt that ended behind the removal left its number."""
        self._check(deletion)
        removals, tenant_id = self._store.removals, deletion.tenant_id
        number = self._tenants.find(tenant_id).removing
        if not number:
            number = await asyncio.to_thread(removals.number, tenant_id)
            async with self._facts.changing:
                self._check(deletion)
                await self._tenants.begin_removal(tenant_id, number)
        removal = removals.of_tenant(number)
        if removal is None:
            try:
                removal = await asyncio.to_thread(removals.tenant, tenant_id)
            except NotFoundError:
                # Removed, and that so long ago that it is not known any more.
                removal = None
        return removal
