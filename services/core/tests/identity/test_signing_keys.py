"""The ring of signing keys as facts of the store: sealed, the same after a restart, each as long as its tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allsource_core.changes import Changes
from allsource_core.engine import EventStore
from allsource_core.facts import SYSTEM_TENANT, Facts
from allsource_core.identity.signing_keys import SigningKeyRing, make_key
from allsource_core.sealing import MasterKey, SealBrokenError
from allsource_shared.permissions import Role
from allsource_shared.problems import ApiError
from allsource_shared.tokens import Algorithm, SigningKey, TokenSigner, TokenVerifier

MASTER = "vT4mQ9wLc2Zr7Nd0Xk5Bf8Yh1Gs6Pj3Ue"
SECRET = "kZ3vN8qTj1Wm5xRb7Lc0Yd9Hf2Gs6Pu4EaQi"
LIFETIME = 900
KEPT = LIFETIME + 5


class Installation:
    """A ring over a store, as the service has it at one start."""

    def __init__(
        self,
        store: EventStore,
        *,
        algorithm: Algorithm = "HS256",
        secret: str = "",
        master: str = MASTER,
        lifetime: int = LIFETIME,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.now = 1_700_000_000.0
        clock = now or (lambda: self.now)
        self.facts = Facts(store)
        self.changes = Changes()
        self.verifier = TokenVerifier([], issuer="i", audience="a", now=clock)
        self.ring = SigningKeyRing(
            self.facts,
            self.changes,
            MasterKey(master),
            self.verifier,
            algorithm=algorithm,
            lifetime_seconds=lifetime,
            now=clock,
        )
        self._signer = TokenSigner(self.ring.present, issuer="i", audience="a", lifetime_seconds=lifetime, now=clock)
        self.facts.fold()
        self.ring.open(secret)

    def rotate(self) -> str:
        return asyncio.run(self._rotate())

    async def _rotate(self) -> str:
        async with self.facts.changing:
            return (await self.ring.rotate()).kid

    def token(self) -> str:
        return self._signer.sign(user_id="u", username="n", tenant_id="t", role=Role.ADMIN, session_id="s")[0]

    def accepts(self, token: str) -> bool:
        try:
            self.verifier.verify(token)
        except ApiError:
            return False
        return True

    def statuses(self) -> list[tuple[str, str]]:
        return [(view.kid, view.status) for view in self.ring.views()]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    with EventStore.open(tmp_path / "data") as store:
        yield store


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def stored(store: EventStore) -> int:
    return len(list(store.read(SYSTEM_TENANT)))


# --- the first key ---


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
def test_the_first_start_makes_a_key_and_later_ones_find_it(store: EventStore, algorithm: Algorithm):
    first = Installation(store, algorithm=algorithm)
    token = first.token()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert first.accepts(token)
    again = Installation(store, algorithm=algorithm)
    assert again.accepts(token)
    assert again.statuses() == first.statuses() == [(kid_of(token), "signing")]
    assert again.ring.present() == first.ring.present()
    assert stored(store) == 1


def test_a_configured_secret_is_the_first_key_and_nothing_else(store: EventStore):
    first = Installation(store, secret=SECRET)
    assert first.ring.present() == SigningKey.from_secret(SECRET)
    other = "pL8wXn2Vb6Qs4Kd0Rm3Tz7Jf5Hy1Gc9EuA"
    for secret in ("", other, SECRET):
        again = Installation(store, secret=secret)
        assert again.accepts(first.token())
        assert again.statuses() == first.statuses()
    newer = Installation(store)
    newer.rotate()
    assert Installation(store, secret=other).ring.present() == newer.ring.present()


def test_a_configured_secret_under_eddsa_is_superseded_at_once(store: EventStore):
    ring = Installation(store, algorithm="EdDSA", secret=SECRET)
    assert [view.algorithm for view in ring.ring.views()] == ["EdDSA", "HS256"]
    assert [status for _, status in ring.statuses()] == ["signing", "verifying"]


def test_another_algorithm_rotates_at_start_and_the_old_tokens_live_on(store: EventStore):
    hmac = Installation(store)
    token = hmac.token()
    edwards = Installation(store, algorithm="EdDSA")
    newer = edwards.token()
    assert (edwards.accepts(token), edwards.accepts(newer)) == (True, True)
    back = Installation(store)
    assert (back.accepts(token), back.accepts(newer)) == (True, True)
    assert [view.algorithm for view in back.ring.views()] == ["HS256", "EdDSA", "HS256"]
    assert back.ring.present().kid != hmac.ring.present().kid


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
def test_no_two_keys_are_alike(algorithm: Algorithm):
    keys = [make_key(algorithm) for _ in range(20)]
    assert len({key.kid for key in keys}) == len({key.secret for key in keys}) == 20
    assert all(len(key.secret) >= 43 for key in keys)


# --- rotation ---


def test_the_new_key_signs_and_the_old_one_verifies_until_its_tokens_have_expired(store: EventStore):
    ring = Installation(store)
    first = ring.token()
    ring.now += 1000
    last = ring.token()
    kid = ring.rotate()
    newer = ring.token()
    assert kid_of(newer) == kid != kid_of(last)
    assert [ring.accepts(token) for token in (first, last, newer)] == [False, True, True]
    assert ring.statuses() == [(kid, "signing"), (kid_of(last), "verifying")]
    ring.now += KEPT - 0.1
    assert ring.accepts(last)
    ring.now += 0.1
    assert not ring.accepts(last)
    assert ring.statuses() == [(kid, "signing"), (kid_of(last), "retired")]
    assert ring.accepts(ring.token())


def test_a_token_of_a_retired_key_is_refused_even_if_it_has_not_expired(store: EventStore):
    ring = Installation(store)
    old = ring.ring.present()
    ring.rotate()
    forger = TokenSigner(old, issuer="i", audience="a", lifetime_seconds=90_000, now=lambda: ring.now)
    forged, _ = forger.sign(user_id="u", username="n", tenant_id="t", role=Role.ADMIN, session_id="s")
    assert ring.accepts(forged)
    ring.now += KEPT
    assert not ring.accepts(forged)
    again = Installation(store, now=lambda: ring.now)
    assert not again.accepts(forged)
    assert again.accepts(ring.token())


def test_longer_lived_tokens_keep_their_key_longer(store: EventStore):
    Installation(store)
    longer = Installation(store, lifetime=3600)
    token = longer.token()
    shorter = Installation(store, lifetime=LIFETIME)
    kid = shorter.rotate()
    shorter.now += 3600 + 4.9
    assert shorter.accepts(token)
    shorter.now += 0.1
    assert not shorter.accepts(token)
    shorter.rotate()
    assert dict(shorter.statuses())[kid] == "verifying"
    shorter.now += KEPT
    assert dict(shorter.statuses())[kid] == "retired"


def test_every_change_is_published(store: EventStore):
    ring = Installation(store)
    before = ring.changes.revision
    ring.rotate()
    changes = ring.changes.since(before)
    assert changes
    assert {(change.kind, change.id) for change in changes} == {("signing_keys", "")}


def test_no_moment_of_a_rotation_is_without_a_key(store: EventStore):
    ring = Installation(store)
    before = ring.token()
    ring.changes.listen(lambda: seen.append((ring.accepts(before), ring.accepts(ring.token()))))
    seen: list[tuple[bool, bool]] = []
    ring.rotate()
    assert seen == [(True, True)] * 2


@given(st.lists(st.tuples(st.sampled_from(["rotate", "restart", "EdDSA", "HS256"]), st.integers(0, 600)), max_size=8))
@settings(max_examples=25)
def test_every_token_is_good_for_its_time_whatever_happens_to_the_keys(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
):
    now = 1_700_000_000.0
    algorithm: Algorithm = "HS256"
    with EventStore.open(tmp_path_factory.mktemp("ring") / "data") as store:

        def begin() -> Installation:
            return Installation(store, algorithm=algorithm, now=lambda: now)

        ring = begin()
        tokens = [(now, ring.token())]
        for step, seconds in steps:
            now += seconds
            if step == "rotate":
                ring.rotate()
            elif step == "restart":
                ring = begin()
            else:
                algorithm = "EdDSA" if step == "EdDSA" else "HS256"
                ring = begin()
            tokens.append((now, ring.token()))
            for signed_at, token in tokens:
                assert ring.accepts(token) == (now < signed_at + KEPT)
            assert [status for _, status in ring.statuses()].count("signing") == 1
            assert ring.statuses()[0][1] == "signing"


# --- sealing ---


def test_another_master_key_does_not_open_the_ring(store: EventStore):
    ring = Installation(store)
    with pytest.raises(SealBrokenError, match=r"signing-key:\w+ can't be unsealed: auth.master_key is not") as caught:
        Installation(store, master="hR7kW2xNb5Tq9Mc4Vz1Lf6Dj3Gy8Ps0Ea", secret=SECRET)
    assert ring.ring.present().secret not in str(caught.value)
    assert stored(store) == 1


def test_a_sealed_secret_is_good_for_its_own_key_alone(store: EventStore):
    """Whoever can write to the store can't make one key pass for another."""
    ring = Installation(store)
    ring.rotate()
    facts = [event for event in store.read(SYSTEM_TENANT) if event.event_type == "signing_key.made"]
    assert len({event.entity_id for event in facts}) == 2
    key = MasterKey(MASTER)

    bodies = [msgspec.json.decode(event.payload) for event in facts]
    key.open(bodies[0]["sealed"], purpose="signing keys", subject=facts[0].entity_id)
    with pytest.raises(SealBrokenError):
        key.open(bodies[0]["sealed"], purpose="signing keys", subject=facts[1].entity_id)


def test_what_may_be_seen_of_keys_holds_no_secret(store: EventStore):
    ring = Installation(store, secret=SECRET, algorithm="EdDSA")
    private = ring.ring.present().secret
    for text in (repr(ring.ring.views()), repr(ring.ring._by_kid), repr(ring.ring.public_keys()), repr(ring.ring)):
        assert SECRET not in text
        assert private not in text


def test_only_good_edwards_keys_are_published(store: EventStore):
    assert Installation(store).ring.public_keys() == []
    ring = Installation(store, algorithm="EdDSA")
    first = ring.ring.present().kid
    second = ring.rotate()
    assert [key.kid for key in ring.ring.public_keys()] == [second, first]
    ring.now += KEPT
    assert [key.kid for key in ring.ring.public_keys()] == [second]
