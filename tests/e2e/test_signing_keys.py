"""Signing keys through the gateway, which passes them on and knows nothing of them."""

from __future__ import annotations

from pathlib import Path

import httpx
import jwt

from tools.stack import Stack

from .conftest import make_stack, sign_in


def test_keys_are_rotated_listed_and_published_through_the_gateway(tmp_path: Path) -> None:
    stack: Stack = make_stack(tmp_path, ALLSOURCE_AUTH__JWT_ALGORITHM="EdDSA")
    with stack, httpx.Client(base_url=stack.gateway_url, timeout=30) as client:
        old = sign_in(stack.gateway_url)
        rotated = client.post("/api/v1/auth/keys/rotate", headers={"Authorization": f"Bearer {old}"})
        assert rotated.status_code == 201
        new = sign_in(stack.gateway_url)
        for token in (old, new):
            answer = client.get("/api/v1/auth/keys", headers={"Authorization": f"Bearer {token}"})
            assert answer.json()["keys"][0] == rotated.json()
        published = client.get("/.well-known/jwks.json")
        of_core = httpx.get(f"{stack.core_url}/.well-known/jwks.json", timeout=30)
        assert published.content == of_core.content
        keys = jwt.PyJWKSet.from_dict(published.json())
        for token in (old, new):
            kid = jwt.get_unverified_header(token)["kid"]
            assert jwt.decode(token, keys[kid], algorithms=["EdDSA"], audience="allsource")["role"] == "admin"
        assert client.get("/api/v1/auth/keys").status_code == 401
