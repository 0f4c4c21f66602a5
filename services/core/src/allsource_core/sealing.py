"""The master key: what it seals can lie in the data directory, and what is derived of it need not be stored at all.

The master key is configured and never stored with the data, so that a copy of the data directory, or a backup, shows
no secret. Each use has a key of its own, derived by HKDF-SHA256 (RFC 5869) from the master key and the name of the
purpose: nothing that is sealed or signed for one purpose means anything for another.
"""

from __future__ import annotations

import base64
import secrets
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["MasterKey", "SealBrokenError"]

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_FORM: Final = b"\x01"
"""The first byte of everything sealed: AES-256-GCM, the nonce in front, and this byte before the subject as what is
authenticated too. Another form gets another byte."""
_SALT: Final = b"allsource master key"


class SealBrokenError(Exception):
    """Something sealed can't be opened: the master key is not the one that sealed it, or it was changed since.

    Which of the two can't be told apart. The message names what it is, and no secret.
    """


class MasterKey:
    """Seals secrets, and derives keys.

    Args:
        secret: the configured text; how strong it is has been checked.
    """

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._derived: dict[str, bytes] = {}

    def derive(self, purpose: str) -> bytes:
        """The key of 32 bytes for a purpose: always the same one, and of no use for finding any other.

        Args:
            purpose: a fixed text of the program, never one that a caller chooses: every one is remembered.
        """
        key = self._derived.get(purpose)
        if key is None:
            hkdf = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=_SALT, info=purpose.encode())
            key = self._derived[purpose] = hkdf.derive(self._secret)
        return key

    def seal(self, plain: bytes, *, purpose: str, subject: str) -> str:
        """Encrypt, so that nobody without the master key can read it, change it, or pass it off as something else.

        The nonce is random: at most 2**32 seals for one purpose keep the chance of a repetition below 2**-32.

        Args:
            plain: what is secret.
            purpose: the name of the key, as of `derive`.
            subject: what it is, as ``signing-key:<kid>``; not secret, not stored, and needed to open it.

        Returns:
            Text in the alphabet of base64url.
        """
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self.derive(purpose)).encrypt(nonce, plain, _FORM + subject.encode())
        return base64.urlsafe_b64encode(_FORM + nonce + sealed).decode()

    def open(self, sealed: str, *, purpose: str, subject: str) -> bytes:
        """What was sealed for this purpose as this subject.

        Raises:
            SealBrokenError: it was not, or not with this master key, or was changed since.
        """
        try:
            content = base64.b64decode(sealed, altchars=b"-_", validate=True)
            form, nonce, encrypted = content[:1], content[1 : 1 + _NONCE_BYTES], content[1 + _NONCE_BYTES :]
            return AESGCM(self.derive(purpose)).decrypt(nonce, encrypted, form + subject.encode())
        except (InvalidTag, ValueError):  # binascii's error is one of the latter
            raise SealBrokenError(
                f"{subject} can't be unsealed: auth.master_key is not the one that it was sealed with, or it is damaged"
            ) from None
