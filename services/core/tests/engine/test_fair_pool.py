"""Look-ups beside the event loop: in turn, bounded, and refused rather than late."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from allsource_core.engine import (
    AppendCondition,
    ConditionItem,
    EventStore,
    OverloadedError,
    StoreClosedError,
    fair_pool,
)
from allsource_core.engine.appends import PreparedAppend
from allsource_core.engine.decisions import SealedFacts
from allsource_core.engine.fair_pool import FairPool
from allsource_core.engine.tenants import TenantKey
from allsource_core.engine.view import View

from .stores import new_event, open_store


@contextmanager
def pool_of_one() -> Iterator[FairPool]:
    pool = FairPool(1, "test", seconds_max=60.0)
    try:
        yield pool
    finally:
        pool.close()


def check_while_busy(pool: FairPool, check: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
    """Run `check` while the pool's thread is kept busy, until it calls what it is given."""

    async def run() -> None:
        begun, release = threading.Event(), threading.Event()

        def work() -> None:
            begun.set()
            release.wait()

        busy = asyncio.create_task(pool.run("a", work))
        await asyncio.to_thread(begun.wait)
        try:
            await check(release.set)
        finally:
            release.set()
            await busy

    asyncio.run(run())


async def begun(pool: FairPool, tenant: str, work: Callable[[], object]) -> asyncio.Task[object]:
    """A task that waits for its turn."""
    task: asyncio.Task[object] = asyncio.create_task(pool.run(tenant, work))
    await asyncio.sleep(0)
    return task


def test_tenants_take_turns() -> None:
    order: list[str] = []

    async def check(release: Callable[[], None]) -> None:
        tenants = ["a"] * 5 + ["b"] * 2 + ["c"]
        tasks = [await begun(pool, tenant, partial(order.append, tenant)) for tenant in tenants]
        release()
        await asyncio.gather(*tasks)

    with pool_of_one() as pool:
        check_while_busy(pool, check)
    assert order == ["a", "b", "c", "a", "b", "a", "a", "a"]


def test_too_many_of_one_tenant_are_refused_and_another_s_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_pool, "_WAITING_MAX", 3)

    async def check(release: Callable[[], None]) -> None:
        tasks = [await begun(pool, "a", lambda: 1) for _ in range(3)]
        with pytest.raises(OverloadedError, match="3 appends"):
            await pool.run("a", lambda: 1)
        tasks.append(await begun(pool, "b", lambda: 2))
        release()
        assert await asyncio.gather(*tasks) == [1, 1, 1, 2]

    with pool_of_one() as pool:
        check_while_busy(pool, check)


def test_what_would_be_begun_too_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    async def check(release: Callable[[], None]) -> None:
        monkeypatch.setattr(pool, "_seconds_max", -1.0)
        late = [await begun(pool, tenant, partial(done.append, 1)) for tenant in ("a", "a", "b")]
        monkeypatch.setattr(pool, "_seconds_max", 60.0)
        in_time = await begun(pool, "b", partial(done.append, 2))
        release()
        await in_time
        for task in late:
            with pytest.raises(OverloadedError):
                await task

    with pool_of_one() as pool:
        check_while_busy(pool, check)
    assert done == [2]


def test_what_was_given_up_is_not_begun() -> None:
    done: list[int] = []

    async def check(release: Callable[[], None]) -> None:
        given_up = await begun(pool, "a", partial(done.append, 1))
        given_up.cancel()
        await asyncio.wait([given_up])
        other = await begun(pool, "a", partial(done.append, 2))
        release()
        await other

    with pool_of_one() as pool:
        check_while_busy(pool, check)
    assert done == [2]


def test_a_closed_pool_refuses_who_waits_and_who_comes() -> None:
    async def check(release: Callable[[], None]) -> None:
        waiting = await begun(pool, "a", lambda: 1)
        closing = asyncio.create_task(asyncio.to_thread(pool.close))
        with pytest.raises(StoreClosedError):
            await waiting
        with pytest.raises(StoreClosedError):
            await pool.run("b", lambda: 1)
        release()
        await closing

    pool = FairPool(1, "test", seconds_max=60.0)
    check_while_busy(pool, check)


def test_an_error_reaches_the_caller_and_keeps_nothing_once_it_is_let_go_of() -> None:
    class Looked:
        def fail(self) -> None:
            raise ValueError("damaged")

    async def check() -> weakref.ref[Looked]:
        looked = Looked()
        with pytest.raises(ValueError, match="damaged"):
            await pool.run("a", looked.fail)
        # The thread has let go of the piece before when it takes the next one.
        await pool.run("a", lambda: None)
        return weakref.ref(looked)

    with pool_of_one() as pool:
        gc.collect()
        gc.disable()
        try:
            assert asyncio.run(check())() is None
        finally:
            gc.enable()


def test_conditions_of_one_tenant_leave_another_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, order = threading.Event(), list[str]()
    look = View.facts

    def facts(view: View, tenant: TenantKey, prepared: PreparedAppend, up_to: int) -> SealedFacts:
        order.append(tenant.id)
        release.wait()
        return look(view, tenant, prepared, up_to)

    async def check(store: EventStore) -> None:
        condition = AppendCondition((ConditionItem(event_types=("other",)),))

        async def write(tenant: str) -> None:
            await store.append_async(tenant, [new_event()], condition=condition)

        flood = [asyncio.create_task(write("a")) for _ in range(20)]
        await asyncio.sleep(0)
        other = asyncio.create_task(write("b"))
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*flood, other)

    with open_store(tmp_path / "s") as store:
        for tenant in ("a", "b"):
            store.append(tenant, [new_event()])
        store.seal()
        monkeypatch.setattr(View, "facts", facts)
        asyncio.run(check(store))
    assert order.index("b") < 10
