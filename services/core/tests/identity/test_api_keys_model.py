"""The directory of keys against a model: at every moment it knows the same credentials, folded again as well."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from allsource_core.engine import EventStore
from allsource_core.identity.errors import UnknownKeyError
from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError

from .key_directories import DAY, QUOTA, Directories

USERS = {"ann": "default", "bob": "small", "eve": "small"}
RIGHTS = st.sampled_from([None, Role.READONLY, Role.DEVELOPER, Role.SERVICEACCOUNT])


class KeyDirectoryModel(RuleBasedStateMachine):
    """The model: of each key that was not revoked its owner, tenant, end, and the one credential that is good."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.store = EventStore.open(self.path / "data")
        self.live: dict[str, tuple[str, str, float | None, str]] = {}
        self.dead: set[str] = set()

    @initialize()
    def begin(self) -> None:
        self.here = Directories(self.store, self.path)
        self.owners = {name: self.here.user(name, tenant=tenant) for name, tenant in USERS.items()}

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def good(self) -> dict[str, str]:
        """Credential to id of the keys that are good now."""
        return {
            credential: key_id
            for key_id, (_, _, end, credential) in self.live.items()
            if end is None or end > self.here.time
        }

    def bury(self, key_id: str) -> None:
        self.dead.add(self.live.pop(key_id)[3])

    @rule(target=ids, name=st.sampled_from(list(USERS)), role=RIGHTS, days=st.none() | st.integers(1, 4))
    def create(self, name: str, role: Role | None, days: int | None) -> str:
        tenant = USERS[name]
        active = sum(self.live[key_id][1] == tenant for key_id in self.good().values())
        try:
            key, credential = self.run(self.here.make(self.owners[name], role=role, expires_in_days=days))
        except ApiError:
            assert (tenant, active) == ("small", QUOTA)
            return "0" * 20
        assert tenant != "small" or active < QUOTA
        self.live[key.id] = (name, tenant, None if days is None else self.here.time + days * DAY, credential)
        return key.id

    @rule(key_id=ids, name=st.sampled_from(list(USERS)))
    def rotate(self, key_id: str, name: str) -> None:
        owner, tenant, end, before = self.live.get(key_id, ("", "", None, ""))
        try:
            _, credential = self.run(self.here.issuer.rotate(self.owners[name].id, key_id))
        except UnknownKeyError:
            assert owner != name or before not in self.good()
            return
        assert owner == name
        self.dead.add(before)
        self.live[key_id] = (owner, tenant, end, credential)

    @rule(key_id=consumes(ids), name=st.sampled_from(list(USERS)), any_owner=st.booleans())
    def revoke(self, key_id: str, name: str, any_owner: bool) -> None:
        known = key_id in self.live and (any_owner or self.live[key_id][0] == name)
        try:
            self.run(self.here.issuer.revoke(key_id, by=self.owners[name].id, any_owner=lambda: any_owner))
        except UnknownKeyError:
            assert not known
            return
        assert known
        self.bury(key_id)

    @rule(name=st.sampled_from(list(USERS)))
    def revoke_all_of_a_user(self, name: str) -> None:
        self.end_all(self.here.keys.revoke_all_of(self.owners[name].id), 0, name)

    @rule(tenant=st.sampled_from(["default", "small"]))
    def revoke_all_in_a_tenant(self, tenant: str) -> None:
        self.end_all(self.here.keys.revoke_all_in(tenant), 1, tenant)

    def end_all(self, facts: Any, field: int, value: str) -> None:
        ending = [key_id for key_id, known in self.live.items() if known[field] == value]
        assert len(facts) == bool(ending)
        if facts:
            self.run(self.here.facts.append_async(facts))
        for key_id in ending:
            self.bury(key_id)

    @rule(days=st.sampled_from([0.25, 1.0, 2.5]))
    def time_passes(self, days: float) -> None:
        self.here.time += days * DAY

    @rule()
    def the_service_starts_again(self) -> None:
        before = list(self.here.keys.all())
        self.run(self.here.uses.close())
        self.store.close()
        self.store = EventStore.open(self.path / "data")
        self.here = Directories(self.store, self.path, self.here.time)
        assert list(self.here.keys.all()) == before

    @invariant()
    def the_same_credentials_are_good(self) -> None:
        good = self.good()
        for _, _, _, credential in self.live.values():
            key = self.here.keys.identify(credential)
            assert (key.id if key is not None else None) == good.get(credential)
        assert not any(self.here.keys.identify(credential) for credential in self.dead)

    @invariant()
    def the_same_keys_are_counted(self) -> None:
        keys = self.here.keys
        assert [key.id for key in keys.all()] == list(self.live)
        for name, owner in self.owners.items():
            assert [key.id for key in keys.of_user(owner.id)] == [
                key_id for key_id, known in self.live.items() if known[0] == name
            ]
        for tenant in ("default", "small"):
            assert keys.active_in(tenant) == sum(self.live[key_id][1] == tenant for key_id in self.good().values())

    def teardown(self) -> None:
        self.run(self.here.uses.close())
        self.store.close()
        self.runner.close()
        self.folder.cleanup()


TestKeyDirectoryModel = KeyDirectoryModel.TestCase
TestKeyDirectoryModel.settings = settings(max_examples=25, stateful_step_count=25)
