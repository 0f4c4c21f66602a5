"""Access tokens and refresh tokens that somebody has tampered with, at both services.

Each is made from the token of a session that is alive, and is good but for the one thing that is said of it: what is
refused here is refused for that.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from allsource_core.identity.sessions import REPEAT_SECONDS
from tools.stack import Stack

from .callers import API, People, bearer, claims_of
from .conftest import SECRET, make_stack, sign_in
from .wire import Answer, exchange

DIGESTS: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
TWO_HOURS: Final = 7200


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


class Real(NamedTuple):
    """A developer's session, and what others may know.

    Attributes:
        token: of the developer.
        admin: of an administrator.
        public: the public key in base64url, where tokens are signed with EdDSA.
    """

    token: str
    admin: str
    public: str = ""

    @property
    def header(self) -> dict[str, Any]:
        return dict(jwt.get_unverified_header(self.token))

    @property
    def claims(self) -> dict[str, Any]:
        return claims_of(self.token)

    def again(
        self, *, secret: bytes = SECRET.encode(), digest: str = "HS256", header: Any = None, **claims: Any
    ) -> str:
        """The token signed anew by an HMAC, with changes of header and claims; a claim of None is left out."""
        changed = {name: value for name, value in {**self.claims, **claims}.items() if value is not None}
        head = {name: value for name, value in {**self.header, **(header or {})}.items() if value is not None}
        signed = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(changed).encode())}"
        return f"{signed}.{encode(hmac.digest(secret, signed.encode(), DIGESTS[digest]))}"

    def tampered(self, **claims: Any) -> str:
        """Other claims under the signature of these."""
        head, _, signature = self.token.split(".")
        return f"{head}.{encode(json.dumps({**self.claims, **claims}).encode())}.{signature}"

    def unsigned(self, algorithm: str, signature: str | None = None) -> str:
        """``alg: none``, with the signature that it had unless another is given."""
        _, payload, had = self.token.split(".")
        head = encode(json.dumps({**self.header, "alg": algorithm}).encode())
        return f"{head}.{payload}.{had if signature is None else signature}"


def _with_own_key(real: Real, key: Any, algorithm: str, **header: Any) -> str:
    return jwt.encode(real.claims, key, algorithm=algorithm, headers={**real.header, "alg": algorithm, **header})


def _bringing_its_key(real: Real) -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().public_bytes_raw())}
    return _with_own_key(real, key, "EdDSA", jwk=jwk)


TAMPERED: Final[dict[str, Callable[[Real], str]]] = {
    "alg none": lambda real: real.unsigned("none"),
    "alg none, no signature": lambda real: real.unsigned("none", ""),
    "alg NoNe, no signature": lambda real: real.unsigned("NoNe", ""),
    "no signature": lambda real: real.token.rpartition(".")[0] + ".",
    "another's signature": lambda real: real.token.rpartition(".")[0] + "." + real.admin.rpartition(".")[2],
    "role tampered": lambda real: real.tampered(role="admin"),
    "tenant tampered": lambda real: real.tampered(tenant_id="default"),
    "sub tampered": lambda real: real.tampered(sub=claims_of(real.admin)["sub"]),
    "session tampered": lambda real: real.tampered(jti=claims_of(real.admin)["jti"]),
    "end tampered": lambda real: real.tampered(exp=real.claims["exp"] + 1),
    "ES256 of one's own": lambda real: _with_own_key(real, ec.generate_private_key(ec.SECP256R1()), "ES256"),
    "EdDSA of one's own": lambda real: _with_own_key(real, ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    "EdDSA that brings its key": _bringing_its_key,
    "another's secret": lambda real: real.again(secret=b"x" * 48, header={"alg": "HS256"}),
    "an empty secret": lambda real: real.again(secret=b"", header={"alg": "HS256"}),
}
"""What needs no secret."""

WITH_THE_SECRET: Final[dict[str, Callable[[Real], str]]] = {
    "HS512": lambda real: real.again(digest="HS512", header={"alg": "HS512"}),
    "HS384 said to be HS256": lambda real: real.again(digest="HS384"),
    "said to be RS256": lambda real: real.again(header={"alg": "RS256"}),
    "said to be EdDSA": lambda real: real.again(header={"alg": "EdDSA"}),
    "no key id": lambda real: real.again(header={"kid": None}),
    "an unknown key id": lambda real: real.again(header={"kid": "x"}),
    "a key id that is no text": lambda real: real.again(header={"kid": ["x"]}),
    "an extension that must be understood": lambda real: real.again(header={"crit": ["exp"]}),
    "another issuer": lambda real: real.again(iss="someone"),
    "another audience": lambda real: real.again(aud="someone"),
    "a list of audiences": lambda real: real.again(aud=["allsource", "someone"]),
    "no issuer": lambda real: real.again(iss=None),
    "no audience": lambda real: real.again(aud=None),
    "no end": lambda real: real.again(exp=None),
    "an end that is no number": lambda real: real.again(exp="never"),
    "expired": lambda real: real.again(iat=int(time.time()) - 900, exp=int(time.time()) - 60),
    "of the future": lambda real: real.again(iat=int(time.time()) + 3600, exp=int(time.time()) + 7200),
    "an unknown role": lambda real: real.again(role="root"),
    "of another tenant": lambda real: real.again(tenant_id="default"),
    "of a tenant that there isn't": lambda real: real.again(tenant_id="nobodys"),
    "of another user": lambda real: real.again(sub=claims_of(real.admin)["sub"]),
    "of a user that there isn't": lambda real: real.again(sub=str(uuid.uuid4())),
    "of another's session": lambda real: real.again(jti=claims_of(real.admin)["jti"]),
    "of a session that there isn't": lambda real: real.again(jti=f"{'0' * 20}.x"),
    "of no session": lambda real: real.again(jti="x"),
    "of an empty session": lambda real: real.again(jti=".x"),
}
"""What even those who have the secret can't make good: the installation knows its users and their sessions."""

