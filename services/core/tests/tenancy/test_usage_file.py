"""Usage after a restart: exact whatever became of the process, of the file, or of the log."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from allsource_core.engine import DAY_US, CorruptionError, EventStore, NewEvent, Raw, StoreOptions, verify_store
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.usage import HOUR_US, UsageLedger
from allsource_shared.wire.tenants import Quotas

TENANTS = ("acme", "globex")
UNLIMITED = Quotas()
OPTIONS = StoreOptions(reserve_bytes=0, maintenance="thread", segment_rows_max=100, log_file_bytes_max=8192)
CRASHES = int(os.environ.get("ALLSOURCE_CRASHES", "6"))


class Clock:
    """Stands still until it is turned. It begins at a noon."""

    def __init__(self) -> None:
        self.now = 20_000 * DAY_US + DAY_US // 2

    def __call__(self) -> int:
        return self.now


class Site:
    """A data directory that is opened again and again, and what was appended to it by tenant and day."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path / "derived" / "usage.sqlite"
        self.clock = Clock()
        self.days: Counter[tuple[str, int]] = Counter()

    @asynccontextmanager
    async def open(self, *, dies: bool = False) -> AsyncIterator[tuple[EventStore, UsageLedger]]:
        """Store and ledger. Where it dies, what the ledger has not written stays unwritten."""
        with EventStore.open(self.path, options=OPTIONS, clock=self.clock) as store:
            ledger = UsageLedger(store, self.file, self.clock, save_seconds=3600)
            await ledger.start()
            self.check(ledger)
            yield store, ledger
            self.check(ledger)
            if not dies:
                await ledger.close()
                return
            assert ledger._saver is not None
            ledger._saver.cancel()
            await asyncio.wait([ledger._saver])
            ledger._thread.shutdown()
            ledger._file.close()

    def append(self, store: EventStore, ledger: UsageLedger, tenant: str, count: int) -> None:
        reservation = ledger.reserve(tenant, UNLIMITED, count, 10 * count)
        appended = store.append(tenant, [NewEvent("t", "e", Raw(b"1"))] * count)
        reservation.commit(appended.recorded_at, appended.content_bytes)
        self.days[tenant, appended.recorded_at // DAY_US] += count

    def check(self, ledger: UsageLedger) -> None:
        for tenant in TENANTS:
            assert ledger.usage(tenant).events_today == self.days[tenant, self.clock.now // DAY_US], tenant


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "data")


async def two_days(site: Site) -> None:
    """Some events yesterday, some today, a part of them sealed; all of them counted in the file."""
    async with site.open() as (store, ledger):
        for tenant in TENANTS:
            site.append(store, ledger, tenant, 30)
        store.seal()
        site.clock.now += DAY_US
        for tenant in TENANTS:
            site.append(store, ledger, tenant, 10)
        store.seal()
        site.append(store, ledger, "acme", 5)


@pytest.mark.asyncio
async def test_a_restart_goes_on_where_the_last_run_ended(site: Site) -> None:
    await two_days(site)
    async with site.open() as (_, ledger):
        quotas = Quotas(max_events_per_day=20)
        assert ledger.usage("acme").storage_bytes == 45 * 3
        ledger.reserve("acme", quotas, 5, 0).release()
        with pytest.raises(QuotaExceededError):
            ledger.reserve("acme", quotas, 6, 0)
        site.clock.now += DAY_US
        ledger.reserve("acme", quotas, 20, 0).release()


@pytest.mark.asyncio
async def test_nobody_else_may_read_the_file_and_the_store_is_sound_with_it(site: Site) -> None:
    await two_days(site)
    assert stat.S_IMODE(site.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(site.file.parent.stat().st_mode) == 0o700
    assert list(verify_store(site.path)) == []


@pytest.mark.asyncio
async def test_what_the_file_does_not_have_is_counted_from_the_log(site: Site) -> None:
    await two_days(site)
    for _ in range(3):
        async with site.open(dies=True) as (store, ledger):
            site.append(store, ledger, "acme", 7)
            await ledger.save()
            site.append(store, ledger, "globex", 2)
            store.seal()
            site.append(store, ledger, "acme", 1)
    async with site.open():
        pass


def _remove(file: Path) -> None:
    file.unlink()


def _damage(file: Path) -> None:
    file.write_bytes(b"\0" * 100 + file.read_bytes()[100:])


def _empty(file: Path) -> None:
    file.write_bytes(b"")


def _other_version(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 77")


def _ahead(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE counted SET through = 10000")
        connection.execute("UPDATE events SET events = 1000000")
        connection.execute("INSERT INTO events VALUES ('initech', 20001, 7)")
        connection.commit()


@pytest.mark.asyncio
@pytest.mark.parametrize("harm", [_remove, _damage, _empty, _other_version, _ahead])
async def test_without_a_file_that_counts_the_store_is_asked(site: Site, harm: Callable[[Path], None]) -> None:
    await two_days(site)
    for rest in site.file.parent.glob("*-*"):
        rest.unlink()
    harm(site.file)
    for _ in range(2):
        async with site.open(dies=True) as (store, ledger):
            assert ledger.usage("initech").events_today == 0
            site.append(store, ledger, "globex", 4)


@pytest.mark.asyncio
async def test_any_earlier_file_is_as_good(site: Site, tmp_path: Path) -> None:
    chance = random.Random(5)
    copies = []
    async with site.open() as (store, ledger):
        for number in range(12):
            site.append(store, ledger, chance.choice(TENANTS), chance.randint(1, 30))
            await ledger.save()
            copies.append(tmp_path / f"copy-{number}")
            shutil.copytree(site.file.parent, copies[-1])
            site.append(store, ledger, chance.choice(TENANTS), chance.randint(1, 30))
            site.clock.now += chance.choice([0, 1, HOUR_US, DAY_US // 3])
            if chance.random() < 0.3:
                store.seal()
    for copy in copies:
        shutil.rmtree(site.file.parent)
        shutil.copytree(copy, site.file.parent)
        async with site.open(dies=True):
            pass


@pytest.mark.asyncio
async def test_a_file_says_exactly_what_was_appended_up_to_its_position(site: Site) -> None:
    await two_days(site)
    async with site.open(dies=True) as (store, ledger):
        site.append(store, ledger, "acme", 7)
        # Reserved, and not stored: the file knows nothing of it.
        ledger.reserve("acme", UNLIMITED, 50, 0).keep()
        await ledger.save()
        with closing(sqlite3.connect(site.file)) as connection:
            (position,) = connection.execute("SELECT through FROM counted").fetchone()
            rows = connection.execute("SELECT tenant_id, day, events FROM events").fetchall()
        assert position == store.last_position
        assert {(tenant, day): events for tenant, day, events in rows} == site.days


@pytest.mark.asyncio
async def test_queries_are_there_again_but_for_the_last_second(site: Site) -> None:
    quotas = Quotas(max_queries_per_hour=3)
    async with site.open(dies=True) as (_, ledger):
        ledger.count_query("acme", quotas)
        ledger.count_query("acme", quotas)
        await ledger.save()
        ledger.count_query("acme", quotas)
    async with site.open(dies=True) as (_, ledger):
        assert ledger.usage("acme").queries_this_hour == 2
        ledger.count_query("acme", quotas)
        with pytest.raises(QuotaExceededError):
            ledger.count_query("acme", quotas)
    site.clock.now += HOUR_US
    async with site.open() as (_, ledger):
        assert ledger.usage("acme").queries_this_hour == 0
        ledger.count_query("acme", quotas)
    async with site.open() as (_, ledger):
        assert ledger.usage("acme").queries_this_hour == 1


@pytest.mark.asyncio
async def test_days_and_hours_that_are_over_go_from_the_file(site: Site) -> None:
    for _ in range(5):
        async with site.open() as (store, ledger):
            site.append(store, ledger, "acme", 1)
            ledger.count_query(f"tenant-{site.clock.now}", UNLIMITED)
            site.clock.now += DAY_US
            site.append(store, ledger, "globex", 1)
    with closing(sqlite3.connect(site.file)) as connection:
        days = {day for (day,) in connection.execute("SELECT day FROM events")}
        assert days == {site.clock.now // DAY_US, site.clock.now // DAY_US - 1}
        assert connection.execute("SELECT count(*) FROM queries").fetchone() == (1,)


@pytest.mark.asyncio
async def test_queries_of_a_clock_that_was_far_ahead_push_no_others_out_of_the_file(site: Site) -> None:
    async with site.open() as (_, ledger):
        site.clock.now += 100 * DAY_US
        ledger.count_query("acme", UNLIMITED)
        await ledger.save()
        site.clock.now -= 100 * DAY_US
        ledger.count_query("globex", UNLIMITED)
    async with site.open() as (_, ledger):
        assert ledger.usage("acme").queries_this_hour == 0
        assert ledger.usage("globex").queries_this_hour == 1


@pytest.mark.asyncio
async def test_a_forgotten_tenant_leaves_the_file(site: Site) -> None:
    await two_days(site)
    async with site.open(dies=True) as (store, ledger):
        ledger.count_query("acme", UNLIMITED)
        await ledger.save()
        store.removals.tenant("acme")
        ledger.forget("acme")
        del site.days["acme", site.clock.now // DAY_US]
        # The next one of its id, within the same second.
        site.append(store, ledger, "acme", 2)
        await ledger.save()
    async with site.open(dies=True) as (store, ledger):
        assert ledger.usage("acme").queries_this_hour == 0
        site.append(store, ledger, "acme", 1)
    async with site.open():
        pass


@pytest.mark.asyncio
async def test_a_tenant_is_forgotten_once_whatever_fails_afterwards(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError("not today")

    await two_days(site)
    async with site.open(dies=True) as (store, ledger):
        store.removals.tenant("acme")
        ledger.forget("acme")
        del site.days["acme", site.clock.now // DAY_US]
        site.append(store, ledger, "acme", 2)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "_settle_uncertain", fail)
            await ledger.save()
        await ledger.save()
    async with site.open():
        pass


@pytest.mark.asyncio
async def test_what_fails_is_done_the_next_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_more: object) -> None:
        raise CorruptionError(Path("x"), 0, "not today")

    async with site.open(dies=True) as (store, ledger):
        site.append(store, ledger, "acme", 3)
        ledger.count_query("acme", UNLIMITED)
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(EventStore, "appended_since", fail)
            await ledger.save()
            await ledger.save()
        assert [log["event"] for log in logs] == ["usage_not_counted"]
        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(ledger._file, "_write", lambda _file: (_ for _ in ()).throw(sqlite3.OperationalError("full")))
            await ledger.save()
            await ledger.save()
        assert [log["event"] for log in logs] == ["usage_not_saved"]
        await ledger.save()
    async with site.open() as (_, ledger):
        assert ledger.usage("acme").queries_this_hour == 1


@pytest.mark.asyncio
async def test_a_file_that_is_in_the_way_keeps_nobody_from_starting(site: Site) -> None:
    site.path.mkdir()
    (site.path / "x").touch()
    (site.path / "x").unlink()
    EventStore.open(site.path, options=OPTIONS, clock=site.clock).close()
    site.file.mkdir(parents=True)
    async with site.open() as (store, ledger):
        site.append(store, ledger, "acme", 3)
    site.file.rmdir()
    async with site.open() as (store, ledger):
        site.append(store, ledger, "acme", 3)
    async with site.open():
        pass


@pytest.mark.asyncio
async def test_it_writes_by_itself(site: Site) -> None:
    with EventStore.open(site.path, options=OPTIONS, clock=site.clock) as store:
        ledger = UsageLedger(store, site.file, site.clock, save_seconds=0.02)
        await ledger.start()
        site.append(store, ledger, "acme", 3)
        rows: list[tuple[int]] = []
        while not rows:
            await asyncio.sleep(0.02)
            with closing(sqlite3.connect(site.file, timeout=60)) as connection:
                rows = connection.execute("SELECT events FROM events").fetchall()
        assert rows == [(3,)]
        await ledger.close()


# --- real crashes ---

WRITER = """
import asyncio, random, sys
from pathlib import Path
from allsource_core.engine import EventStore, NewEvent, Raw, StoreOptions
from allsource_core.tenancy.errors import QuotaExceededError
from allsource_core.tenancy.usage import UsageLedger
from allsource_shared.wire.tenants import Quotas
from time import time_ns

path, seed, limit = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
options = StoreOptions(reserve_bytes=0, maintenance="thread", segment_rows_max=300, log_file_bytes_max=20000)
clock = lambda: time_ns() // 1000

async def main():
    store = EventStore.open(path, options=options, clock=clock)
    ledger = UsageLedger(store, path / "derived" / "usage.sqlite", clock, save_seconds=0.02)
    await ledger.start()
    quotas = {"acme": Quotas(max_events_per_day=limit), "globex": Quotas(max_storage_bytes=limit * 20)}
    async def client(number):
        chance = random.Random(seed * 16 + number)
        while True:
            tenant, count = chance.choice(list(quotas)), chance.randint(1, 5)
            events = [NewEvent("t", f"e-{number}", Raw(b"%d" % chance.randint(0, 10**9))) for _ in range(count)]
            size = sum(len(event.event_type) + len(event.entity_id) + len(bytes(event.payload)) for event in events)
            try:
                reservation = ledger.reserve(tenant, quotas[tenant], count, size)
            except QuotaExceededError:
                sys.stdout.write(f"refused {tenant} 0\\n")
                sys.stdout.flush()
                await asyncio.sleep(0.002)
                continue
            appended = await store.append_async(tenant, events)
            reservation.commit(appended.recorded_at, appended.content_bytes)
            sys.stdout.write(f"stored {tenant} {count}\\n")
            sys.stdout.flush()
    await asyncio.gather(*(client(number) for number in range(16)))

asyncio.run(main())
"""


def crash_once(path: Path, seed: int, limit: int) -> Counter[tuple[str, str]]:
    """Run the writer and kill it once it has done something, in every second crash a refusal too; what it said.

    How much it has done is told by its lines, not by the clock: a slow machine gets there as well.
    """
    command = [sys.executable, "-c", WRITER, str(path), str(seed), str(limit)]
    said: Counter[tuple[str, str]] = Counter()
    lines_left = random.Random(seed).randint(1, 300)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.endswith("\n"):
                break
            what, tenant, count = line.split()
            said[what, tenant] += int(count) or 1
            lines_left -= 1
            if lines_left <= 0 and (seed % 2 == 0 or said["refused", "acme"]):
                # What it has written until it is dead is read, and counts.
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    return said


async def look_after_crash(path: Path, limit: int, said: Counter[tuple[str, str]], unheard: int) -> None:
    """What the ledger counts is what the store has, and that is what was said, but for what nobody heard of."""
    clock = Clock()
    with EventStore.open(path, options=OPTIONS) as store:
        clock.now = time.time_ns() // 1000
        today = clock.now // DAY_US
        ledger = UsageLedger(store, path / "derived" / "usage.sqlite", clock, save_seconds=3600)
        await ledger.start()
        for tenant in TENANTS:
            events = list(store.read(tenant))
            days = Counter(event.recorded_at // DAY_US for event in events)
            usage = ledger.usage(tenant)
            assert usage.events_today == days[today]
            assert usage.storage_bytes == sum(event.content_bytes for event in events)
            assert said["stored", tenant] <= len(events) <= said["stored", tenant] + unheard
            assert tenant != "acme" or max(days.values()) <= limit
            assert tenant != "globex" or usage.storage_bytes <= limit * 20
        await ledger.close()


def test_after_kill_minus_nine_no_event_is_lost_or_counted_twice(tmp_path: Path) -> None:
    said: Counter[tuple[str, str]] = Counter()
    for seed in range(CRASHES):
        limit = 400 * (seed + 1)
        said += crash_once(tmp_path / "data", seed, limit)
        # Each of 16 clients may have had an append under way when the process was killed, and all of them each time.
        asyncio.run(look_after_crash(tmp_path / "data", limit, said, 16 * 5 * (seed + 1)))
    assert said["refused", "acme"] or CRASHES < 2
