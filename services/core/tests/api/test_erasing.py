"""Whoever is gone is named nowhere any more: what was not erased at once is later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from allsource_core import facts as facts_module
from allsource_core.changes import Changes
from allsource_core.engine import Event, EventQuery, EventStore
from allsource_core.facts import SYSTEM_TENANT
from allsource_core.services import Services
from allsource_core.settings import CoreSettings
from allsource_shared.configuration import load_settings
from allsource_shared.permissions import Role
from allsource_shared.tokens import TokenVerifier

from .service import MASTER_KEY, SECRET


def services_over(store: EventStore, directory: Path) -> Services:
    environ = {
        "ALLSOURCE_AUTH__MASTER_KEY": MASTER_KEY,
        "ALLSOURCE_AUTH__JWT_SECRET": SECRET,
        "ALLSOURCE_STORAGE__DATA_DIR": str(directory),
    }
    settings = load_settings(CoreSettings, config_path=None, environ=environ, flags=[])
    verifier = TokenVerifier([], issuer="allsource", audience="allsource")
    return Services(settings, store, verifier, Changes(), first_user="anybody")


def names_left(store: EventStore, name: str) -> int:
    """How many facts have a name in them."""
    return sum(name.encode() in event.payload for event in store.read(SYSTEM_TENANT, EventQuery()))


def test_what_could_not_be_erased_is_while_the_service_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(facts_module, "_ERASE_SECONDS", 0.001)
    failures = [OSError("the disk fails")] * 3

    async def delete(services: Services) -> None:
        erase = services.facts.erase

        async def erase_or_fail(events: Sequence[Event]) -> None:
            if failures:
                raise failures.pop()
            await erase(events)

        monkeypatch.setattr(services.facts, "erase", erase_or_fail)
        await services.start()
        ann = services.users.create(
            username="ada", email="ada@example.org", password_hash="$", role=Role.DEVELOPER, tenant_id="default"
        )
        async with services.facts.changing:
            await services.users.delete(ann.id)
        await services.facts.try_to_erase()
        async with asyncio.timeout(10):
            while names_left(services.store, "ada@example.org"):
                await asyncio.sleep(0.001)
        assert failures == []
        await services.deletions.close()
        await services.close()

    with EventStore.open(tmp_path / "data") as store:
        asyncio.run(delete(services_over(store, tmp_path / "data")))