NO_TOKENS: Final[dict[str, dict[str, str]]] = {
    "none at all": {},
    "garbage": {"Authorization": "Bearer garbage"},
    "two words": {"Authorization": "Bearer a b"},
    "another scheme": {"Authorization": "Basic YWRtaW46YWRtaW4="},
    "an unknown API key": {"X-API-Key": "ask_unknown"},
}


def urls(stack: Stack) -> tuple[str, str]:
    return stack.core_url, stack.gateway_url


def ask(url: str, method: str, path: str, headers: dict[str, str], body: Any = None) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    headers = headers if body is None else {**headers, "Content-Type": "application/json"}
    return exchange(url, method, f"{API}{path}".encode(), headers=headers, body=content)


def refresh(url: str, token: str) -> Answer:
    return ask(url, "POST", "/auth/refresh", {}, {"refresh_token": token})


def assert_refused(stack: Stack, headers: dict[str, str]) -> None:
    for url in urls(stack):
        answer = ask(url, "GET", "/events/query", headers)
        assert (answer.status, answer.json()["error"]) == (401, "unauthorized"), answer.body
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert ask(url, "POST", "/events", headers, {}).status == 401


def assert_accepted(stack: Stack, token: str) -> None:
    for url in urls(stack):
        answer = ask(url, "GET", "/events/query", bearer(token))
        assert answer.status == 200, answer.body


def make_real(url: str, admin: str, public: str = "") -> Real:
    people = People(url, admin)
    with people.client:
        tenant = people.tenant(f"tokens-{uuid.uuid4().hex[:8]}")
        name = f"bearer-{tenant}"
        people.user(name, "developer", tenant)
        return Real(people.token(name), admin, public)


@pytest.fixture(scope="module")
def real(stack: Stack, token: str) -> Real:
    return make_real(stack.core_url, token)


@pytest.fixture(scope="module")
def edwards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Real]]:
    """The same where tokens are signed with EdDSA."""
    directory: Path = tmp_path_factory.mktemp("edwards")
    with make_stack(directory, ALLSOURCE_AUTH__JWT_ALGORITHM="EdDSA") as stack:
        keys = exchange(stack.gateway_url, "GET", b"/.well-known/jwks.json").json()["keys"]
        yield stack, make_real(stack.core_url, sign_in(stack.core_url), keys[0]["x"])


@pytest.mark.parametrize("name", NO_TOKENS)
def test_what_is_no_credential_is_refused(stack: Stack, name: str) -> None:
    assert_refused(stack, NO_TOKENS[name])


def test_a_token_that_is_made_again_as_it_was_is_good(stack: Stack, real: Real) -> None:
    assert_accepted(stack, real.token)
    assert_accepted(stack, real.again())
    assert_accepted(stack, real.again(jti=claims_of(real.token)["jti"].partition(".")[0] + ".another"))


@pytest.mark.parametrize("name", [*TAMPERED, *WITH_THE_SECRET])
def test_a_token_that_is_not_as_it_should_be_is_refused(stack: Stack, real: Real, name: str) -> None:
    forgery = (TAMPERED | WITH_THE_SECRET)[name](real)
    assert forgery != real.token
    assert_refused(stack, bearer(forgery))
    assert_refused(stack, {"X-API-Key": forgery})


@pytest.mark.parametrize("name", TAMPERED)
def test_a_token_of_an_edwards_key_that_is_not_as_it_should_be_is_refused(
    edwards: tuple[Stack, Real], name: str
) -> None:
    stack, real = edwards
    assert_refused(stack, bearer(TAMPERED[name](real)))


def test_a_public_key_is_no_secret(edwards: tuple[Stack, Real]) -> None:
    stack, real = edwards
    assert_accepted(stack, real.token)
    raw = base64.urlsafe_b64decode(real.public + "=")
    # SubjectPublicKeyInfo of Ed25519 (RFC 8410, section 4) is this prefix and the key.
    der = bytes.fromhex("302a300506032b6570032100") + raw
    body = base64.b64encode(der).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n".encode()
    for secret in (raw, raw.hex().encode(), real.public.encode(), der, pem, pem.strip()):
        for algorithm in ("HS256", "EdDSA"):
            assert_refused(stack, bearer(real.again(secret=secret, header={"alg": algorithm})))
    # The secret that was configured is not a key here: tokens are signed with EdDSA from the start.
    assert_refused(stack, bearer(real.again(header={"alg": "HS256"})))
    assert_refused(stack, bearer(real.again(header={"alg": "HS256", "kid": None})))


