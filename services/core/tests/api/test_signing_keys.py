"""The ring of signing keys over HTTP: rotation that nobody notices, and no secret anywhere."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest

from allsource_core.engine import EventStore
from allsource_core.facts import SYSTEM_TENANT
from allsource_core.sealing import MasterKey
from allsource_shared.tokens import SigningKey

from .service import ADMIN, LOGIN, MASTER_KEY, PASSWORD, QUERY, SECRET, Core, bearer, refusal

Start = Callable[..., Core]
ROTATE = "/api/v1/auth/keys/rotate"
KEYS = "/api/v1/auth/keys"
JWKS = "/.well-known/jwks.json"
EDDSA = {"ALLSOURCE_AUTH__JWT_ALGORITHM": "EdDSA"}


def sign_in(core: Core) -> str:
    with core.client({}) as client:
        return str(
            client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD}).raise_for_status().json()["token"]
        )


def signed_in(core: Core) -> httpx.Client:
    return core.client({"Authorization": f"Bearer {sign_in(core)}"})


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def test_the_configured_secret_is_the_first_key(start: Start):
    with signed_in(start().ready()) as client:
        (key,) = client.get(KEYS).json()["keys"]
    assert list(key) == ["kid", "algorithm", "created_at", "status", "verifies_until"]
    assert (key["kid"], key["algorithm"]) == (SigningKey.from_secret(SECRET).kid, "HS256")
    assert (key["status"], key["verifies_until"]) == ("signing", None)


def test_a_rotation_makes_a_key_that_signs_and_leaves_the_old_one_to_verify(start: Start):
    core = start().ready()
    old = sign_in(core)
    with core.client({"Authorization": f"Bearer {old}"}) as client:
        begun = datetime.now(UTC)
        answer = client.post(ROTATE)
        ended = datetime.now(UTC)
        assert answer.status_code == 201
        new = answer.json()
        newer, older = client.get(KEYS).json()["keys"]
    assert newer == new
    assert (new["status"], new["verifies_until"]) == ("signing", None)
    assert (older["kid"], older["status"]) == (kid_of(old), "verifying")
    assert kid_of(sign_in(core)) == new["kid"] != older["kid"]
    # Reckoned before the new one was stored, which may take its time.
    until = datetime.fromisoformat(older["verifies_until"])
    assert begun + timedelta(seconds=3600) <= until < ended + timedelta(seconds=3610)
    assert begun <= datetime.fromisoformat(new["created_at"]) <= ended
    line = next(json.loads(line) for line in core.log.splitlines() if '"signing_key_rotated"' in line)
    assert (line["kid"], line["algorithm"]) == (new["kid"], "HS256")


@pytest.mark.parametrize("role", ["developer", "serviceaccount", "readonly"])
def test_only_admins_see_and_rotate_keys(anonymous: httpx.Client, role: str):
    refusal(anonymous.post(ROTATE, headers=bearer(role)), 403, "forbidden")
    refusal(anonymous.get(KEYS, headers=bearer(role)), 403, "forbidden")
    refusal(anonymous.post(ROTATE), 401, "unauthorized")
    refusal(anonymous.get(KEYS), 401, "unauthorized")
    refusal(anonymous.get(ROTATE), 405, "method_not_allowed")


def test_unknown_parameters_are_refused_and_rotate_nothing(admin: httpx.Client):
    before = admin.get(KEYS).json()
    refusal(admin.post(f"{ROTATE}?algorithm=none"), 400, "bad_query")
    refusal(admin.get(f"{KEYS}?secret=1"), 400, "bad_query")
    assert admin.get(KEYS).json() == before


def test_nothing_of_an_hmac_key_is_published(anonymous: httpx.Client):
    answer = anonymous.get(JWKS)
    assert (answer.status_code, answer.json()) == (200, {"keys": []})


def test_tokens_of_edwards_keys_are_verified_by_what_is_published(start: Start):
    core = start(environ={**EDDSA, "ALLSOURCE_AUTH__JWT_SECRET": None}).ready()
    first = sign_in(core)
    with core.client({"Authorization": f"Bearer {first}"}) as client:
        assert client.post(ROTATE).json()["algorithm"] == "EdDSA"
        second = sign_in(core)
        with core.client({}) as anybody:
            answer = anybody.get(JWKS)
        for token in (first, second):
            assert client.get(QUERY, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    keys = answer.json()["keys"]
    assert [key["kid"] for key in keys] == [kid_of(second), kid_of(first)]
    for key in keys:
        assert key == {"kty": "OKP", "crv": "Ed25519", "x": key["x"], "kid": key["kid"], "use": "sig", "alg": "EdDSA"}
    published = jwt.PyJWKSet.from_dict(answer.json())
    for token in (first, second):
        claims = jwt.decode(token, published[kid_of(token)], algorithms=["EdDSA"], audience="allsource")
        assert claims["username"] == ADMIN


def test_a_published_key_is_no_secret_to_sign_with(start: Start):
    core = start(environ=EDDSA).ready()
    claims = jwt.decode(sign_in(core), options={"verify_signature": False})
    with core.client({}) as client:
        (key,) = client.get(JWKS).json()["keys"]
        for secret in (key["x"].encode(), base64.urlsafe_b64decode(key["x"] + "=")):
            for kid in (key["kid"], SigningKey.from_secret(SECRET).kid):
                token = jwt.encode(claims, secret, algorithm="HS256", headers={"kid": kid})
                refusal(client.get(QUERY, headers={"Authorization": f"Bearer {token}"}), 401, "unauthorized")


def test_keys_and_tokens_outlive_a_restart(start: Start):
    core = start().ready()
    tokens = [sign_in(core)]
    for _ in range(2):
        with signed_in(core) as client:
            client.post(ROTATE).raise_for_status()
        tokens.append(sign_in(core))
    with signed_in(core) as client:
        keys = client.get(KEYS).json()
    core.kill()
    again = start(environ={"ALLSOURCE_AUTH__JWT_SECRET": None}).ready()
    with again.client({}) as client:
        for token in tokens:
            assert client.get(QUERY, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert client.get(KEYS, headers={"Authorization": f"Bearer {tokens[0]}"}).json() == keys
    assert kid_of(sign_in(again)) == kid_of(tokens[-1])
    assert again.stop() == 0
    edwards = start(environ=EDDSA).ready()
    with edwards.client({"Authorization": f"Bearer {tokens[0]}"}) as client:
        assert [key["algorithm"] for key in client.get(KEYS).json()["keys"]] == ["EdDSA", *["HS256"] * 3]


def test_another_master_key_is_refused_at_start_and_changes_nothing(start: Start):
    core = start().ready()
    token = sign_in(core)
    assert core.stop() == 0
    wrong = start(environ={"ALLSOURCE_AUTH__MASTER_KEY": "hR7kW2xNb5Tq9Mc4Vz1Lf6Dj3Gy8Ps0Ea"})
    assert wrong.exit_code() == 1
    line = next(json.loads(line) for line in wrong.log.splitlines() if '"cannot_serve"' in line)
    assert "auth.master_key is not the one that it was sealed with" in line["reason"]
    assert "Traceback" not in wrong.log
    for secret in ("hR7kW2xNb5Tq9Mc4Vz1Lf6Dj3Gy8Ps0Ea", MASTER_KEY, SECRET):
        assert secret not in wrong.log
    again = start().ready()
    with again.client({"Authorization": f"Bearer {token}"}) as client:
        assert len(client.get(KEYS).json()["keys"]) == 1


def secrets_of(data: Path) -> Iterator[str]:
    """Every secret that a data directory holds sealed."""
    with EventStore.open(data) as store:
        for event in store.read(SYSTEM_TENANT):
            if event.event_type == "signing_key.made":
                sealed = msgspec.json.decode(event.payload)["sealed"]
                key = MasterKey(MASTER_KEY)
                yield key.open(sealed, purpose="signing keys", subject=event.entity_id).decode()


def test_no_key_is_in_any_byte_of_the_data_or_the_log(start: Start):
    loud = {"ALLSOURCE_LOGGING__LEVEL": "debug", "ALLSOURCE_LOGGING__REQUESTS": "all"}
    seen = b""
    log = ""
    for environ in (loud, {**loud, **EDDSA}):
        core = start(environ=environ).ready()
        with signed_in(core) as client:
            for _ in range(2):
                seen += client.post(ROTATE).content
            seen += client.get(KEYS).content + client.get(JWKS).content + client.get("/health").content
        assert core.stop() == 0
        log += core.log
    secrets = list(secrets_of(core.data))
    assert len(secrets) == 6
    assert secrets[0] == SECRET
    data = b"".join(path.read_bytes() for path in core.data.rglob("*") if path.is_file())
    master = MasterKey(MASTER_KEY)
    for secret in [*secrets, MASTER_KEY, master.derive("signing keys").hex()]:
        assert secret not in log
        for form in forms(secret):
            assert form not in data
            assert form not in seen


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it stands, and as what it may encode."""
    yield secret.encode()
    yield base64.b64encode(secret.encode()).rstrip(b"=")
    try:
        raw = base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4))
    except ValueError:
        return
    yield raw
    yield raw.hex().encode()


