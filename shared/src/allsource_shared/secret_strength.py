"""Secrets that can be guessed are refused before anybody relies on them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from allsource_shared.tokens import SECRET_BYTES_MIN

__all__ = ["SECRET_HINT", "weaknesses"]

SECRET_HINT: Final = "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"  # noqa: S105 - advice
_DISTINCT_CHARACTERS_MIN: Final = 10
"""48 random characters of base64 have 25 to 40 distinct ones, 64 random hex digits hardly ever fewer than 12."""
_PLACEHOLDER: Final = re.compile(
    "change.?me|secret|password|default|example|allsource|12345678|abcdefgh", re.IGNORECASE
)


def weaknesses(name: str, secret: str) -> Iterator[str]:
    """Why a secret that is set can be guessed; its value is in none of the sentences.

    Args:
        name: of its variable.
        secret: empty for one that is not set, which has no weakness.
    """
    if not secret:
        return
    if len(secret.encode()) < SECRET_BYTES_MIN:
        yield f"{name} is shorter than {SECRET_BYTES_MIN} bytes; {SECRET_HINT}"
    elif len(set(secret)) < _DISTINCT_CHARACTERS_MIN or _PLACEHOLDER.search(secret) is not None:
        yield f"{name} looks like a placeholder, not like chance; {SECRET_HINT}"
