"""What the identity domain raises.

IdentityError                    never raised itself
├── InvalidCredentialsError      username or password is wrong
├── SignInQueueFullError         too many password hashes wait
├── UnknownUserError             no such user
├── UnknownKeyError              no such API key
├── UsernameTakenError           somebody has the name
└── IdentityRuleError            what was asked for would break a rule; `code` says which
"""

from __future__ import annotations

from typing import Literal

__all__ = [
    "IdentityError",
    "IdentityRuleError",
    "InvalidCredentialsError",
    "SignInQueueFullError",
    "UnknownKeyError",
    "UnknownUserError",
    "UsernameTakenError",
]

RuleCode = Literal["last_admin", "admin_outside_default", "forbidden", "unauthorized", "not_found", "reserved_tenant"]


class IdentityError(Exception):
    """The root of what this package raises on purpose."""


class InvalidCredentialsError(IdentityError):
    """Username or password is wrong; which one is not told."""


class SignInQueueFullError(IdentityError):
    """Too many password hashes wait."""


class UnknownUserError(IdentityError):
    """No such user."""


class UnknownKeyError(IdentityError):
    """No such API key."""


class UsernameTakenError(IdentityError):
    """Somebody has the name."""


class IdentityRuleError(IdentityError):
    """What was asked for would break a rule.

    Attributes:
        code: which one.
    """

    def __init__(self, code: RuleCode, message: str) -> None:
        super().__init__(message)
        self.code = code