def test_nobody_notices_rotations(start: Start):
    """Sign-ins and requests go on while keys change under them: no token is refused, whichever key it is of."""
    core = start().ready()
    tokens = [sign_in(core)]
    done = threading.Event()
    statuses: dict[str, list[int]] = {"login": [], "request": []}

    def log_in(_number: int) -> None:
        with core.client({}) as client:
            while not done.is_set():
                answer = client.post(LOGIN, json={"username": ADMIN, "password": PASSWORD})
                statuses["login"].append(answer.status_code)
                token: Any = answer.json()["token"]
                tokens.append(token)
                answer = client.get(QUERY, headers={"Authorization": f"Bearer {token}"})
                statuses["request"].append(answer.status_code)

    def ask(number: int) -> None:
        with core.client({}) as client:
            for turn in itertools.count(number):
                if done.is_set():
                    return
                token = tokens[turn % len(tokens)]
                answer = client.get(f"{QUERY}?limit=1", headers={"Authorization": f"Bearer {token}"})
                statuses["request"].append(answer.status_code)

    with ThreadPoolExecutor(8) as pool, signed_in(core) as admin:
        callers = [*(pool.submit(log_in, number) for number in range(3)), *(pool.submit(ask, n) for n in range(4))]
        made = []
        for _ in range(12):
            made.append(admin.post(ROTATE).raise_for_status().json()["kid"])
            # Three of them may have been signed before it: the fourth was not.
            seen = len(statuses["login"])
            while len(statuses["login"]) < seen + 4 and not any(caller.done() for caller in callers):
                done.wait(0.005)
        done.set()
        for caller in callers:
            caller.result()
        kids = [key["kid"] for key in admin.get(KEYS).json()["keys"]]
    assert set(statuses["login"]) == set(statuses["request"]) == {200}
    assert kids == [*reversed(made), SigningKey.from_secret(SECRET).kid]
    assert {kid_of(token) for token in tokens} >= set(made[:-1])


def test_rotations_at_once_take_turns(start: Start):
    core = start().ready()
    with signed_in(core) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post(ROTATE), range(16)))
        assert {answer.status_code for answer in answers} == {201}
        statuses = [key["status"] for key in client.get(KEYS).json()["keys"]]
    assert statuses == ["signing", *["verifying"] * 16]
    assert len({answer.json()["kid"] for answer in answers}) == 16
