"""What names, e-mail addresses and passwords of users must be like."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from allsource_core.identity.errors import InvalidUserError

__all__ = ["PasswordRules", "checked_email", "checked_username"]

_USERNAME_CHARACTERS_MAX: Final = 256
_EMAIL_CHARACTERS_MAX: Final = 256
_PASSWORD_BYTES_MAX: Final = 1024
"""argon2id takes any length; signing in reads no more."""

# Whether there is such a mailbox only a mail tells; this keeps out what can't be an address.
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\Z")


def checked_username(username: str) -> str:
    """The name of a user in the form in which it is kept: Unicode's normalization form C.

    Raises:
        InvalidUserError: it is not 1 to 256 printable characters, or begins or ends with a space.
    """
    # Normalizing makes a text at most three times as long (UAX #15): a long one is refused before.
    name = unicodedata.normalize("NFC", username) if len(username) <= _USERNAME_CHARACTERS_MAX else username
    if not 1 <= len(name) <= _USERNAME_CHARACTERS_MAX or not name.isprintable():
        raise InvalidUserError("username", f"must be 1 to {_USERNAME_CHARACTERS_MAX} printable characters")
    if name[0] == " " or name[-1] == " ":
        raise InvalidUserError("username", "must not begin or end with a space")
    return name


def checked_email(email: str) -> str:
    """An e-mail address, or an empty text for none.

    Raises:
        InvalidUserError: it is neither.
    """
    if not email:
        return email
    if len(email) > _EMAIL_CHARACTERS_MAX or not email.isprintable() or _EMAIL.match(email) is None:
        raise InvalidUserError(
            "email", f"must be an address, name@host, of at most {_EMAIL_CHARACTERS_MAX} characters, or empty"
        )
    return email


class PasswordRules:
    """Which passwords may be chosen.

    Args:
        length_min: in characters.
    """

    def __init__(self, length_min: int) -> None:
        self._length_min = length_min

    def check(self, password: str, *, username: str, field: str = "password") -> None:
        """Refuse a weak password.

        Args:
            password: that somebody wants.
            username: of the user, which must not be the password in any case.
            field: where it was given.

        Raises:
            InvalidUserError: with the code ``weak_password``.
        """
        if len(password) < self._length_min:
            message = f"must be at least {self._length_min} characters"
        elif len(password.encode()) > _PASSWORD_BYTES_MAX:
            message = f"must be at most {_PASSWORD_BYTES_MAX} bytes"
        elif _folded(password) == _folded(username):
            message = "must not be the username"
        else:
            return
        raise InvalidUserError(field, message, "weak_password")


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()