def test_what_a_token_says_of_its_bearers_role_decides_nothing(stack: Stack, real: Real) -> None:
    token = real.again(role="admin", permissions=["admin", "manage_tenants"], username="admin")
    assert_accepted(stack, token)
    for url in urls(stack):
        for method, path in (("GET", "/auth/users"), ("GET", "/tenants"), ("POST", "/auth/keys/rotate")):
            answer = ask(url, method, path, bearer(token))
            assert (answer.status, answer.json()["error"]) == (403, "forbidden")
        me = ask(url, "GET", "/auth/me", bearer(token)).json()
        assert (me["role"], me["tenant_id"], me["username"]) == (
            "developer",
            real.claims["tenant_id"],
            real.claims["username"],
        )


def test_clocks_may_differ_by_some_seconds(stack: Stack, real: Real) -> None:
    """How many exactly is asked of a clock that stands still, in the tests of the package."""
    now = int(time.time())
    assert_accepted(stack, real.again(iat=now + 4))
    assert_refused(stack, bearer(real.again(iat=now + 60)))
    assert_refused(stack, bearer(real.again(iat=now - 900, exp=now - 10)))
    # Judged before it is over by all clocks, unless the machine stood still for seconds: then it is made again.
    for _ in range(10):
        begun = int(time.time())
        answers = [ask(url, "GET", "/auth/me", bearer(real.again(iat=begun - 900, exp=begun))) for url in urls(stack)]
        if time.time() < begun + 4:
            break
    assert [answer.status for answer in answers] == [200, 200]


def test_a_refresh_token_used_twice_at_once_has_one_successor_at_both_services(stack: Stack, token: str) -> None:
    people = People(stack.gateway_url, token)
    with people.client:
        people.user("refreshing", "developer")
        # At once, unless the machine stood still for seconds: then the session is over, and another one is begun.
        for _ in range(10):
            begun = time.monotonic()
            first = people.sign_in("refreshing")
            answers = [refresh(url, first["refresh_token"]) for url in (*urls(stack), *urls(stack))]
            if time.monotonic() - begun < REPEAT_SECONDS:
                break
        assert [answer.status for answer in answers] == [200] * 4
        (successor,) = {answer.json()["refresh_token"] for answer in answers}
        assert successor != first["refresh_token"]
        for answer in answers:
            assert_accepted(stack, answer.json()["token"])
        # None stands for the other, and neither for an API key.
        assert_refused(stack, bearer(successor))
        for wrong in (first["token"], successor + "x", successor[:-1], successor.swapcase(), f"ask_{successor}"):
            for url in urls(stack):
                assert refresh(url, wrong).status in (400, 401), wrong
        assert_accepted(stack, first["token"])
        people.client.post("/auth/logout", headers=bearer(first["token"])).raise_for_status()
        for url in urls(stack):
            for ended in (first["refresh_token"], successor):
                answer = refresh(url, ended)
                assert (answer.status, answer.json()["error"]) == (401, "unauthorized")


SLOW_CLOCK: Final = """
import pathlib, time
late = int(pathlib.Path(__file__).with_name("late").read_text())
now, now_ns = time.time, time.time_ns
time.time, time.time_ns = lambda: now() - late, lambda: now_ns() - late * 10**9
"""
"""Has every Python that finds it on its path believe that it is so many seconds earlier."""


def test_a_retired_key_vouches_for_nobody(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_CLOCK)
    (tmp_path / "late").write_text(str(TWO_HOURS))
    with make_stack(tmp_path, PYTHONPATH=str(tmp_path)) as stack:
        old = sign_in(stack.gateway_url)
        real = Real(old, old)
        assert claims_of(old)["exp"] < time.time()
        for url in urls(stack):
            assert ask(url, "POST", "/auth/keys/rotate", bearer(old)).status == 201
        assert_accepted(stack, real.again(aud="allsource"))
        assert_accepted(stack, old)

        (tmp_path / "late").write_text("0")
        stack.restart_core()
        now = int(time.time())
        # The session goes on, and the token has not expired: nothing is wrong with it but its key.
        assert_refused(stack, bearer(real.again(iat=now, exp=now + 600)))
        new = sign_in(stack.gateway_url)
        assert_accepted(stack, new)
        assert_refused(stack, bearer(real.again(iat=now, exp=now + 600, jti=claims_of(new)["jti"])))
        for url in urls(stack):
            keys = ask(url, "GET", "/auth/keys", bearer(new)).json()["keys"]
            assert [key["status"] for key in keys] == ["signing", "retired", "retired"]
