"""Refresh tokens: what a session is continued with.

A token is ``asr_<session id>_<generation>_<mac>``. The mac is HMAC-SHA256, by a key that is derived from the master
key, of the session's id, the generation and the session's random seed. So nothing that is stored lets anybody make a
token who has not the master key too, none that was given out need be stored, and the successor of a token is always
the same one, however often it is asked for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final, NamedTuple

__all__ = ["RefreshToken", "RefreshTokens", "read_refresh_token"]

_FORM: Final = re.compile(r"asr_([0-9a-f]{20})_(0|[1-9][0-9]{0,17})_([0-9a-f]{64})", re.ASCII)


class RefreshToken(NamedTuple):
    """What a token says; nothing of it is proven yet.

    Attributes:
        session_id: of the session that it continues.
        generation: how many times that session had been refreshed when it was given out.
        mac: 64 hex digits.
    """

    session_id: str
    generation: int
    mac: str

    def __repr__(self) -> str:
        return f"RefreshToken(session_id={self.session_id!r}, generation={self.generation})"


class RefreshTokens:
    """Makes and proves refresh tokens.

    Args:
        key: of 32 bytes, for this purpose alone.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, session_id: str, generation: int, seed: bytes) -> str:
        """The token of a generation of a session."""
        return f"asr_{session_id}_{generation}_{self._mac(session_id, generation, seed)}"

    def proves(self, token: RefreshToken, seed: bytes) -> bool:
        """Whether a token was made by `make` for the session of this seed. In constant time."""
        return hmac.compare_digest(token.mac, self._mac(token.session_id, token.generation, seed))

    def _mac(self, session_id: str, generation: int, seed: bytes) -> str:
        # Neither id nor number has a bar in it, so that no two of them run together the same way.
        message = f"{session_id}|{generation}|".encode() + seed
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def read_refresh_token(text: str) -> RefreshToken | None:
    """What a token says; None for what has not the form of one."""
    match = _FORM.fullmatch(text)
    return RefreshToken(match[1], int(match[2]), match[3]) if match is not None else None
