"""Text that may quote what a caller sent, without the credentials in it."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["CREDENTIAL_FORMS", "MASK", "mask_credentials"]

MASK: Final = "***"

CREDENTIAL_FORMS: Final = r"eyJ[\w-]{5,}\.[\w-]*\.?[\w-]*|(?:ask|asr)_[\w.-]{6,}"
"""A signed token; an API key; a refresh token."""

_credential: Final = re.compile(CREDENTIAL_FORMS)


def mask_credentials(text: str) -> str:
    """The text with ``***`` for everything that has the form of a credential."""
    return _credential.sub(MASK, text)
